"""What ends a run with an error leaves a checkpoint of the last good optimizer step, from which it goes on."""

import math
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
from cluster_runs import run_here, tiny_trial
from stand_in_master import StandInMaster

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoint_errors, checkpoints_of
from model_hub_rqa.errors import NonFiniteLoss
from model_hub_rqa.trials.qa import QATrial

CHANGES = {"global_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 5}
NEVER = {"save_steps": 1000, "eval_steps": 1000}


def names(run: Path) -> list[str]:
    return [path.name for path in checkpoints_of(run)]


def poisoned(monkeypatch: pytest.MonkeyPatch, batch_idx: int) -> None:
    plain = QATrial.compute_loss

    def compute_loss(self: Any, batch: Any) -> Any:
        return plain(self, batch) * (math.nan if self.context._current_batch_idx == batch_idx else 1.0)

    monkeypatch.setattr(QATrial, "compute_loss", compute_loss)


@pytest.mark.parametrize("batch_idx", [6, 7])  # the first and the last batch of the fourth step
def test_a_run_goes_on_from_before_a_bad_loss(
    batch_idx: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three steps are kept though none was to be saved; without the bad batch the end is that of a run without it."""
    config, run = tiny.experiment(tmp_path, validation=3, **CHANGES, **NEVER), tmp_path / "run"
    argv = [str(config), "--output-dir", str(run)]
    with monkeypatch.context() as patch:
        poisoned(patch, batch_idx)
        assert train.main(argv) == 2
    assert names(run) == ["checkpoint-3"]
    assert checkpoint_errors(checkpoints_of(run)[0]) == []
    assert "step 3 is kept in a checkpoint" in caplog.text
    assert train.main([*argv, "--resume", "latest"]) == 0
    assert train.main([str(config), "--output-dir", str(tmp_path / "whole")]) == 0
    assert tiny.same(tiny.weights(run, 5), tiny.weights(tmp_path / "whole", 5))
    assert tiny.reports(run, "training")[-2:] == tiny.reports(tmp_path / "whole", "training")[-2:]


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
@pytest.mark.parametrize("searching", [False, True], ids=["single", "search"])
def test_a_clusters_trial_keeps_it_too(legacy: bool, searching: bool, tmp_path: Path) -> None:
    """After whole steps: six batches, though the seventh was trained as well; a search goes on without the trial."""
    trial = tiny_trial(tmp_path, **CHANGES, **NEVER)
    trial.trial_class, trial.legacy = "cluster_trials:LateDiverging", legacy
    trial.config["min_validation_period"] = {"batches": 1000}
    if searching:
        trial.config["searcher"] |= {"name": "random", "max_trials": 4}
        trial.hparams = dict(trial.config["hyperparameters"])
        trial.config["hyperparameters"]["learning_rate"] = {"type": "double", "minval": 1e-4, "maxval": 1e-2}
    with StandInMaster() as master:
        if legacy and not searching:
            with pytest.raises(NonFiniteLoss, match="must be a finite number, got nan"):
                run_here(trial, master)
        else:
            assert run_here(trial, master) == (0 if searching else 2)
        assert [checkpoint["metadata"]["steps_completed"] for checkpoint in master.checkpoints] == [6]
        assert len(master.early_exits) == searching
        trial.checkpoint(master, 6)  # whole


def failing_metrics(self: Any, values: Any) -> Any:
    raise ZeroDivisionError("no answers")


def test_a_metric_that_fails_costs_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """compute_metrics raises: its own error, after a checkpoint, from which the validation is made up."""
    config, run = tiny.experiment(tmp_path, validation=3, max_steps=2, **NEVER), tmp_path / "run"
    argv = [str(config), "--output-dir", str(run)]
    with monkeypatch.context() as patch:
        patch.setattr(QATrial, "compute_metrics", failing_metrics)
        with pytest.raises(ZeroDivisionError, match="no answers"):
            train.main(argv)
    assert names(run) == ["checkpoint-2"]
    assert train.main([*argv, "--resume", "latest"]) == 0
    assert [report["steps"] for report in tiny.reports(run, "validation")] == [2]


def fail_metrics() -> None:
    QATrial.compute_metrics = failing_metrics  # type: ignore[method-assign]


def test_every_rank_hears_of_a_metric_that_fails(tmp_path: Path) -> None:
    """The chief alone computes metrics; the others would wait for it, and a checkpoint needs them all."""
    config, run = tiny.experiment(tmp_path, train=16, validation=3, max_steps=2, **NEVER), tmp_path / "run"
    codes = forked.run_ranks(2, [str(config), "--output-dir", str(run)], tmp_path / "logs", hook=fail_metrics)
    assert 0 not in codes
    assert names(run) == ["checkpoint-2"]
    assert "ZeroDivisionError" in (tmp_path / "logs/0.log").read_text()
    assert "no answers" in (tmp_path / "logs/1.log").read_text()
