"""A signal during a validation: it stops at the next batch, nothing trained is lost, and a resume makes it up."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoint_errors, checkpoints_of, steps_in_name
from model_hub_rqa.trials.qa import QATrial

SETTINGS = {"validation": 11, "per_device_eval_batch_size": 2, "eval_steps": 4, "save_steps": 100}


class Signaller:
    """Counts the validation batches, and sends a signal in the second batch of the validation after so many steps."""

    def __init__(self) -> None:
        self.plain = QATrial.evaluate_batch
        self.steps: int | None = None
        self.number = signal.SIGTERM
        self.evaluated = 0

    def evaluate_batch(self, trial: Any, batch: Any, batch_idx: int) -> Any:
        self.evaluated += 1
        now = 1 + (trial.context._current_batch_idx if trial.context._current_batch_idx is not None else -1)
        if batch_idx == 1 and now == self.steps:
            os.kill(os.getpid(), self.number)
        return self.plain(trial, batch, batch_idx)


@pytest.fixture
def signaller(monkeypatch: pytest.MonkeyPatch) -> Signaller:
    made = Signaller()
    monkeypatch.setattr(
        QATrial, "evaluate_batch", lambda self, batch, batch_idx: made.evaluate_batch(self, batch, batch_idx)
    )
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and its undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny.experiment(folder, **SETTINGS)
    assert train.main([str(config), "--output-dir", str(folder / "run")]) == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("steps", [4, 10])
def test_a_validation_is_stopped_and_made_up(
    steps: int,
    number: signal.Signals,
    whole: Path,
    tmp_path: Path,
    signaller: Signaller,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the middle of the run and after its last step: the same reports and weights come out."""
    run, expected = tmp_path / "run", tiny.reports(whole / "run", "validation")
    signaller.steps, signaller.number = steps, number
    argv = [str(whole / "experiment.yaml"), "--output-dir", str(run)]
    assert train.main(argv) == 0
    batches = -(-11 // 2)
    assert signaller.evaluated == 2 + batches * (steps // 4 - (steps == 4))  # two of those it was stopped in
    assert [report["steps"] for report in tiny.reports(run, "validation")] == [n for n in (4, 8, 10) if n < steps]
    assert steps_in_name(checkpoints_of(run)[0]) == steps
    assert checkpoint_errors(checkpoints_of(run)[0]) == []
    assert f"stopped, with {checkpoints_of(run)[0]} written: --resume latest goes on from it" in capsys.readouterr().err
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
    signaller.steps = None
    assert train.main([*argv, "--resume", "latest"]) == 0
    assert tiny.reports(run, "validation") == expected
    assert tiny.reports(run, "training") == tiny.reports(whole / "run", "training")
    assert tiny.same(tiny.weights(run, 10), tiny.weights(whole / "run", 10))
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    before = signaller.evaluated
    assert train.main([*argv, "--resume", "latest"]) == 0  # nothing is made up twice
    assert signaller.evaluated == before


def test_a_run_that_only_validates_is_stopped(
    whole: Path, tmp_path: Path, signaller: Signaller, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no step to keep: it says that the validation is to be run again."""
    signaller.steps = 0
    argv = [str(whole / "experiment.yaml"), "--output-dir", str(tmp_path / "run")]
    assert train.main([*argv, "--config", "hyperparameters.max_steps=0"]) == 0
    assert signaller.evaluated == 2
    assert "stopped before the validation was done" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "stopped"
    assert tiny.reports(tmp_path / "run", "validation") == []


def test_a_callback_that_asks_for_a_stop_lets_a_validation_end(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a signal is in a hurry; what a program decides waits for the numbers."""
    plain = QATrial.train_batch

    def train_batch(self: Any, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
        self.context.set_stop_requested(batch_idx == 3)
        return plain(self, batch, epoch_idx, batch_idx)

    monkeypatch.setattr(QATrial, "train_batch", train_batch)
    assert train.main([str(whole / "experiment.yaml"), "--output-dir", str(tmp_path / "run")]) == 0
    assert tiny.reports(tmp_path / "run", "validation") == tiny.reports(whole / "run", "validation")[:1]


def signal_one_rank() -> None:
    """SIGTERM to the second rank alone, which has fewer validation batches than the first."""
    plain = QATrial.evaluate_batch

    def evaluate_batch(self: Any, batch: Any, batch_idx: int) -> Any:
        print("evaluated", flush=True)
        if self.context.distributed.rank == 1 and batch_idx == 0 and self.context._current_batch_idx == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch, batch_idx)

    QATrial.evaluate_batch = evaluate_batch  # type: ignore[method-assign]


def test_all_ranks_leave_a_validation_together(tmp_path: Path) -> None:
    """The signal reaches one of them; five batches are three on one rank and two on the other."""
    config = tiny.experiment(tmp_path, train=16, **{**SETTINGS, "validation": 10, "max_steps": 6, "adam_epsilon": 1e-6})
    argv, run = [str(config), "--output-dir"], tmp_path / "run"
    assert forked.run_ranks(2, [*argv, str(tmp_path / "whole")], tmp_path / "logs") == [0, 0]
    assert forked.run_ranks(2, [*argv, str(run)], tmp_path / "stopped", hook=signal_one_rank) == [0, 0]
    said = [(tmp_path / f"stopped/{rank}.log").read_text() for rank in (0, 1)]
    assert [text.count("evaluated") for text in said] == [1, 1]
    assert "stopped, with" in said[0]
    assert steps_in_name(checkpoints_of(run)[0]) == 4
    assert tiny.reports(run, "validation") == []
    assert forked.run_ranks(2, [*argv, str(run), "--resume", "latest"], tmp_path / "logs") == [0, 0]
    assert tiny.reports(run, "validation") == tiny.reports(tmp_path / "whole", "validation")
    assert tiny.same(tiny.weights(run, 6), tiny.weights(tmp_path / "whole", 6))
