"""FiD's format, which DPR's retriever writes too: passages under ctxs (Izacard and Grave 2020, arXiv:2007.01282).

A question with its answers alone, as NQ-open has them (Lee et al. 2019, arXiv:1906.00300), is in it as well.
"""

from model_hub_rqa.data.formats.localrqa import documents_of
from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, passages_of
from model_hub_rqa.registry import FORMATS


@FORMATS.register("nq-open")
@FORMATS.register("fid")
class FiD(QuestionFormat):
    """Gold passages have ``isgold``, or the id that the record names as ``gold_id``."""

    def matches(self, record: Record) -> bool:
        return "ctxs" in record

    def read(self, record: Record) -> Row:
        if "ctxs" not in record:
            return dict(record)
        found = passages_of(record, "ctxs")
        gold_id = record.get("gold_id")
        for passage in found if gold_id is not None else ():
            if isinstance(passage, dict) and str(passage["id"]) == str(gold_id) and passage["gold"] is None:
                passage["gold"] = True
        return {**record, "passages": [*found, *documents_of(record, "hard_neg_docs", gold=False)]}
