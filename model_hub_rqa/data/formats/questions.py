"""The row of a question with its passages, whatever format its record has: FiD's, LocalRQA's, HotpotQA's, MuSiQue's,
or SQuAD's, whose context is the one passage.

HotpotQA: Yang et al. 2018, arXiv:1809.09600. MuSiQue: Trivedi et al. 2022, arXiv:2108.00573.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from model_hub_rqa.data.checks import (
    add_item_errors,
    filled_text,
    items_of,
    text_error,
    text_or_empty,
    true_or_false,
    wrong_type,
)
from model_hub_rqa.data.formats.answers import answer_fields
from model_hub_rqa.data.text_files import short

MAX_CTXS = 1000  # the depth of a usual retrieval run; far more is a mistake, and would not fit into memory
PASSAGE_FIELDS = ("ctxs", "gold_docs", "hard_neg_docs", "paragraphs", "context", "supporting_facts")
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "system": "assistant", "bot": "assistant"}

Row = dict[str, Any]


def question_row(
    record: Mapping[str, Any], errors: list[str], *, answers: bool, passages: bool, question: str = "question"
) -> Row:
    """The row of a record, without its id; see :data:`~model_hub_rqa.data.formats.fid.FUSION_FEATURES`.

    Turns of chat_history are texts, of which the last is the assistant's and the others alternate, or objects with
    ``role`` and ``text`` (also ``speaker`` and ``content``); "" is no turn.

    Args:
        record: a flat record; see `formats.nested` for those with several questions.
        errors: receives what is wrong with it.
        answers: whether gold answers must be there.
        passages: whether passages must be there.
        question: the field of the question.
    """
    asked = filled_text(record, question, errors)
    target, references = answer_fields(record, errors, required=answers)
    history = _history(record, errors)
    read = _passages(record, errors, required=passages)
    negatives = _items(record, "hard_neg_docs", "documents", errors, _document)
    row = {"question": asked, "chat_history": history, "target": target, "answers": references}
    return row | {"passages": read, "negatives": negatives}


def _passages(record: Mapping[str, Any], errors: list[str], *, required: bool) -> list[Row]:
    """The passages, from whichever of the fields the record has."""
    if "ctxs" in record:
        name, kind, rows = "ctxs", "passage", _ctxs(record, errors)
    elif "gold_docs" in record:
        name, kind = "gold_docs", "document"
        rows = [row | {"gold": True} for row in _items(record, name, "documents", errors, _document)]
    elif isinstance(record.get("paragraphs"), list):
        name, kind = "paragraphs", "paragraph"
        rows = _items(record, name, "passages", errors, _paragraph)
    elif isinstance(record.get("context"), str):
        if not required and not record["context"].strip():
            return []
        title, text = text_or_empty(record, "title", errors), filled_text(record, "context", errors)
        return [{"id": "", "title": title, "text": text, "score": None, "gold": True}]
    elif record.get("context") is not None:
        name, kind, rows = "context", "passage", _titled_sentences(record, errors)
    else:
        if required:
            dialogue = "gold_answer" in record or "hard_neg_docs" in record
            errors.append(f"{'gold_docs' if dialogue else 'ctxs'} is missing")
        return []
    if required and not rows and isinstance(record[name], list | None) and not record[name]:
        errors.append(f"{name} must hold at least one {kind}, got {short(record[name])}")
    return rows


def _history(record: Mapping[str, Any], errors: list[str]) -> list[dict[str, str]]:
    turns = [] if record.get("chat_history") == "" else items_of(record, "chat_history", errors)
    history = []
    found: list[str] = []
    for number, turn in enumerate(turns, 1):
        location = f"chat_history {number}"
        if isinstance(turn, Mapping):
            text = turn.get("text", turn.get("content"))
            said_by = turn.get("role", turn.get("speaker"))
            role = _ROLES.get(said_by.lower()) if isinstance(said_by, str) else None
            if role is None:
                found.append(f"{location}: role must be user or assistant, got {short(said_by)}")
        else:
            # The question that follows is the user's, so the turn before it is the assistant's.
            text, role = turn, "assistant" if (len(turns) - number) % 2 == 0 else "user"
        if error := text_error(location, text):
            found.append(error)
        history.append({"role": role or "", "text": text if isinstance(text, str) else ""})
    add_item_errors(found, errors)
    return history


def _items(
    record: Mapping[str, Any], name: str, kind: str, errors: list[str], read: Callable[[Any, list[str]], Row]
) -> list[Row]:
    """The rows of a list of passages; of the errors of its items, the first are named."""
    items = items_of(record, name, errors)
    if len(items) > MAX_CTXS:
        errors.append(f"{name} must hold at most {MAX_CTXS:,} {kind}, got {len(items):,}")
        return []
    rows = []
    found: list[str] = []
    for number, item in enumerate(items, 1):
        of_item: list[str] = []
        rows.append(read(item, of_item))
        found += [f"{name} {number}: {error}" for error in of_item]
    add_item_errors(found, errors)
    return rows


# ---- FiD's ----


def _ctxs(record: Mapping[str, Any], errors: list[str]) -> list[Row]:
    gold_id = record.get("gold_id")

    def read(item: Any, errors: list[str]) -> Row:
        return _ctx(item, gold_id, errors)

    return _items(record, "ctxs", "passages", errors, read)


def _ctx(item: Any, gold_id: Any, errors: list[str]) -> Row:
    if not isinstance(item, Mapping):
        errors.append(f"must be an object with title and text, got {short(item)}")
        return {}
    text = filled_text(item, "contents" if "contents" in item and "text" not in item else "text", errors)
    id_ = text_or_empty(item, "id", errors, numbers=True)
    marked = true_or_false(item, "isgold", errors)
    gold = marked is True or (gold_id is not None and id_ != "" and str(gold_id) == id_)
    title = text_or_empty(item, "title", errors, numbers=True)
    return {"id": id_, "title": title, "text": text, "score": _score(item.get("score"), errors), "gold": gold}


def _score(score: Any, errors: list[str]) -> float | None:
    """A number, also as text: FiD's and DPR's own files write it so."""
    if score is None:
        return None
    number = score
    if isinstance(score, str):
        with contextlib.suppress(ValueError):
            number = float(score)
    if isinstance(number, bool) or not isinstance(number, int | float):
        errors.append(f"score must be a number, got {short(score)}")
        return None
    if not math.isfinite(number):
        errors.append(f"score must be finite, got {number}")
        return None
    return number


# ---- LocalRQA's ----


def _document(document: Any, errors: list[str]) -> Row:
    if not isinstance(document, Mapping):
        errors.append(f"must be an object with page_content, got {short(document)}")
        return {}
    text = filled_text(document, "page_content", errors)
    metadata = document.get("metadata")
    if metadata is None:
        metadata = {}
    elif not isinstance(metadata, Mapping):
        errors.append(wrong_type("metadata", dict, metadata))
        metadata = {}
    title = text_or_empty(metadata, "title", errors, numbers=True)
    source, number = metadata.get("source"), metadata.get("seq_num")
    id_ = "" if source is None else str(source) if number is None else f"{source}#{number}"
    return {"id": id_, "title": title.strip(), "text": text, "score": None, "gold": False}


# ---- multi-hop questions ----


def _paragraph(paragraph: Any, errors: list[str]) -> Row:
    """MuSiQue's."""
    if not isinstance(paragraph, Mapping):
        errors.append(f"must be an object with paragraph_text, got {short(paragraph)}")
        return {}
    text = filled_text(paragraph, "paragraph_text", errors)
    gold = true_or_false(paragraph, "is_supporting", errors) is True
    id_ = text_or_empty(paragraph, "idx", errors, numbers=True)
    return {"id": id_, "title": text_or_empty(paragraph, "title", errors), "text": text, "score": None, "gold": gold}


def _titled_sentences(record: Mapping[str, Any], errors: list[str]) -> list[Row]:
    """HotpotQA's context: pairs of a title and its sentences, or, as on the hub, a list of each."""
    context, facts = record["context"], record.get("supporting_facts")
    if isinstance(context, Mapping):
        titles, sentences = (items_of(context, name, errors) for name in ("title", "sentences"))
        if len(titles) != len(sentences):
            errors.append(f"context must have as many titles as sentences, got {len(titles)} and {len(sentences)}")
            return []
        context = [list(pair) for pair in zip(titles, sentences, strict=True)]
    if isinstance(facts, Mapping):
        named = items_of(facts, "title", errors)
    else:
        facts = items_of(record, "supporting_facts", errors)
        named = [fact[0] if isinstance(fact, list) and fact else fact for fact in facts]
    supporting = {title for title in named if isinstance(title, str)}
    if len(supporting) < len(set(map(str, named))):
        errors.append(f"supporting_facts must hold titles, got {short(named)}")

    def read(item: Any, errors: list[str]) -> Row:
        if not (isinstance(item, list) and len(item) == 2 and isinstance(item[1], list)):
            errors.append(f"must be a title and a list of sentences, got {short(item)}")
            return {}
        title, parts = item
        text = "".join(parts) if all(isinstance(part, str) for part in parts) else None
        if error := text_error("title", title) or text_error("sentences", text):
            errors.append(error)
        return {
            "id": "",
            "title": title,
            "text": text,
            "score": None,
            "gold": isinstance(title, str) and title in supporting,
        }

    if not isinstance(context, list):
        errors.append(f"context must be text, or titles with their sentences, got {short(context)}")
        return []
    return _items({"context": context}, "context", "passages", errors, read)
