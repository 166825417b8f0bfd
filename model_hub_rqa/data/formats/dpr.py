"""DPR's formats: its training file, and questions with answers in a table (Karpukhin et al. 2020, arXiv:2004.04906)."""

import ast
from collections.abc import Sequence
from typing import Any

from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, passages_of
from model_hub_rqa.data.text_files import Unreadable, short
from model_hub_rqa.registry import FORMATS


@FORMATS.register("dpr")
class DPR(QuestionFormat):
    """positive_ctxs are gold passages; hard_negative_ctxs, then negative_ctxs, are the negative ones."""

    passages = ("positive_ctxs",)

    def matches(self, record: Record) -> bool:
        return "positive_ctxs" in record

    def read(self, record: Record) -> Row:
        passages = passages_of(record, "positive_ctxs", gold=True)
        for name in ("hard_negative_ctxs", "negative_ctxs"):
            passages += passages_of(record, name, gold=False, negative=True)
        return {**record, "passages": passages}


@FORMATS.register("dpr-qa")
class DPRTable(QuestionFormat):
    """nq-test.qa.csv and the like: a question, a tab, and the answers as a list of Python."""

    columns = ("question", "answers")
    quoted = True

    def matches_line(self, cells: Sequence[str]) -> bool:
        return len(cells) == 2 and isinstance(_python_list(cells[1]), list)

    def read(self, record: Record) -> Row:
        answers = record.get("answers")
        return {**record, "answers": _python_list(answers) if isinstance(answers, str) else answers}


def _python_list(cell: str) -> Any:
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    return found if isinstance(found, list) else Unreadable(f"answers must be a list of Python, got {short(cell)}")
