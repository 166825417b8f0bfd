"""Where a record has its answers, under which names, and at which offsets."""

import re
from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.checks import filled_text, items_of, text_error, true_or_false, wrong_type
from model_hub_rqa.data.text_files import Unreadable, short

NEAR = 10  # characters: of several positions, the nearest one within this counts
_SHOWN = 5


def mend(text: str, start: int | None, context: str) -> tuple[str, int] | None:
    """The answer as it stands in the context, without outer white space, and where; None where that is in doubt.

    An offset that is wrong by white space alone, or whose text stands exactly once in the context, has one right
    offset; of several, the nearest within 10 characters is taken. Runs of white space count as equal.

    Args:
        text: the answer.
        start: its offset in characters; None, or a negative one, where the file does not say.
        context: where it is looked for.
    """
    words = text.split()
    core = text.strip()
    begin = None if start is None or start < 0 else start + len(text) - len(text.lstrip())
    for position in () if begin is None or start is None else (start, begin):
        after = position + len(context[position:]) - len(context[position:].lstrip())
        if context.startswith(core, after):
            return core, after
    found = _positions(re.escape(core), context) or _positions(r"\s+".join(map(re.escape, words)), context)
    if len(found) > 1 and begin is not None:
        nearest = min(found, key=lambda span: abs(span[0] - begin))
        found = [nearest] if abs(nearest[0] - begin) <= NEAR else found
    if len(found) != 1:
        return None
    first, last = found[0]
    return context[first:last], first


def offset_error(text: str, start: int | None, context: str) -> str:
    """Why an answer that cannot be mended is an error, in words, and the ways on."""
    positions = [first for first, _ in _positions(re.escape(text.strip()), context)]
    listed = ", ".join(map(str, positions[:_SHOWN])) + (", ..." if len(positions) > _SHOWN else "")
    elsewhere = f" (it stands at {listed})" if positions else ""
    if start is None or start < 0:
        error = (
            f"answer_start is {'missing' if start is None else start}, the answer's text is {short(text)}{elsewhere}"
        )
        error += "" if positions else ", which the context does not have"
    elif start >= len(context):
        error = f"answer_start {start} is past the end of the context, which has {len(context)} characters{elsewhere}"
    else:
        there = short(context[start : start + len(text)])
        error = f"the context has {there} at answer_start {start}, the answer's text is {short(text)}{elsewhere}"
    return f"{error}: correct it, or leave out such records with on_bad_record: skip"


def _positions(pattern: str, context: str) -> list[tuple[int, int]]:
    """Where a pattern stands, overlapping positions too: first character and the one after the last."""
    found = re.finditer(f"(?=({pattern}))", context)
    return [match.span(1) for match in found]


def whole_number(start: Any) -> bool:
    """Whether an answer_start is of the type that it must be; a missing one is."""
    return start is None or type(start) is int


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


def answer_fields(record: Mapping[str, Any], errors: list[str], *, required: bool) -> tuple[str, list[str]]:
    """The text to learn ("" where one of the answers is to be drawn) and the gold answers.

    A question that cannot be answered (``is_impossible: true``, ``answerable: false``, or, as in flat SQuAD v2.0,
    answers that hold an empty list of texts) has the one gold answer "". A blank text is no answer where a single text
    may stand.
    """
    before = len(errors)
    impossible, answerable = (true_or_false(record, name, errors) for name in ("is_impossible", "answerable"))
    target, target_name = "", next((name for name in TARGETS if record.get(name) is not None), None)
    found: list[str] = []
    if target_name is not None and not isinstance(record[target_name], list):
        target = filled_text(record, target_name, errors) or ""
    elif target_name is not None:
        found += _texts(record, target_name, errors)
    for name in ANSWERS:
        found += _texts(record, name, errors, blank=impossible is True or answerable is False)
    if impossible and (target or found):
        errors.append(f"is_impossible is true, yet the record has the answer {short(target or found[0])}")
    elif impossible or answerable is False or (not target and not found and _says_none(record)):
        return "", [NO_ANSWER]
    if required and not target and not found and len(errors) == before:
        wanted = "gold_answer" if "gold_docs" in record or "hard_neg_docs" in record else "target"
        given = next((name for name in ANSWERS if record.get(name) is not None), None)
        empty = "" if given is None else f", got {short(record[given])}"
        errors.append(f"{wanted} or answers must be given{empty}{_looks_like(record)}")
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


def _texts(record: Mapping[str, Any], name: str, errors: list[str], *, blank: bool = False) -> list[str]:
    """The texts of a field; ``blank`` ones may be among them, and are left out, where there is no answer by right."""
    value = record.get(name)
    if name in SINGLE and isinstance(value, str) and not isinstance(value, Unreadable):
        value = [value] if value.strip() else []
    elif name in SINGLE and not isinstance(value, str | list | dict | None):
        errors.append(f"{name} must be text, or a list of texts, got {short(value)}")
        return []
    elif isinstance(value, dict):  # SQuAD's form
        if not isinstance(value.get("text"), list):
            errors.append(wrong_type(f"{name}.text", list, value["text"]) if "text" in value else f"{name} has no text")
            return []
        value = value["text"]
    else:
        value = items_of(record, name, errors)
    texts = []
    for number, answer in enumerate(value, 1):
        text = answer["text"] if isinstance(answer, dict) and "text" in answer else answer
        if blank and isinstance(text, str) and not text.strip():
            continue
        if error := text_error(f"answer {number}", text):
            errors.append(error)
        else:
            texts.append(text)
    return texts
