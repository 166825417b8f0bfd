"""What ends a run before its time: signals, and a loss that is no number; and which checkpoints are kept."""

import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
import tiny_fusion
import torch
from torchrun import TORCHRUN, one_thread

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoint_errors, checkpoints_of, steps_in_name
from model_hub_rqa.runtime.local_run import Reports
from model_hub_rqa.trials.fid import FiDTrial
from model_hub_rqa.trials.qa import QATrial
from model_hub_rqa.trials.task_trial import TaskTrial


def wait_for_report(run: Path, count: int, seconds: float = 120) -> None:
    path, end = run / "metrics.jsonl", time.monotonic() + seconds
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < end
        time.sleep(0.005)


def slowly() -> None:
    """Gives the test time to send a signal, and a process group to send it to."""
    os.setpgrp()
    plain = TaskTrial.train_batch

    def train_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.03)
        return plain(self, *args, **kwargs)

    TaskTrial.train_batch = train_batch  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_checkpoints_and_ends_well(number: signal.Signals, tmp_path: Path) -> None:
    """Exit code 0, with a whole checkpoint of that moment, also where loader processes get the signal as well."""
    changes = {"max_steps": 200, "save_steps": 1000, "eval_steps": 1000, "dataloader_num_workers": 2}
    config, run = tiny.experiment(tmp_path, **changes), tmp_path / "run"
    process = forked.start([str(config), "--output-dir", str(run)], tmp_path / "log", hook=slowly)
    wait_for_report(run, 2)
    os.killpg(process.pid, number)  # as a terminal does with Ctrl-C
    assert forked.finish(process) == 0, (tmp_path / "log").read_text()
    (checkpoint,) = checkpoints_of(run)
    assert 2 <= steps_in_name(checkpoint) < 200
    assert checkpoint_errors(checkpoint) == []
    said = (tmp_path / "log").read_text()
    assert f"stopped, with {checkpoint} written: --resume latest goes on from it" in said
    assert "Traceback" not in said


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Without a checkpoint, and not with exit code 0."""
    config, run, log = tiny.experiment(tmp_path), tmp_path / "run", tmp_path / "log"
    process = forked.start([str(config), "--output-dir", str(run)], log, hook=stubbornly)
    while not log.exists() or "a long batch" not in log.read_text():
        time.sleep(0.05)
        assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    assert forked.finish(process, 30) != 0
    assert checkpoints_of(run) == []


def stubbornly() -> None:
    """A batch that takes a minute."""
    plain = TaskTrial.train_batch

    def train_batch(self: Any, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
        if batch_idx == 1:
            print("a long batch", flush=True)
            time.sleep(60)
        return plain(self, batch, epoch_idx, batch_idx)

    TaskTrial.train_batch = train_batch  # type: ignore[method-assign]


@pytest.mark.slow
def test_sigterm_to_torchrun(tmp_path: Path) -> None:
    """torchrun passes it on; both ranks stop at one batch, and the resumed run equals one that never stopped."""
    config = tiny.experiment(tmp_path, max_steps=100, save_steps=1000, eval_steps=1000, dataloader_num_workers=1)
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = [*TORCHRUN, "-m", "model_hub_rqa.train", str(config), "--output-dir", str(run)]
    process = subprocess.Popen(command, env=one_thread(), stderr=subprocess.DEVNULL)
    wait_for_report(run, 3)
    process.send_signal(signal.SIGTERM)
    process.wait(60)  # with torchrun's own exit code, which is not 0 after a signal
    (checkpoint,) = checkpoints_of(run)
    assert steps_in_name(checkpoint) < 100
    assert "stopped, with" in (run / "run.log").read_text()
    for argv in (["--output-dir", str(run), "--resume", "latest"], ["--output-dir", str(whole)]):
        assert forked.run_ranks(2, [str(config), *argv], tmp_path / "logs") == [0, 0]
    assert tiny.same(tiny.weights(run, 100), tiny.weights(whole, 100))


# ---- a loss that is not finite ----


def poison(value: float, *, gradient_only: bool = False, example: str = "q13") -> None:
    """From now on the loss of batches with one example is ``value``, or only its gradient is not finite."""
    for trial_class in (QATrial, FiDTrial):
        plain = trial_class.compute_loss

        def compute_loss(self: Any, batch: Any, plain: Any = plain) -> torch.Tensor:
            loss = plain(self, batch)
            if example not in self.example_ids(batch) or self.context._current_batch_idx < 4:
                return loss
            print("poisoned:", ", ".join(self.example_ids(batch)))
            if gradient_only:
                loss.register_hook(lambda gradient: gradient * value)
                return loss
            return loss * 0 + value

        trial_class.compute_loss = compute_loss  # type: ignore[method-assign]


def poison_nan() -> None:
    poison(math.nan)


@pytest.fixture
def unpoisoned() -> Iterator[None]:
    kept = QATrial.compute_loss, FiDTrial.compute_loss
    yield
    QATrial.compute_loss, FiDTrial.compute_loss = kept  # type: ignore[method-assign]


@pytest.mark.parametrize("max_grad_norm", [0, 1])
@pytest.mark.parametrize(
    ("kind", "value", "gradient_only"),
    [
        ("QATrial", math.nan, False),
        ("QATrial", math.inf, False),
        ("QATrial", math.nan, True),
        ("FiDTrial", math.nan, False),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(
    kind: str,
    value: float,
    gradient_only: bool,
    max_grad_norm: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    unpoisoned: None,
) -> None:
    """Exit code 2 and the ids of the batch's examples; the checkpoints are of before, and whole."""
    tiny_trial = tiny if kind == "QATrial" else tiny_fusion
    changes = {
        "global_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_steps": 1,
        "max_grad_norm": max_grad_norm,
    }
    config, run = tiny_trial.experiment(tmp_path, train=20, validation=3, **changes), tmp_path / "run"
    argv = [str(config), "--output-dir", str(run)]
    poison(value, gradient_only=gradient_only)
    assert train.main(argv) == 2
    said = capsys.readouterr()
    ids = re.findall("poisoned: (.*)", said.out)[0]
    lines = [line for line in said.err.splitlines() if "finite" in line]
    assert any(line.endswith(f"for the examples {ids}") for line in lines), said.err
    if gradient_only:
        assert all(re.match(r"gradients: must be finite, got the norm nan \(rank 0, loss \d", line) for line in lines)
        assert len(lines) == 2  # either micro-batch may have brought it
    else:
        assert lines == [f"loss: must be a finite number, got {value} (rank 0) for the examples {ids}"]
    weights = [tiny.weights(run, steps_in_name(path)) for path in checkpoints_of(run)]
    assert len(weights) >= 2
    assert all(tensor.isfinite().all() for found in weights for tensor in found.values())


def test_a_mended_run_goes_on(tmp_path: Path, unpoisoned: None) -> None:
    """Nothing of the bad batch got into the newest checkpoint: resumed without it, the run is as if it had not been."""
    config, plain = tiny.experiment(tmp_path, save_steps=1), QATrial.compute_loss
    assert train.main([str(config), "--output-dir", str(tmp_path / "whole")]) == 0
    poison(math.nan)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 2
    QATrial.compute_loss = plain  # type: ignore[method-assign]
    assert train.main([str(config), "--output-dir", str(tmp_path / "run"), "--resume", "latest"]) == 0
    assert tiny.same(tiny.weights(tmp_path / "run", 10), tiny.weights(tmp_path / "whole", 10))


@pytest.mark.parametrize("kind", ["QATrial", "FiDTrial"])
def test_every_rank_stops_where_one_loss_is_not_finite(kind: str, tmp_path: Path) -> None:
    """All with exit code 2 at the same step, and the words name the rank and its examples."""
    tiny_trial = tiny if kind == "QATrial" else tiny_fusion
    changes = {"gradient_accumulation_steps": 2, "save_steps": 1, "num_train_epochs": 3}
    config, run, logs = (
        tiny_trial.experiment(tmp_path, train=24, validation=3, **changes),
        tmp_path / "run",
        tmp_path / "logs",
    )
    assert forked.run_ranks(2, [str(config), "--output-dir", str(run)], logs, hook=poison_nan) == [2, 2]
    poisoned = {}
    for rank in (0, 1):
        found = re.findall("poisoned: (.*)", (logs / f"{rank}.log").read_text())
        poisoned |= {rank: found[0]} if found else {}
    ((rank, ids),) = poisoned.items()
    said = (logs / "0.log").read_text()
    assert f"loss: must be a finite number, got nan (rank {rank}) for the examples {ids}" in said
    assert "Traceback" not in said + (logs / "1.log").read_text()
    assert checkpoint_errors(checkpoints_of(run)[0]) == []


# ---- which checkpoints are written ----


class Missed(QATrial):
    """It reports what is missing from f1, of which it says nothing."""

    def compute_metrics(self, values: Any) -> dict[str, float]:
        metrics = super().compute_metrics(values)
        return {**metrics, "missed": 100 - metrics["f1"]}


@pytest.mark.parametrize("smaller_is_better", [False, True])
def test_the_policy_best_keeps_what_improves(smaller_is_better: bool, tmp_path: Path) -> None:
    """A validation is checkpointed where the searcher's metric is better than ever before; the end always is."""
    config = tiny.experiment(
        tmp_path, train=32, validation=11, max_steps=10, learning_rate=1e-2, eval_steps=1, save_steps=1000
    )
    metric = "missed" if smaller_is_better else "f1"
    words = {"smaller_is_better": str(smaller_is_better).lower(), "metric": metric}
    options = [word for name, value in words.items() for word in ("--config", f"searcher.{name}={value}")]
    options += ["--config", f"entrypoint={__name__}:Missed"]
    saved = {}
    for policy in ("best", "all", "none"):
        argv = ["--output-dir", str(tmp_path / policy), "--config", f"checkpoint_policy={policy}"]
        assert train.main([str(config), *argv, *options]) == 0
        saved[policy] = {steps_in_name(path) for path in checkpoints_of(tmp_path / policy)}
    reports = tiny.reports(tmp_path / "best", "validation")
    sign = -1 if smaller_is_better else 1
    values = [sign * report[metric] for report in reports]
    better = {report["steps"] for i, report in enumerate(reports) if all(values[i] > value for value in values[:i])}
    assert 1 <= len(better) < len(reports) == 10
    assert saved == {"best": better | {10}, "all": set(range(1, 11)), "none": {10}}


def test_the_best_survives_a_resume(tmp_path: Path) -> None:
    """What was best before a stop is known after it: from metrics.jsonl, where only a number counts."""
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [
        '{"steps": 1, "kind": "validation", "f1": "NaN"}',
        '{"steps": 2, "kind": "validation", "f1": 7.5}',
        '{"steps": 3, "kind": "validation", "f1": 5.0}',
        '{"steps": 4, "kind": "validation", "f1": 9.0}',
        '{"steps": 5, "kind": "valid',
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    reports = Reports(folder, metric="f1", smaller_is_better=False, resumed_at=3)
    assert (reports.best, reports.best_steps, reports.last_validation) == (7.5, 2, 3)
    assert [report["steps"] for report in tiny.reports(folder, "validation")] == [1, 2, 3]
    reports._report_trial_metrics("validation", 4, {"f1": math.nan})
    assert (reports.best, reports.best_steps) == (7.5, 2)
