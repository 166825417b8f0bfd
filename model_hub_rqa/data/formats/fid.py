"""The validated reader of questions with their passages, in any format that `formats` has."""

import functools
from collections.abc import Mapping
from os import PathLike
from typing import Any

from model_hub_rqa.data.arrow_cache import Reader
from model_hub_rqa.data.checks import Checks
from model_hub_rqa.data.file_loaders import Records, iter_questions
from model_hub_rqa.data.formats.answers import unknown_answers
from model_hub_rqa.data.formats.questions import PASSAGE_FIELDS, question_row
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
) -> Records:
    """Reads and validates a file of questions with passages.

    Each record is read in the format that its fields tell: FiD's (ctxs), LocalRQA's (gold_docs), HotpotQA's, MuSiQue's,
    SQuAD's (its context is the one passage, which is gold), QuAC's or CoQA's, whose turns become chat_history. Where
    the first record has no id, records are named by their numbers, counted from 1. A question that cannot be answered
    has the one gold answer "".

    Args:
        path: .json (a list of records, by itself or under "data", or one record a line), .jsonl or .csv, each also
            with .gz; .parquet; or a folder of ``Dataset.save_to_disk``.
        require_answers: False for a file to predict on.
        require_passages: False where passages are retrieved.
        on_bad_record: "error", or "skip" to leave bad records out and return their errors.
        queries: True for a file to retrieve for: passages are not read, and ``text`` may be the question (BEIR).

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
    for location, record in iter_questions(path, needed=(("question",),)):
        if not checks.is_object(location, record):
            continue
        errors: list[str] = []
        id_ = checks.identify(location, record, errors)
        question = "question"
        if queries:  # passages are not read, and BEIR's queries have text in place of question
            record = {name: value for name, value in record.items() if name not in PASSAGE_FIELDS}
            question = "text" if "text" in record and "question" not in record else question
        if not require_answers:
            dropped += [name for name in unknown_answers(record) if name not in dropped]
        row = question_row(record, errors, answers=require_answers, passages=require_passages, question=question)
        if checks.passed(location, id_, errors):
            rows.append({"id": id_, **row})
    if queries:
        checks.fatal += [
            f"{path}: {name} looks like answers: rename it to answers, a list of texts" for name in dropped
        ]
    skipped = checks.finish(len(rows))
    return Records(rows, skipped, checks.n_bad, FUSION_FEATURES, numbered=checks.numbered)


def fusion_reader(*, require_answers: bool = True, require_passages: bool = True) -> Reader:
    """:func:`read_fusion` in the form of a reader: ``reader(path, on_bad_record)``."""
    return functools.partial(_read, require_answers, require_passages)


def _read(require_answers: bool, require_passages: bool, path: str, on_bad_record: str) -> Records:
    return read_fusion(
        path, require_answers=require_answers, require_passages=require_passages, on_bad_record=on_bad_record
    )
