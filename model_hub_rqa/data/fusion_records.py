"""The validated reader of questions with their passages: FiD's form and LocalRQA's, as json or jsonl, each also .gz."""

import functools
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.arrow_cache import Reader
from model_hub_rqa.data.ctxs_form import ctxs_row
from model_hub_rqa.data.dialogue_form import dialogue_row
from model_hub_rqa.data.readers import Records
from model_hub_rqa.data.record_fields import text_fault
from model_hub_rqa.data.text_files import Place, iter_jsonl, read_json, short, where
from model_hub_rqa.errors import ConfigError, DataError

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
which are the true answers, is drawn); ``passages`` come best first; ``negatives`` are known not to answer."""

_DIALOGUE_KEYS = ("gold_docs", "gold_answer", "chat_history", "hard_neg_docs")


def read_fusion(
    path: str | PathLike[str],
    *,
    require_answers: bool = True,
    require_passages: bool = True,
    on_bad_record: str = "error",
) -> Records:
    """Reads and validates a file of questions with passages.

    A .json file holds a list of records (or ``{"data": [...]}``), a .jsonl file one a line; each may end in .gz. The
    first record that has the keys of either form decides which one is read. A record without id is named by its
    number, counted from 1.

    Args:
        path: the file.
        require_answers: False for a file to predict on.
        require_passages: False where passages are retrieved.
        on_bad_record: "error", or "skip" to leave faulty records out and return their faults.

    Returns:
        Rows as :data:`FUSION_FEATURES` describes them.

    Raises:
        DataError: all faults, each a line ``FILE: record ID (place): rule, value found``. Faults of the file itself
            (unreadable, broken JSON, no record) are raised with "skip" as well.
        ConfigError: on_bad_record is neither "error" nor "skip".
    """
    if on_bad_record not in ("error", "skip"):
        raise ConfigError(f'on_bad_record: must be "error" or "skip", found {on_bad_record!r}')
    file = Path(path)
    broken: list[str] = []
    records = raw_records(file, broken)
    read = dialogue_row if is_dialogue(records) else ctxs_row
    read = functools.partial(read, answers=require_answers, passages=require_passages)
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    seen: dict[str, Place] = {}
    for number, (place, record) in enumerate(records, 1):
        faults: list[str] = []
        row = _row(record, number, place, seen, read, faults)
        if faults:
            bad.append(f"{path}: {_named(record, place)}: {'; '.join(faults)}")
        else:
            rows.append(row)
    if broken or (bad and on_bad_record == "error"):
        raise DataError([*broken, *bad])
    if not rows:
        nothing = "holds no record" if not records else f"no record remains, all {len(records):,} are faulty"
        raise DataError([f"{path}: {nothing}", *bad])
    return Records(rows, tuple(bad), len(bad), FUSION_FEATURES)


def fusion_reader(*, require_answers: bool = True, require_passages: bool = True) -> Reader:
    """:func:`read_fusion` in the form of a reader: ``reader(path, on_bad_record)``."""
    return functools.partial(_read, require_answers, require_passages)


def _read(require_answers: bool, require_passages: bool, path: str, on_bad_record: str) -> Records:
    return read_fusion(
        path, require_answers=require_answers, require_passages=require_passages, on_bad_record=on_bad_record
    )


def raw_records(path: Path, broken: list[str]) -> list[tuple[Place, Any]]:
    """The records of a json or jsonl file (each also .gz), not validated, with their places.

    Args:
        path: the file.
        broken: receives a line for each line of a .jsonl file that is not JSON.

    Raises:
        DataError: no such file, another ending, not JSON, not a list of records.
    """
    name = path.name.lower()
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if name.endswith((".jsonl", ".jsonl.gz")):
        return list(iter_jsonl(path, broken))
    if not name.endswith((".json", ".json.gz")):
        raise DataError(f"{path}: unknown file ending {path.suffix!r} (known: .json, .json.gz, .jsonl, .jsonl.gz)")
    root = read_json(path)
    if isinstance(root, dict) and isinstance(root.get("data"), list):
        root = root["data"]
    if not isinstance(root, list):
        raise DataError(f"{path}: must be a list of records, found {short(root)}")
    return [(("record", number), record) for number, record in enumerate(root, 1)]


def is_dialogue(records: list[tuple[Place, Any]]) -> bool:
    """Whether the first record that has the keys of either form has those of a dialogue."""
    for _, record in records:
        if isinstance(record, dict) and ("ctxs" in record or any(key in record for key in _DIALOGUE_KEYS)):
            return "ctxs" not in record
    return False


def _row(
    record: Any, number: int, place: Place, seen: dict[str, Place], read: Any, faults: list[str]
) -> dict[str, Any]:
    if not isinstance(record, dict):
        faults.append(f"must be an object, found {short(record)}")
        return {}
    id_ = record.get("id")
    if id_ is None or type(id_) is int:
        id_ = str(number if id_ is None else id_)
    elif fault := text_fault("id", id_):
        faults.append(fault)
        id_ = None
    if id_ is not None and seen.setdefault(id_, place) is not place:
        faults.append(f"duplicate id, first at {where(seen[id_])}")
    return {"id": id_, **read(record, faults)}


def _named(record: Any, place: Place) -> str:
    id_ = record.get("id") if isinstance(record, dict) else None
    if not isinstance(id_, str | int) or isinstance(id_, bool):
        return where(place)
    text = str(id_)
    return f"record {text if len(text) <= 60 and text.isprintable() else short(text)} ({where(place)})"
