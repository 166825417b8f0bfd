"""Questions to evaluate on, in any format."""

from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.checks import check_policy
from model_hub_rqa.data.file_loaders import Records
from model_hub_rqa.data.files import ending_of, iter_file
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.formats.nested import is_article, is_conversation
from model_hub_rqa.errors import DataError
from model_hub_rqa.records import Passage, Question, Turn


def is_squad_form(path: str | PathLike[str]) -> bool:
    """Whether a file's first record is in SQuAD's format: a context, and no turns before its question.

    Raises:
        DataError: the file is not there, or cannot be read.
    """
    file = Path(path)
    if ending_of(file) not in (".json", ".jsonl"):
        return True
    if not file.is_file():
        raise DataError(f"{path}: no such file")
    for _, record in iter_file(file):
        if isinstance(record, dict):
            flat = isinstance(record.get("context"), str) and "ctxs" not in record and not record.get("chat_history")
            return flat or (is_article(record) and not is_conversation(record))
    return False


def read_questions(
    path: str | PathLike[str],
    *,
    require_answers: bool = True,
    require_passages: bool = True,
    on_bad_record: str = "error",
) -> Records:
    """Reads and validates questions with their gold answers and passages; see `fusion_records.read_fusion`."""
    check_policy(on_bad_record)
    return read_fusion(
        path, require_answers=require_answers, require_passages=require_passages, on_bad_record=on_bad_record
    )


def question_of(row: dict[str, Any]) -> Question:
    """A row as a reader is asked it."""
    passages = tuple(Passage(passage["id"], passage["text"], passage["title"]) for passage in row["passages"])
    history = tuple(Turn(turn["role"], turn["text"]) for turn in row["chat_history"])
    return Question(row["question"], passages, history, id=row["id"])


def from_squad(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `readers.read_squad` in the form of `fusion_records.FUSION_FEATURES`; its context is gold."""
    gold = {"id": "", "title": row["title"], "text": row["context"], "score": None, "gold": True}
    return {
        "id": row["id"],
        "question": row["question"],
        "chat_history": [],
        "target": "",
        "answers": list(dict.fromkeys(row["answers"]["text"])),
        "passages": [gold],
        "negatives": [],
    }
