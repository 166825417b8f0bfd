"""examples/beam_search: its configuration names only what exists, trains, and runs in Determined's local test mode."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from transformers import AutoTokenizer

from model_hub_rqa import train
from model_hub_rqa.checkpoints import verify_checkpoint
from model_hub_rqa.cli import main
from model_hub_rqa.runtime import experiments

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/beam_search"
CONFIG = EXAMPLE / "beam_search.yaml"


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the paths of the configuration begin."""
    monkeypatch.chdir(ROOT)


def test_the_example_is_a_configuration_and_a_page() -> None:
    """It needs no code, and the model has a row for every token."""
    assert {path.name for path in EXAMPLE.iterdir() if path.is_file()} == {"beam_search.yaml", "README.rst"}
    experiment = experiments.load_experiment(str(CONFIG))
    assert experiment.name == "beam_search"
    assert experiments.import_trial(experiment.trial_class).__name__ == "QABeamSearchTrial"
    parameters = experiment.hyperparameters
    tokenizer = AutoTokenizer.from_pretrained(parameters["tokenizer_name"])
    assert len(tokenizer) == parameters["config_overrides"]["vocab_size"]
    assert tokenizer.pad_token_id == parameters["config_overrides"]["pad_token_id"]


def test_it_trains_a_few_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """As written but for its length, and what it leaves answers a question."""
    changes = {
        "hyperparameters.max_steps": 6,
        "searcher.max_length": 6,
        "hyperparameters.logging_steps": 1,
        "data.max_train_samples": 200,
        "data.max_eval_samples": 20,
        "data.cache_dir": tmp_path / "cache",
    }
    words = [word for name, value in changes.items() for word in ("--config", f"{name}={value}")]
    assert train.main([str(CONFIG), "--output-dir", str(tmp_path / "run"), *words]) == 0
    assert "is not a known name" not in caplog.text
    losses = [report["loss"] for report in tiny.reports(tmp_path / "run", "training")]
    assert losses[-1] < losses[0]
    (last,) = tiny.reports(tmp_path / "run", "validation")
    assert {"f1", "HasAns_f1", "NoAns_f1"} <= last.keys()
    assert last["total"] == 20
    capsys.readouterr()
    question = ["--question", "Who founded it?", "--context", "Bert founded it in 1973."]
    assert main(["predict", "--checkpoint", str(tmp_path / "run"), *question]) == 0
    assert {"answer", "score"} <= json.loads(capsys.readouterr().out).keys()


@pytest.mark.slow
def test_determineds_local_test_mode_runs_it(tmp_path: Path) -> None:
    """det experiment create examples/beam_search/beam_search.yaml . --local --test passes."""
    det = Path(sys.executable).with_name("det")
    command = [str(det), "experiment", "create", str(CONFIG.relative_to(ROOT)), ".", "--local", "--test"]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "The test experiment passed" in done.stdout + done.stderr
    (checkpoint,) = (tmp_path / "determined").iterdir()
    verify_checkpoint(checkpoint)
