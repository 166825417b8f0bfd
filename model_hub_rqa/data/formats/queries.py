"""Files of queries alone: BEIR's, and MS MARCO's table."""

from collections.abc import Sequence

from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row
from model_hub_rqa.registry import FORMATS


@FORMATS.register("beir")
class BeirQueries(QuestionFormat):
    """_id and text (Thakur et al. 2021, arXiv:2104.08663)."""

    question = "text"
    queries_only = True

    def matches(self, record: Record) -> bool:
        return "text" in record and "question" not in record

    def read(self, record: Record) -> Row:
        return {**record, "question": record["text"]} if "text" in record else dict(record)


@FORMATS.register("queries-tsv")
class QueriesTable(QuestionFormat):
    """MS MARCO's queries.tsv: an id, a tab, and the question; nothing stands in quotes."""

    columns = ("id", "question")

    def matches_line(self, cells: Sequence[str]) -> bool:
        return len(cells) == 2 and cells[1].strip().lower() not in ("question", "query", "text", "answers", "answer")

    def read(self, record: Record) -> Row:
        return dict(record)
