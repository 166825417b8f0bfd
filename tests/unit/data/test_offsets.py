"""Offsets of answers matter to training alone: there they are mended where that is safe, and counted."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa import train
from model_hub_rqa.cli import main
from model_hub_rqa.data.corpus import read_queries
from model_hub_rqa.data.file_loaders import read_squad
from model_hub_rqa.data.formats.answers import mend
from model_hub_rqa.data.loading import default_load_dataset
from model_hub_rqa.data.predictions import read_questions
from model_hub_rqa.errors import DataError

CONTEXT = "The bridge was built in 1901 by Anna Berg. It fell in 1950."
QUESTIONS: list[dict[str, Any]] = [
    {
        "id": "q1",
        "question": "When was it built?",
        "answers": [{"text": "1901", "answer_start": 24}, {"text": "in 1901, it is said", "answer_start": -1}],
    },
    {"id": "q2", "question": "Who built it?", "answers": [{"text": " Anna Berg", "answer_start": 32}]},
    {"id": "q3", "question": "When did it fall?", "answers": [{"text": "1950", "answer_start": 54}]},
]


def squad(path: Path, questions: list[dict[str, Any]] = QUESTIONS, context: str = CONTEXT) -> Path:
    article = {"title": "t", "paragraphs": [{"context": context, "qas": questions}]}
    path.write_text(json.dumps({"version": "1.1", "data": [article]}))
    return path


# context, text, start, what is right
MENDED = [
    ("a cat sat", "cat", 2, ("cat", 2)),
    ("a cat sat", " cat", 2, ("cat", 2)),  # the text begins with the white space before it
    ("a cat sat", "cat ", 2, ("cat", 2)),
    ("a cat sat", "cat", 1, ("cat", 2)),  # the offset counts the white space before it
    ("a \n cat cat", "cat", 1, ("cat", 4)),  # white space alone lies between, though it stands twice
    ("a cat sat", "cat", 7, ("cat", 2)),  # it stands once
    ("a cat sat", "cat", 99, ("cat", 2)),
    ("a cat sat", "cat", None, ("cat", 2)),
    ("a cat sat", "cat", -1, ("cat", 2)),
    ("a big\n cat sat", "big cat", 2, ("big\n cat", 2)),  # runs of white space are alike
    ("cat, cat", "cat", 3, ("cat", 5)),  # the nearer of two
    ("cat, cat", "cat", 1, ("cat", 0)),
    ("cat" + " x" * 20 + " cat", "cat", 10, ("cat", 0)),  # 10 characters away
    ("cat" + " x" * 20 + " cat", "cat", 12, None),  # 12 and 32 characters away
    ("cat, cat", "cat", None, None),  # twice, and nothing says which
    ("cat, cat", "cat", -1, None),
    ("aaa", "aa", None, None),  # places overlap
    ("a cat sat", "dog", 2, None),
    ("a cat sat", "Cat", 2, None),
]


@pytest.mark.parametrize(("context", "text", "start", "right"), MENDED)
def test_mending_by_hand(context: str, text: str, start: int | None, right: tuple[str, int] | None) -> None:
    """White space, the only place, or the nearest within ten characters; otherwise nothing is guessed."""
    assert mend(text, start, context) == right


@given(st.text("ab \n", max_size=30), st.integers(-3, 40))
def test_what_is_mended_stands_in_the_context(context: str, start: int) -> None:
    """The text is what the context has at the offset, the same words, without outer white space."""
    found = mend("a b", start, context)
    if found is not None:
        text, place = found
        assert context[place : place + len(text)] == text == text.strip()
        assert text.split() == ["a", "b"]


def test_a_training_file_is_mended(tmp_path: Path) -> None:
    """The white space goes, an offset of -1 is ignored beside another answer, and both are counted."""
    records = read_squad(squad(tmp_path / "a.json"), version_2_with_negative=False)
    answers = {row["id"]: row["answers"] for row in records.rows}
    assert answers == {
        "q1": {"text": ["1901"], "answer_start": [24]},
        "q2": {"text": ["Anna Berg"], "answer_start": [32]},
        "q3": {"text": ["1950"], "answer_start": [54]},
    }
    assert (records.n_mended, records.n_ignored, records.n_skipped) == (1, 1, 0)


def test_an_offset_in_doubt_is_an_error_with_a_way_on(tmp_path: Path) -> None:
    """The advice, followed word by word, leaves the record out and counts it."""
    twice = {"id": "q4", "question": "What?", "answers": [{"text": "i", "answer_start": 35}]}
    path = squad(tmp_path / "a.json", [*QUESTIONS, twice])
    settings = {"train_file": str(path), "validation_file": str(path), "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(
        DataError, match=r"record q4 .* \(it stands at 6, 17, 21, 51\): .*on_bad_record: skip"
    ) as raised:
        default_load_dataset(settings)
    assert len(raised.value.errors) == 1
    loaded = default_load_dataset({**settings, "on_bad_record": "skip"})
    assert (loaded["train"]["id"][:], loaded["validation"]["id"][:]) == (["q1", "q2", "q3"], ["q1", "q2", "q3", "q4"])


BROKEN = [24, -1, 10**12, None, "24", 2.5, True, [1]]


@pytest.mark.parametrize("start", BROKEN)
def test_offsets_are_not_looked_at_but_for_training(start: Any, tmp_path: Path) -> None:
    """Whatever answer_start holds: files to score, to ask and to retrieve for are read whole."""
    answers = [{"text": "not in the context", "answer_start": start}]
    path = squad(tmp_path / "a.json", [{"id": "q", "question": "What?", "answers": answers}])
    (row,) = read_squad(path, version_2_with_negative=False, require_offsets=False).rows
    assert row["answers"]["text"] == ["not in the context"]
    assert read_questions(path).rows[0]["answers"] == ["not in the context"]
    assert read_queries(path)[0].answers == ("not in the context",)


def test_scores_and_predictions_over_every_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`rqa score` and `rqa predict` take the file whose offsets are wrong."""
    path = squad(tmp_path / "dev.json")
    (tmp_path / "p.json").write_text(json.dumps({"q1": "1901", "q2": "Anna Berg", "q3": "1950"}))
    assert main(["score", str(tmp_path / "p.json"), "--data", str(path)]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["exact_match"], scores["f1"]) == (100.0, 100.0)
    model = tiny.model_folder(tmp_path / "model")
    command = ["predict", "--checkpoint", str(model), "--data", str(path), "--output", str(tmp_path / "o.json")]
    assert main(command) == 0
    assert list(json.loads((tmp_path / "o.json").read_text())) == ["q1", "q2", "q3"]
    squad(path, [*QUESTIONS, {"id": "q4", "question": " "}])
    assert main(command) == 2
    assert main([*command, "--on-bad-record", "skip"]) == 0
    assert list(json.loads((tmp_path / "o.json").read_text())) == ["q1", "q2", "q3"]


def test_a_run_says_what_was_mended_and_left_out(tmp_path: Path) -> None:
    """In summary.json and run.log; a validation over fewer questions than its file has says so beside its score."""
    config = json.loads(tiny.experiment(tmp_path, train=8, num_train_epochs=1).read_text())
    data = json.loads((tmp_path / "train.json").read_text())
    paragraphs = data["data"][0]["paragraphs"]
    paragraphs[0]["qas"][0]["answers"] = [{"text": "nowhere", "answer_start": 0}]  # left out
    paragraphs[1]["context"] = "a unique word"
    paragraphs[1]["qas"][0]["answers"] = [{"text": "unique", "answer_start": 0}, {"text": "one", "answer_start": -1}]
    (tmp_path / "train.json").write_text(json.dumps(data))
    data = json.loads((tmp_path / "validation.json").read_text())
    data["data"][0]["paragraphs"][0]["qas"][0]["question"] = " "
    (tmp_path / "validation.json").write_text(json.dumps(data))
    config["data"]["on_bad_record"] = "skip"
    (tmp_path / "experiment.yaml").write_text(json.dumps(config))
    assert train.main([str(tmp_path / "experiment.yaml"), "--output-dir", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["records"] == {
        "train": {"read": 7, "skipped": 1, "mended": 1, "ignored_answers": 1},
        "validation": {"read": 10, "skipped": 1, "mended": 0, "ignored_answers": 0},
    }
    (report,) = tiny.reports(tmp_path / "run", "validation")
    assert report["n_skipped"] == 1
    log = (tmp_path / "run/run.log").read_text()
    assert "this validation is over 10 questions of 11: 1 were left out" in log
    assert "answer_start was mended in 1 records, 1 answers with an answer_start of -1 are ignored" in log
