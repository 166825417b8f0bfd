"""examples/own_model: it learns, in every place where a trial runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from cluster_runs import Trial, run_here
from determined.common import util
from stand_in_master import StandInMaster

from model_hub_rqa import cli

ROOT = Path(__file__).parents[2]
YAML = "examples/own_model/own_model.yaml"
CLASS = "examples.own_model.trial:OwnModelTrial"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs it from the root, with caches of its own."""
    monkeypatch.chdir(ROOT)
    cache = ["--data_cache_dir", str(tmp_path / "cache"), "--max_train_samples", "1500"]
    return lambda name, *words: cli.main(["train", YAML, "--output-dir", str(tmp_path / name), *cache, *words])


def test_it_learns_and_goes_on(train: Any, tmp_path: Path) -> None:
    """60 steps tell most questions right; another run starts from its weights, or only validates them."""
    assert train("run", "--max_steps", "60") == 0
    (told,) = tiny.reports(tmp_path / "run", "validation")[-1:]
    assert told["accuracy"] > 0.5  # the largest subject is a ninth
    assert train("check", "--init_checkpoint", str(tmp_path / "run"), "--max_steps", "0") == 0
    (again,) = tiny.reports(tmp_path / "check", "validation")
    assert again["accuracy"] == told["accuracy"]


def test_too_few_classes_are_refused(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the model is built."""
    assert train("run", "--config", "hyperparameters.model.num_labels=3") == 2
    assert "hyperparameters.model.num_labels: must be at least 15, the subjects" in capsys.readouterr().err


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
def test_a_cluster_trains_it(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By either entrypoint, with the references as they are written."""
    monkeypatch.chdir(ROOT)
    with (ROOT / YAML).open(encoding="utf-8") as file:
        config = util.safe_load_yaml_with_exceptions(file)
    config["data"] |= {"cache_dir": str(tmp_path / "cache"), "max_train_samples": 300}
    config["hyperparameters"]["max_steps"] = 3
    config["searcher"]["max_length"] = {"batches": 3}
    with StandInMaster() as master:
        run_here(Trial(tmp_path, config, trial_class=CLASS, legacy=legacy), master)
        assert master.of("validation")[-1].steps == 3


@pytest.mark.slow
def test_determineds_local_test_mode_runs_it(tmp_path: Path) -> None:
    """det experiment create examples/own_model/own_model.yaml . --local --test passes."""
    det = Path(sys.executable).with_name("det")
    command = [str(det), "experiment", "create", YAML, ".", "--local", "--test"]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "The test experiment passed" in done.stdout + done.stderr
