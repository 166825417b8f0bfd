"""The validated loaders of SQuAD-style files and of rows of any columns, with all errors at once."""

import ast
import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.checks import QUESTION_IDS, Checks
from model_hub_rqa.data.files import Needed, ending_of, iter_file, iter_table
from model_hub_rqa.data.formats.answers import ANSWERS, SINGLE
from model_hub_rqa.data.formats.fields import Fields
from model_hub_rqa.data.formats.nested import flatten
from model_hub_rqa.data.formats.questions import QuestionFormat, all_formats, format_of
from model_hub_rqa.data.formats.squad import SquadQuestions, SquadRows
from model_hub_rqa.data.text_files import Location, Unreadable, garbage_later, loads, short
from model_hub_rqa.errors import DataError

if TYPE_CHECKING:
    from model_hub_rqa.data.arrow_cache import FileLoader

# Types of a row's values in the words of Arrow; [type] is a list.
SQUAD_FEATURES: Mapping[str, Any] = {
    "id": "string",
    "title": "string",
    "context": "string",
    "question": "string",
    "answers": {"text": ["string"], "answer_start": ["int32"]},
}
_ANSWER_PAIR = ("answer_text", "answer_start")
_LISTS = ("answers", "golden_answers", "ground_truths", "aliases", "answer_aliases", "chat_history", "ctxs")
_TEXTS = ("question", "context", "title", *SINGLE, "target", "positive", "negative")
_CSV_COLUMNS = (*QUESTION_IDS, *_TEXTS, *_ANSWER_PAIR, *_LISTS)


@dataclass(frozen=True)
class Records:
    """What a file loader returns.

    Attributes:
        rows: plain dictionaries, all with the same keys. Of :func:`read_squad`: ``{"id": str, "title": str,
            "context": str, "question": str, "answers": {"text": [str], "answer_start": [int]}}``; answer_start counts
            characters.
        skipped: a line for each error of the records that were left out (on_bad_record "skip").
        n_skipped: how many records were left out.
        features: types of a row's values, such as :data:`SQUAD_FEATURES`; None to infer them from the rows.
        n_mended: records of which an answer_start was mended; n_ignored: answers left out for an answer_start of -1.
        numbered: whether the ids are the numbers of the records, since the file has none.
    """

    rows: list[dict[str, Any]]
    skipped: tuple[str, ...] = ()
    n_skipped: int = 0
    features: Mapping[str, Any] | None = None
    n_mended: int = 0
    n_ignored: int = 0
    numbered: bool = False

    @property
    def n_unanswerable(self) -> int:
        """Questions without an answer (of :func:`read_squad`)."""
        return sum(not row["answers"]["text"] for row in self.rows)


@garbage_later()
def read_squad(
    path: str | PathLike[str],
    *,
    version_2_with_negative: bool,
    require_answers: bool = True,
    on_bad_record: str = "error",
    require_offsets: bool = True,
    version_option: str = "version_2_with_negative: true",
) -> Records:
    """Reads and validates a SQuAD-style file.

    By the ending of its name: .json (the official nested form, or a list of flat records, by itself or under "data"),
    .jsonl (a flat record a line), .csv, each also with .gz; .parquet; or a folder that ``Dataset.save_to_disk`` wrote.
    Answers of a flat record are ``{"text": [...], "answer_start": [...]}``, a list of ``{"text", "answer_start"}``, or
    texts alone, under one of the names of `formats.answers`; a CSV file has lists as JSON, or one answer in
    answer_text and answer_start. Ids are taken from id, _id, qid or question_id; whole numbers become text. A title
    that is missing becomes "".

    Args:
        path: the file or folder.
        version_2_with_negative: whether questions without an answer are allowed. A nested record says so with
            is_impossible, a flat one with that or with empty answers.
        require_answers: False for a file to predict on: answers may then be missing whatever the version.
        on_bad_record: "error", or "skip" to leave bad records out and return their errors.
        require_offsets: True for a file to train on. An answer_start that is wrong by white space, or whose text
            stands once in the context, is mended then, and one of -1 is ignored beside others; what stays in doubt is
            an error. Otherwise offsets are not looked at, and where one cannot be stored it is -1.
        version_option: how questions without an answer are allowed, for the message.

    Raises:
        DataError: all errors, each a line ``FILE: record ID (location): rule, value``, locations counted from 1. Errors
            of the file itself (unreadable, broken JSON, another structure, turns or several passages, declared
            unanswerable questions that version_2_with_negative forbids) are raised with "skip" as well, and so is a
            file of which nothing remains.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """
    checks = Checks(path, on_bad_record, ids_required=True)
    made = SquadRows(
        require_answers=require_answers,
        version_2_with_negative=version_2_with_negative,
        require_offsets=require_offsets,
    )
    rows: list[dict[str, Any]] = []
    negatives: list[tuple[str, bool]] = []  # those left out, with whether the file says so itself
    needed: Needed = (QUESTION_IDS, ("question",), ("context",))
    records = iter_questions(path, (*needed, _ANSWER_NAMES) if require_answers else needed)
    for name, record, row, negative in _checked_rows(records, made, checks):
        if negative and require_answers and not version_2_with_negative:
            negatives.append((name, record.get("is_impossible") is True))
        else:
            rows.append(row)
    _judge_negatives(checks, negatives, version_option, skip=on_bad_record == "skip")
    skipped = checks.finish(len(rows))
    return Records(rows, skipped, checks.n_bad, SQUAD_FEATURES, made.n_mended, made.n_ignored)


def _checked_rows(
    records: Iterable[tuple[Location, Any]], made: SquadRows, checks: Checks
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any], bool]]:
    """Of each record that keeps the rules: its name if it has no answer, itself, its row, and whether it has none."""
    unfit: dict[str, list[str]] = {}
    for location, record in records:
        if not checks.is_object(location, record):
            continue
        errors: list[str] = []
        id_ = checks.identify(location, record, errors)
        if what := _unfit(record, nested=len(location) > 2):
            unfit.setdefault(what, []).append(checks.named(location, id_))
            continue
        row, negative = made.row(id_, record, errors, nested=len(location) > 2)
        if checks.passed(location, id_, errors):
            yield checks.named(location, id_) if negative else "", record, row, negative
    checks.fatal += _unfit_lines(checks, unfit)


_ANSWER_NAMES = ("answers", "answer_text", *(name for name in ANSWERS if name != "answers"), "target")


def question_columns(*, queries: bool = False) -> Needed:
    """The columns of which a table of questions in any format must have one.

    Args:
        queries: whether formats of queries alone count.
    """
    known = (one for one in all_formats() if queries or not one.queries_only)
    return [list(dict.fromkeys(name for one in known for name in (one.question, *one.questions)))]


def iter_questions(
    path: str | PathLike[str], needed: Needed, question_format: QuestionFormat | None = None
) -> Iterator[tuple[Location, Any]]:
    """The records of a file of questions in any format, a question each, not validated, with their locations.

    Args:
        path: the file, or a folder of ``Dataset.save_to_disk``.
        needed: the columns that a table must have, where no format is given.
        question_format: the format; None to look at the records.

    Raises:
        DataError: the file is missing, empty, damaged or of another kind.
    """
    file = Path(path)
    question_format = question_format or table_format(file)
    if question_format is not None and question_format.columns:
        return iter_table(file, question_format.columns, quoted=question_format.quoted)
    if question_format is not None:  # columns of one's own may have any name
        needed = [(name,) for name in question_format.names] if isinstance(question_format, Fields) else ()
    known = [*_CSV_COLUMNS, *(name for names in needed for name in names)] if question_format is None else ()
    records = iter_file(file, needed, known=known)
    if ending_of(file) in (".csv", ".tsv") and not file.is_dir():
        records = ((location, _from_csv(record, question_format)) for location, record in records)
    return flatten(records) if question_format is None or question_format.nested else records


def table_format(file: Path) -> QuestionFormat | None:
    """The format of a tab-separated file without a header, by its first line; None for other files."""
    if ending_of(file) not in (".csv", ".tsv") or not file.is_file():
        return None
    for one in all_formats():
        if one.columns and (one.quoted or ending_of(file) == ".tsv"):
            with contextlib.suppress(DataError):  # the file's reader says what is wrong
                _, cells = next(iter_table(file, (), quoted=one.quoted))
                if isinstance(cells, list) and one.matches_line(cells):
                    return one
    return None


def _from_csv(record: Any, question_format: QuestionFormat | None) -> Any:
    """A record of a CSV file with the types that JSON would give."""
    if not isinstance(record, dict):
        return record
    if isinstance(question_format, Fields):
        texts = (question_format.paths["question"], question_format.paths.get("id"))
        return {name: cell if name in texts else _structure(cell) or cell for name, cell in record.items()}
    made: dict[str, Any] = {name: cell for name, cell in record.items() if name not in _ANSWER_PAIR}
    for name in _LISTS:
        if name in made:
            made[name] = _cell(name, made[name])
    for name in (*SINGLE, "target"):
        if made.get(name) == "":
            made[name] = None
        elif name in made and name != "target":
            found = _structure(made[name])
            made[name] = found if isinstance(found, list) and all(isinstance(one, str) for one in found) else made[name]
    if "answers" in record and any(name in record for name in _ANSWER_PAIR):
        return Unreadable('must have either "answers" or answer_text and answer_start, got both')
    if "answer_text" in record:
        text, start = record["answer_text"], record.get("answer_start", "")
        whole = start.lstrip("-").isdecimal() and start.isascii() and len(start) < 19
        pairs = [] if text == start == "" else [(text, int(start) if whole else start or None)]
        made["answers"] = {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}
    return made


def _cell(name: str, cell: str) -> Any:
    if not cell.strip():
        return None
    try:
        return loads(cell)
    except ValueError as error:
        found = _structure(cell) if isinstance(error.__cause__, json.JSONDecodeError) else None
        return Unreadable(f"{name}: {error}, got {short(cell)}") if found is None else found


def _structure(cell: str) -> Any:
    """The list or object that a cell holds as JSON, or as Python (and pandas) writes it; None for other text."""
    for read in (loads, ast.literal_eval) if cell.lstrip()[:1] in ("[", "{") else ():
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            found = read(cell.strip())
            return found if isinstance(found, list | dict) else None
    return None


def _unfit(record: Mapping[str, Any], *, nested: bool) -> str | None:
    """What a question has that an extractive reader of one context does not read."""
    if record.get("chat_history") or (nested and "chat_history" in record):
        return "turns before them (chat_history, as in QuAC and CoQA)"
    if not any(isinstance(value, list | dict) for name, value in record.items() if name != "answers"):
        return None  # SQuAD's own, without a look at every format
    question_format = format_of(record)
    names = () if isinstance(question_format, SquadQuestions) else question_format.passages
    lists = [value if isinstance(value := record.get(name), list) else [value] for name in names]
    if any(one and isinstance(one[0], dict | list) for one in lists):
        return "several passages (as in FiD's, LocalRQA's, HotpotQA's and MuSiQue's files)"
    return None


def _unfit_lines(checks: Checks, unfit: Mapping[str, list[str]]) -> list[str]:
    return [
        f"{checks.file}: {len(named):,} of {checks.n_records:,} questions have {what}, which are not read here: train "
        "an encoder-decoder with entrypoint: model_hub_rqa.trials.fid:FiDTrial, or a causal language model with "
        "entrypoint: model_hub_rqa.trials.generation:GenerationTrial "
        f"(the first: {named[0].removeprefix(f'{checks.file}: ')})"
        for what, named in unfit.items()
    ]


def _judge_negatives(checks: Checks, negatives: list[tuple[str, bool]], option: str, *, skip: bool) -> None:
    """Questions without an answer where none may be: one line where the file means them, else bad records."""
    if not negatives:
        return
    if skip and not any(declared for _, declared in negatives):
        checks.bad += [f"{named}: unanswerable, needs {option}" for named, _ in negatives]
        checks.n_bad += len(negatives)
        return
    first = negatives[0][0].removeprefix(f"{checks.file}: ")
    checks.fatal.append(
        f"{checks.file}: {len(negatives):,} of {checks.n_records:,} questions are unanswerable: "
        f"set {option} (the first: {first})"
    )


_ENDINGS = (".json", ".jsonl", ".parquet")


def read_rows(path: str | PathLike[str], *, columns: Sequence[str] = (), on_bad_record: str = "error") -> Records:
    """Reads a file of records that have ``columns``; further ones are kept as they are.

    Args:
        path: .json (a list, or a list under "data"), .jsonl, each also .gz; .parquet; or a folder that
            ``Dataset.save_to_disk`` wrote.
        columns: what each record must have, and not as null.
        on_bad_record: "error", or "skip" to leave bad records out and return their errors.

    Raises:
        DataError: all errors, each with its location.
    """
    checks = Checks(path, on_bad_record)
    rows: list[dict[str, Any]] = []
    for location, record in iter_file(Path(path), [(name,) for name in columns], endings=_ENDINGS):
        if not checks.is_object(location, record):
            continue
        missing = [name for name in columns if record.get(name) is None]
        errors = [f"must have {', '.join(missing)}, got {', '.join(record)}"] if missing else []
        if checks.passed(location, None, errors):
            rows.append(record)
    skipped = checks.finish(len(rows))
    return Records(rows, skipped, checks.n_bad)


def rows_reader(*columns: str) -> "FileLoader":
    """:func:`read_rows` in the form of a reader, for a trial's ``build_reader``: ``rows_reader("id", "sentences")``."""
    return functools.partial(_read, columns)


def _read(columns: Sequence[str], path: str, on_bad_record: str) -> Records:
    return read_rows(path, columns=columns, on_bad_record=on_bad_record)
