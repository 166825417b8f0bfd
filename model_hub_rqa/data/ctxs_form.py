"""The rules of a record in FiD's form: id, question, target or answers, and the passages under ctxs, best first."""

import math
from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.record_fields import (
    add_item_faults,
    filled_text,
    items_of,
    text_fault,
    text_or_empty,
    wrong_type,
)
from model_hub_rqa.data.text_files import short

MAX_CTXS = 1000  # the depth of a usual retrieval run; far more is a mistake, and would not fit into memory


def ctxs_row(record: Mapping[str, Any], faults: list[str], *, answers: bool, passages: bool) -> dict[str, Any]:
    """The row of a record, without its id; see :data:`~model_hub_rqa.data.fusion_records.FUSION_FEATURES`.

    Args:
        record: the record.
        faults: receives what is wrong with it.
        answers: whether target or answers must be there.
        passages: whether ctxs must be there.
    """
    question = filled_text(record, "question", faults)
    target, references = answer_fields(record, faults, target="target", required=answers)
    found = items_of(record, "ctxs", faults)
    if passages and "ctxs" not in record:
        faults.append("ctxs is missing")
    elif passages and isinstance(record["ctxs"], list | None) and not found:
        faults.append(f"ctxs must hold at least one passage, found {short(record['ctxs'])}")
    if len(found) > MAX_CTXS:
        faults.append(f"ctxs must hold at most {MAX_CTXS:,} passages, found {len(found):,}")
        found = []
    gold_id = record.get("gold_id")
    read = []
    item_faults: list[str] = []
    for number, item in enumerate(found, 1):
        problems: list[str] = []
        read.append(_passage(item, gold_id, problems))
        item_faults += [f"ctxs {number}: {problem}" for problem in problems]
    add_item_faults(item_faults, faults)
    row = {"question": question, "chat_history": [], "target": target, "answers": references}
    return row | {"passages": read, "negatives": []}


def answer_fields(
    record: Mapping[str, Any], faults: list[str], *, target: str, required: bool
) -> tuple[str, list[str]]:
    """The text to learn ("" where one of the answers is to be drawn) and the true answers."""
    before = len(faults)
    learned = ""
    if record.get(target) is not None:
        learned = filled_text(record, target, faults) or ""
    found: list[str] = []
    for number, answer in enumerate(items_of(record, "answers", faults), 1):
        if fault := text_fault(f"answer {number}", answer):
            faults.append(fault)
        else:
            found.append(answer)
    if required and not learned and not found and len(faults) == before:
        empty = f", found {short(record['answers'])}" if record.get("answers") is not None else ""
        faults.append(f"{target} or answers must be given{empty}")
    return learned, found or ([learned] if learned else [])


def _passage(item: Any, gold_id: Any, faults: list[str]) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        faults.append(f"must be an object with title and text, found {short(item)}")
        return {}
    text = filled_text(item, "text", faults)
    id_ = text_or_empty(item, "id", faults)
    score = item.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        faults.append(f"score must be a number, found {short(score)}")
    elif score is not None and not math.isfinite(score):
        faults.append(f"score must be finite, found {score}")
    marked = item.get("isgold")
    if marked is not None and not isinstance(marked, bool):
        faults.append(wrong_type("isgold", bool, marked))
    gold = marked is True or (gold_id is not None and id_ != "" and str(gold_id) == id_)
    return {"id": id_, "title": text_or_empty(item, "title", faults), "text": text, "score": score, "gold": gold}
