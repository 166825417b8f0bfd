"""Records of questions with passages that answer them and others that do not, for retrievers and rerankers."""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model_hub_rqa.data.arrow_cache import FileLoader
from model_hub_rqa.data.checks import Checks
from model_hub_rqa.data.file_loaders import Records, iter_questions, question_columns, table_format
from model_hub_rqa.data.formats.fid import FUSION_FEATURES
from model_hub_rqa.data.formats.questions import QuestionFormat, format_of, question_row
from model_hub_rqa.data.text_files import short

Row = dict[str, Any]


def relevance_reader(question_format: QuestionFormat | None = None) -> FileLoader:
    """:func:`read_relevance` in the form of a reader: ``reader(path, on_bad_record)``."""
    return functools.partial(read_relevance, question_format=question_format)


def read_relevance(path: str, on_bad_record: str, question_format: QuestionFormat | None = None) -> Records:
    """Reads and validates a file of questions with passages; gold ones are positives, all others negatives.

    Args:
        path: in any format that `read_fusion` takes.
        on_bad_record: "error", or "skip" to leave bad records out and return their errors.
        question_format: the format; None to look at the records.

    Returns:
        Rows as `FUSION_FEATURES` describes them.

    Raises:
        DataError: every error, among them a negative that equals a positive.
    """
    checks, rows = Checks(path, on_bad_record), []
    usual = question_format = question_format or table_format(Path(path))
    for location, record in iter_questions(path, question_columns(), question_format):
        if not checks.is_object(location, record):
            continue
        errors: list[str] = []
        found = question_format or format_of(record, usual)
        usual = usual or found
        common = found.read(record)
        id_ = checks.identify(location, common, errors)
        row = question_row(record, common, found, errors, answers=False, passages=False)
        if not errors:
            errors += _contradictions(row)
        if checks.passed(location, id_, errors):
            rows.append({"id": id_, **row})
    skipped = checks.finish(len(rows))
    return Records(rows, skipped, checks.n_bad, FUSION_FEATURES, numbered=checks.numbered)


def _contradictions(row: Mapping[str, Any]) -> Iterator[str]:
    positives = {passage_key(one) for one in row["passages"] if one["gold"]}
    for number, negative in enumerate(negatives_of(row), 1):
        if passage_key(negative) in positives:
            yield f"negative {number} must not be a positive as well, got {short(negative['text'])}"


def positives_of(row: Mapping[str, Any]) -> list[Row]:
    """The passages that answer a question, in their order."""
    return [passage for passage in row["passages"] if passage["gold"]]


def negatives_of(row: Mapping[str, Any]) -> list[Row]:
    """Those that do not, in their order."""
    return [*(passage for passage in row["passages"] if not passage["gold"]), *row["negatives"]]


def passage_text(passage: Mapping[str, Any]) -> str:
    """What is encoded of a passage: title and text, as an index has them."""
    return f"{passage['title']} {passage['text']}".strip()


def passage_key(passage: Mapping[str, Any]) -> int:
    """A number for a passage's title and text, the same where they differ in white space alone."""
    return text_key(passage_text(passage))


def text_key(text: str) -> int:
    """63 bits of a hash of a text's words."""
    return int.from_bytes(hashlib.sha256(" ".join(text.split()).encode()).digest()[:8], "big") >> 1
