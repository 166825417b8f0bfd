"""The rqa command: results on stdout, errors on stderr, exit codes, and no heavy import before it is needed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from readers_for_tests import fusion_folder, sharded_copy
from tiny_generation import causal_folder
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoTokenizer

from model_hub_rqa.cli import main
from model_hub_rqa.errors import RqaError
from model_hub_rqa.readers import ExtractiveReader

OFFICIAL = {
    "v1.1": ("bert-ensemble", "logistic-regression", "match-lstm", "r-net", "slqa"),
    "v2.0": ("bert-single", "bidaf", "nlnet"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small v1.1 file, a v2.0 file, and an untrained reader."""
    folder = tmp_path_factory.mktemp("cli")
    tiny.squad_file(folder / "v1.json", 5)
    tiny.squad_file(folder / "v2.json", 5, unanswerable=2)
    tiny.model_folder(folder / "model")
    return folder


def output(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("version", "name"), [(version, name) for version in OFFICIAL for name in OFFICIAL[version]])
def test_published_systems_score_as_published(
    version: str, name: str, rqa_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The official evaluators' numbers for eight public prediction files, to 1e-9."""
    squad = rqa_data / "squad"
    predictions, questions = squad / f"predictions/{version}-{name}.json", squad / f"dev-{version}.json"
    options = ["--version-2"] if version == "v2.0" else []
    assert main(["score", str(predictions), "--data", str(questions), *options]) == 0
    official = json.loads((squad / "predictions/official_scores.json").read_text())[f"{version}-{name}"]
    scores = output(capsys)
    assert (scores.pop("language"), scores.pop("answer_rules")) == ("en", "SQuAD")
    assert scores == pytest.approx(official, abs=1e-9, rel=0)


def answers(path: Path) -> dict[str, str]:
    data = json.loads(path.read_text())["data"]
    found = [qa for article in data for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    return {qa["id"]: (qa["answers"] or [{"text": ""}])[0]["text"] for qa in found}


def test_missing_predictions_count_as_wrong(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of five missing leaves 80 percent, and stderr counts it."""
    right = answers(data / "v1.json")
    right.pop("q3")
    (tmp_path / "p.json").write_text(json.dumps(right))
    assert main(["score", str(tmp_path / "p.json"), "--data", str(data / "v1.json")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"exact_match": 80.0, "f1": 80.0, "language": "en", "answer_rules": "SQuAD"}
    assert "1 of 5 questions have no prediction and count as wrong (q3)" in said.err


def test_predictions_with_a_byte_order_mark(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Predictions are read as data are: the mark that some editors write is no part of them."""
    (tmp_path / "p.json").write_text(json.dumps(answers(data / "v1.json")), encoding="utf-8-sig")
    assert main(["score", str(tmp_path / "p.json"), "--data", str(data / "v1.json")]) == 0
    assert output(capsys) == {"exact_match": 100.0, "f1": 100.0, "language": "en", "answer_rules": "SQuAD"}


def test_no_answer_probabilities_give_the_best_thresholds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --na-prob-file, best_exact and its threshold are those computed by hand."""
    predictions = {**answers(data / "v2.json"), "q3": "wrong", "q4": "wrong"}
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    (tmp_path / "na.json").write_text(json.dumps({"q0": 0.1, "q1": 0.2, "q2": 0.3, "q3": 0.8, "q4": 0.9}))
    command = ["score", str(tmp_path / "p.json"), "--data", str(data / "v2.json"), "--version-2"]
    assert main([*command, "--na-prob-file", str(tmp_path / "na.json")]) == 0
    scores = output(capsys)
    assert scores["exact"] == 60.0
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (100.0, 0.3)


@pytest.mark.parametrize(
    ("predictions", "options", "said"),
    [
        ("nowhere.json", [], "nowhere.json: cannot be read"),
        ("[1]", [], "p.json: record 1: must be an object with id, got 1"),
        ("1", [], "must be one JSON object by question id, or a list, got 1"),
        ("{}", [], "p.json: holds no prediction"),
        ('{"q0": ', [], "not JSON at line 1 column 8"),
        ('{"q0": "a", "q1": "b", "q0": "c"}', [], "p.json: an object has the key 'q0' twice"),
        ('{"q0": 3, "q1": null}', [], "predictions: q1"),
        ("{}", ["--na-prob-file", "x.json"], "--na-prob-file: needs --version-2"),
    ],
)
def test_bad_predictions_are_named(
    predictions: str, options: list[str], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and a line with the file and the reason, no traceback."""
    path = tmp_path / "p.json"
    if predictions != "nowhere.json":
        path.write_text(predictions)
    else:
        path = tmp_path / predictions
    assert main(["score", str(path), "--data", str(data / "v1.json"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_errors_of_both_files_come_together(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the predictions' nor the data's error hides the other's."""
    (tmp_path / "data.json").write_text("[]")
    assert main(["score", str(tmp_path / "p.json"), "--data", str(tmp_path / "data.json")]) == 2
    error = capsys.readouterr().err
    assert "p.json" in error
    assert "data.json" in error


def test_one_question_is_answered_from_its_context(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is the text between its offsets, with a probability."""
    context = "the oil crisis began in October"
    command = ["predict", "--checkpoint", str(data / "model"), "--question", "When?", "--context", context]
    assert main(command) == 0
    answer = output(capsys)
    assert answer["answer"]
    assert context[answer["start"] : answer["end"]] == answer["answer"]
    assert 0 < answer["score"] <= 1


def test_a_file_of_questions_is_answered(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SQuAD form with answers and JSONL without any give the same predictions, one a question, that can be scored."""
    paragraphs = json.loads((data / "v1.json").read_text())["data"][0]["paragraphs"]
    rows = [{"context": p["context"], "id": p["qas"][0]["id"], "question": p["qas"][0]["question"]} for p in paragraphs]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source, name in ((data / "v1.json", "a.json"), (tmp_path / "q.jsonl", "b.json")):
        command = ["predict", "--checkpoint", str(data / "model"), "--data", str(source)]
        assert main([*command, "--output", str(tmp_path / "out" / name)]) == 0
    written = [json.loads((tmp_path / "out" / name).read_text()) for name in ("a.json", "b.json")]
    assert written[0] == written[1]
    assert list(written[0]) == [row["id"] for row in rows]
    n_best = json.loads((tmp_path / "out/nbest_a.json").read_text())
    assert all(n_best[key][0]["text"] == answer for key, answer in written[0].items())
    capsys.readouterr()
    assert main(["score", str(tmp_path / "out/a.json"), "--data", str(data / "v1.json")]) == 0


def test_prediction_is_the_same_in_any_batch_size(data: Path) -> None:
    """Padding and neighbours in a batch do not change an answer."""
    rows = [{"id": str(i), "question": "When?", "context": "the oil crisis began in " * (i + 1)} for i in range(6)]
    readers = [
        ExtractiveReader.from_pretrained(data / "model", batch_size=size, max_seq_length=64, doc_stride=8)
        for size in (1, 4)
    ]
    one, four = (reader.read(rows) for reader in readers)
    assert [one[key].prediction for key in one] == [four[key].prediction for key in four]
    assert list(one) == [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give either --data FILE --output FILE, or --question Q with --context C"),
        (["--question", "Who?"], "give either"),
        (["--question", "Who?", "--context", "x", "--data", "y"], "give either"),
        (["--data", "y.json"], "--output: say where"),
        (["--question", " ", "--context", ""], "--question: must not be empty"),
        (["--question", "q", "--context", "c", "--batch-size", "0"], "--batch-size: must be at least 1"),
        (["--data", "nowhere.json", "--output", "o.json"], "nowhere.json"),
    ],
)
def test_predict_says_what_it_needs(
    options: list[str], said: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 before any model is loaded: the checkpoint named here does not exist."""
    assert main(["predict", "--checkpoint", str(data / "no-such-model"), *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["weights", "config", "reader", "another model"])
def test_a_damaged_model_folder_is_refused(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the folder's name; a model without a trained span head does not answer at random."""
    folder = tiny.model_folder(tmp_path / "model")
    if damage == "weights":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "config":
        (folder / "config.json").write_text("{")
    elif damage == "reader":
        (folder / "reader.json").write_text('{"max_seq_length": ')
    else:
        AutoModelForQuestionAnswering.from_pretrained(folder).bert.save_pretrained(folder)
    command = ["predict", "--checkpoint", str(folder), "--question", "Who?", "--context", "the oil"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert str(folder) in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("build", "auto_class"),
    [
        (tiny.model_folder, AutoModelForQuestionAnswering),
        (fusion_folder, AutoModelForSeq2SeqLM),
        (causal_folder, AutoModelForCausalLM),
    ],
    ids=["extractive", "fusion", "generation"],
)
def test_weights_in_several_files_predict_the_same(
    build: Callable[[Path], Path], auto_class: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``save_pretrained(max_shard_size=...)`` writes them; where one of the files is missing, it is an error."""
    whole = build(tmp_path / "whole")
    parts = sharded_copy(whole, tmp_path / "parts", auto_class)
    question, answers = ["--question", "When?", "--context", "the oil crisis began in October"], []
    for folder in (whole, parts):
        assert main(["predict", "--checkpoint", str(folder), *question]) == 0
        answers.append(output(capsys))
    assert answers[0] == answers[1]
    next(parts.glob("model-00002-*")).unlink()
    assert main(["predict", "--checkpoint", str(parts), *question]) == 2
    assert f"{parts}: cannot be loaded as" in capsys.readouterr().err


def test_export_gives_a_folder_that_transformers_loads(data: Path, tmp_path: Path) -> None:
    """Model and tokenizer load from it; a folder that holds something is not written into."""
    assert main(["export", "--checkpoint", str(data / "model"), "--output", str(tmp_path / "out")]) == 0
    AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").is_fast
    assert main(["export", "--checkpoint", str(data / "model"), "--output", str(tmp_path / "out")]) == 2
    assert main(["export", "--checkpoint", str(tmp_path / "nowhere"), "--output", str(tmp_path / "more")]) == 2


def test_help_and_import_load_nothing_heavy() -> None:
    """Importing the package and building the parser import neither torch, transformers, datasets nor determined."""
    code = (
        "import sys, model_hub_rqa; from model_hub_rqa.cli import build_parser; build_parser();"
        "print([m for m in ('torch', 'transformers', 'datasets', 'determined', 'numpy') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names_are_there() -> None:
    """Every name that the package offers can be imported from it."""
    import model_hub_rqa

    for name in model_hub_rqa.__all__:
        assert getattr(model_hub_rqa, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = model_hub_rqa.no_such_name


def test_errors_show_twenty_errors_and_count_the_rest() -> None:
    """Fifty errors print as twenty lines and a count; all stay on the error."""
    error = RqaError([f"error {number}" for number in range(50)])
    assert str(error).splitlines() == [*(f"error {number}" for number in range(20)), "... and 30 more"]
    assert len(error.errors) == 50
