"""summary.json: what a run was, what came of it, and where to look."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

import model_hub_rqa
from model_hub_rqa import train
from model_hub_rqa.trials.task_trial import TaskTrial


def test_a_finished_run_is_summed_up(tmp_path: Path) -> None:
    """Settings with their defaults, the best and the last metrics, and files that are there; no token."""
    config = json.loads(tiny.experiment(tmp_path, eval_steps=2, learning_rate=1e-2, token="hf_secret").read_text())
    config["data"]["callbacks"] = ["loss_logger"]
    path, run = tmp_path / "experiment.yaml", tmp_path / "run"
    path.write_text(json.dumps(config))
    assert train.main([str(path), "--output-dir", str(run)]) == 0
    text = (run / "summary.json").read_text()
    assert "hf_secret" not in text
    found = json.loads(text)
    assert (found["name"], found["trial"]) == ("tiny", "model_hub_rqa.trials.qa:QATrial")
    assert (found["status"], found["stop_reason"], found["steps"], found["max_steps"]) == ("finished", None, 10, 10)
    assert found["examples"] == {"train": 40, "validation": 11}
    reports = tiny.reports(run, "validation")
    best = max(reports, key=lambda report: report["f1"])
    assert found["best"] == {name: value for name, value in best.items() if name != "kind"}
    assert found["last"]["steps"] == 10
    assert found["last"]["f1"] == reports[-1]["f1"]
    assert found["training"]["loss"] == tiny.reports(run, "training")[-1]["loss"]
    assert found["metric"] == {"name": "f1", "smaller_is_better": False}
    arguments = found["arguments"]
    assert arguments["optimizer"]["learning_rate"] == 1e-2
    assert arguments["optimizer"]["adam_beta2"] == 0.999  # a default
    assert arguments["task"]["max_seq_length"] == 64
    assert arguments["callbacks"] == ["loss_logger"]
    assert {"config.yaml", "metrics.jsonl", "run.log", "predictions.json", "losses.jsonl"} <= set(found["files"])
    assert all((run / name).is_file() for name in found["files"])
    assert found["checkpoints"] == [path.name for path in sorted((run / "checkpoints").iterdir(), key=_steps)]
    assert found["versions"]["model_hub_rqa"] == model_hub_rqa.__version__
    assert 0 < found["seconds"] < 600


def _steps(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def test_a_stopped_run_is_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none is there while it goes on; the resumed run says where it began."""
    config, run = tiny.experiment(tmp_path), tmp_path / "run"
    plain = TaskTrial.train_batch
    there = []

    def train_batch(self: Any, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
        there.append((run / "summary.json").exists())
        if batch_idx == 3:
            self.context.set_stop_requested(True)
        return plain(self, batch, epoch_idx, batch_idx)

    monkeypatch.setattr(TaskTrial, "train_batch", train_batch)
    assert train.main([str(config), "--output-dir", str(run)]) == 0
    found = json.loads((run / "summary.json").read_text())
    assert (found["status"], found["steps"], found["max_steps"], found["last"]) == ("stopped", 4, 10, None)
    assert train.main([str(config), "--output-dir", str(run), "--resume", "latest"]) == 0
    found = json.loads((run / "summary.json").read_text())
    assert (found["status"], found["steps"], found["resumed_at"]) == ("finished", 10, 4)
    assert there == [False] * 10
    assert list(run.glob(".summary*")) == []
