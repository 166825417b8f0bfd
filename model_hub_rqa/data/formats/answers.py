"""The answers of a record, under each name that public files have for them."""

import re
from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.checks import filled_text, items_of, text_fault, true_or_false, wrong_type
from model_hub_rqa.data.text_files import Unreadable, short

TARGETS = ("target", "gold_answer")
SINGLE = ("answer", "ground_truth")  # may hold one text
ANSWERS = (*SINGLE, "answers", "golden_answers", "ground_truths", "aliases", "answer_aliases")
"""Columns of gold answers; the first one is learned where a record has no target."""
NO_ANSWER = ""
"""The one reference of a question that cannot be answered: what is right is to say nothing."""
_IGNORED = {"plausible_answers", "orig_answer", "additional_answers", "has_answer", "no_answer"}
_ANSWER_LIKE = re.compile(
    r"\w*(answers?|aliases)|references?|gold|responses?|outputs?|labels?|completion|solution|truths?"
)


def answer_fields(record: Mapping[str, Any], faults: list[str], *, required: bool) -> tuple[str, list[str]]:
    """The text to learn ("" where one of the answers is to be drawn) and the gold answers.

    A question that cannot be answered (``is_impossible: true``, ``answerable: false``, or, as in flat SQuAD v2.0,
    answers that hold an empty list of texts) has the one gold answer "".
    """
    before = len(faults)
    impossible, answerable = (true_or_false(record, name, faults) for name in ("is_impossible", "answerable"))
    target, target_name = "", next((name for name in TARGETS if record.get(name) is not None), None)
    found: list[str] = []
    if target_name is not None and not isinstance(record[target_name], list):
        target = filled_text(record, target_name, faults) or ""
    elif target_name is not None:
        found += _texts(record, target_name, faults)
    for name in ANSWERS:
        found += _texts(record, name, faults)
    if impossible and (target or found):
        faults.append(f"is_impossible is true, yet the record has the answer {short(target or found[0])}")
    elif impossible or answerable is False or (not target and not found and _says_none(record)):
        return "", [NO_ANSWER]
    if required and not target and not found and len(faults) == before:
        wanted = "gold_answer" if "gold_docs" in record or "hard_neg_docs" in record else "target"
        given = next((name for name in ANSWERS if record.get(name) is not None), None)
        empty = "" if given is None else f", found {short(record[given])}"
        faults.append(f"{wanted} or answers must be given{empty}{_looks_like(record)}")
    return target, list(dict.fromkeys(found)) or ([target] if target else [])


def unknown_answers(record: Mapping[str, Any]) -> list[str]:
    """The columns that look like answers under a name that is not known, where no known one is given."""
    if any(record.get(name) is not None for name in (*TARGETS, *ANSWERS)):
        return []
    names = {name: re.sub(r"[^a-z]", "", str(name).lower()) for name in record if name not in _IGNORED}
    return [
        name
        for name, plain in names.items()
        if _ANSWER_LIKE.fullmatch(plain)
        and isinstance(record[name], str | list | dict)
        and name not in (*TARGETS, *ANSWERS)
    ]


def _looks_like(record: Mapping[str, Any]) -> str:
    names = unknown_answers(record)
    return f" ({', '.join(names)} looks like it: rename it to answers, a list of texts)" if names else ""


def _says_none(record: Mapping[str, Any]) -> bool:
    answers = record.get("answers")
    if isinstance(answers, dict):
        return answers.get("text") == []
    return answers == [] and isinstance(record.get("context"), str) and record.get("is_impossible") is None


def _texts(record: Mapping[str, Any], name: str, faults: list[str]) -> list[str]:
    value = record.get(name)
    if name in SINGLE and isinstance(value, str) and not isinstance(value, Unreadable):
        value = [value]
    elif isinstance(value, dict):  # SQuAD's form
        if not isinstance(value.get("text"), list):
            faults.append(wrong_type(f"{name}.text", list, value["text"]) if "text" in value else f"{name} has no text")
            return []
        value = value["text"]
    else:
        value = items_of(record, name, faults)
    texts = []
    for number, answer in enumerate(value, 1):
        text = answer["text"] if isinstance(answer, dict) and "text" in answer else answer
        if fault := text_fault(f"answer {number}", text):
            faults.append(fault)
        else:
            texts.append(text)
    return texts
