"""2WikiMultiHopQA's format: HotpotQA's with evidences (Ho et al. 2020, arXiv:2011.01060)."""

import contextlib

from model_hub_rqa.data.formats.hotpotqa import HotpotQA
from model_hub_rqa.data.formats.questions import Record, Row
from model_hub_rqa.data.text_files import loads
from model_hub_rqa.registry import FORMATS


@FORMATS.register("2wikimultihopqa")
class TwoWiki(HotpotQA):
    """Its sentences have no blanks between them. The Parquet files on the hub have lists as JSON."""

    between = " "
    sentences = ("sentences", "content")  # FlashRAG's name

    def matches(self, record: Record) -> bool:
        context = record.get("context")
        content = isinstance(context, dict) and "content" in context
        return context is not None and "question" in record and ("evidences" in record or content)

    def read(self, record: Record) -> Row:
        changed = dict(record)
        for name in ("context", "supporting_facts"):
            if isinstance(record.get(name), str):
                with contextlib.suppress(ValueError):  # then it is an error of the field
                    changed[name] = loads(record[name])
        return super().read(changed)
