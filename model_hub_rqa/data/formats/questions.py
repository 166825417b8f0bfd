"""What a format of questions is, how the one of a record is found, and the checked row that every format becomes.

A format is a class of its own file, registered in `registry.FORMATS`::

    @FORMATS.register("my-format")
    class MyFormat(QuestionFormat):
        passages = ("docs",)

        def matches(self, record):
            return "docs" in record

        def read(self, record):
            return {**record, "passages": passages_of(record, "docs", text=("body",), gold=True)}
"""

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from model_hub_rqa.data.checks import add_item_errors, filled_text, items_of, text_error, text_or_empty, true_or_false
from model_hub_rqa.data.formats.answers import answer_fields
from model_hub_rqa.data.text_files import Unreadable, short
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import FORMATS

MAX_CTXS = 1000  # the depth of a usual retrieval run; far more is a mistake, and would not fit into memory
PASSAGE_IDS = ("id", "_id", "docid", "doc_id", "pid", "passage_id", "psg_id")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "system": "assistant", "bot": "assistant"}

Row = dict[str, Any]
Record = Mapping[str, Any]


class QuestionFormat:
    """One public layout of questions.

    Attributes:
        question: the field of the question, for messages.
        questions: further names that it may have.
        passages: the fields of passages; the first is named where a record has none.
        item: what one of them is called.
        columns: of a tab-separated file without a header.
        quoted: whether cells of such a file may stand in quotes, as CSV's may.
        nested: whether SQuAD's, QuAC's or CoQA's articles are made into flat records first.
        queries_only: whether it is looked for in files of queries alone.
    """

    question: ClassVar[str] = "question"
    questions: ClassVar[tuple[str, ...]] = ()
    passages: ClassVar[tuple[str, ...]] = ("ctxs",)
    item: ClassVar[str] = "passage"
    columns: tuple[str, ...] = ()
    quoted: ClassVar[bool] = False
    nested: ClassVar[bool] = False
    queries_only: ClassVar[bool] = False

    def matches(self, record: Record) -> bool:
        """Whether a record is in this format, by the names of its fields."""
        return False

    def matches_line(self, cells: Sequence[str]) -> bool:
        """Whether the first line of a tab-separated file is of this format, which has ``columns``."""
        return False

    def read(self, record: Record) -> Row:
        """The common record; nothing is checked, and nothing is raised whatever the record holds.

        Returns:
            question, id (under one of its usual names), answers (under one of the names of `formats.answers`), target,
            chat_history; and passages, best first, as `passages_of` gives them, or objects with text, and optionally
            title, id, score, gold and negative. An `Unreadable` among the passages is an error.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read")


def all_formats() -> tuple[QuestionFormat, ...]:
    """One object of each registered format: FiD's first, since ctxs are passages whatever else a record has."""
    return _objects(("fid", *FORMATS.names()))


@functools.cache  # files have a hundred thousand records
def _objects(names: tuple[str, ...]) -> tuple[QuestionFormat, ...]:
    return tuple(found() for found in dict.fromkeys(FORMATS.find(name) for name in names))


def format_of(record: Any, usual: QuestionFormat | None = None, *, queries: bool = False) -> QuestionFormat:
    """The format of a record; of one that fits none, ``usual``, or FiD's.

    Args:
        record: as its file has it.
        usual: the format of the file's first record, which is looked at first.
        queries: whether formats of queries alone count.
    """
    if usual is not None and (not isinstance(record, Mapping) or usual.matches(record)):
        return usual
    known = all_formats()
    if not isinstance(record, Mapping):
        return known[0]
    fits = (one for one in known if (queries or not one.queries_only) and one.matches(record))
    return next(fits, usual or known[0])


def named_format(name: str | None) -> QuestionFormat | None:
    """The format of a name, or that ``package.module:Class`` names; None for None.

    Raises:
        ConfigError: there is none.
    """
    if name is None:
        return None
    try:
        made: QuestionFormat = FORMATS.find(name)()
    except ValueError as error:
        raise ConfigError(f"format: {error}") from error
    return made


def passages_of(
    record: Record,
    name: str,
    *,
    text: Sequence[str] = ("text", "contents"),
    title: str = "title",
    ids: Sequence[str] = PASSAGE_IDS,
    score: str = "score",
    gold: str | bool = "isgold",
    negative: bool = False,
    item: str = "passage",
) -> list[Any]:
    """The passages of a list of objects, for a common record.

    Args:
        record: the record, or a part of it.
        name: its field that holds the list.
        text: names of the text, the first that an object has counts.
        title, score: the names of these.
        ids: names of the id.
        gold: the field that says whether a passage is gold, or what holds for all.
        negative: whether they are known not to answer.
        item: what one is called in messages.
    """
    errors: list[str] = []
    items = items_of(record, name, errors)
    if len(items) > MAX_CTXS:
        errors.append(f"{name} must hold at most {MAX_CTXS:,} {item}s, got {len(items):,}")
    if errors:
        return [Unreadable(error) for error in errors]
    made: list[Any] = []
    for number, value in enumerate(items, 1):
        location = f"{name} {number}"
        if not isinstance(value, Mapping):
            with_title = "title and text" if text[0] == "text" else text[0]
            made.append(Unreadable(f"{location}: must be an object with {with_title}, got {short(value)}"))
            continue
        text_name = next((one for one in text if one in value), text[0])
        one = {
            "location": location,
            "names": {"text": text_name, "gold": gold},
            "title": value.get(title),
            "id": next((value[one] for one in ids if value.get(one) is not None), None),
            "score": value.get(score),
            "gold": value.get(gold) if isinstance(gold, str) else gold,
            "negative": negative,
        }
        made.append(one | ({"text": value[text_name]} if text_name in value else {}))
    return made


def plain_record(record: Record) -> Row:
    """The common record of one that has its parts under their usual names, passages too."""
    return {**record, "passages": passages_of(record, "passages")} if "passages" in record else dict(record)


# ---- checks ----


def question_row(
    record: Record,
    common: Row,
    question_format: QuestionFormat,
    errors: list[str],
    *,
    answers: bool,
    passages: bool | None,
) -> Row:
    """The checked row of a common record, without its id; see :data:`~model_hub_rqa.data.formats.fid.FUSION_FEATURES`.

    Turns of chat_history are texts, of which the last is the assistant's and the others alternate, or objects with
    ``role`` and ``text`` (also ``speaker`` and ``content``); "" is no turn.

    Args:
        record: as its file has it.
        common: what ``question_format`` read of it.
        question_format: its format.
        errors: receives what is wrong with it.
        answers: whether gold answers must be there.
        passages: whether passages must be there; None not to look at them.
    """
    named = {question_format.question: common["question"]} if "question" in common else {}
    asked = filled_text(named, question_format.question, errors)
    target, references = answer_fields(common, errors, required=answers)
    history = _history(common, errors)
    rows = [] if passages is None else _passages(common.get("passages"), errors, required=passages)
    read = [row for negative, row in rows if not negative]
    if passages and not any(isinstance(one, Unreadable) for one in common.get("passages") or ()) and not read:
        errors.append(_no_passage(record, question_format))
    row = {"question": asked, "chat_history": history, "target": target, "answers": references}
    return row | {"passages": read, "negatives": [row for negative, row in rows if negative]}


def _no_passage(record: Record, question_format: QuestionFormat) -> str:
    name = next((name for name in question_format.passages if name in record), None)
    if name is None:
        return f"{question_format.passages[0]} is missing"
    return f"{name} must hold at least one {question_format.item}, got {short(record[name])}"


def _passages(items: Any, errors: list[str], *, required: bool) -> list[tuple[bool, Row]]:
    """Whether each passage is a negative one, and its row; of the errors, the first are named."""
    rows = []
    found: list[str] = []
    for number, item in enumerate(items or (), 1):
        if isinstance(item, Unreadable):
            found.append(str(item))
        elif required or not item.get("optional") or str(item.get("text")).strip():
            of_item: list[str] = []
            rows.append((item.get("negative") is True, _passage(item, of_item)))
            location = item.get("location", f"passages {number}")
            found += [f"{location}: {error}" if location else error for error in of_item]
    add_item_errors(found, errors)
    return rows


def _passage(item: Record, errors: list[str]) -> Row:
    names = item.get("names", {"text": "text", "gold": "gold"})
    if item.get("text") == "" and str(item.get("title") or "").strip():  # a document of a title alone, as BEIR has them
        text: str | None = ""
    else:
        text = filled_text({names["text"]: item["text"]} if "text" in item else {}, names["text"], errors)
    id_ = text_or_empty(item, "id", errors, numbers=True)
    title = text_or_empty(item, "title", errors, numbers=True)
    gold = true_or_false({names["gold"]: item.get("gold")}, names["gold"], errors) is True
    return {"id": id_, "title": title, "text": text, "score": _score(item.get("score"), errors), "gold": gold}


def _score(score: Any, errors: list[str]) -> float | None:
    """A number, also as text: FiD's and DPR's own files write it so."""
    if score is None:
        return None
    number = score
    if isinstance(score, str):
        with contextlib.suppress(ValueError):
            number = float(score)
    if isinstance(number, bool) or not isinstance(number, int | float):
        errors.append(f"score must be a number, got {short(score)}")
        return None
    with contextlib.suppress(OverflowError):  # a whole number may be too large
        if math.isfinite(number := float(number)):
            return number
    errors.append(f"score must be finite, got {short(number)}")
    return None


def _history(record: Mapping[str, Any], errors: list[str]) -> list[dict[str, str]]:
    turns = [] if record.get("chat_history") == "" else items_of(record, "chat_history", errors)
    history = []
    found: list[str] = []
    for number, turn in enumerate(turns, 1):
        location = f"chat_history {number}"
        if isinstance(turn, Mapping):
            text = turn.get("text", turn.get("content"))
            said_by = turn.get("role", turn.get("speaker"))
            role = _ROLES.get(said_by.lower()) if isinstance(said_by, str) else None
            if role is None:
                found.append(f"{location}: role must be user or assistant, got {short(said_by)}")
        else:
            # The question that follows is the user's, so the turn before it is the assistant's.
            text, role = turn, "assistant" if (len(turns) - number) % 2 == 0 else "user"
        if error := text_error(location, text):
            found.append(error)
        history.append({"role": role or "", "text": text if isinstance(text, str) else ""})
    add_item_errors(found, errors)
    return history
