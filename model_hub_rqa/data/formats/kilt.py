"""KILT's format: input and output (Petroni et al. 2021, arXiv:2009.02252)."""

from collections.abc import Mapping

from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, passages_of
from model_hub_rqa.data.text_files import Unreadable, short
from model_hub_rqa.registry import FORMATS


@FORMATS.register("kilt")
class Kilt(QuestionFormat):
    """Each output has an answer, or provenance. Of provenance, what has a text is a gold passage; KILT's own files name
    Wikipedia's pages alone."""

    question = "input"
    passages = ("output",)

    def matches(self, record: Record) -> bool:
        others = ("question", "instruction")
        return isinstance(record.get("input"), str) and not any(name in record for name in others)

    def read(self, record: Record) -> Row:
        common = {"id": record.get("id"), **({"question": record["input"]} if "input" in record else {})}
        outputs = record.get("output")
        if outputs is None:
            return common
        if not isinstance(outputs, list) or not all(isinstance(one, Mapping) for one in outputs):
            rule = Unreadable(f"output must be a list of objects with answer, got {short(outputs)}")
            return {**common, "answers": rule, "passages": [rule]}
        passages = []
        for output in outputs:
            sources = output.get("provenance")
            if isinstance(sources, list):
                sources = [one for one in sources if not isinstance(one, Mapping) or one.get("text") is not None]
            passages += passages_of({"provenance": sources}, "provenance", ids=("wikipedia_id",), gold=True)
        answers = [output["answer"] for output in outputs if output.get("answer") not in (None, "")]
        return {**common, "answers": answers, "passages": passages}
