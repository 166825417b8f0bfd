"""The rows of sentence-transformers: a question with a positive and negatives, each in a column of its own."""

import re
from collections.abc import Sequence
from typing import Any

from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row
from model_hub_rqa.data.text_files import Unreadable, short
from model_hub_rqa.registry import FORMATS

_NEGATIVE = re.compile(r"negative(_\d+)?")
_SCORES = ("scores", "labels", "label", "score")


@FORMATS.register("sentence-transformers")
class Columns(QuestionFormat):
    """anchor (or query, question), positive, negative or negative_1, negative_2 ...; and scores, a number for each."""

    passages = ("positive",)
    questions = ("query", "anchor")

    def matches(self, record: Record) -> bool:
        return "positive" in record and any(name in record for name in (self.question, *self.questions))

    def read(self, record: Record) -> Row:
        question = next((name for name in (self.question, *self.questions) if name in record), self.question)
        names = ["positive", *(name for name in record if _NEGATIVE.fullmatch(str(name)) and record[name] is not None)]
        texts = [(name, record.get(name)) for name in names]
        if len(texts) == 2 and isinstance(texts[1][1], list):
            texts = [texts[0], *(("negative", text) for text in texts[1][1])]
        scores = _scores(record, len(texts))
        passages: list[Any] = [
            {
                "location": "",
                "names": {"text": name, "gold": "positive"},
                "text": text,
                "score": score,
                "gold": number == 0,
                "negative": number > 0,
            }
            for number, ((name, text), score) in enumerate(zip(texts, scores, strict=False))
        ]
        wrong = [one for one in scores if isinstance(one, Unreadable)]
        return {**record, "question": record.get(question), "passages": wrong or passages}


def _scores(record: Record, count: int) -> Sequence[Any]:
    """A score for the positive and each negative; one number beside one negative is their difference."""
    name = next((name for name in _SCORES if record.get(name) is not None), None)
    if name is None:
        return [None] * count
    value = record[name]
    if count == 2 and isinstance(value, int | float):
        return [value, 0.0]
    numbers = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
    if not numbers or len(value) not in (count, count - 1):
        return [Unreadable(f"{name} must be a list of {count} numbers, the positive's first, got {short(value)}")]
    return value if len(value) == count else [0.0, *(-margin for margin in value)]  # margins, as MarginMSE's
