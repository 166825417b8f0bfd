"""Callbacks named in the configuration: which are refused, when early stopping stops, and what a resume finds."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import tiny
from cluster_runs import run_here, tiny_trial
from stand_in_master import StandInMaster

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoints_of, steps_in_name
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import CALLBACKS
from model_hub_rqa.trials.callbacks import (
    EarlyStopping,
    LossLogger,
    TrialCallback,
    build_named_callbacks,
    register_callback,
)
from model_hub_rqa.trials.qa import QATrial
from model_hub_rqa.trials.task_trial import TaskTrial


@pytest.mark.parametrize(
    ("entries", "errors"),
    [
        (
            ["early_stoping"],
            [
                "data.callbacks[0]: must be a registered callback (early_stopping, loss_logger) or "
                "package.module:object, got 'early_stoping': did"
            ],
        ),
        (
            [{"name": "early_stopping", "pacience": 3}, "nothing"],
            [
                "data.callbacks[0].pacience: early_stopping has no such argument (it takes patience, threshold, "
                "metric, smaller_is_better): did you mean patience?",
                "data.callbacks[1]: must be a registered callback (early_stopping, loss_logger) or "
                "package.module:object, got 'nothing'",
            ],
        ),
        (
            [{"name": "early_stopping", "patience": "3"}],
            ["data.callbacks[0].patience: must be a whole number, got '3'"],
        ),
        ([{"name": "early_stopping", "patience": 0}], ["data.callbacks[0]: patience must be >= 1, got 0"]),
        ([{"name": "early_stopping", "threshold": -1}], ["data.callbacks[0]: threshold must be >= 0"]),
        ([{"name": "early_stopping", "metric": "loss"}], ["data.callbacks[0]: metric and smaller_is_better belong"]),
        (
            [{"name": "loss_logger", "filename": "../x"}],
            ["data.callbacks[0]: filename must be a name without a folder"],
        ),
        (["loss_logger", {"name": "loss_logger"}], ["data.callbacks[1]: loss_logger is listed already"]),
        (
            [3, {"patience": 1}],
            ["data.callbacks[0]: must be a name, or a mapping", "data.callbacks[1]: must be a name"],
        ),
    ],
)
def test_what_is_refused(entries: list[Any], errors: list[str]) -> None:
    """Unknown names and arguments, with the nearest right one, and values that break a rule; all of them."""
    with pytest.raises(ConfigError, match=re.escape(errors[0])) as caught:
        build_named_callbacks(entries)
    assert len(caught.value.errors) == len(errors), caught.value.errors
    for line, error in zip(caught.value.errors, errors, strict=True):
        assert error in line


def test_a_callback_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered by a decorator; its arguments are held to its annotations, and its defaults are its own."""
    CALLBACKS.names()
    monkeypatch.setattr(CALLBACKS, "_factories", dict(CALLBACKS._factories))

    @register_callback("mine")
    class Mine(TrialCallback):
        def __init__(self, limit: float, words: tuple[str, ...] = ("a",)) -> None:
            self.limit, self.words = limit, words

    built: Any = build_named_callbacks([{"name": "mine", "limit": 2}])["mine"]
    assert (built.limit, built.words) == (2.0, ("a",))
    by_args: Any = build_named_callbacks([{"name": f"{LossLogger.__module__}:LossLogger", "args": {"filename": None}}])
    assert [callback.filename for callback in by_args.values()] == [None]
    with pytest.raises(
        ConfigError, match=r"\[0\]: must name a class that derives from .*:TrialCallback, got pathlib:Path"
    ):
        build_named_callbacks(["pathlib:Path"])
    with pytest.raises(ConfigError, match=r"data.callbacks\[0\].limit: is required"):
        build_named_callbacks(["mine"])
    with pytest.raises(ValueError, match="the callback 'mine' is registered twice"):
        register_callback("mine")(EarlyStopping)


def stopping_at(values: list[float], **arguments: Any) -> int | None:
    """After how many validations training stops."""
    asked: list[bool] = []
    context = SimpleNamespace(set_stop_requested=asked.append)
    trial = SimpleNamespace(context=context, searcher={"metric": "f1"}, smaller_is_better=False)
    callback = EarlyStopping(**arguments).bind(trial)
    for number, value in enumerate(values, 1):
        callback.on_validation_end({arguments.get("metric") or "f1": value})
        if asked:
            return number
    return None


@pytest.mark.parametrize(
    ("values", "arguments", "expected"),
    [
        ([1, 2, 3], {}, None),
        ([1, 1], {}, 2),
        ([3, 2, 1, 4], {"patience": 2}, 3),
        ([3, 2, 4, 3, 3], {"patience": 2}, 5),  # counted anew after an improvement
        ([1, 1.4, 1.6], {"threshold": 0.5}, 2),
        ([1, 1.4, 1.6, 2.2], {"threshold": 0.5, "patience": 2}, None),  # 1.6 is 0.6 above the best, not above 1.4
        ([3, 2, 2.5], {"metric": "loss", "smaller_is_better": True}, 3),
        ([math.nan, math.nan], {"patience": 2}, 2),
        ([math.nan, 1, math.inf], {"patience": 2}, None),
    ],
)
def test_when_training_stops(values: list[float], arguments: dict[str, Any], expected: int | None) -> None:
    """Computed by hand: patience, threshold, direction, and values that are no numbers."""
    assert stopping_at(values, **arguments) == expected


def experiment(folder: Path, entries: list[Any], **changes: Any) -> Path:
    path = tiny.experiment(folder, **{"eval_steps": 1, "save_steps": 1000, "max_steps": 20, **changes})
    config = json.loads(path.read_text())
    config["data"]["callbacks"] = entries
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """f1 rises to its fourth validation and falls from then on."""
    falling_metrics(monkeypatch.setattr)


def falling_metrics(put: Any = setattr) -> None:
    def compute_metrics(self: Any, values: Any) -> dict[str, float]:
        steps = self.context._current_batch_idx + 1
        return {"f1": float(steps if steps <= 4 else 8 - steps), "exact_match": 0.0}

    put(QATrial, "compute_metrics", compute_metrics)


def test_a_run_stops_and_stays_stopped(tmp_path: Path, falling: None, capsys: pytest.CaptureFixture[str]) -> None:
    """With a checkpoint and exit code 0; resumed, it trains nothing more unless patience is longer."""
    entries = [{"name": "early_stopping", "patience": 3}]
    config, run = experiment(tmp_path, entries), tmp_path / "run"
    argv = [str(config), "--output-dir", str(run)]
    assert train.main(argv) == 0
    assert "stopped by early_stopping: f1 has not improved on 4 for 3 validations" in capsys.readouterr().err
    assert [report["steps"] for report in tiny.reports(run, "validation")] == [1, 2, 3, 4, 5, 6, 7]
    assert steps_in_name(checkpoints_of(run)[0]) == 7
    assert train.main([*argv, "--resume", "latest"]) == 0
    assert steps_in_name(checkpoints_of(run)[0]) == 7
    entries[0]["patience"] = 4
    assert train.main([str(experiment(tmp_path, entries)), *argv[1:], "--resume", "latest"]) == 0
    assert steps_in_name(checkpoints_of(run)[0]) == 8


def test_what_was_waited_survives_a_stop(tmp_path: Path, falling: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at step 5, the run ends where the uninterrupted one does: the count is in the checkpoint."""
    config, run = experiment(tmp_path, [{"name": "early_stopping", "patience": 3}]), tmp_path / "run"
    plain = TaskTrial.train_batch

    def train_batch(self: Any, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
        if batch_idx == 4:
            self.context.set_stop_requested(True)
        return plain(self, batch, epoch_idx, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TaskTrial, "train_batch", train_batch)
        assert train.main([str(config), "--output-dir", str(run)]) == 0
    assert steps_in_name(checkpoints_of(run)[0]) == 5
    assert train.main([str(config), "--output-dir", str(run), "--resume", "latest"]) == 0
    assert steps_in_name(checkpoints_of(run)[0]) == 7


def test_both_ranks_stop_together(tmp_path: Path) -> None:
    """The metrics are the chief's, and every rank decides on them."""
    config, run = experiment(tmp_path, [{"name": "early_stopping", "patience": 3}]), tmp_path / "run"
    argv = [str(config), "--output-dir", str(run)]
    assert forked.run_ranks(2, argv, tmp_path / "logs", hook=falling_metrics) == [0, 0]
    assert steps_in_name(checkpoints_of(run)[0]) == 7


def test_a_clusters_trial_stops_too(tmp_path: Path, falling: None, caplog: pytest.LogCaptureFixture) -> None:
    """Through Determined's own stop request: a checkpoint, exit code 0, and no word of a failure to the master."""
    caplog.set_level("INFO")
    trial = tiny_trial(tmp_path, eval_steps=1, save_steps=1000, max_steps=20, num_train_epochs=4)
    trial.config["data"]["callbacks"] = [{"name": "early_stopping", "patience": 3}, "loss_logger"]
    with StandInMaster() as master:
        assert run_here(trial, master) == 0
    assert [report.steps for report in master.of("validation")] == [1, 2, 3, 4, 5, 6, 7]
    assert master.checkpoints[-1]["metadata"]["steps_completed"] == 7
    assert master.early_exits == []
    assert "early_stopping: f1 has not improved on 4 for 3 validations: training ends" in caplog.text
    assert 'loss_logger: {"steps": 7, "loss": ' in caplog.text  # a cluster has no folder for its file


def test_a_metric_that_is_not_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before a model is built, with what there is; so is a direction that is not the metric's."""
    argv = ["--output-dir", str(tmp_path / "run")]
    for entry, wanted in (
        (
            {"metric": "f2", "smaller_is_better": False},
            "metric: must be one of the validation metrics (exact_match, f1)",
        ),
        ({"metric": "f1", "smaller_is_better": True}, "smaller_is_better: must be false for f1, got true"),
    ):
        assert train.main([str(experiment(tmp_path, [{"name": "early_stopping", **entry}])), *argv]) == 2
        assert f"data.callbacks: early_stopping.{wanted}" in capsys.readouterr().err


def losses(run: Path, name: str = "losses.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def test_losses_are_logged_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each period, those that metrics.jsonl has; after a stop and a resume, as without."""
    changes = {"logging_steps": 2, "eval_steps": 1000, "save_steps": 3, "max_steps": 8}
    config, run = experiment(tmp_path, ["loss_logger"], **changes), tmp_path / "run"
    assert train.main([str(config), "--output-dir", str(run)]) == 0
    expected = [
        {key: line[key] for key in ("steps", "loss", "learning_rate")} for line in tiny.reports(run, "training")
    ]
    whole = losses(run)
    assert [line["steps"] for line in whole] == [2, 3, 4, 6, 8]
    assert whole == expected
    assert train.main([str(config), "--output-dir", str(run), "--resume", str(run / "checkpoints/checkpoint-3")]) == 0
    assert losses(run) == whole


def test_losses_go_to_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With filename: null."""
    config = experiment(tmp_path, [{"name": "loss_logger", "filename": None}], max_steps=2)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run/run.log").read_text().splitlines()
    logged = [json.loads(line.partition("loss_logger: ")[2]) for line in lines if "loss_logger: " in line]
    assert [line["steps"] for line in logged] == [1, 2]
    assert not (tmp_path / "run/losses.jsonl").exists()


def test_a_wrong_callback_ends_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, together with the other errors."""
    monkeypatch.setattr(QATrial, "build_model", None)
    config = experiment(tmp_path, ["early_stop"], learning_rate=-1)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "got 'early_stop': did you mean early_stopping?" in said
    assert "learning_rate" in said
