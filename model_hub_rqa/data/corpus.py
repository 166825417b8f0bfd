"""Validated readers for retrieval: corpora, queries and relevance judgements (qrels), in BEIR's forms and others.

A corpus is streamed, so that its size is not bounded by memory (of each document only its id is remembered, to find
duplicates). All faults of a file are raised together, each a line ``FILE: record ID (place): rule, value found``.
"""

import csv
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.readers import read_squad
from model_hub_rqa.data.text_files import (
    UTF8_MARK,
    Place,
    Unreadable,
    loads,
    open_bytes,
    read_json,
    read_text,
    short,
    where,
)
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Passage

CORPUS_ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")  # each but the last also with .gz
QUERY_ENDINGS = (".jsonl", ".json")  # also with .gz
_ID_NAMES = ("_id", "id")


@dataclass(frozen=True, slots=True)
class Query:
    """A question to retrieve for, with what its file says of the answer.

    ``answers`` and ``target`` (the answer to train on) are None where the file has none; the gold_answer of a dialogue
    is the target.
    """

    id: str
    question: str
    answers: tuple[str, ...] | None = None
    target: str | None = None


@dataclass(frozen=True)
class Qrels:
    """Relevance (0: none) by document id, by query id; and the line in ``file`` of each (query id, document id)."""

    file: str
    judgements: dict[str, dict[str, int]] = field(default_factory=dict)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)


class CorpusReader:
    """The documents of a corpus file, validated one by one while they are iterated over.

    By the ending of its name: .jsonl (BEIR's corpus.jsonl, or an object a line), .csv or .tsv with a header (each also
    with .gz), or .parquet. A document has text, optionally title, and an id under _id or id; where the first has no
    id, none may, and they are numbered from 1, whatever the form of the file. Whole numbers as ids become text. Other
    fields are passed over.

    Args:
        path: the file.
        on_bad_record: "error", or "skip" to leave faulty documents out.

    Attributes:
        skipped: after the iteration, a line for each document that was left out.
        n_documents: documents handed out.
        sha256: after the iteration, the hash of their ids, titles and texts in their order: the same for each form of
            the same corpus.

    Raises:
        DataError: while iterating: the file cannot be read; after the last document: all faults of its documents
            ("error"), or no document remains.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """

    def __init__(self, path: str | PathLike[str], *, on_bad_record: str = "error") -> None:
        self.path = Path(path)
        self.skipped: tuple[str, ...] = ()
        self.n_documents = 0
        self.sha256 = ""
        self._on_bad_record = _checked_policy(on_bad_record)

    def __iter__(self) -> Iterator[Passage]:
        checks = _Checks(self.path, self._on_bad_record)
        digest = hashlib.sha256()
        self.n_documents = 0
        for place, record in iter_records(self.path, checks.bad, CORPUS_ENDINGS, needed="text"):
            faults: list[str] = []
            id_ = checks.identify(place, record, faults)
            text = _text(record, "text", faults) or ""
            title = _text(record, "title", faults, needed=False) or ""
            if checks.passed(place, id_, faults) and id_ is not None:
                digest.update(json.dumps([id_, title, text], ensure_ascii=False).encode() + b"\n")
                self.n_documents += 1
                yield Passage(id_, text, title)
        self.skipped = checks.finish(self.n_documents)
        self.sha256 = digest.hexdigest()


def read_queries(path: str | PathLike[str], *, on_bad_record: str = "error") -> list[Query]:
    """The questions of a file, in their order.

    A .jsonl file has an object a line: BEIR's (_id, text), FiD's (question, answers, target) or a dialogue's
    (question, gold_answer; its history plays no part). A .json file is SQuAD's, or has a list of such objects, by
    itself or under "data". Each also with .gz. Ids follow the rules of :class:`CorpusReader`.

    Args:
        path: the file.
        on_bad_record: "error", or "skip" to leave faulty questions out.

    Raises:
        DataError: all faults of the file, or no question remains.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """
    checks = _Checks(Path(path), _checked_policy(on_bad_record))
    queries = []
    records = iter_records(checks.path, checks.bad, QUERY_ENDINGS)
    if checks.path.name.lower().endswith((".json", ".json.gz")) and checks.path.exists():
        found = _json_records(checks.path)
        if any(isinstance(record, dict) and ("paragraphs" in record or "context" in record) for record in found):
            squad = read_squad(path, version_2_with_negative=True, require_answers=False, on_bad_record=on_bad_record)
            answers_of = ((row, dict.fromkeys(row["answers"]["text"])) for row in squad.rows)
            return [Query(row["id"], row["question"], tuple(answers)) for row, answers in answers_of]
        records = ((("record", number), record) for number, record in enumerate(found, 1))
    for place, record in records:
        faults: list[str] = []
        id_ = checks.identify(place, record, faults)
        name = "text" if isinstance(record, dict) and "question" not in record and "text" in record else "question"
        question = _text(record, name, faults)
        answers, target = _answers(record, faults)
        if checks.passed(place, id_, faults) and id_ is not None:
            queries.append(Query(id_, question or "", answers, target))
    checks.finish(len(queries))
    return queries


def _json_records(path: Path) -> list[Any]:
    root = read_json(path)
    records = root.get("data") if isinstance(root, dict) else root
    if not isinstance(records, list):
        raise DataError(f'{path}: must be a list of questions, or an object with such a list under "data"')
    return records


def read_qrels(path: str | PathLike[str]) -> Qrels:
    """Judgements from BEIR's form (query-id, corpus-id, score: tabs between, with or without that header) or TREC's
    (query, 0, document, relevance).

    Raises:
        DataError: all faults of the file, or it judges nothing.
    """
    qrels, faults = Qrels(str(path)), []
    for number, line in enumerate(read_text(Path(path)).split("\n"), 1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if not any(cells) or (number == 1 and cells[-1:] == ["score"]):
            continue
        if len(cells) not in (3, 4) or not all(cells):
            faults.append(f"{path}: line {number}: must have query, document and score, found {short(line)}")
            continue
        query, document, score = cells[0], cells[-2], cells[-1]
        before = qrels.judgements.get(query, {}).get(document)
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", score):
            faults.append(f"{path}: line {number}: score must be a whole number, found {short(score)}")
        elif before is not None and before != int(score):
            first = qrels.lines[query, document]
            faults.append(f"{path}: line {number}: score {score} contradicts line {first}, which has {before}")
        elif before is None:
            qrels.judgements.setdefault(query, {})[document] = int(score)
            qrels.lines[query, document] = number
    if faults or not qrels.judgements:
        raise DataError(faults or f"{path}: holds no judgement")
    return qrels


class _Checks:
    """Collects what is wrong with the records of one file, and watches over their ids."""

    def __init__(self, path: Path, on_bad_record: str) -> None:
        self.path = path
        self.bad: list[str] = []
        self._skip = on_bad_record == "skip"
        self._seen: dict[str, int] = {}
        self._with_ids: bool | None = None  # decided by the first record
        self._count = 0

    def identify(self, place: Place, record: Any, faults: list[str]) -> str | None:
        """The record's id, or None where it is at fault; so it is where the record is no object."""
        self._count += 1
        if not isinstance(record, dict):
            faults.append(
                str(record) if isinstance(record, Unreadable) else f"must be an object, found {short(record)}"
            )
            return None
        number = place[-1]
        assert isinstance(number, int)
        name = next((name for name in _ID_NAMES if record.get(name) is not None), None)
        if self._with_ids is None:
            self._with_ids = name is not None
        if not self._with_ids:
            if name is not None:
                faults.append(f"{name} is given, while the first record has none, found {short(record[name])}")
            return str(self._count)
        value = record.get(name) if name else None
        id_ = str(value) if type(value) is int else _text(record, name or "id", faults)
        if id_ is not None and self._seen.setdefault(id_, number) != number:
            faults.append(f"duplicate id, first at {where((*place[:-1], self._seen[id_]))}")
        return id_

    def passed(self, place: Place, id_: str | None, faults: list[str]) -> bool:
        """Whether the record has no fault; those it has are noted."""
        if faults:
            named = where(place)
            if id_ is not None and self._with_ids:
                named = f"record {id_ if len(id_) <= 60 and id_.isprintable() else short(id_)} ({named})"
            self.bad.append(f"{self.path}: {named}: {'; '.join(faults)}")
        return not faults

    def finish(self, n_kept: int) -> tuple[str, ...]:
        """The faults of the records that were left out; raises them where none may be, or none remains."""
        if self.bad and not self._skip:
            raise DataError(self.bad)
        if not n_kept:
            raise DataError([f"{self.path}: no record remains" if self.bad else f"{self.path}: empty file", *self.bad])
        return tuple(self.bad)


def _checked_policy(on_bad_record: str) -> str:
    if on_bad_record not in ("error", "skip"):
        raise ConfigError(f'on_bad_record: must be "error" or "skip", found {on_bad_record!r}')
    return on_bad_record


def _text(record: Any, name: str, faults: list[str], *, needed: bool = True) -> str | None:
    """The text under a name; None, with the fault noted, where there is none that can be used."""
    if not isinstance(record, dict) or (not needed and record.get(name) is None):
        return None
    value = record.get(name)
    if name not in record:
        faults.append(f"{name} is missing")
    elif not isinstance(value, str):
        faults.append(f"{name} must be text, found {short(value)}")
    elif needed and not value.strip():
        faults.append(f"{name} must not be blank, found {short(value)}")
    elif not value.isascii() and not _storable(value):
        faults.append(f"{name} must be Unicode text, found a lone surrogate")
    else:
        return value
    return None


def _storable(value: str) -> bool:
    """False where half of a surrogate pair, as JSON's \\ud800 makes it, is in the text: it has no form in UTF-8."""
    try:
        return bool(value.encode())
    except UnicodeEncodeError:
        return False


def _answers(record: Any, faults: list[str]) -> tuple[tuple[str, ...] | None, str | None]:
    """Answers and target of a question, both optional."""
    if not isinstance(record, dict):
        return None, None
    target = _text(record, "target" if record.get("target") is not None else "gold_answer", faults, needed=False)
    answers = record.get("answers")
    texts = answers.get("text") if isinstance(answers, dict) else answers  # SQuAD's form keeps the texts in a list
    if texts is None and not isinstance(answers, dict):
        return None, target
    if not isinstance(texts, list):
        faults.append(f"answers must be a list of texts, found {short(answers)}")
        return None, target
    wrong = [text for text in texts if not isinstance(text, str) or not text.strip()]
    if wrong:
        faults.append(f"each of answers must be text that is not blank, found {short(wrong[0])}")
    return tuple(dict.fromkeys(text for text in texts if isinstance(text, str))), target


def iter_records(
    path: Path, faults: list[str], endings: Collection[str], needed: str = ""
) -> Iterator[tuple[Place, Any]]:
    """The records of a file that has one of the ``endings``, with their places, read as a stream.

    ``faults`` receives a line for every line of a .jsonl file that is not JSON in UTF-8; ``needed`` is a column that a
    table must have. DataError is raised where the file is missing, empty, damaged or of another kind.
    """
    problems = file_problems(path, endings)
    if problems:
        raise DataError(problems)
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending == ".parquet":
        yield from _iter_parquet(path, needed)
    elif ending == ".jsonl":
        yield from _iter_jsonl(path, faults)
    elif ending in (".csv", ".tsv"):
        yield from _iter_table(path, "\t" if ending == ".tsv" else ",", needed)


def file_problems(path: Path, endings: Collection[str] = CORPUS_ENDINGS) -> list[str]:
    """What is wrong with a file by its name alone: it is not there, or has another ending."""
    name = path.name.lower()
    if not path.is_file():
        return [f"{path}: {'is a folder, must be a file' if path.is_dir() else 'no such file'}"]
    if Path(name.removesuffix(".gz")).suffix not in endings or name.endswith(".parquet.gz"):
        known = ", ".join(endings)
        return [f"{path}: unknown file ending {path.suffix!r} (known: {known}; text files also with .gz)"]
    return []


def _iter_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, with their line feeds, without a byte order mark."""
    with open_bytes(path) as file:
        for number, line in enumerate(file):
            if number == 0:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in line[:4]:
                    raise DataError(f"{path}: must be UTF-8, found UTF-16 or UTF-32")
                line = line.removeprefix(UTF8_MARK)
            yield line


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"must be UTF-8, found byte 0x{line[error.start]:02x} at byte {error.start + 1}") from error


def _iter_jsonl(path: Path, faults: list[str]) -> Iterator[tuple[Place, Any]]:
    for number, line in enumerate(_iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = loads(_decoded(line).rstrip())
        except ValueError as error:
            fault = str(error).replace("at line 1 ", f"at line {number} ", 1)
            cut = "" if line.endswith(b"\n") else " (the last line: the file may be cut short)"
            faults.append(f"{path}: line {number}: {fault}{cut}")
        else:
            yield ("line", number), value


def _iter_table(path: Path, delimiter: str, needed: str) -> Iterator[tuple[Place, Any]]:
    limit = csv.field_size_limit(sys.maxsize)  # texts are longer than csv allows by itself
    rows = csv.reader((_decoded(line) for line in _iter_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    begins = 1
    try:
        for row in rows:
            if not header and row:
                header = row
                _check_header(path, header, needed)
            elif row and len(row) != len(header):
                yield ("line", begins), Unreadable(f"must have {len(header)} fields as the header, found {len(row)}")
            elif row:
                yield ("line", begins), dict(zip(header, row, strict=True))
            begins = rows.line_num + 1  # a quoted field may hold line ends
    except DataError:
        raise
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: line {begins}: {error}") from error
    finally:
        csv.field_size_limit(limit)  # the limit is the whole process's


def _check_header(path: Path, names: Iterable[str], needed: str) -> None:
    found = list(names)
    twice = sorted({name for name in found if found.count(name) > 1})
    if needed and needed not in found:
        raise DataError(f'{path}: misses the column "{needed}", found {short(found)}')
    if twice:
        raise DataError(f"{path}: names columns twice: {short(twice)}")


def _iter_parquet(path: Path, needed: str) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if not path.stat().st_size:
            raise DataError(f"{path}: empty file")
        number = 0
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_header(path, names, needed)
            columns = [name for name in names if name in (*_ID_NAMES, "title", needed)]
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield ("row", number), row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {short(str(error))}") from error
