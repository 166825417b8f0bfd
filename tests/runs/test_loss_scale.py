"""A scaled loss, with torch's scaler for CPUs in place of the GPU's: steps that are skipped, and too many of them."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from cluster_runs import run_here, tiny_trial
from stand_in_master import StandInMaster

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoints_of
from model_hub_rqa.runtime import finite
from model_hub_rqa.trials.qa import QATrial

OVERFLOWING: set[int] = set()  # batches whose gradients are infinite


class Scaled(QATrial):
    """fp16's steps in the precision at hand."""

    def build_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu")

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        loss = super().compute_loss(batch)
        if self.context._current_batch_idx in OVERFLOWING:
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss


class Half(Scaled):
    def autocast(self) -> Any:
        return torch.autocast("cpu", torch.float16)


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    found: set[int] = set()
    monkeypatch.setattr(f"{__name__}.OVERFLOWING", found)
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and, in ``run``, its run of 6 steps without a scaler, each of them kept."""
    folder = tmp_path_factory.mktemp("plain")
    config = tiny.experiment(folder, train=32, validation=3, max_steps=6, save_steps=1, eval_steps=1000)
    assert train.main([str(config), "--output-dir", str(folder / "run")]) == 0
    return folder


def run(plain: Path, output: Path, *options: str, trial: str = "Scaled") -> int:
    entrypoint = ["--config", f"entrypoint={__name__}:{trial}"]
    return train.main([str(plain / "experiment.yaml"), "--output-dir", str(output), *entrypoint, *options])


def rates(output: Path) -> list[float]:
    return [report["learning_rate"] for report in tiny.reports(output, "training")]


def scale(output: Path, steps: int) -> float:
    state: Any = torch.load(output / f"checkpoints/checkpoint-{steps}/state_dict.pth", weights_only=True)
    return float(state["scaler_state_dict"]["scale"])


def test_a_scale_changes_nothing(plain: Path, tmp_path: Path, overflowing: set[int]) -> None:
    """A power of two goes in and out of the gradients without rounding; float16 itself does round."""
    assert run(plain, tmp_path / "run") == 0
    assert tiny.equal(tiny.weights(tmp_path / "run", 6), tiny.weights(plain / "run", 6), atol=1e-7)
    assert rates(tmp_path / "run") == rates(plain / "run")
    assert scale(tmp_path / "run", 6) == 2**16
    assert run(plain, tmp_path / "half", "--config", "hyperparameters.adam_epsilon=1e-3", trial="Half") == 0
    losses = [[report["loss"] for report in tiny.reports(tmp_path / name, "training")] for name in ("run", "half")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_the_schedule_waits_for_a_step_that_is_skipped(plain: Path, tmp_path: Path, overflowing: set[int]) -> None:
    """Weights stay, the scale is halved, and the rate is the same again."""
    overflowing |= {2, 3}
    assert run(plain, tmp_path / "run") == 0
    assert rates(tmp_path / "run") == pytest.approx([1e-3 * left / 6 for left in (6, 5, 4, 4, 4, 3)])
    weights = [tiny.weights(tmp_path / "run", step) for step in (2, 3, 4, 5)]
    assert tiny.same(weights[0], weights[1])
    assert tiny.same(weights[0], weights[2])
    assert not tiny.equal(weights[2], weights[3])
    assert [scale(tmp_path / "run", step) for step in (2, 3, 4, 6)] == [2**16, 2**15, 2**14, 2**14]


def test_too_many_skipped_steps_end_the_run(
    plain: Path,
    tmp_path: Path,
    overflowing: set[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2; the step before them is kept, with its scale, and a run goes on from it as if nothing were."""
    monkeypatch.setattr(finite, "MOST_SKIPPED", 3)
    overflowing |= {2, 3, 4}
    output, never = tmp_path / "run", ("--config", "hyperparameters.save_steps=1000")
    assert run(plain, output, *never) == 2
    wanted = (
        "gradients: must be finite at some loss scale, got 3 skipped optimizer steps in a row, down to the scale 8.19e"
    )
    assert wanted in capsys.readouterr().err
    assert [path.name for path in checkpoints_of(output)] == ["checkpoint-2"]
    assert tiny.equal(tiny.weights(output, 2), tiny.weights(plain / "run", 2), atol=1e-7)
    assert scale(output, 2) == 2**16
    overflowing.clear()
    assert run(plain, output, *never, "--resume", "latest") == 0
    assert tiny.equal(tiny.weights(output, 6), tiny.weights(plain / "run", 6), atol=1e-7)
    assert rates(output) == rates(plain / "run")


def test_skipped_steps_in_a_row_are_what_counts(
    plain: Path, tmp_path: Path, overflowing: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "MOST_SKIPPED", 3)
    overflowing |= {0, 1, 3, 4}
    assert run(plain, tmp_path / "run") == 0


def test_a_search_goes_on_without_the_trial(
    tmp_path: Path, overflowing: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a loss is not finite."""
    monkeypatch.setattr(finite, "MOST_SKIPPED", 3)
    overflowing |= set(range(2, 100))
    trial = tiny_trial(tmp_path)
    trial.trial_class, trial.hparams = f"{__name__}:Scaled", dict(trial.config["hyperparameters"])
    trial.config["searcher"] |= {"name": "random", "max_trials": 4}
    trial.config["hyperparameters"]["learning_rate"] = {"type": "double", "minval": 1e-4, "maxval": 1e-2}
    with StandInMaster() as master:
        assert run_here(trial, master) == 0
        assert [checkpoint["metadata"]["steps_completed"] for checkpoint in master.checkpoints] == [2]
        assert master.early_exits == ["EXITED_REASON_INVALID_HP"]
