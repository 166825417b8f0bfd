"""Where an answer stands in its context: checked for training, and mended where the context leaves no doubt."""

import re
from typing import Any

from model_hub_rqa.data.text_files import short

NEAR = 10  # characters: of several places, the nearest one within this counts
_SHOWN = 5


def mend(text: str, start: int | None, context: str) -> tuple[str, int] | None:
    """The answer as it stands in the context, without outer white space, and where; None where that is in doubt.

    An offset that is wrong by white space alone, or whose text stands exactly once in the context, has one right
    place; of several, the nearest within 10 characters is taken. Runs of white space count as equal.

    Args:
        text: the answer.
        start: its offset in characters; None, or a negative one, where the file does not say.
        context: where it is looked for.
    """
    words = text.split()
    core = text.strip()
    begin = None if start is None or start < 0 else start + len(text) - len(text.lstrip())
    for place in () if begin is None or start is None else (start, begin):
        after = place + len(context[place:]) - len(context[place:].lstrip())
        if context.startswith(core, after):
            return core, after
    found = _places(re.escape(core), context) or _places(r"\s+".join(map(re.escape, words)), context)
    if len(found) > 1 and begin is not None:
        nearest = min(found, key=lambda span: abs(span[0] - begin))
        found = [nearest] if abs(nearest[0] - begin) <= NEAR else found
    if len(found) != 1:
        return None
    first, last = found[0]
    return context[first:last], first


def offset_fault(text: str, start: int | None, context: str) -> str:
    """Why an answer that cannot be mended is an error, in words, and the ways on."""
    places = [first for first, _ in _places(re.escape(text.strip()), context)]
    listed = ", ".join(map(str, places[:_SHOWN])) + (", ..." if len(places) > _SHOWN else "")
    elsewhere = f" (it stands at {listed})" if places else ""
    if start is None or start < 0:
        fault = (
            f"answer_start is {'missing' if start is None else start}, the answer's text is {short(text)}{elsewhere}"
        )
        fault += "" if places else ", which the context does not have"
    elif start >= len(context):
        fault = f"answer_start {start} is past the end of the context, which has {len(context)} characters{elsewhere}"
    else:
        there = short(context[start : start + len(text)])
        fault = f"the context has {there} at answer_start {start}, the answer's text is {short(text)}{elsewhere}"
    return f"{fault}: correct it, or leave out such records with on_bad_record: skip"


def _places(pattern: str, context: str) -> list[tuple[int, int]]:
    """Where a pattern stands, overlapping places too: first character and the one after the last."""
    found = re.finditer(f"(?=({pattern}))", context)
    return [match.span(1) for match in found]


def whole_number(start: Any) -> bool:
    """Whether an answer_start is of the type that it must be; a missing one is."""
    return start is None or type(start) is int
