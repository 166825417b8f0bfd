"""What a trial declares of its metrics is what it reports, and what a configuration chooses is held to it."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_fusion
import tiny_generation

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoints_of
from model_hub_rqa.cli import main
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.metrics.documents import document_metrics
from model_hub_rqa.records import Passage
from model_hub_rqa.runtime import experiments
from model_hub_rqa.runtime.metric_names import check_metric, declared_metrics
from model_hub_rqa.tasks.passages import task as passages
from model_hub_rqa.trials.qa import QATrial
from model_hub_rqa.trials.task_trial import TaskTrial


class Declares:
    higher_is_better: Mapping[str, Any] = {"f1": True, "loss": False, "total": None}
    sets: Mapping[str, Any] = {"validation": {}}

    def compute_metrics(self) -> None: ...


class Inherits(Declares):
    sets: Mapping[str, Any] = {"validation": {"squad": None, "news": None}}


class Silent(Declares):
    """Of its own metrics it says nothing."""

    def compute_metrics(self) -> None: ...


@pytest.mark.parametrize(
    ("trial", "metric", "given", "expected"),
    [
        (Declares, "f1", False, False),
        (Declares, "f1", None, False),  # the metric's own direction
        (Declares, "loss", True, True),
        (Declares, "loss", None, True),
        (Declares, "total", None, True),  # neither direction: Determined's default
        (Declares, "total", False, False),
        (Declares, "f1", True, "searcher.smaller_is_better: must be false for f1, got true .a cluster's value where"),
        (Declares, "loss", False, "searcher.smaller_is_better: must be true for loss, got false$"),
        (Declares, "los", None, r"searcher.metric: .* metrics \(f1, loss, total\), got 'los': did you mean loss\?"),
        (Declares, "squad/f1", None, "searcher.metric: must be one of"),
        (Inherits, "f1", None, False),
        (Inherits, "squad/f1", None, False),
        (Inherits, "squad/f1", True, "must be false for squad/f1, got true"),
        (Inherits, "news/los", None, "got 'news/los': did you mean news/loss?"),
        (Silent, "kendall_tau", None, True),
        (Silent, "kendall_tau", False, False),
        (Silent, "f1", True, "must be false for f1"),  # a known name keeps its direction
    ],
)
def test_a_choice_is_held_to_the_declaration(trial: Any, metric: str, given: bool | None, expected: Any) -> None:
    if isinstance(expected, bool):
        assert check_metric(trial(), metric, given, "searcher") is expected
        return
    with pytest.raises(ConfigError, match=expected):
        check_metric(trial(), metric, given, "searcher")


def test_the_default_validation_is_declared() -> None:
    trial: Any = object.__new__(TaskTrial)
    trial.sets = {"validation": {}}
    assert dict(declared_metrics(trial) or {}) == {"eval_loss": False, "loss": False}
    assert trial.compute_metrics({0: 1.0}).keys() == trial.higher_is_better.keys()
    assert declared_metrics(SimpleNamespace()) is None


RUNS = {
    "QATrial": (tiny, {}, {}),
    "QATrial, v2": (tiny, {"unanswerable": 4}, {}),
    "FiDTrial": (tiny_fusion, {}, {}),
    "GenerationTrial": (tiny_generation, {}, {}),
    "GenerationTrial, losses alone": (tiny_generation, {}, {"predict_with_generate": False}),
}


@pytest.mark.parametrize("kind", RUNS)
def test_what_is_declared_is_reported(kind: str, tmp_path: Path) -> None:
    """Name by name, after a run of one step."""
    helper, arguments, data = RUNS[kind]
    path = helper.experiment(tmp_path, train=16, validation=8, max_steps=1, **arguments)
    config = json.loads(path.read_text())
    config["data"] |= data
    config["searcher"] = {"name": "single", "metric": "eval_loss" if data else config["searcher"]["metric"]}
    path.write_text(json.dumps(config))
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    reported = tiny.reports(tmp_path / "run", "validation")[-1].keys() - {"steps", "kind", "batches", "epochs"}
    trial = experiments.validate(experiments.load_experiment(str(path)))
    assert set(declared_metrics(trial) or {}) == reported
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["metric"]["smaller_is_better"] is bool(data)  # unset: the metric's own


def unanswerable(predictions: list[str], references: list[list[str]]) -> float:
    """How many questions have the one gold answer ""."""
    assert all(references)
    return sum(texts == [""] for texts in references)


def test_an_added_metric_gets_no_answer_as_a_text(tmp_path: Path) -> None:
    """The gold answer of a question that SQuAD v2.0 calls impossible is "", as the prediction is; rouge1 takes it."""
    path = tiny.experiment(tmp_path, train=16, validation=8, unanswerable=3, max_steps=1)
    config = json.loads(path.read_text())
    config["data"]["metrics"] = ["rouge1", f"{__name__}:unanswerable"]
    path.write_text(json.dumps(config))
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    report = tiny.reports(tmp_path / "run", "validation")[-1]
    assert report["unanswerable"] == 3
    assert 0 <= report["rouge1"] <= 100


def test_the_metrics_of_retrieved_passages_are_declared() -> None:
    one = [[Passage("1", "a b")]]
    assert document_metrics(one, one).keys() == passages._DOCUMENT_METRICS.keys()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            ["searcher.metric=exact_macth"],
            "searcher.metric: must be one of the validation metrics (exact_match, f1), got 'exact_macth': did",
        ),
        (["searcher.metric=exact"], "must be one of the validation metrics (exact_match, f1), got 'exact'"),
        (["searcher.smaller_is_better=true"], "searcher.smaller_is_better: must be false for f1, got true"),
    ],
)
def test_a_wrong_choice_ends_before_a_model_is_built(
    words: list[str],
    wanted: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Together with a length that does not fit; rqa validate says the same."""
    monkeypatch.setattr(QATrial, "build_model", lambda self: pytest.fail("a model was built"))
    path = tiny.experiment(tmp_path, validation=3, num_train_epochs=2)
    words = [word for change in [*words, "searcher.max_length=3"] for word in ("--config", change)]
    for command in (["train", str(path), "--output-dir", str(tmp_path / "run")], ["validate", str(path)]):
        assert main([*command, *words]) == 2
        said = capsys.readouterr().err
        assert wanted in said
        assert "num_train_epochs: must be as long as searcher.max_length" in said


def test_validate_says_what_a_cluster_would_take(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Determined's default is true, which would look for the worst f1."""
    path = tiny.experiment(tmp_path, validation=3)
    config = json.loads(path.read_text())
    assert main(["validate", str(path)]) == 0
    assert "smaller_is_better" not in caplog.text
    del config["searcher"]["smaller_is_better"]
    path.write_text(json.dumps(config))
    assert main(["validate", str(path)]) == 0
    assert "searcher.smaller_is_better: is unset, and a cluster takes true: set it to false for f1" in caplog.text


class Undeclared(QATrial):
    """It reports another metric than QATrial, and does not say so."""

    def compute_metrics(self, values: Any) -> dict[str, float]:
        return {"own": 1.0}


def test_what_is_not_declared_is_missed_after_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of a trial with unknown metrics trains, and nothing of it is lost."""
    path = tiny.experiment(tmp_path, validation=3, max_steps=2, save_steps=1000)
    words = ["--config", f"entrypoint={__name__}:Undeclared", "--config", "searcher.metric=ownn"]
    assert train.main([str(path), "--output-dir", str(tmp_path / "run"), *words]) == 2
    assert "searcher.metric: must be one of the validation metrics (own), got 'ownn': did you mean own?" in (
        capsys.readouterr().err
    )
    assert [checkpoint.name for checkpoint in checkpoints_of(tmp_path / "run")] == ["checkpoint-2"]
