"""The rules of a dialogue record, LocalRQA's form: question, chat_history, gold_answer, gold_docs, hard_neg_docs."""

from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.ctxs_form import MAX_CTXS, answer_fields
from model_hub_rqa.data.record_fields import (
    add_item_faults,
    filled_text,
    items_of,
    text_fault,
    text_or_empty,
    wrong_type,
)
from model_hub_rqa.data.text_files import short

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "system": "assistant", "bot": "assistant"}


def dialogue_row(record: Mapping[str, Any], faults: list[str], *, answers: bool, passages: bool) -> dict[str, Any]:
    """The row of a record, without its id; see :data:`~model_hub_rqa.data.fusion_records.FUSION_FEATURES`.

    Turns of chat_history are texts, of which the last is the assistant's and the others alternate, or objects with
    ``role`` and ``text`` (also ``speaker`` and ``content``). A document is an object with page_content and,
    optionally, metadata with title.

    Args:
        record: the record.
        faults: receives what is wrong with it.
        answers: whether gold_answer must be there.
        passages: whether gold_docs must be there.
    """
    question = filled_text(record, "question", faults)
    target, references = answer_fields(record, faults, target="gold_answer", required=answers)
    history = _history(items_of(record, "chat_history", faults), faults)
    gold = _documents(record, "gold_docs", faults, gold=True)
    if passages and "gold_docs" not in record:
        faults.append("gold_docs is missing")
    elif passages and isinstance(record["gold_docs"], list | None) and not record["gold_docs"]:
        faults.append(f"gold_docs must hold at least one document, found {short(record['gold_docs'])}")
    negatives = _documents(record, "hard_neg_docs", faults, gold=False)
    row = {"question": question, "chat_history": history, "target": target, "answers": references}
    return row | {"passages": gold, "negatives": negatives}


def _history(turns: list[Any], faults: list[str]) -> list[dict[str, str]]:
    history = []
    found: list[str] = []
    for number, turn in enumerate(turns, 1):
        place = f"chat_history {number}"
        if isinstance(turn, Mapping):
            text = turn.get("text", turn.get("content"))
            said_by = turn.get("role", turn.get("speaker"))
            role = _ROLES.get(said_by.lower()) if isinstance(said_by, str) else None
            if role is None:
                found.append(f"{place}: role must be user or assistant, found {short(said_by)}")
        else:
            # The question that follows is the user's, so the turn before it is the assistant's.
            text, role = turn, "assistant" if (len(turns) - number) % 2 == 0 else "user"
        if fault := text_fault(place, text):
            found.append(fault)
        history.append({"role": role or "", "text": text if isinstance(text, str) else ""})
    add_item_faults(found, faults)
    return history


def _documents(record: Mapping[str, Any], name: str, faults: list[str], *, gold: bool) -> list[dict[str, Any]]:
    documents = items_of(record, name, faults)
    if len(documents) > MAX_CTXS:
        faults.append(f"{name} must hold at most {MAX_CTXS:,} documents, found {len(documents):,}")
        return []
    read = []
    found: list[str] = []
    for number, document in enumerate(documents, 1):
        problems: list[str] = []
        read.append(_document(document, problems) | {"gold": gold})
        found += [f"{name} {number}: {problem}" for problem in problems]
    add_item_faults(found, faults)
    return read


def _document(document: Any, faults: list[str]) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        faults.append(f"must be an object with page_content, found {short(document)}")
        return {}
    text = filled_text(document, "page_content", faults)
    metadata = document.get("metadata")
    if metadata is None:
        metadata = {}
    elif not isinstance(metadata, Mapping):
        faults.append(wrong_type("metadata", dict, metadata))
        metadata = {}
    title = text_or_empty(metadata, "title", faults)
    source, number = metadata.get("source"), metadata.get("seq_num")
    id_ = "" if source is None else str(source) if number is None else f"{source}#{number}"
    return {"id": id_, "title": title.strip(), "text": text, "score": None}
