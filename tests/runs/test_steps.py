"""With accumulation, everything that says steps counts optimizer steps; and a run of 0.1, which did not, goes on."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from model_hub_rqa import train
from model_hub_rqa.checkpoints import checkpoints_of

ACCUMULATION = 4
CHANGES = {"global_batch_size": 2, "gradient_accumulation_steps": ACCUMULATION, "max_steps": 4, "eval_steps": 2}


def experiment(folder: Path) -> Path:
    path = tiny.experiment(folder, validation=3, save_steps=1, **CHANGES)
    config = json.loads(path.read_text())
    config["data"]["callbacks"] = ["loss_logger"]
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run of 4 optimizer steps of 4 batches each."""
    assert train.main([str(experiment(folder)), "--output-dir", str(folder / "whole")]) == 0
    return folder / "whole"


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def names(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def test_what_is_written_counts_optimizer_steps(whole: Path) -> None:
    assert names(whole) == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}
    training, validation = tiny.reports(whole, "training"), tiny.reports(whole, "validation")
    assert [(report["steps"], report["batches"]) for report in training] == [(1, 4), (2, 8), (3, 12), (4, 16)]
    assert [(report["steps"], report["batches"]) for report in validation] == [(2, 8), (4, 16)]
    assert [line["steps"] for line in lines(whole, "losses.jsonl")] == [1, 2, 3, 4]
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["steps"], summary["max_steps"], summary["resumed_at"]) == (4, 4, 0)
    assert (summary["status"], summary["last"]["steps"]) == ("finished", 4)
    assert summary["checkpoints"] == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    metadata = json.loads((whole / "checkpoints/checkpoint-4/metadata.json").read_text())
    assert metadata["steps_completed"] == 16  # Determined's own number, of batches


def test_what_is_printed_counts_optimizer_steps(folder: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run that went on from step 2, whose speed is in examples of whole steps."""
    argv = [str(experiment(folder)), "--output-dir", str(folder / "printed")]
    assert train.main([*argv, "--resume", str(whole / "checkpoints/checkpoint-2")]) == 0
    said = capsys.readouterr().err
    assert re.findall(r"step (\d+/\d+)", said) == ["3/4", "4/4"]
    assert re.findall(r"step (\d+)  validation", said) == ["4"]
    assert "after 3 steps: " in (folder / "printed/run.log").read_text()
    summary = json.loads((folder / "printed/summary.json").read_text())
    assert (summary["resumed_at"], summary["steps"]) == (2, 4)


def as_0_1_wrote_it(whole: Path, run: Path, steps: int) -> None:
    """The folder of a run that was stopped after so many steps, with batches in the place of steps."""
    (run / "checkpoints").mkdir(parents=True)
    for step in range(1, steps + 1):
        new = run / f"checkpoints/checkpoint-{step * ACCUMULATION}"
        shutil.copytree(whole / f"checkpoints/checkpoint-{step}", new)
        metadata = json.loads((new / "metadata.json").read_text())
        del metadata["run"]
        (new / "metadata.json").write_text(json.dumps(metadata))
        tiny.sign(new)
    for name in ("metrics.jsonl", "losses.jsonl"):
        kept = [line for line in lines(whole, name) if line["steps"] <= steps]
        old = [{**line, "steps": line["steps"] * ACCUMULATION} for line in kept]
        (run / name).write_text("".join(json.dumps(line) + "\n" for line in old))


def with_callback_state_of_0_1(checkpoint: Path) -> None:
    path = checkpoint / "state_dict.pth"
    state: Any = torch.load(path, weights_only=True)
    steps = state["callbacks"]["loss_logger"].pop("optimizer_steps")
    state["callbacks"]["loss_logger"]["steps"] = steps * ACCUMULATION
    torch.save(state, path)
    tiny.sign(checkpoint)


def test_a_run_of_0_1_goes_on(folder: Path, whole: Path) -> None:
    """Its checkpoints are renamed, its reports are counted anew, and the end is that of a run that never stopped."""
    run = folder / "old"
    as_0_1_wrote_it(whole, run, 3)
    with_callback_state_of_0_1(run / "checkpoints/checkpoint-12")
    assert names(run) == {"checkpoint-4", "checkpoint-8", "checkpoint-12"}
    argv = [str(experiment(folder)), "--output-dir", str(run)]
    assert train.main([*argv, "--resume", str(run / "checkpoints/checkpoint-12")]) == 0
    assert names(run) == names(whole)
    assert [path.name for path in checkpoints_of(run)] == [path.name for path in checkpoints_of(whole)]
    for name in ("metrics.jsonl", "losses.jsonl"):
        assert lines(run, name) == lines(whole, name)
    assert tiny.same(tiny.weights(run, 4), tiny.weights(whole, 4))
    assert train.main([*argv, "--resume", "latest"]) == 0  # nothing is renamed or counted twice
    assert names(run) == names(whole)
    assert lines(run, "metrics.jsonl") == lines(whole, "metrics.jsonl")
