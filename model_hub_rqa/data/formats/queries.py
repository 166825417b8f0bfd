"""Files of queries alone: BEIR's, and MS MARCO's table."""

import re
from collections.abc import Sequence

from model_hub_rqa.data.checks import is_id_name
from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, plain_record
from model_hub_rqa.registry import FORMATS


@FORMATS.register("beir")
class BeirQueries(QuestionFormat):
    """_id and text (Thakur et al. 2021, arXiv:2104.08663); or query in place of text."""

    question = "text"
    questions = ("query",)
    queries_only = True

    def matches(self, record: Record) -> bool:
        return ("text" in record or "query" in record) and "question" not in record

    def read(self, record: Record) -> Row:
        name = "query" if "query" in record and "text" not in record else "text"
        return plain_record(record) | ({"question": record[name]} if name in record else {})


@FORMATS.register("queries-tsv")
class QueriesTable(QuestionFormat):
    """MS MARCO's queries.tsv: an id, a tab, and the question; nothing stands in quotes."""

    columns = ("id", "question")

    def matches_line(self, cells: Sequence[str]) -> bool:
        names = ("question", "query", "text", "answers", "answer")
        header = len(cells) == 2 and (is_id_name(cells[0]) or cells[1].strip().lower() in names)
        return len(cells) == 2 and (not header or re.search(r"\d", cells[0]) is not None)

    def read(self, record: Record) -> Row:
        return dict(record)
