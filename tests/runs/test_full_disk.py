"""A disk that fills up while a checkpoint is written."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
import tiny

from model_hub_rqa.checkpoints import checkpoint_errors, checkpoints_of


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs, which is Linux's")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def used(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def test_the_older_checkpoint_stays(disk: Path, tmp_path: Path) -> None:
    """Wherever the room ends: exit code 2 with the path, nothing half-written, and the run goes on afterwards."""
    config = tiny.experiment(tmp_path, validation=1, max_steps=2, save_steps=1)
    assert forked.finish(forked.start([str(config), "--output-dir", str(tmp_path / "whole")], tmp_path / "log")) == 0
    size, free = used(tmp_path / "whole/checkpoints/checkpoint-1"), 16 << 20
    words = []
    for number, part in enumerate((0.0, 0.6, 0.75)):
        run, log, filler = disk / "run", tmp_path / f"{number}.log", disk / "filler"
        argv = [str(config), "--output-dir", str(run)]
        room = int(48_000 + size + part * size)  # for reports and events, one checkpoint, and part of another
        filler.write_bytes(bytes(free - room))
        assert forked.finish(forked.start(argv, log)) == 2
        said = log.read_text()
        found = re.search(f"^{run}.*: (cannot|could not) be written.*", said, re.M)
        assert found, said
        words.append(found[0])
        assert "Traceback" not in said.partition("Exception in thread")[0]  # what TensorBoard's writer says at the end
        whole = checkpoints_of(run)
        assert set(whole) == set((run / "checkpoints").iterdir())
        assert whole[-1].name == "checkpoint-1"
        assert [checkpoint_errors(path) for path in whole] == [[]] * len(whole)
        filler.unlink()
        assert forked.finish(forked.start([*argv, "--resume", "latest"], log)) == 0
        assert tiny.same(tiny.weights(run, 2), tiny.weights(tmp_path / "whole", 2))
        shutil.rmtree(run)
    assert sum("checkpoint-2" in line for line in words) >= 2, words
