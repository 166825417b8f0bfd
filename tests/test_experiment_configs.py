"""The shipped configurations: each is read by Determined and by us, names only what exists, and runs."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import readers_for_tests
import tiny
from determined import load

from model_hub_rqa import train

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "experiment_configs").glob("*.yaml"))
TRIALS = {path: train.load_experiment(str(path)).trial_class.rpartition(":")[2] for path in CONFIGS}
OF_QA = [path for path in CONFIGS if TRIALS[path] == "QATrial"]
OF_FID = [path for path in CONFIGS if TRIALS[path] == "FiDTrial"]
# module:Class, for det's local test mode
LEGACY = {"quickstart.yaml", "squad.yaml", "squad_v2.yaml", "fid_quickstart.yaml", "fid_own_corpus.yaml"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_names_a_trial_and_its_own_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial class can be imported, the name is the file's, and those for local test mode keep module:Class."""
    experiment = train.load_experiment(str(path))
    ours = importlib.import_module(experiment.trial_class.partition(":")[0])
    monkeypatch.setitem(sys.modules, ours.__name__, ours)  # Determined imports another copy
    assert train.import_trial(experiment.trial_class) is not None
    assert experiment.name == path.stem
    assert (experiment.raw["entrypoint"] == experiment.trial_class) == (path.name in LEGACY)
    if path.name in LEGACY:
        assert load.trial_class_from_entrypoint(experiment.trial_class).__name__ == TRIALS[path]


@pytest.mark.parametrize("path", OF_QA, ids=lambda path: path.stem)
def test_a_configuration_trains_on_tiny_data(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its settings, put on a tiny model and tiny data, train a batch; no name in it is unknown."""
    unanswerable = 3 * bool(train.load_experiment(str(path)).data.get("version_2_with_negative"))
    data = {
        "train_file": tiny.squad_file(tmp_path / "train.json", 30, unanswerable=unanswerable),
        "validation_file": tiny.squad_file(tmp_path / "dev.json", 8, unanswerable=unanswerable, seed=1),
        "cache_dir": tmp_path / "cache",
        "max_seq_length": 128,
        "doc_stride": 32,
    }
    options = [f"data.{name}={value}" for name, value in data.items()]
    options.append(f"hyperparameters.pretrained_model_name_or_path={tiny.model_folder(tmp_path / 'model')}")
    overrides = [word for option in options for word in ("--config", option)]
    assert train.main([str(path), "--output-dir", str(tmp_path / "run"), "--test", *overrides]) == 0
    assert "is not a known name" not in caplog.text
    metric = train.load_experiment(str(path)).metric
    assert metric in tiny.reports(tmp_path / "run", "validation")[-1]


@pytest.mark.parametrize("path", OF_FID, ids=lambda path: path.stem)
def test_a_fusion_configuration_trains_on_tiny_data(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same with questions that have passages, and a tiny T5."""
    ctxs = [{"title": passage.title, "text": passage.text} for passage in readers_for_tests.CORPUS]
    records = [{"id": str(i), "question": f"what {i}?", "answers": ["oil"], "ctxs": ctxs} for i in range(70)]
    (tmp_path / "data.json").write_text(json.dumps(records), encoding="utf-8")
    options = [
        *(f"data.{name}={tmp_path / 'data.json'}" for name in ("train_file", "validation_file")),
        f"data.cache_dir={tmp_path / 'cache'}",
        f"hyperparameters.pretrained_model_name_or_path={readers_for_tests.fusion_folder(tmp_path / 'model')}",
    ]
    overrides = [word for option in options for word in ("--config", option)]
    assert train.main([str(path), "--output-dir", str(tmp_path / "run"), "--test", *overrides]) == 0
    assert "is not a known name" not in caplog.text
    assert train.load_experiment(str(path)).metric in tiny.reports(tmp_path / "run", "validation")[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "fid_quickstart"])
def test_determineds_local_test_mode_runs_the_quickstart(name: str, tmp_path: Path) -> None:
    """det experiment create experiment_configs/NAME.yaml . --local --test passes, and its checkpoint is whole."""
    det = Path(sys.executable).with_name("det")
    command = [str(det), "experiment", "create", f"experiment_configs/{name}.yaml", ".", "--local", "--test"]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "The test experiment passed" in done.stdout + done.stderr
    from model_hub_rqa.checkpoints import verify_checkpoint

    (checkpoint,) = (tmp_path / "determined").iterdir()
    verify_checkpoint(checkpoint)
    code = {path.name for path in (checkpoint / "code").iterdir()}
    assert {"model_hub_rqa", "experiment_configs", "examples"} <= code
    assert not code & {".git", ".venv", "runs", "tests"}  # as .detignore says
