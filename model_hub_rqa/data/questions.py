"""Questions to evaluate on, in any of the forms that they come in: FiD's, LocalRQA's and SQuAD's."""

from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.fusion_records import FUSION_FEATURES, is_dialogue, raw_records, read_fusion
from model_hub_rqa.data.readers import Records, read_squad
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.records import Passage, Question, Turn


def is_squad_form(path: str | PathLike[str]) -> bool:
    """Whether a file's first record has SQuAD's form, with a context; True for what only SQuAD's reader can read.

    Raises:
        DataError: the file is not there, or is no JSON.
    """
    file = Path(path)
    if not file.name.lower().endswith((".json", ".jsonl", ".json.gz", ".jsonl.gz")):
        return True
    broken: list[str] = []
    records = raw_records(file, broken)
    first = next((record for _, record in records if isinstance(record, dict)), {})
    return not is_dialogue(records) and "ctxs" not in first and ("paragraphs" in first or "context" in first)


def read_questions(
    path: str | PathLike[str],
    *,
    require_answers: bool = True,
    require_passages: bool = True,
    on_bad_record: str = "error",
) -> Records:
    """Reads and validates questions with their true answers and passages.

    Args:
        path: in FiD's form or LocalRQA's, as `fusion_records.read_fusion` takes it, or in SQuAD's, as
            `readers.read_squad` does; the context of a SQuAD record becomes its one passage, which is gold.
        require_answers: False for questions without answers.
        require_passages: False where passages are retrieved.
        on_bad_record: "error", or "skip" to leave faulty records out and return their faults.

    Returns:
        Rows as `fusion_records.FUSION_FEATURES` describes them.

    Raises:
        DataError: all faults of the file.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """
    if on_bad_record not in ("error", "skip"):
        raise ConfigError(f'on_bad_record: must be "error" or "skip", found {on_bad_record!r}')
    if not is_squad_form(path):
        return read_fusion(
            path,
            require_answers=require_answers,
            require_passages=require_passages,
            on_bad_record=on_bad_record,
        )
    records = read_squad(
        path, version_2_with_negative=False, require_answers=require_answers, on_bad_record=on_bad_record
    )
    rows = [from_squad(row) for row in records.rows]
    return Records(rows, records.skipped, records.n_skipped, FUSION_FEATURES)


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
