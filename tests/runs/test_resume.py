"""A run that was stopped and resumed is, bit for bit, the run that never stopped."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import tiny
import tiny_fusion
import torch

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoints_of, steps_in_name
from model_hub_rqa.trials.task_trial import TaskTrial

EPOCH, LAST = 10, 20  # micro-batches, two of which make an optimizer step
ACCUMULATION = {"global_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 2}


def experiment(kind: str, folder: Path, **changes: Any) -> Path:
    """A configuration with dropout, so that every generator matters."""
    if kind == "FiDTrial":
        return tiny_fusion.experiment(folder, train=40, validation=3, dropout=0.1, **changes)
    if not (folder / "model").exists():
        tiny.model_folder(folder / "model", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    return tiny.experiment(folder, **changes)


class Watch:
    """Notes what each micro-batch trained on, what came of it, and where the generators are; it may ask to stop."""

    def __init__(self) -> None:
        self.noted: list[Any] = []
        self.stop_in: int | None = None
        self._plain = TaskTrial.train_batch

    def train_batch(self, trial: Any, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
        if batch_idx + 1 == self.stop_in:
            trial.context.set_stop_requested(True)
        ids = trial.example_ids(batch)
        metrics = self._plain(trial, batch, epoch_idx, batch_idx)
        drawn = (float(torch.rand(1)), float(np.random.rand()), random.random())
        self.noted.append((batch_idx, ids, metrics["loss"].item(), metrics["learning_rate"], drawn))
        return metrics

    def run(self, config: Path, output: Path, *options: str, stop_in: int | None = None) -> list[Any]:
        self.noted, self.stop_in = [], stop_in
        assert train.main([str(config), "--output-dir", str(output), *options]) == 0
        return self.noted


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(TaskTrial, "train_batch", lambda *args, **kwargs: watch.train_batch(*args, **kwargs))
    return watch


@pytest.fixture(scope="module", params=["QATrial", "FiDTrial"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A configuration, its run without a stop, and what was noted of it."""
    folder = tmp_path_factory.mktemp(request.param)
    config = experiment(request.param, folder, **ACCUMULATION)
    watch = Watch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskTrial, "train_batch", lambda *args, **kwargs: watch.train_batch(*args, **kwargs))
        return config, watch.run(config, folder / "whole")


def state(run: Path, steps: int) -> tuple[Any, Any, Any]:
    """All that a checkpoint holds of the training: tensors, generators, counters."""
    folder = run / f"checkpoints/checkpoint-{steps}"
    counters = pickle.loads((folder / "trial_state.pkl").read_bytes())
    metadata = json.loads((folder / "metadata.json").read_text())
    return torch.load(folder / "state_dict.pth", weights_only=True), counters, metadata


# the first batch and one in the middle (both inside an accumulation), an epoch's edge, the last batch
EVERYDAY = [(0, 1), (0, 7), (0, EPOCH), (0, LAST), (2, EPOCH)]
SLOW = [(0, 8), (0, LAST - 1), (2, 1), (2, 7), (2, LAST)]


@pytest.mark.parametrize(
    ("workers", "stop_in"), [*EVERYDAY, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_resuming_equals_not_having_stopped(
    workers: int, stop_in: int, whole: tuple[Path, list[Any]], tmp_path: Path, watch: Watch
) -> None:
    """Examples in their order, losses, rates, weights, optimizer, schedule, generators and metrics are the same."""
    config, expected = whole
    options = ("--config", f"hyperparameters.dataloader_num_workers={workers}")
    run, never_stopped = tmp_path / "run", config.parent / "whole"
    first = watch.run(config, run, *options, stop_in=stop_in)
    stopped_at = stop_in + stop_in % 2  # an accumulation is finished first: its gradients are in no checkpoint
    assert len(first) == stopped_at
    assert steps_in_name(checkpoints_of(run)[0]) == stopped_at // 2
    second = watch.run(config, run, *options, "--resume", "latest")
    assert first + second == expected
    tensors, counters, metadata = state(run, LAST // 2)
    tensors_expected, counters_expected, metadata_expected = state(never_stopped, LAST // 2)
    assert tiny.same(tensors, tensors_expected)
    assert metadata == metadata_expected
    if stop_in < LAST - 1:  # else it was stopped before the last validation, and its checkpoint says so
        assert counters == counters_expected
    for kind in ("training", "validation"):
        assert tiny.reports(run, kind) == tiny.reports(never_stopped, kind)


def test_a_run_is_stopped_twice_and_goes_on_from_anywhere(
    whole: tuple[Path, list[Any]], tmp_path: Path, watch: Watch
) -> None:
    """Also from a named checkpoint into another folder; the finished run resumes to nothing left to do."""
    config, expected = whole
    run, other = tmp_path / "run", tmp_path / "other"
    first = watch.run(config, run, stop_in=4)
    second = watch.run(config, run, "--resume", "latest", stop_in=14)
    third = watch.run(config, other, "--resume", str(run / "checkpoints/checkpoint-7"))
    assert first + second + third == expected
    assert tiny.same(state(other, LAST // 2)[0], state(config.parent / "whole", LAST // 2)[0])
    before = tiny.reports(other, "validation")
    assert watch.run(config, other, "--resume", "latest") == []
    assert tiny.reports(other, "validation") == before


def test_going_back_sets_later_checkpoints_aside(
    tmp_path: Path, watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that --resume latest goes on from the run that is made now, and not from the one that was left."""
    config, run = experiment("QATrial", tmp_path, save_steps=2), tmp_path / "run"
    watch.run(config, run)
    watch.run(config, run, "--resume", str(run / "checkpoints/checkpoint-4"), stop_in=5)
    assert "set aside: " in capsys.readouterr().err
    assert "set aside: " in (run / "run.log").read_text()
    assert [steps_in_name(path) for path in checkpoints_of(run)] == [5, 4, 2]
    watch.run(config, run, "--resume", "latest")
    assert sorted(path.name for path in (run / "checkpoints").glob(".*")) == []


def test_a_stop_does_not_wait_for_the_next_report(tmp_path: Path, watch: Watch) -> None:
    """Reports may be hours apart, and whoever sends SIGTERM waits for seconds only."""
    config = experiment("QATrial", tmp_path, logging_steps=1000)
    assert len(watch.run(config, tmp_path / "run", stop_in=3)) == 3


def test_a_checkpoint_of_the_cluster_is_resumed(tmp_path: Path, watch: Watch) -> None:
    """It bears its trial's number, which Determined takes for a reason to start at batch 0."""
    config, run = experiment("QATrial", tmp_path), tmp_path / "run"
    watch.run(config, run, stop_in=3)
    checkpoint = run / "checkpoints/checkpoint-3"
    path = checkpoint / "trial_state.pkl"
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), "trial_id": 17}))
    tiny.sign(checkpoint)
    assert [noted[0] for noted in watch.run(config, run, "--resume", "latest")] == list(range(3, 10))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["QATrial", "FiDTrial"])
def test_two_ranks_resume_exactly(kind: str, tmp_path: Path) -> None:
    """Dropout of the second rank too, whose generators are in no checkpoint."""
    config = experiment(kind, tmp_path, adam_epsilon=1e-6, save_steps=3)
    argv = [str(config), "--output-dir"]
    assert forked.run_ranks(2, [*argv, str(tmp_path / "whole")], tmp_path / "logs") == [0, 0]
    run = tmp_path / "run"
    assert forked.run_ranks(2, [*argv, str(run)], tmp_path / "logs", hook=stop_after_four) == [0, 0]
    assert steps_in_name(checkpoints_of(run)[0]) == 4
    assert forked.run_ranks(2, [*argv, str(run), "--resume", "latest"], tmp_path / "logs") == [0, 0]
    assert tiny.same(state(run, 10)[0], state(tmp_path / "whole", 10)[0])
    assert tiny.reports(run, "training") == tiny.reports(tmp_path / "whole", "training")


def stop_after_four() -> None:
    """Asks the second rank alone to stop."""
    plain = TaskTrial.train_batch

    def train_batch(self: Any, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
        if batch_idx == 3 and self.context.distributed.rank == 1:
            self.context.set_stop_requested(True)
        return plain(self, batch, epoch_idx, batch_idx)

    TaskTrial.train_batch = train_batch  # type: ignore[method-assign]
