"""Validated readers for retrieval: corpora, queries and relevance judgements (qrels), in BEIR's forms and others.

A corpus is streamed, so that its size is not bounded by memory (of each document only its id is remembered, to find
duplicates). All errors of a file are raised together, each a line ``FILE: record ID (location): rule, value found``.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.checks import DOCUMENT_IDS, Checks, check_policy, filled_text, text_or_empty
from model_hub_rqa.data.documents import (
    DOCUMENT_ENDINGS,
    document_files,
    document_libraries,
    holds_documents,
    read_document,
)
from model_hub_rqa.data.files import ending_of, file_errors, iter_file, iter_table
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.formats.flashrag import split_contents
from model_hub_rqa.data.formats.questions import QuestionFormat
from model_hub_rqa.data.text_files import Location, read_text, short
from model_hub_rqa.errors import DataError
from model_hub_rqa.libraries import missing_libraries
from model_hub_rqa.records import Passage, Turn

logger = logging.getLogger(__name__)

CORPUS_ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")  # each but the last also with .gz
_TEXT = ("text", "contents")


@dataclass(frozen=True, slots=True)
class Query:
    """A question to retrieve for, with what its file says of the answer.

    ``answers`` and ``target`` (the answer to train on) are None where the file has none; the gold_answer of a dialogue
    is the target. The one answer of a question that cannot be answered is "".
    """

    id: str
    question: str
    answers: tuple[str, ...] | None = None
    target: str | None = None
    chat_history: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Qrels:
    """Relevance (0: none) by document id, by query id; and the line in ``file`` of each (query id, document id)."""

    file: str
    judgements: dict[str, dict[str, int]] = field(default_factory=dict)
    lines: dict[tuple[str, str], int] = field(default_factory=dict)


class CorpusReader:
    """The documents of a corpus file, validated one by one while they are iterated over.

    By the ending of its name: .json or .jsonl (BEIR's corpus.jsonl, or an object a line), .csv or .tsv with a header
    (DPR's psgs_w100.tsv), MS MARCO's collection.tsv without one (each also with .gz), or .parquet. A document has text,
    or Pyserini's contents, whose first line of several is the title; optionally title, beside which the text may be
    empty; and an id under _id or id. Where the first has no id, none may, and they are numbered from 1, whatever the
    form of the file. Whole numbers as ids become text. Other fields are ignored.

    Or documents: a .txt, .md, .rst, .html or .pdf file, or a folder of them; their ids are the names of the files below
    the folder.

    Args:
        path: the file or folder.
        on_bad_record: "error", or "skip" to leave bad documents out.

    Attributes:
        skipped: after the iteration, a line for each document that was left out.
        n_documents: documents handed out.
        sha256: after the iteration, the hash of their ids, titles and texts in their order: the same for each form of
            the same corpus.

    Raises:
        DataError: while iterating: the file cannot be read; after the last document: all errors of its documents
            ("error"), or no document remains.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """

    def __init__(self, path: str | PathLike[str], *, on_bad_record: str = "error") -> None:
        self.path = Path(path)
        self.skipped: tuple[str, ...] = ()
        self.n_documents = 0
        self.sha256 = ""
        check_policy(on_bad_record)
        self._on_bad_record = on_bad_record

    def __iter__(self) -> Iterator[Passage]:
        if wrong := self.errors():
            raise DataError(wrong)
        checks = Checks(self.path, self._on_bad_record, ids=DOCUMENT_IDS)
        digest = hashlib.sha256()
        self.n_documents = 0
        for document in (self._documents if holds_documents(self.path) else self._records)(checks):
            line = json.dumps([document.id, document.title, document.text], ensure_ascii=False)
            digest.update(line.encode() + b"\n")
            self.n_documents += 1
            yield document
        self.skipped = checks.finish(self.n_documents)
        self.sha256 = digest.hexdigest()

    def errors(self) -> list[str]:
        """What is wrong with the file by its name alone, and which libraries it needs that are missing."""
        if holds_documents(self.path):
            files, others = document_files(self.path)
            if not files:
                known = ", ".join(DOCUMENT_ENDINGS)
                return [f"{self.path}: must hold documents ({known}), got {', '.join(others) or 'none'}"]
            return missing_libraries(*document_libraries(files))
        errors = file_errors(self.path, (*CORPUS_ENDINGS, *DOCUMENT_ENDINGS))
        if not errors and ending_of(self.path) in DOCUMENT_ENDINGS:
            errors = [f"{self.path}: must not be compressed"]
        return errors

    def _records(self, checks: Checks) -> Iterator[Passage]:
        for location, record in self._iter_table():
            if not checks.is_object(location, record):
                continue
            errors: list[str] = []
            id_ = checks.identify(location, record, errors)
            name = "contents" if "contents" in record and "text" not in record else "text"
            bare = str(record.get("title") or "").strip() and record.get(name) in (None, "")  # BEIR has titles alone
            text = "" if bare else filled_text(record, name, errors) or ""
            title = text_or_empty(record, "title", errors)
            if name == "contents" and not title:
                title, text = split_contents(text)
            if checks.passed(location, id_, errors) and id_ is not None:
                yield Passage(id_, text, title)

    def _iter_table(self) -> Iterator[tuple[Location, Any]]:
        if ending_of(self.path) == ".tsv":
            cells: Any = next(iter_table(self.path, (), quoted=False))[1]
            if isinstance(cells, list) and len(cells) == 2 and re.search(r"\d", cells[0]):
                return iter_table(self.path, ("id", "text"), quoted=False)
        columns = (*DOCUMENT_IDS, "title", *_TEXT)
        return iter_file(self.path, (_TEXT,), endings=CORPUS_ENDINGS, folders=False, columns=columns)

    def _documents(self, checks: Checks) -> Iterator[Passage]:
        for file in document_files(self.path)[0]:
            checks.n_records += 1
            name = file.relative_to(self.path).as_posix() if self.path.is_dir() else file.name
            try:
                document = read_document(file, name)
            except DataError as error:
                checks.n_bad += 1
                checks.bad += error.errors
            else:
                yield document


def read_queries(
    path: str | PathLike[str],
    *,
    on_bad_record: str = "error",
    require_ids: bool = False,
    question_format: QuestionFormat | None = None,
) -> list[Query]:
    """The questions of a file, in their order.

    Args:
        path: in any format that `formats.fid.read_fusion` takes, or BEIR's queries (_id, text).
        on_bad_record: "error", or "skip" to leave bad questions out, with a warning for each.
        require_ids: whether questions without ids, which are numbered, are an error.
        question_format: the format; None to look at the records.

    Raises:
        DataError: all errors of the file, or no question remains.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """
    records = read_fusion(
        path,
        require_answers=False,
        require_passages=False,
        on_bad_record=on_bad_record,
        queries=True,
        question_format=question_format,
    )
    if require_ids and records.numbered:
        raise DataError(f"{path}: questions must have ids")
    for line in records.skipped:
        logger.warning("left out: %s", line)
    return [_query(row) for row in records.rows]


def _query(row: Mapping[str, Any]) -> Query:
    history = tuple(Turn(turn["role"], turn["text"]) for turn in row["chat_history"])
    return Query(row["id"], row["question"], tuple(row["answers"]) or None, row["target"] or None, history)


def read_qrels(path: str | PathLike[str]) -> Qrels:
    """Judgements from BEIR's form (query-id, corpus-id, score: tabs between, with or without that header) or TREC's
    (query, 0, document, relevance).

    Raises:
        DataError: all errors of the file, or it judges nothing.
    """
    qrels, errors, text = Qrels(str(path)), [], read_text(Path(path))
    if text.lstrip().startswith(("{", "[")):
        raise DataError(f"{path}: must have query, document and score in each line, got JSON")
    for number, line in enumerate(text.split("\n"), 1):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if not any(cells) or (number == 1 and cells[-1:] == ["score"]):
            continue
        if len(cells) not in (3, 4) or not all(cells):
            errors.append(f"{path}: line {number}: must have query, document and score, got {short(line)}")
            continue
        query, document, score = cells[0], cells[-2], cells[-1]
        before = qrels.judgements.get(query, {}).get(document)
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", score):
            errors.append(f"{path}: line {number}: score must be a whole number, got {short(score)}")
        elif before is not None and before != int(score):
            first = qrels.lines[query, document]
            errors.append(f"{path}: line {number}: score {score} contradicts line {first}, which has {before}")
        elif before is None:
            qrels.judgements.setdefault(query, {})[document] = int(score)
            qrels.lines[query, document] = number
    if errors or not qrels.judgements:
        raise DataError(errors or f"{path}: holds no judgement")
    return qrels
