"""Files of predictions for ``rqa score``: their forms, what is refused, and predictions of other questions."""

import json
from pathlib import Path
from typing import Any

import pytest

from model_hub_rqa.cli import main
from model_hub_rqa.data.predictions import read_predictions
from model_hub_rqa.errors import DataError

QUESTIONS = {"q1": ("When?", "1901"), "q2": ("Who?", "Anna Berg"), "q3": ("Where?", "Rome")}
CONTEXT = "The bridge was built in 1901 by Anna Berg in Rome."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three questions in SQuAD's form, and the same with bare answers (answers.jsonl)."""
    qas = [
        {"id": key, "question": question, "answers": [{"text": answer, "answer_start": CONTEXT.index(answer)}]}
        for key, (question, answer) in QUESTIONS.items()
    ]
    article = {"title": "t", "paragraphs": [{"context": CONTEXT, "qas": qas}]}
    (tmp_path / "squad.json").write_text(json.dumps({"data": [article]}))
    rows = [{"id": key, "question": question, "answers": [text]} for key, (question, text) in QUESTIONS.items()]
    write(tmp_path / "answers.jsonl", rows)
    return tmp_path


def write(path: Path, records: Any) -> Path:
    lines = path.name.endswith((".jsonl", "lines.json"))
    path.write_text("".join(json.dumps(one) + "\n" for one in records) if lines else json.dumps(records))
    return path


SHORT = [("q1", "When?", "1901"), ("q2", "Who? ", "Anna"), ("q3", "Where?", "Rome")]
FORMS = {
    "squad.json": {key: answer for key, _, answer in SHORT},
    "evaluate.json": [{"id": key, "prediction_text": answer} for key, _, answer in SHORT],
    "evaluate.jsonl": [{"id": key, "prediction_text": answer} for key, _, answer in SHORT],
    "lines.json": [{"id": key, "prediction": answer} for key, _, answer in SHORT],
    "own.jsonl": [{"id": key, "prediction": answer, "references": ["not read"]} for key, _, answer in SHORT],
    "efficientqa.jsonl": [{"question": question, "prediction": answer} for _, question, answer in SHORT],
    "kilt.jsonl": [
        {"id": key, "input": question, "output": [{"provenance": []}, {"answer": answer}]}
        for key, question, answer in SHORT
    ],
}


@pytest.mark.parametrize("reference", ["squad.json", "answers.jsonl"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_scores(
    form: str, reference: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three answers are right, the other half right (F1 2/3), against data of either kind."""
    path = write(data / f"predictions_{form}", FORMS[form])
    assert main(["score", str(path), "--data", str(data / reference)]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["exact_match"], found["f1"]) == (pytest.approx(200 / 3), pytest.approx(100 * (2 + 2 / 3) / 3))
    assert "warning" not in said.err


def test_no_answer_probabilities_in_the_list(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """evaluate's form for SQuAD v2.0 brings them; one that misses is named."""
    records = [
        {"id": key, "prediction_text": answer, "no_answer_probability": number / 10}
        for number, (key, _, answer) in enumerate(SHORT)
    ]
    command = ["score", str(write(data / "p.json", records)), "--data", str(data / "squad.json"), "--version-2"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["exact"], found["best_exact"], found["best_exact_thresh"]) == (
        *(pytest.approx(200 / 3), pytest.approx(200 / 3), 0.2),
    )
    del records[1]["no_answer_probability"]
    write(data / "p.json", records)
    assert main(command) == 2
    assert "no_answer_probabilities: q2: must be a number" in capsys.readouterr().err


@pytest.mark.parametrize("reference", ["squad.json", "answers.jsonl"])
@pytest.mark.parametrize(
    ("name", "predictions", "said"),
    [
        (
            "adversarial.json",
            {"q1-high-conf": "1901", "q2-high-conf": "Anna Berg"},
            "no id of the predictions is in the data: got 'q1-high-conf', 'q2-high-conf', and the data has "
            "'q1', 'q2', 'q3'",
        ),
        (
            "hotpot.json",
            {"answer": {"q1": "1901"}, "sp": {"q1": [["T", 0]]}},
            "got 'answer', 'sp', and the data has 'q1', 'q2', 'q3' (HotpotQA's form: write the object under \"answer\"",
        ),
        ("other.jsonl", [{"id": 7, "prediction": "1901"}], "no id of the predictions is in the data: got '7'"),
        (
            "efficientqa.jsonl",
            [{"question": "How?", "prediction": "so"}],
            "no question of the predictions is in the data: got 'How?', and the data has 'When?', 'Who?', 'Where?'",
        ),
    ],
)
def test_predictions_of_other_questions_are_refused(
    name: str, predictions: Any, said: str, reference: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and ids of both sides, in place of a score of 0."""
    path = write(data / name, predictions)
    assert main(["score", str(path), "--data", str(data / reference)]) == 2
    captured = capsys.readouterr()
    assert f"{name}: " in captured.err
    assert said in captured.err
    assert not captured.out


@pytest.mark.parametrize(
    ("predictions", "last"),
    [
        ({"q1": "1901", "x1": "", "x2": ""}, "warning: only 1 of 3 predictions are of questions in the data"),
        ({"q1": "1901"}, "warning: only 1 of 3 questions have a prediction"),
        ({"q1": "1901", "q2": "", "x1": "", "x2": ""}, ""),  # a half of them
    ],
)
def test_a_share_below_half_is_the_last_line(
    predictions: dict[str, str], last: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the predictions, or of the questions."""
    path = write(data / "p.json", predictions)
    assert main(["score", str(path), "--data", str(data / "squad.json")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == last if last else not lines[-1].startswith("warning")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.json", '{"q1": "a", "q1": "b"}', "an object has the key 'q1' twice"),
        ("p.json", json.dumps(FORMS["evaluate.json"] * 2), "record 4: duplicate id 'q1'"),
        ("p.jsonl", '{"question": "a", "prediction": "b"}\n' * 2, "line 2: duplicate question 'a'"),
        ("p.jsonl", '{"id": 1, "prediction": "b"}\n{"id": "1", "prediction": "b"}', "line 2: duplicate id '1'"),
        ("p.jsonl", '{"id": "a", "output": [{"provenance": []}]}', "line 1: output: the first answer must be text"),
        ("p.json", '[{"id": "a", "prediction_text": null}]', "record 1: prediction_text must be text"),
        ("p.json", '[{"id": true, "prediction_text": "x"}]', "record 1: must be an object with id"),
        (
            "p.jsonl",
            '{"id": "a", "prediction": "b"}\n{"question": "a", "prediction": "b"}',
            "line 2: must be an object",
        ),
        ("p.json", "[]", "holds no prediction"),
        ("p.json", '"text"', "must be one JSON object by question id, or a list, got 'text'"),
    ],
)
def test_errors_are_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    """The file and the place of each; a key or an id that comes twice is never decided by its order."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=f"(?s){name}: .*") as raised:
        read_predictions(str(path))
    assert said in str(raised.value)
