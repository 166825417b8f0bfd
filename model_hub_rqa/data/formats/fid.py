"""The validated reader of questions with their passages, in any format that `formats` has."""

import functools
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.arrow_cache import FileLoader
from model_hub_rqa.data.checks import Checks
from model_hub_rqa.data.file_loaders import Records, iter_questions, question_columns, table_format
from model_hub_rqa.data.formats.answers import unknown_answers
from model_hub_rqa.data.formats.questions import QuestionFormat, format_of, question_row
from model_hub_rqa.data.text_files import garbage_later

_PASSAGE = {"id": "string", "title": "string", "text": "string", "score": "float64", "gold": "bool"}
FUSION_FEATURES: Mapping[str, Any] = {
    "id": "string",
    "question": "string",
    "chat_history": [{"role": "string", "text": "string"}],
    "target": "string",
    "answers": ["string"],
    "passages": [_PASSAGE],
    "negatives": [_PASSAGE],
}
"""A row: ``chat_history`` has the turns before the question; ``target`` is the text to learn ("": one of ``answers``,
which are the gold answers, is drawn); ``passages`` come best first; ``negatives`` are known not to answer."""


@garbage_later()
def read_fusion(
    path: str | PathLike[str],
    *,
    require_answers: bool = True,
    require_passages: bool = True,
    on_bad_record: str = "error",
    queries: bool = False,
    question_format: QuestionFormat | None = None,
) -> Records:
    """Reads and validates a file of questions with passages.

    The fields of the first record tell the format, one of `registry.FORMATS`; a later record that fits another one is
    read as that. Turns of QuAC and CoQA become chat_history. Where the first record has no id, records are named by
    their numbers, counted from 1. A question that cannot be answered has the one gold answer "".

    Args:
        path: .json (a list of records, by itself or under "data", or one record a line), .jsonl, .csv or .tsv, each
            also with .gz; .parquet; or a folder of ``Dataset.save_to_disk``.
        require_answers: False for a file to predict on.
        require_passages: False where passages are retrieved.
        on_bad_record: "error", or "skip" to leave bad records out and return their errors.
        queries: True for a file to retrieve for: passages are not read, and ``text`` may be the question (BEIR).
        question_format: the format; None to look at the records.

    Returns:
        Rows as :data:`FUSION_FEATURES` describes them.

    Raises:
        DataError: all errors, each a line ``FILE: record ID (location): rule, value found``. Errors of the file itself
            (unreadable, no record, ids or answers under a name that is not known) are raised with "skip" as well.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """
    checks = Checks(path, on_bad_record)
    rows: list[dict[str, Any]] = []
    dropped: list[str] = []
    usual = question_format = question_format or table_format(Path(path))
    for location, record in iter_questions(path, question_columns(queries=queries), question_format):
        if not checks.is_object(location, record):
            continue
        errors: list[str] = []
        found = question_format or format_of(record, usual, queries=queries)
        usual = usual or found
        common = found.read(record)
        id_ = checks.identify(location, common, errors)
        if not require_answers:
            dropped += [name for name in unknown_answers(common) if name not in dropped]
        needs_passages = None if queries else require_passages
        row = question_row(record, common, found, errors, answers=require_answers, passages=needs_passages)
        if checks.passed(location, id_, errors):
            rows.append({"id": id_, **row})
    if queries:
        checks.fatal += [
            f"{path}: {name} looks like answers: rename it to answers, a list of texts" for name in dropped
        ]
    skipped = checks.finish(len(rows))
    return Records(rows, skipped, checks.n_bad, FUSION_FEATURES, numbered=checks.numbered)


def fusion_reader(
    *, require_answers: bool = True, require_passages: bool = True, question_format: QuestionFormat | None = None
) -> FileLoader:
    """:func:`read_fusion` in the form of a reader: ``reader(path, on_bad_record)``."""
    return functools.partial(
        _read, require_answers=require_answers, require_passages=require_passages, question_format=question_format
    )


def _read(path: str, on_bad_record: str, *, question_format: QuestionFormat | None, **required: bool) -> Records:
    return read_fusion(path, on_bad_record=on_bad_record, question_format=question_format, **required)
