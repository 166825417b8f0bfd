"""What a retriever is trained on: records of every format, and those that are refused."""

from pathlib import Path
from typing import Any

import pytest
import tiny_retrieval

from model_hub_rqa.config import parse_dict_to_dataclasses
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.tasks.retriever.records import negatives_of, positives_of
from model_hub_rqa.tasks.retriever.task import RetrieverKwargs, RetrieverTask


@pytest.mark.parametrize(
    ("record", "positives", "negatives"),
    [
        (
            {"question": "q", "ctxs": [{"title": "t", "text": "a", "isgold": True}, {"text": "b", "score": "2"}]},
            ["a"],
            [("b", 2.0)],
        ),
        (
            {
                "question": "q",
                "positive_ctxs": [{"title": "t", "text": "a", "passage_id": "7"}],
                "negative_ctxs": [],
                "hard_negative_ctxs": [{"title": "u", "text": "b", "score": 3}],
            },
            ["a"],
            [("b", 3.0)],
        ),
        (
            {"question": "q", "gold_docs": [{"page_content": "a"}], "hard_neg_docs": [{"page_content": "b"}]},
            ["a"],
            [("b", None)],
        ),
        ({"anchor": "q", "positive": "a", "negative": "b"}, ["a"], [("b", None)]),
        ({"query": "q", "positive": "a", "negative": ["b", "c"]}, ["a"], [("b", None), ("c", None)]),
        ({"query": "q", "positive": "a", "negative": "b", "label": 4.5}, ["a"], [("b", 0.0)]),
        (
            {"query": "q", "positive": "a", "negative_1": "b", "negative_2": "c", "labels": [1, 2, 3]},
            ["a"],
            [("b", 2.0), ("c", 3.0)],
        ),
        ({"query": "q", "positive": "a", "negative": ["b", "c"], "label": [5, 6]}, ["a"], [("b", -5.0), ("c", -6.0)]),
        ({"question": "q", "context": "a", "answers": {"text": ["a"], "answer_start": [0]}}, ["a"], []),
    ],
    ids=["FiD", "DPR", "LocalRQA", "triplet", "list", "margin", "scores", "margins", "SQuAD"],
)
def test_records(record: dict[str, Any], positives: list[str], negatives: list[Any], tmp_path: Path) -> None:
    """Positives and negatives with their scores, whatever the file's format."""
    (row,) = RetrieverTask().load(tiny_retrieval.write_lines(tmp_path / "data.jsonl", [record]))
    assert row["question"] == "q"
    assert [one["text"] for one in positives_of(row)] == positives
    assert [(one["text"], one["score"]) for one in negatives_of(row)] == negatives


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (
            {"query": "q", "positive": "a  b", "negative": "a b"},
            r"negative 1 must not be a positive as well, got 'a b'",
        ),
        (
            {"question": "q", "ctxs": [{"text": "a", "isgold": True}, {"text": "c"}, {"text": "a"}]},
            "negative 2 must not be a positive as well, got 'a'",
        ),
        ({"query": "q", "positive": "a", "negative": "b", "label": [1, 2, 3]}, "label must be a list of 2 numbers"),
        ({"query": "q", "positive": "", "negative": "b"}, "positive must not be blank"),
        ({"query": " ", "positive": "a"}, "question must not be blank"),
        ({"question": "q", "positive_ctxs": "a"}, "positive_ctxs must be a list, got 'a'"),
    ],
)
def test_wrong_records(record: dict[str, Any], error: str, tmp_path: Path) -> None:
    path = tiny_retrieval.write_lines(tmp_path / "data.jsonl", [record, tiny_retrieval.record(0)])
    with pytest.raises(DataError, match=rf"line 1.*{error}"):
        RetrieverTask().load(path)


def test_records_of_another_layout(tmp_path: Path) -> None:
    """data.fields says where the parts are; a format may be named; what fits neither is refused."""
    line = {"q": "q", "docs": [{"body": "a", "good": True}, {"body": "b", "good": False}]}
    path = tiny_retrieval.write_lines(tmp_path / "data.jsonl", [line])
    fields = {"question": "q", "passages": "docs[*].body", "gold": "docs[*].good"}
    (row,) = RetrieverTask(RetrieverKwargs(fields=fields)).load(path)
    assert [[one["text"] for one in part(row)] for part in (positives_of, negatives_of)] == [["a"], ["b"]]
    config = tiny_retrieval.config(tmp_path)
    for settings, error in (
        ({"fields": {"question": "q", "passage": "docs"}}, "data.fields.passage: is not a part of a question"),
        ({"format": "klit"}, "data.format: must be a registered format"),
        ({"fields": {"question": "q"}, "format": "kilt"}, "data.fields: is ignored beside format"),
    ):
        with pytest.raises(ConfigError, match=f"^{error}"):
            parse_dict_to_dataclasses((RetrieverKwargs,), config["data"] | settings, section="data")
