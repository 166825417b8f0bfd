"""kill -9 at any moment: ``--resume latest`` goes on by itself, and the weights are those of a run never killed."""

import contextlib
import functools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny

from model_hub_rqa.checkpoints import MANIFEST, checkpoint_errors, checkpoints_of, steps_in_name

STEPS = 60
PAUSE = 0.15  # seconds between the parts of a checkpoint's writing, where it is slowed


def slow_writing() -> None:
    """Stretches the writing of checkpoints and their removal, so that a kill can be aimed into either."""
    import shutil

    from model_hub_rqa.runtime import local_checkpoints, local_run
    from model_hub_rqa.trials import task_trial as base

    def slow(module: Any, name: str) -> None:
        plain = getattr(module, name)

        @functools.wraps(plain)
        def slowed(*args: Any, **kwargs: Any) -> Any:
            time.sleep(PAUSE)
            return plain(*args, **kwargs)

        setattr(module, name, slowed)

    slow(base.TaskTrial, "save_pretrained")
    slow(local_checkpoints, "write_manifest")
    slow(local_checkpoints, "_flush")
    slow(local_checkpoints, "hide_checkpoint")
    slow(local_run, "_remove")
    plain_unlink = os.unlink

    def unlink(path: Any, *args: Any, **kwargs: Any) -> None:  # what shutil.rmtree calls, file by file
        if "checkpoint-" in str(path) or "dir_fd" in kwargs:
            time.sleep(PAUSE / 10)
        plain_unlink(path, *args, **kwargs)

    shutil.os.unlink = unlink  # type: ignore[attr-defined]


class Killer:
    """Runs until it is killed, again and again, always with --resume latest; whatever ends by itself must end well."""

    def __init__(self, config: Path, folder: Path, expected: dict[str, Any]) -> None:
        self.config, self.folder, self.expected = config, folder, expected
        self.kills, self.finished, self.in_writing = 0, 0, 0
        self.before: set[tuple[str, int]] = set()

    @property
    def run(self) -> Path:
        return self.folder / f"run-{self.finished}"

    def hidden(self) -> set[tuple[str, int]]:
        """Checkpoints that are being written or removed, or were when a process was killed."""
        found = []
        for path in (self.run / "checkpoints").glob(".checkpoint-*"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.name, path.stat().st_ctime_ns))
        return set(found)

    def start(self, hook: Any = None) -> Any:
        self.before = self.hidden()
        argv = [str(self.config), "--output-dir", str(self.run), "--resume", "latest"]
        return forked.start(argv, self.folder / "log", hook=hook)

    def kill(self, process: Any) -> None:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == -signal.SIGKILL:
            self.kills += 1
            self.in_writing += bool(self.hidden() - self.before)
            self.look_at_checkpoints()
        else:
            assert process.exitcode == 0, (self.folder / "log").read_text()
            self.check()

    def look_at_checkpoints(self) -> None:
        """No half of a checkpoint ever bears the name of a whole one."""
        for checkpoint in checkpoints_of(self.run):
            assert checkpoint_errors(checkpoint) == []
            assert (checkpoint / MANIFEST).is_file()

    def check(self) -> None:
        assert steps_in_name(checkpoints_of(self.run)[0]) == STEPS
        assert tiny.same(tiny.weights(self.run, STEPS), self.expected)
        assert [report["steps"] for report in tiny.reports(self.run, "training")] == list(range(1, STEPS + 1))
        self.finished += 1

    def finish(self) -> None:
        process = self.start()
        forked.finish(process)
        self.kill(process)


@pytest.mark.slow
def test_fifty_kills(tmp_path: Path) -> None:
    """At 50 random moments, 20 of them inside the writing or the removal of a checkpoint."""
    config = tiny.experiment(
        tmp_path, train=80, validation=5, max_steps=STEPS, eval_steps=20, save_steps=4, save_total_limit=2
    )
    for name in ("whole", "again"):  # the first has everything to import, and the second tells how long one takes
        began = time.monotonic()
        assert forked.finish(forked.start([str(config), "--output-dir", str(tmp_path / name)], tmp_path / "log")) == 0
    duration = time.monotonic() - began
    killer = Killer(config, tmp_path, tiny.weights(tmp_path / "whole", STEPS))
    rng = random.Random(0)
    while killer.kills < 30:
        process = killer.start()
        process.join(rng.uniform(0, duration))
        killer.kill(process)
    at_random, killer.in_writing = killer.in_writing, 0
    while killer.kills < 50:
        process = killer.start(slow_writing)
        while process.is_alive() and not killer.hidden() - killer.before:
            time.sleep(0.005)
        process.join(rng.uniform(0, 6 * PAUSE))
        killer.kill(process)
    killer.finish()
    print(f"killed inside a checkpoint's writing: {at_random} of 30 at random, {killer.in_writing} of 20 aimed")
    assert killer.in_writing >= 10
    assert killer.finished >= 1
