"""The reader that validations of a retriever or a reranker ask (data.reader): its scores, and what it leaves alone."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import tiny
import tiny_retrieval
import torch

from model_hub_rqa import cli, train
from model_hub_rqa.readers import Reader
from model_hub_rqa.trials.validation import ValidationTrial

TRIALS = ("Retriever", "Reranker")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.model_folder(tmp_path_factory.mktemp("reader")))


def record(number: int, answers: list[str]) -> dict[str, Any]:
    found = tiny_retrieval.record(number) | {"answers": answers}
    for passage in (*found["positive_ctxs"], *found["hard_negative_ctxs"]):
        passage["title"] = passage["text"].split()[1]
    return found


def config_of(folder: Path, trial: str, reader: str | None, **changes: Any) -> dict[str, Any]:
    config = tiny_retrieval.config(folder, trial=trial, **{"max_steps": 0, "num_hard_negatives": 1, **changes})
    write_dev(folder, {})
    if reader is not None:
        config["data"] |= {"reader": reader, "reader_top_k": 2}
        config["searcher"]["metric"] = "exact_match"
    return config


def write_dev(folder: Path, answers: dict[str, str], name: str = "dev.jsonl", numbers: Any = range(8)) -> str:
    lines = (record(number, [answers.get(f"q{number}", "zebra")]) for number in numbers)
    return tiny_retrieval.write_lines(folder / name, lines)


def answers_of(run_folder: Path, name: str = "answers.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("trial", TRIALS)
def test_scores_are_those_of_rqa_evaluate(trial: str, reader: str, tmp_path: Path) -> None:
    """Every second question has what the reader says as its answer; rqa evaluate reads the same passages."""
    config = config_of(tmp_path, trial, reader)
    assert tiny_retrieval.run(tmp_path, config, name="first")["exact_match"] == 0
    said = {line["id"]: line["prediction"] for line in answers_of(tmp_path / "first")}
    assert len(set(said.values())) > 2
    write_dev(tmp_path, {id_: text for id_, text in said.items() if int(id_[1:]) % 2})
    report = tiny_retrieval.run(tmp_path, config)
    assert report["exact_match"] == 50
    lines, rankings = answers_of(tmp_path / "run"), answers_of(tmp_path / "run", "rankings.jsonl")
    for line, ranking in zip(lines, rankings, strict=True):
        best = [(one["id"], one["score"]) for one in ranking["passages"][:2]]
        assert [(one["id"], one["score"]) for one in line["passages"]] == best
        assert all(one["title"] == one["text"].split()[1] for one in line["passages"])
    asked = [{**line, "answers": line["references"], "ctxs": line["passages"]} for line in lines]
    data = tiny_retrieval.write_lines(tmp_path / "asked.jsonl", asked)
    out = tmp_path / "evaluated"
    assert cli.main(["evaluate", "--checkpoint", reader, "--data", data, "--output-dir", str(out)]) == 0
    scores = json.loads((out / "score.json").read_text())
    assert {name: report[name] for name in ("exact_match", "f1")} == {
        name: scores[name] for name in ("exact_match", "f1")
    }
    predicted = [json.loads(line)["prediction"] for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert predicted == [line["prediction"] for line in lines]


def draw() -> None:
    """Moves every generator."""
    torch.rand(1)
    np.random.rand(1)
    random.random()


def state() -> Any:
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


@pytest.mark.parametrize("trial", TRIALS)
def test_training_is_the_same_without_a_reader(
    trial: str, reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, and so are the checkpoints' files; no generator moves, even under a reader that draws."""
    tiny_retrieval.encoder_folder(tmp_path / "model", hidden_dropout_prob=0.1)
    settings: dict[str, Any] = {"max_steps": 6, "eval_steps": 2, "save_steps": 3}
    tiny_retrieval.run(tmp_path, config_of(tmp_path, trial, None, **settings), name="without")
    moved, modes, loads = list[bool](), list[bool](), list[Any]()
    ask, read, load = Reader.answer_questions, ValidationTrial._reading_metrics, Reader.from_pretrained.__func__

    def draws(self: Any, questions: Any, **options: Any) -> Any:
        modes.append(self.model.training)
        draw()
        return ask(self, questions, **options)

    def loading(cls: Any, path: Any, **options: Any) -> Any:
        loads.append(path)
        draw()
        return load(cls, path, **options)

    def watched(function: Any) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            before = state()
            found = function(self, *arguments)
            moved.append(before != state())
            return found

        return call

    monkeypatch.setattr(Reader, "answer_questions", draws)
    monkeypatch.setattr(Reader, "from_pretrained", classmethod(loading))
    monkeypatch.setattr(ValidationTrial, "_reading_metrics", watched(read))
    monkeypatch.setattr(ValidationTrial, "load_reader", watched(ValidationTrial.load_reader))
    tiny_retrieval.run(tmp_path, config_of(tmp_path, trial, reader, **settings), name="with")
    assert moved == [False] * 4  # the loading and three validations
    assert modes == [False] * 3
    assert loads == [reader]
    assert tiny.equal(tiny.weights(tmp_path / "without", 6), tiny.weights(tmp_path / "with", 6))
    losses = [[one["loss"] for one in tiny.reports(tmp_path / name, "training")] for name in ("without", "with")]
    assert losses[0] == losses[1]
    files = [
        {path.relative_to(tmp_path / name): path.stat().st_size for path in (tmp_path / name).rglob("*.safetensors")}
        for name in ("without", "with")
    ]
    assert files[0] == files[1]
    validations = [tiny.reports(tmp_path / name, "validation") for name in ("without", "with")]
    for plain, asked in zip(*validations, strict=True):
        assert {name: asked[name] for name in plain} == plain
        assert set(asked) - set(plain) == {"exact_match", "f1"}
    resumed = tiny_retrieval.run(
        tmp_path,
        config_of(tmp_path, trial, reader, **settings),
        *("--resume", str(tmp_path / "with/checkpoints/checkpoint-3")),
        name="resumed",
    )
    assert resumed == validations[1][-1]


def test_several_validation_sets(reader: str, tmp_path: Path) -> None:
    """Each has its scores and its file; the mean goes under the plain name."""
    config = config_of(tmp_path, "Retriever", reader)
    del config["data"]["validation_file"]
    parts = {"low": range(4), "high": range(4, 8)}
    files = {name: write_dev(tmp_path, {}, f"{name}.jsonl", rows) for name, rows in parts.items()}
    config["data"]["validation"] = [{"name": name, "validation_file": file} for name, file in files.items()]
    tiny_retrieval.run(tmp_path, config, name="first")
    said = {line["id"]: line["prediction"] for line in answers_of(tmp_path / "first", "answers_low.jsonl")}
    write_dev(tmp_path, said, "low.jsonl", parts["low"])
    report = tiny_retrieval.run(tmp_path, config)
    assert [report[name] for name in ("low/exact_match", "high/exact_match", "exact_match")] == [100, 0, 50]
    assert [line["id"] for line in answers_of(tmp_path / "run", "answers_high.jsonl")] == [
        f"q{row}" for row in range(4, 8)
    ]


@pytest.mark.parametrize("trial", TRIALS)
def test_test_mode_and_validating_alone(trial: str, reader: str, tmp_path: Path) -> None:
    """Both have the searcher's metric, though one batch may hold questions alone, or passages alone."""
    config = config_of(tmp_path, trial, reader, per_device_eval_batch_size=2)
    assert "exact_match" in tiny_retrieval.run(tmp_path, config, name="only")
    tiny_retrieval.run(
        tmp_path, config_of(tmp_path, trial, reader, max_steps=1, per_device_eval_batch_size=2), "--test", name="test"
    )
    assert "exact_match" in tiny.reports(tmp_path / "test", "validation")[-1]


@pytest.mark.slow
@pytest.mark.parametrize("trial", TRIALS)
def test_two_ranks_read_as_one(trial: str, reader: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, trial, reader)
    tiny_retrieval.run(tmp_path, config, name="first")
    said = {line["id"]: line["prediction"] for line in answers_of(tmp_path / "first")}
    write_dev(tmp_path, {id_: text for id_, text in said.items() if int(id_[1:]) % 2})
    path = tiny_retrieval.write_config(tmp_path, config)
    for ranks in (1, 2):
        argv = [path, "--output-dir", str(tmp_path / f"{ranks}")]
        codes = forked.run_ranks(ranks, argv, tmp_path / f"logs-{ranks}")
        assert codes == [0] * ranks, (tmp_path / f"logs-{ranks}/0.log").read_text()
    one, two = (tiny.reports(tmp_path / name, "validation")[-1] for name in ("1", "2"))
    assert one["exact_match"] == two["exact_match"] == 50
    assert one["f1"] == two["f1"]
    assert answers_of(tmp_path / "1") == answers_of(tmp_path / "2")


def errors_of(folder: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["validate", tiny_retrieval.write_config(folder, config)]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("trial", TRIALS)
def test_all_errors_at_once(trial: str, reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the reader, the corpus, files that cannot be read, and records that cannot be used; bad records of each file
    hide no other."""
    config = config_of(tmp_path, trial, reader)
    good = [record(number, ["a"]) for number in range(4)]
    bad = [{**good[0], "question": " "}, {**good[1], "positive_ctxs": []}, {**good[2], "answers": []}, good[3]]
    tiny_retrieval.write_lines(tmp_path / "train.jsonl", bad)
    tiny_retrieval.write_lines(tmp_path / "dev.jsonl", bad)
    config["data"]["reader"] = str(tmp_path / "none")
    expected = [
        f"data.reader: {tmp_path}/none: is neither a run's folder",
        "train.jsonl: record q0 (line 1): question must not be blank",
        "dev.jsonl: record q0 (line 1): question must not be blank",
        "data: train record q1: must have a positive passage, got none",
        "data: validation record q1: must have a positive passage, got none",
        "data: validation record q2: must have answers, since data.reader is to give them, got none",
    ]
    if trial == "Retriever":
        config["data"]["corpus_file"] = str(tmp_path / "corpus.jsonl")
        expected.append("corpus.jsonl: no such file")
    told = errors_of(tmp_path, config, capsys)
    assert [line for line in expected if line not in told] == []
    assert told.count("must not be blank") == 2  # nothing is told twice, nor as left out

    for name in ("train.jsonl", "dev.jsonl"):  # the files are well, their records are not
        tiny_retrieval.write_lines(tmp_path / name, bad[1:])
    config["data"]["reader"] = reader
    told = errors_of(tmp_path, config, capsys)
    assert [line for line in expected[3:] if line not in told] == []
    assert told.count("\n") == len(expected[3:])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"reader": "MODEL"}, "data.reader: MODEL: must be one of"),
        ({"reader_top_k": 0}, "data.reader_top_k: must be >= 1"),
        ({"reader_top_k": 1001}, "data.reader_top_k: must be >= 1 and <= 1000, got 1001"),
        ({"reader": None, "reader_top_k": 3}, "data.reader_top_k: is ignored without reader"),
        ({"reader": None, "reader_top_k": 5}, "searcher.metric: must be one of the validation metrics (nDCG@10"),
    ],
)
def test_bad_settings(
    change: dict[str, Any], error: str, reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, "Retriever", reader)
    model = config["hyperparameters"]["pretrained_model_name_or_path"]
    config["data"] |= {name: model if value == "MODEL" else value for name, value in change.items()}
    assert train.main([tiny_retrieval.write_config(tmp_path, config), "--output-dir", str(tmp_path / "run")]) == 2
    assert error.replace("MODEL", model) in capsys.readouterr().err


def test_a_retriever_is_no_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of another task is refused before a model is loaded."""
    config = config_of(tmp_path, "Retriever", None, max_steps=1)
    tiny_retrieval.run(tmp_path, config)
    config["data"]["reader"] = str(tmp_path / "run")
    told = errors_of(tmp_path, config, capsys)
    assert "data.reader: " in told
    assert "must answer questions from passages, got an embedding model" in told


def test_a_reader_without_its_weights(reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights are looked at when they are loaded, before training."""
    shutil.copytree(reader, tmp_path / "reader")
    (tmp_path / "reader/model.safetensors").unlink()
    config = config_of(tmp_path, "Retriever", str(tmp_path / "reader"), max_steps=3)
    assert train.main([tiny_retrieval.write_config(tmp_path, config), "--output-dir", str(tmp_path / "run")]) == 2
    assert "data.reader: " in capsys.readouterr().err


def test_data_sets_of_other_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Further errors are looked for in each data set by its own fields."""
    config = config_of(tmp_path, "Retriever", None)
    lines = [{"q": "oil", "docs": [{"body": "a", "good": False}], "id": 1}]
    own = tiny_retrieval.write_lines(tmp_path / "own.jsonl", lines)
    fields = {"question": "q", "passages": "docs[*].body", "gold": "docs[*].good", "id": "id"}
    del config["data"]["validation_file"]
    config["data"]["validation"] = [{"name": "own", "validation_file": own, "fields": fields}]
    tiny_retrieval.write_lines(tmp_path / "train.jsonl", [record(0, []), {**record(1, []), "question": " "}])
    told = errors_of(tmp_path, config, capsys)
    assert "train.jsonl: record q1 (line 2): question must not be blank" in told
    assert "data: validation record 1: must have a positive passage, got none" in told
