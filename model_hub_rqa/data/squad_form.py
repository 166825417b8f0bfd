"""The rules of a SQuAD-style record: nested and flat forms become flat rows, and every fault becomes a line."""

from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.text_files import Place, Unreadable, short, where

Answers = tuple[list[str], list[int]]  # texts and where each begins in the context, in characters
_KINDS = {str: "text", bool: "true or false", dict: "an object", list: "a list"}


class SquadForm:
    """Collects the rows of one file and the faults of its records.

    Args:
        file: name of the file, for the messages.
        version_2_with_negative: whether questions without an answer are allowed (SQuAD v2.0).
        require_answers: False for files to predict on, where answers may be missing whatever the version.

    Attributes:
        rows: the records without a fault, flat, as :class:`~model_hub_rqa.data.readers.Records` describes them.
        n_records: records seen, with and without faults.
        n_skipped: records that are not in ``rows``.
        fatal: faults of the file's structure, a line each.
        bad: faults of records, a line for each record (or paragraph).
        unanswerable: records left out for being unanswerable, with whether the file says so itself (is_impossible).
    """

    def __init__(self, file: str, *, version_2_with_negative: bool, require_answers: bool) -> None:
        self.file = file
        self.rows: list[dict[str, Any]] = []
        self.n_records = 0
        self.fatal: list[str] = []
        self.bad: list[str] = []
        self.unanswerable: list[tuple[str, bool]] = []
        self._allow_negative = version_2_with_negative
        self._require_answers = require_answers
        self._seen: dict[str, Place] = {}

    @property
    def n_skipped(self) -> int:
        return self.n_records - len(self.rows)

    def add_json(self, root: Any) -> None:
        """Everything that a .json file holds: ``{"data": [...]}`` with articles (nested) or records (flat)."""
        if isinstance(root, list):
            self.fatal.append(
                f'{self.file}: must be an object with a "data" key, found a list: '
                'put the records into a .jsonl file, one a line, or under "data"'
            )
        elif not isinstance(root, dict):
            self.fatal.append(f'{self.file}: must be an object with a "data" key, found {short(root)}')
        elif "data" not in root:
            self.fatal.append(f'{self.file}: no "data" key, found the keys {short(sorted(root))}')
        elif not isinstance(root["data"], list):
            self.fatal.append(f'{self.file}: "data" must be a list, found {short(root["data"])}')
        elif _is_flat(root["data"]):
            for number, record in enumerate(root["data"], 1):
                self.add_flat(("record", number), record)
        else:
            for number, article in enumerate(root["data"], 1):
                self._add_article(number, article)

    def add_flat(self, place: Place, record: Any) -> None:
        """One record with its own context: id, question, context, answers, and optionally title and is_impossible."""
        faults: list[str] = []
        if not isinstance(record, dict):
            self.n_records += 1
            found = str(record) if isinstance(record, Unreadable) else f"must be an object, found {short(record)}"
            self.bad.append(f"{self.file}: {where(place)}: {found}")
            return
        context = _filled_text(record, "context", faults)
        title = _title(record, faults)
        self._add_question(place, record, title, context, faults, flat=True)

    def _add_article(self, number: int, article: Any) -> None:
        place: Place = ("article", number)
        paragraphs = self._list_under(place, article, "paragraphs")
        faults: list[str] = []
        title = _title(article, faults) if isinstance(article, dict) else ""
        self.fatal += [f"{self.file}: {where(place)}: {fault}" for fault in faults]
        for position, paragraph in enumerate(paragraphs, 1):
            self._add_paragraph((*place, "paragraph", position), paragraph, title)

    def _add_paragraph(self, place: Place, paragraph: Any, title: str) -> None:
        questions = self._list_under(place, paragraph, "qas")
        if not isinstance(paragraph, dict):
            return
        faults: list[str] = []
        context = _filled_text(paragraph, "context", faults)
        self.bad += [f"{self.file}: {where(place)}: {fault}" for fault in faults]
        for position, question in enumerate(questions, 1):
            here = (*place, "question", position)
            if isinstance(question, dict):
                self._add_question(here, question, title, context, [], flat=False)
            else:
                self.n_records += 1
                self.bad.append(f"{self.file}: {where(here)}: must be an object, found {short(question)}")

    def _list_under(self, place: Place, parent: Any, key: str) -> list[Any]:
        if not isinstance(parent, dict):
            self.fatal.append(f"{self.file}: {where(place)}: must be an object, found {short(parent)}")
        elif key not in parent:
            self.fatal.append(f'{self.file}: {where(place)}: no "{key}" key, found the keys {short(sorted(parent))}')
        elif not isinstance(parent[key], list):
            self.fatal.append(f'{self.file}: {where(place)}: "{key}" must be a list, found {short(parent[key])}')
        else:
            return list(parent[key])
        return []

    def _add_question(
        self, place: Place, record: Mapping[str, Any], title: str, context: str | None, faults: list[str], *, flat: bool
    ) -> None:
        """Checks what is the question's own; ``context`` is None where it is at fault (reported by the caller)."""
        self.n_records += 1
        id_ = _id(record, faults)
        if id_ is not None and self._seen.setdefault(id_, place) is not place:
            faults.append(f"duplicate id, first at {where(self._seen[id_])}")
        question = _filled_text(record, "question", faults)
        answers = _answers(record, context, faults)
        negative = answers is not None and self._is_negative(record, answers, faults, flat)
        if faults:
            self.bad.append(f"{self._named(id_, place)}: {'; '.join(faults)}")
        elif negative and self._require_answers and not self._allow_negative:
            self.unanswerable.append((self._named(id_, place), record.get("is_impossible") is True))
        elif context is not None and answers is not None:
            row = {"id": id_, "title": title, "context": context, "question": question}
            self.rows.append({**row, "answers": {"text": answers[0], "answer_start": answers[1]}})

    def _is_negative(self, record: Mapping[str, Any], answers: Answers, faults: list[str], flat: bool) -> bool:
        """Whether the question has no answer by right; where it lacks one wrongly, a fault is added."""
        impossible = record.get("is_impossible")
        if impossible is not None and not isinstance(impossible, bool):
            faults.append(_wrong_type("is_impossible", bool, impossible))
        elif answers[0]:
            if impossible:
                faults.append(
                    f"is_impossible is true, yet answers holds {len(answers[0])}, the first {short(answers[0][0])}"
                )
            return False
        elif self._require_answers and impossible is False:
            faults.append("answers is empty, yet is_impossible is false")
        elif self._require_answers and not impossible and not (flat and "answers" in record):
            # A flat record marks a question as unanswerable with empty answers; without the key it is only incomplete.
            found = "is empty" if "answers" in record else "is missing"
            faults.append(f"answers {found}" + (", and is_impossible is not true" if self._allow_negative else ""))
        return True

    def _named(self, id_: str | None, place: Place) -> str:
        if id_ is None:
            return f"{self.file}: {where(place)}"
        shown = id_ if len(id_) <= 60 and id_.isprintable() else short(id_)
        return f"{self.file}: record {shown} ({where(place)})"


def _is_flat(data: list[Any]) -> bool:
    """Records rather than articles: none has paragraphs, and one at least has a field that only records have."""
    items = [item for item in data if isinstance(item, dict)]
    if any("paragraphs" in item for item in items):
        return False
    return any(key in item for item in items for key in ("question", "context", "answers", "id"))


def _wrong_type(name: str, kind: type, value: Any) -> str:
    return f"{name} must be {_KINDS[kind]}, found {short(value)}"


def _unstorable(name: str, value: str, faults: list[str]) -> bool:
    """Half of a surrogate pair, as JSON's \\ud800 makes it, is no character and cannot be stored as UTF-8."""
    if value.isascii():
        return False
    try:
        value.encode()
    except UnicodeEncodeError as error:
        faults.append(f"{name} must be Unicode text, found a lone surrogate at character {error.start}")
        return True
    return False


def _filled_text(record: Mapping[str, Any], name: str, faults: list[str]) -> str | None:
    if name not in record:
        faults.append(f"{name} is missing")
        return None
    value = record[name]
    if not isinstance(value, str):
        faults.append(_wrong_type(name, str, value))
    elif not value or value.isspace():
        faults.append(f"{name} must not be blank, found {short(value)}")
    elif not _unstorable(name, value, faults):
        return value
    return None


def _title(record: Mapping[str, Any], faults: list[str]) -> str:
    value = record.get("title")
    if value is None:
        return ""
    if not isinstance(value, str):
        faults.append(_wrong_type("title", str, value))
    elif not _unstorable("title", value, faults):
        return value
    return ""


def _id(record: Mapping[str, Any], faults: list[str]) -> str | None:
    """The id as text: whole numbers, common in exported tables, are converted."""
    value = record.get("id")
    if type(value) is int:
        return str(value)
    return _filled_text(record, "id", faults)


def _answers(record: Mapping[str, Any], context: str | None, faults: list[str]) -> Answers | None:
    """The answers of a record, empty where it has none; None where they are at fault."""
    value = record.get("answers")
    before = len(faults)
    if value is None:
        return [], []
    if isinstance(value, Unreadable):
        faults.append(value)
        return None
    texts, starts = _columns(value, faults)
    for number, (text, start) in enumerate(zip(texts, starts, strict=False)):
        right_types = type(text) is str and type(start) is int
        if right_types and start >= 0 and context and context.startswith(text, start) and text and not text.isspace():
            continue  # the common case, in one condition: files hold a hundred thousand answers
        fault = _span_fault(text, start, context)
        if fault:
            faults.append(f"answer {number + 1}: {fault}" if len(texts) > 1 else fault)
    return (texts, starts) if len(faults) == before else None


def _columns(value: Any, faults: list[str]) -> tuple[list[Any], list[Any]]:
    """Texts and starts out of either form: ``{"text": [...], "answer_start": [...]}`` or a list of pairs."""
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        for name, found in (("text", texts), ("answer_start", starts)):
            if not isinstance(found, list):
                faults.append(
                    _wrong_type(f"answers.{name}", list, found) if name in value else f"answers has no {name}"
                )
        if not isinstance(texts, list) or not isinstance(starts, list):
            return [], []
        if len(texts) != len(starts):
            faults.append(f"answers must have as many texts as starts, found {len(texts)} and {len(starts)}")
        return list(texts), list(starts)
    if not isinstance(value, list):
        faults.append(f"answers must be an object or a list, found {short(value)}")
        return [], []
    wrong = [item for item in value if not (isinstance(item, dict) and "text" in item and "answer_start" in item)]
    if wrong:
        faults.append(f"each of answers must be an object with text and answer_start, found {short(wrong[0])}")
        return [], []
    return [item["text"] for item in value], [item["answer_start"] for item in value]


def _span_fault(text: Any, start: Any, context: str | None) -> str | None:
    if type(text) is not str:
        return _wrong_type("answer text", str, text)
    if not text or text.isspace():
        return f"answer text must not be blank, found {short(text)}"
    if type(start) is not int:
        return f"answer_start must be a whole number, found {short(start)}"
    if start < 0:
        return f"answer_start must not be negative, found {start}"
    if context is None:
        return None
    if start >= len(context):
        return f"answer_start {start} is past the end of the context, which has {len(context)} characters"
    there = context[start : start + len(text)]
    elsewhere = context.find(text)
    hint = f" (it stands at {elsewhere})" if elsewhere >= 0 else ""
    return f"the context has {short(there)} at answer_start {start}, the answer's text is {short(text)}{hint}"
