"""rqa mine: which candidates become negatives, by hand; what is refused; and that training reads what it writes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_retrieval
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from transformers import BertForSequenceClassification

from model_hub_rqa.cli import main
from model_hub_rqa.errors import DataError
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.retrieval.mining import Asked, MiningSettings, mine
from model_hub_rqa.tasks.retriever.records import negatives_of, positives_of, read_relevance

GOLD = Passage("g", "Oil was found in the river basin in 1973", "Oil")
HITS = [
    Hit(Passage("a", "the members met in October"), 9.0),
    Hit(Passage("g", "Oil was  found in the river basin in 1973", "Oil"), 8.0),
    Hit(Passage("b", "the price of a barrel in 1973"), 7.9),
    Hit(Passage("c", "the Amazonas is a river"), 7.0),
    Hit(Passage("d", "the Amazonas  is a river"), 6.0),
    Hit(Passage("e", "found in the river basin in 1973 Oil was"), 5.0),
    Hit(Passage("f", "an embargo"), 4.0),
]


class Ranked:
    """A retriever whose ranking is given."""

    def __init__(self, hits: Sequence[Hit] = HITS) -> None:
        self.hits = list(hits)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self.hits[:k] for _ in queries]


def mined(hits: Sequence[Hit] = HITS, answers: tuple[str, ...] = ("1973",), **settings: Any) -> tuple[Any, Any]:
    return mine([Asked("q", "when?", (GOLD,), answers)], Ranked(hits), MiningSettings(**settings))


@pytest.mark.parametrize(
    ("settings", "expected", "dropped"),
    [
        ({}, "acf", {"positive": 2, "has_answer": 1, "same_text": 1}),
        ({"keep_answers": True}, "abcf", {"positive": 2, "has_answer": 0, "same_text": 1}),
        ({"answers": ()}, "abcf", {"has_answer": 0}),
        ({"negatives": 2}, "ac", {"positive": 2}),
        ({"skip": 1}, "cf", {"positive": 2}),
        ({"skip": 4}, "df", {"same_text": 0}),
        ({"top_k": 4}, "ac", {"positive": 1}),
        ({"margin": 1.0, "keep_answers": True}, "f", {"above_margin": 4, "same_text": 0}),
    ],
)
def test_negatives_by_hand(settings: dict[str, Any], expected: str, dropped: dict[str, int]) -> None:
    """The gold passage, in other white space or order, is none; nor is one with the answer, or above the margin.

    With a margin, the lowest positive counts: "e" has the words of the gold passage and a score of 5.
    """
    (record,), counts = mined(**settings)
    assert "".join(one["id"] for one in record["hard_negative_ctxs"]) == expected
    assert dropped.items() <= counts.items()
    assert (counts["questions"], counts["mined"], counts["negatives"]) == (1, 1, len(expected))
    assert record["positive_ctxs"] == [{"id": "g", "title": "Oil", "text": GOLD.text, "score": 8.0}]


def test_the_margin_of_one_positive() -> None:
    """0.95 of 8 is 7.6; of a score below 0 it is further down."""
    hits = [hit for hit in HITS if hit.passage.id != "e"]
    (record,), counts = mined(hits, margin=0.95, keep_answers=True)
    assert [one["id"] for one in record["hard_negative_ctxs"]] == ["c", "f"]
    assert counts["above_margin"] == 2
    below = [Hit(hit.passage, hit.score - 10) for hit in hits]  # the positive has -2: -2.1 is the highest
    (record,), counts = mined(below, margin=0.95, keep_answers=True)
    assert [one["id"] for one in record["hard_negative_ctxs"]] == ["c", "f"]


def test_a_positive_that_was_not_retrieved() -> None:
    """Its score is unknown, and it is below all candidates: with a margin the question is left out."""
    hits = [hit for hit in HITS if hit.passage.id not in "ge"]
    (record,), counts = mined(hits)
    assert counts["positive_not_retrieved"] == 1
    assert "score" not in record["positive_ctxs"][0]
    with pytest.raises(DataError, match=r"no negative remains for any of 1 questions .*above_margin 5"):
        mined(hits, margin=0.95)


def test_ids_of_another_list_are_not_compared() -> None:
    """Where passages with a positive's id are other texts, ids mean nothing; else a part is known by its id."""
    part, other = Passage("g", "Oil was found in the river basin"), Passage("g", "an embargo")
    for passage, expected in ((part, ""), (other, "g")):
        hits = [Hit(passage, 2.0), Hit(Passage("z", "the price"), 1.0)]
        (record,), _ = mined(hits)
        assert "".join(one["id"] for one in record["hard_negative_ctxs"]) == f"{expected}z"


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.5, 1), st.integers(0, 3))
def test_no_negative_is_above_the_margin_or_a_positive(scores: list[float], margin: float, skip: int) -> None:
    """Whatever the scores, and in the order of the ranking."""
    ranked = sorted(scores, reverse=True)
    hits = [Hit(Passage(str(number), f"text {number}"), score) for number, score in enumerate(ranked)]
    gold = hits[len(hits) // 2]
    asked = [Asked("q", "?", (Passage("x", gold.passage.text),))]
    try:
        (record,), counts = mine(asked, Ranked(hits), MiningSettings(top_k=20, skip=skip, margin=margin))
    except DataError:
        return
    found = record["hard_negative_ctxs"]
    assert all(one["score"] <= gold.score and one["text"] != gold.passage.text for one in found)
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert [int(one["id"]) for one in found] == sorted(int(one["id"]) for one in found)
    assert min(int(one["id"]) for one in found) >= skip
    assert counts["negatives"] == len(found)


# ---- the command ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of four documents, its index, and questions on them."""
    path = tmp_path_factory.mktemp("mine")
    texts = ["oil price rose", "oil embargo of the members", "river basin of the oil", "the river"]
    lines = [{"_id": f"d{number}", "text": text, "title": ""} for number, text in enumerate(texts)]
    (path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = [
        {"id": "q0", "question": "oil price", "answers": ["rose"], "ctxs": [{"text": texts[0], "isgold": True}]},
        {"id": "q1", "question": "oil river", "answers": ["basin"], "ctxs": [{"text": texts[2], "isgold": True}]},
    ]
    (path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    queries = [{"_id": one["id"], "text": one["question"]} for one in questions]
    (path / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    (path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td2\t1\nq1\td3\t0\n")
    words = ["--corpus", str(path / "corpus.jsonl"), "--retriever", "bm25", "--output", str(path / "index")]
    assert main(["index", *words]) == 0
    return path


def run(folder: Path, output: Path, *words: str, data: str = "questions.jsonl") -> int:
    named = ["--index", str(folder / "index"), "--data", str(folder / data), "--output", str(output)]
    return main(["mine", *named, *words])


def test_training_reads_what_is_mined(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same from marked passages and from relevance judgments, and again; counts go to stdout."""
    capsys.readouterr()
    assert run(folder, tmp_path / "mined.jsonl") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["mined"] == 2
    assert "2 of 2 questions in" in said.err
    rows = read_relevance(str(tmp_path / "mined.jsonl"), "error").rows
    assert [positives_of(row)[0]["text"] for row in rows] == ["oil price rose", "river basin of the oil"]
    assert negatives_of(rows[1])[0]["text"] == "the river"
    assert all(one["score"] is not None for row in rows for one in (*positives_of(row), *negatives_of(row)))
    assert run(folder, tmp_path / "again.jsonl") == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "mined.jsonl").read_bytes()
    assert run(folder, tmp_path / "judged.jsonl", "--qrels", str(folder / "qrels.tsv"), data="queries.jsonl") == 0
    judged = read_relevance(str(tmp_path / "judged.jsonl"), "error").rows
    texts = [[[one["text"] for one in part(row)] for part in (positives_of, negatives_of)] for row in judged]
    assert texts == [[[one["text"] for one in part(row)] for part in (positives_of, negatives_of)] for row in rows]


def test_scores_of_a_cross_encoder(folder: Path, tmp_path: Path) -> None:
    """--rerank puts its scores in place of the index's, which margin_mse learns."""
    model = str(tiny_retrieval.encoder_folder(tmp_path / "model", BertForSequenceClassification, num_labels=1))
    assert run(folder, tmp_path / "mined.jsonl", "--rerank", model) == 0
    other = CrossEncoder(model, device="cpu")
    for line in map(json.loads, (tmp_path / "mined.jsonl").read_text().splitlines()):
        ctxs = [*line["positive_ctxs"], *line["hard_negative_ctxs"]]
        expected = other.predict([(line["question"], one["text"]) for one in ctxs]).tolist()
        assert [one["score"] for one in ctxs] == pytest.approx(expected, abs=1e-6)
        negatives = [one["score"] for one in line["hard_negative_ctxs"]]
        assert negatives == sorted(negatives, reverse=True)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--top-k", "0"], "--top-k: must be at least 1, got 0"),
        (["--skip", "100"], "--skip: must be below top_k (100), got 100"),
        (["--skip", "-1", "--negatives", "0"], "--negatives: must be at least 1, got 0"),
        (
            ["--rerank", "cross", "--rerank-depth", "3", "--top-k", "4"],
            "--rerank-depth: must be at least top_k (4), since other passages get no score of the reranker, got 3",
        ),
        (
            ["--rerank", "cross", "--top-k", "101"],
            "--rerank-depth: must be at least top_k (101), since other passages get no score of the reranker, got 100",
        ),
        (["--margin", "1.5"], "--margin: must be above 0 and at most 1, got 1.5"),
        (["--top-k", "1"], "questions.jsonl: no negative remains for any of 2 questions (dropped: positive 2"),
        (["--language", "xx"], "--language: "),
        (["--qrels", "none.tsv"], "none.tsv"),
        (["--qrels", "none.tsv", "--format", "nope"], "--format: "),
        (["--qrels", "none.tsv", "--fields", "question"], "--fields: must be PART=PATH, got 'question'"),
    ],
)
def test_what_is_refused(
    words: list[str], error: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2, and no file is written."""
    assert run(folder, tmp_path / "mined.jsonl", *words) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "mined.jsonl").exists()


def test_a_set_without_any_candidate(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says that the index has nothing for the questions, and nothing of filters."""
    lines = [{"id": "q", "question": "zebra", "answers": ["x"], "ctxs": [{"text": "the zebra", "isgold": True}]}]
    tiny_retrieval.write_lines(tmp_path / "zebra.jsonl", lines)
    assert run(folder, tmp_path / "mined.jsonl", "--data", str(tmp_path / "zebra.jsonl")) == 2
    assert (
        "zebra.jsonl: no negative remains for any of 1 questions (no passage was retrieved)" in capsys.readouterr().err
    )
    assert not (tmp_path / "mined.jsonl").exists()


def test_judged_questions_in_a_layout_of_their_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--fields says where questions are, with --qrels as well."""
    lines = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    own = [json.dumps({"key": line["_id"], "ask": {"text": line["text"]}}) for line in lines]
    (tmp_path / "own.jsonl").write_text("\n".join(own))
    words = ["--qrels", str(folder / "qrels.tsv")]
    assert run(folder, tmp_path / "mined.jsonl", *words, data="queries.jsonl") == 0
    words += ["--data", str(tmp_path / "own.jsonl"), "--fields", "question=ask.text", "id=key"]
    assert run(folder, tmp_path / "same.jsonl", *words) == 0, capsys.readouterr().err
    assert (tmp_path / "same.jsonl").read_text() == (tmp_path / "mined.jsonl").read_text()


def test_questions_without_a_positive(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are named; skip leaves them out."""
    lines = (folder / "questions.jsonl").read_text() + json.dumps({"id": "q2", "question": "oil", "answers": ["x"]})
    (tmp_path / "more.jsonl").write_text(lines)
    words = ["--data", str(tmp_path / "more.jsonl")]
    assert run(folder, tmp_path / "mined.jsonl", *words) == 2
    assert re.search(r"more.jsonl: record q2: must have a positive passage, got none", capsys.readouterr().err)
    assert run(folder, tmp_path / "mined.jsonl", *words, "--on-bad-record", "skip") == 0
    assert len((tmp_path / "mined.jsonl").read_text().splitlines()) == 2
