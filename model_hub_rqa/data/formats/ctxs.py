"""FiD's format, which DPR's retriever writes too: passages under ctxs (Izacard and Grave 2020, arXiv:2007.01282).

A question with its answers alone, as NQ-open has them (Lee et al. 2019, arXiv:1906.00300), is in it as well. LocalRQA's
format has dialogues with gold documents, and others that do not answer (Yu et al. 2024).
"""

from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.checks import wrong_type
from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, passages_of, plain_record
from model_hub_rqa.data.text_files import Unreadable
from model_hub_rqa.registry import FORMATS


@FORMATS.register("nq-open")
@FORMATS.register("fid")
class FiD(QuestionFormat):
    """Gold passages have ``isgold``, or the id that the record names as ``gold_id``."""

    def matches(self, record: Record) -> bool:
        return "ctxs" in record

    def read(self, record: Record) -> Row:
        if "ctxs" not in record:
            return plain_record(record)
        found = passages_of(record, "ctxs")
        gold_id = record.get("gold_id")
        for passage in found if gold_id is not None else ():
            if isinstance(passage, dict) and str(passage["id"]) == str(gold_id) and passage["gold"] is None:
                passage["gold"] = True
        return {**record, "passages": [*found, *documents_of(record, "hard_neg_docs", gold=False)]}


@FORMATS.register("localrqa")
class LocalRQA(QuestionFormat):
    """gold_docs are the passages, hard_neg_docs the negative ones."""

    passages = ("gold_docs",)
    item = "document"

    def matches(self, record: Record) -> bool:
        dialogue = "hard_neg_docs" in record or "gold_answer" in record
        return "gold_docs" in record or (dialogue and record.get("context") is None)

    def read(self, record: Record) -> Row:
        both = (*documents_of(record, "gold_docs", gold=True), *documents_of(record, "hard_neg_docs", gold=False))
        return {**record, "passages": both}


def documents_of(record: Record, name: str, *, gold: bool) -> list[Any]:
    """The passages of a list of LangChain's documents: the id is that of the source, with the number within it."""
    found = passages_of(record, name, text=("page_content",), gold=gold, negative=not gold, item="document")
    documents = record.get(name)
    if len(found) != len(documents if isinstance(documents, list) else ()):
        return found
    return [_with_metadata(*pair) for pair in zip(found, documents or (), strict=True)]


def _with_metadata(passage: Any, document: Any) -> Any:
    if isinstance(passage, Unreadable):
        return passage
    metadata = {} if document.get("metadata") is None else document["metadata"]
    if not isinstance(metadata, Mapping):
        return Unreadable(f"{passage['location']}: {wrong_type('metadata', dict, metadata)}")
    title, source, number = (metadata.get(name) for name in ("title", "source", "seq_num"))
    id_ = None if source is None else str(source) if number is None else f"{source}#{number}"
    return {**passage, "title": title.strip() if isinstance(title, str) else title, "id": id_}
