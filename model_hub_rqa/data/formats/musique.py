"""MuSiQue's format: paragraphs, some of them supporting (Trivedi et al. 2022, arXiv:2108.00573)."""

from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, passages_of
from model_hub_rqa.registry import FORMATS


@FORMATS.register("musique")
class MuSiQue(QuestionFormat):
    """Supporting paragraphs are gold; ``answerable: false`` is a question without an answer."""

    passages = ("paragraphs",)

    def matches(self, record: Record) -> bool:
        return isinstance(record.get("paragraphs"), list) and "question" in record

    def read(self, record: Record) -> Row:
        found = passages_of(record, "paragraphs", text=("paragraph_text",), ids=("idx",), gold="is_supporting")
        return {**record, "passages": found}
