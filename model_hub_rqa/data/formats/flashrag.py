"""FlashRAG's format: golden_answers, and the fields of the data set before under metadata (Jin et al. 2024,
arXiv:2405.13576)."""

from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, format_of, passages_of, plain_record
from model_hub_rqa.registry import FORMATS


@FORMATS.register("flashrag")
class FlashRAG(QuestionFormat):
    """Passages are those that FlashRAG retrieved (output.retrieval_result), or else those of HotpotQA, 2WikiMultiHopQA
    or MuSiQue in metadata."""

    passages = ("output", "metadata")

    def matches(self, record: Record) -> bool:
        return "golden_answers" in record and any(isinstance(record.get(name), Mapping) for name in self.passages)

    def read(self, record: Record) -> Row:
        common = plain_record({name: value for name, value in record.items() if name not in self.passages})
        output = record.get("output")
        if isinstance(output, Mapping) and output.get("retrieval_result") is not None:
            found = passages_of(output, "retrieval_result")
            return {**common, "passages": [_with_title(one) for one in found]}
        metadata = record.get("metadata")
        if isinstance(metadata, Mapping):
            inner = {**metadata, "question": record.get("question")}
            question_format = format_of(inner)
            passages = None if isinstance(question_format, FlashRAG) else question_format.read(inner).get("passages")
            common |= {} if passages is None else {"passages": passages}
        return common


def split_contents(contents: str) -> tuple[str, str]:
    """Title and text of Pyserini's contents: the first line of several is the title, with or without quotes."""
    title, line_end, text = contents.partition("\n")
    if not line_end or not text.strip():
        return "", contents
    title = title.strip()
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return title[1:-1] if quoted else title, text


def _with_title(passage: Any) -> Any:
    if isinstance(passage, dict) and not passage["title"] and isinstance(passage.get("text"), str):
        title, text = split_contents(passage["text"])
        return {**passage, "title": title, "text": text}
    return passage
