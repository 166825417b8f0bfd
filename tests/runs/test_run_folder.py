"""A run's folder: one process writes it, a run goes on by its folder's name, and nothing is left behind."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny

from model_hub_rqa import cli, train
from model_hub_rqa.checkpoints import checkpoints_of, steps_in_name
from model_hub_rqa.trials.task_trial import TaskTrial


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and its run of 5 steps, checkpoints at 2, 4 and 5."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny.experiment(folder, max_steps=5, save_steps=2)
    assert train.main([str(config), "--output-dir", str(folder / "run")]) == 0
    return folder


def wait_in_training() -> None:
    """Says so in the first batch, and trains on when it is killed."""

    def train_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        print("in training", flush=True)
        time.sleep(120)

    TaskTrial.train_batch = train_batch  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_process_writes_a_run(number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second one ends with 2 and names the first; the lock dies with its process, however that ends."""
    config, run, log = tiny.experiment(tmp_path, max_steps=1), tmp_path / "run", tmp_path / "log"
    argv = [str(config), "--output-dir", str(run)]
    process = forked.start(argv, log, hook=wait_in_training)
    try:
        while not log.exists() or "in training" not in log.read_text():
            assert process.is_alive(), log.read_text()
            time.sleep(0.05)
        for options in ([], ["--resume", "latest"]):
            assert train.main([*argv, *options]) == 2
            said = capsys.readouterr().err
            assert f"--output-dir: {run} is being written by process {process.pid} on " in said
    finally:
        for _ in range(2):  # the second ends it at once
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            time.sleep(0.2)
        process.join()
    assert train.main([*argv, "--resume", "latest"]) == 0
    assert train.main([*argv, "--resume", "latest"]) == 0


def test_a_second_job_of_ranks_is_refused_on_each(tmp_path: Path) -> None:
    """The chief finds the lock, and all ranks end with its words."""
    config, run, log = tiny.experiment(tmp_path, max_steps=1), tmp_path / "run", tmp_path / "log"
    argv = [str(config), "--output-dir", str(run)]
    process = forked.start(argv, log, hook=wait_in_training)
    try:
        while not log.exists() or "in training" not in log.read_text():
            assert process.is_alive(), log.read_text()
            time.sleep(0.05)
        assert forked.run_ranks(2, argv, tmp_path / "logs") == [2, 2]
        assert "is being written by" in (tmp_path / "logs/0.log").read_text()
    finally:
        process.kill()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_is_resumed_by_its_folder(
    elsewhere: bool, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its newest whole checkpoint, in its own folder or, with --output-dir, in another."""
    config, run = str(trained / "experiment.yaml"), tmp_path / "run"
    assert train.main([config, "--output-dir", str(run)]) == 0
    options = ["--output-dir", str(tmp_path / "other")] if elsewhere else []
    argv = [config, "--resume", str(run), *options, "--config", "hyperparameters.max_steps=7"]
    capsys.readouterr()
    assert train.main(argv) == 0
    assert f"resuming from {run / 'checkpoints/checkpoint-5'}" in capsys.readouterr().err
    written = tmp_path / "other" if elsewhere else run
    assert steps_in_name(checkpoints_of(written)[0]) == 7
    assert [report["steps"] for report in tiny.reports(written, "training")][-2:] == [6, 7]


@pytest.fixture
def umask() -> Iterator[None]:
    kept = os.umask(0o027)
    yield
    os.umask(kept)


def test_weights_follow_the_umask(tmp_path: Path, umask: None) -> None:
    """As every other file of a checkpoint; safetensors writes them for the owner alone."""
    config = tiny.experiment(tmp_path, max_steps=1)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    files = [path for path in (tmp_path / "run/checkpoints/checkpoint-1").rglob("*") if path.is_file()]
    assert "model.safetensors" in {path.name for path in files}
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o640" for path in files}
    weights = tmp_path / "run/checkpoints/checkpoint-1/pretrained/model.safetensors"
    weights.chmod(0o600)  # as version 0.1 wrote it
    assert cli.main(["export", "--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "exported")]) == 0
    assert oct((tmp_path / "exported/model.safetensors").stat().st_mode & 0o777) == "0o640"


@pytest.mark.parametrize("steps", [5, 3])
def test_what_was_set_aside_is_cleaned_up(steps: int, trained: Path, tmp_path: Path) -> None:
    """Also where the run that goes back makes no checkpoint of those names again, or ends before them."""
    config, run = str(trained / "experiment.yaml"), tmp_path / "run"
    assert train.main([config, "--output-dir", str(run)]) == 0
    changes = ["--config", "hyperparameters.save_steps=100", "--config", f"hyperparameters.max_steps={steps}"]
    argv = [config, "--output-dir", str(run), "--resume", str(run / "checkpoints/checkpoint-2"), *changes]
    assert train.main(argv) == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["checkpoint-2", f"checkpoint-{steps}"]
