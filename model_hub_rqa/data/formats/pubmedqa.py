"""PubMedQA's format (Jin et al. 2019, arXiv:1909.06146), of its own files and of the hub's."""

from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row
from model_hub_rqa.data.text_files import Unreadable, short
from model_hub_rqa.registry import FORMATS


@FORMATS.register("pubmedqa")
class PubMedQA(QuestionFormat):
    """The answer is the final decision (yes, no, maybe), or else the long answer. The parts of the abstract are gold
    passages, their labels the titles."""

    passages = ("CONTEXTS", "context")

    def matches(self, record: Record) -> bool:
        context = record.get("context")
        return "CONTEXTS" in record or (isinstance(context, Mapping) and "contexts" in context)

    def read(self, record: Record) -> Row:
        given = {str(name).lower(): value for name, value in record.items()}
        common = {"question": given["question"]} if "question" in given else {}
        common["id"] = given.get("id") if given.get("pubid") is None else given["pubid"]
        answer = next((given[name] for name in ("final_decision", "long_answer") if given.get(name) is not None), None)
        if answer is not None:
            common["answer"] = answer
        context = given.get("context")
        return {**common, "passages": _passages(context if isinstance(context, Mapping) else given)}


def _passages(parts: Record) -> list[Any]:
    texts, labels = parts.get("contexts"), parts.get("labels")
    if not isinstance(texts, list) or not isinstance(labels, list | None):
        return [Unreadable(f"contexts must be a list, with labels, got {short(texts)}, {short(labels)}")]
    if labels and len(labels) != len(texts):
        return [Unreadable(f"contexts must be as many as labels, got {len(texts)} and {len(labels)}")]
    titles = labels or [""] * len(texts)
    pairs = zip(titles, texts, strict=True)
    return [
        {"location": f"contexts {number}", "title": title, "text": text, "gold": True}
        for number, (title, text) in enumerate(pairs, 1)
    ]
