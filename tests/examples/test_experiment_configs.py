"""The shipped configurations: each names only what exists, launches as Determined launches it, and trains."""

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import expconf
import pytest
import tiny
import tiny_retrieval
from determined import load
from determined.common import util
from determined.launch import torch_distributed

from model_hub_rqa import train
from model_hub_rqa.config.experiment import Experiment
from model_hub_rqa.runtime import experiments

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "experiment_configs").glob("*.yaml"))
EXPERIMENTS = {path: experiments.load_experiment(str(path)) for path in CONFIGS}
SPECS = ("const", "int", "double", "log", "categorical")
# module:Class, which det's local test mode needs
LEGACY = {"quickstart", "squad", "squad_v2", "fid_quickstart", "fid_nq", "fid_own_corpus", "retriever", "reranker"}

every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def is_spec(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") in SPECS


SEARCHES = [path for path in CONFIGS if any(map(is_spec, EXPERIMENTS[path].raw["hyperparameters"].values()))]
ASHA = [path for path in CONFIGS if EXPERIMENTS[path].raw["searcher"]["name"] == "adaptive_asha"]


def overrides(experiment: Experiment, folder: Path) -> list[str]:
    """``--config`` words that put an experiment on a tiny model and tiny data, and leave all else as it is."""
    if experiment.trial_class.endswith(":FiDTrial"):
        model = tiny.seq2seq_folder(folder / "model")
        data: dict[str, Any] = {
            "train_file": tiny.passages_file(folder / "train.jsonl", 8),
            "validation_file": tiny.passages_file(folder / "dev.jsonl", 3, seed=1),
            "embedding_model": '""',  # the passages of the records
        }
    elif experiment.trial_class.endswith((":RetrieverTrial", ":RerankerTrial")):
        model = tiny_retrieval.encoder_folder(folder / "model")
        data = {
            "train_file": tiny_retrieval.write_lines(folder / "train.jsonl", map(tiny_retrieval.record, range(8))),
            "validation_file": tiny_retrieval.write_lines(folder / "dev.jsonl", [tiny_retrieval.record(9)]),
        }
        if "corpus_file" in experiment.data:
            corpus = [{"_id": "d0", "text": "the oil"}]
            data["corpus_file"] = tiny_retrieval.write_lines(folder / "corpus.jsonl", corpus)
    else:
        model = tiny.model_folder(folder / "model")
        unanswerable = 3 * bool(experiment.data.get("version_2_with_negative"))
        data = {
            "train_file": tiny.squad_file(folder / "train.json", 30, unanswerable=unanswerable),
            "validation_file": tiny.squad_file(folder / "dev.json", 8, unanswerable=unanswerable, seed=1),
            "max_seq_length": 128,
            "doc_stride": 32,
        }
    options = {f"data.{name}": value for name, value in data.items()} | {"data.cache_dir": folder / "cache"}
    hyperparameters = {
        "pretrained_model_name_or_path": model,
        "global_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 2,
        # other ways to name a model would contradict the folder
        **dict.fromkeys(("config_name", "tokenizer_name", "model_name", "config_overrides"), "null"),
        "encoder_decoder_from": "null",
    }
    given = experiment.hyperparameters
    kept = {name: value for name, value in hyperparameters.items() if value != "null" or name in given}
    if "gradient_accumulation_steps" in given:
        kept["gradient_accumulation_steps"] = 2
    options |= {f"hyperparameters.{name}": value for name, value in kept.items()}
    options["searcher.max_length"] = 2 * int(kept.get("gradient_accumulation_steps", 1))  # batches
    return [word for name, value in options.items() for word in ("--config", f"{name}={value}")]


@every_config
def test_a_configuration_is_launched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is the file's, the class can be imported, and Determined's own launcher takes the entrypoint apart."""
    experiment = EXPERIMENTS[path]
    module = importlib.import_module(experiment.trial_class.partition(":")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)  # Determined imports another copy
    trial = experiments.import_trial(experiment.trial_class)
    assert experiment.name == path.stem
    entrypoint = experiment.raw["entrypoint"]
    if entrypoint == experiment.trial_class:
        assert load.trial_class_from_entrypoint(entrypoint).__name__ == trial.__name__
        assert "max_length" in experiment.raw["searcher"]  # without a script, only this says when to stop
    else:
        assert path.stem not in LEGACY
        *launcher, option = shlex.split(entrypoint)[:4]
        assert (launcher, option) == (["python3", "-m", "determined.launch.torch_distributed"], "--")
        _, script = torch_distributed.parse_args(shlex.split(entrypoint)[3:])
        assert script == ["python3", "-m", "model_hub_rqa.train", "--trial", experiment.trial_class]


@every_config
def test_a_batch_is_shared_evenly_among_the_slots(path: Path) -> None:
    """global_batch_size is a multiple of slots_per_trial, or Determined would train on a smaller batch than it says."""
    experiment = EXPERIMENTS[path]
    size = experiment.hyperparameters["global_batch_size"]
    assert size % experiment.raw["resources"]["slots_per_trial"] == 0


@every_config
def test_a_configuration_trains_two_steps(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its settings, search specifications as written, train and validate a tiny model; no name in it is unknown."""
    experiment = EXPERIMENTS[path]
    arguments = [str(path), "--output-dir", str(tmp_path / "run"), *overrides(experiment, tmp_path)]
    assert train.main(arguments) == 0
    assert "is not a known name" not in caplog.text
    validation = tiny.reports(tmp_path / "run", "validation")[-1]
    assert experiment.metric in validation
    assert validation["steps"] == 2
    with (tmp_path / "run/config.yaml").open(encoding="utf-8") as file:
        resolved = util.safe_load_yaml_with_exceptions(file)["hyperparameters"]
    for name, value in experiment.hyperparameters.items():
        assert not is_spec(resolved[name])
        assert resolved[name] == value or f"hyperparameters.{name}=" in "".join(arguments)


def ends(value: Any) -> tuple[Any, Any]:
    """The first and the last value that a search can draw for a hyperparameter."""
    if not is_spec(value):
        return value, value
    if value["type"] in ("const", "categorical"):
        values = value["vals"] if "vals" in value else [value["val"]]
        return values[0], values[-1]
    low, high = value["minval"], value["maxval"]
    return (value["base"] ** low, value["base"] ** high) if value["type"] == "log" else (low, high)


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
@pytest.mark.parametrize("end", [0, 1], ids=["first", "last"])
def test_a_trial_takes_both_ends_of_a_search(path: Path, end: int, tmp_path: Path) -> None:
    """The trial accepts what a cluster hands it: every hyperparameter at an end of its range."""
    words = overrides(EXPERIMENTS[path], tmp_path)[1::2]
    experiment = experiments.load_experiment(str(path), words)
    drawn = {name: ends(value)[end] for name, value in experiment.raw["hyperparameters"].items()}
    trial: Any = object.__new__(experiments.import_trial(experiment.trial_class))
    trial.parse(Experiment.load(experiment.raw, drawn))  # raises where it does not
    settings = {**vars(trial.optimizer_kwargs), **vars(trial.lr_scheduler_kwargs), **vars(trial.trainer)}
    searched = {name for name, value in EXPERIMENTS[path].raw["hyperparameters"].items() if is_spec(value)}
    assert {name: settings[name] for name in searched} == {name: drawn[name] for name in searched}


@pytest.mark.parametrize("path", ASHA, ids=lambda path: path.stem)
def test_an_early_stopping_search_decides_at_every_rung(path: Path) -> None:
    """A validation falls on each rung and the last one on the end of training, counted in the searcher's own unit."""
    hyperparameters, searcher = EXPERIMENTS[path].hyperparameters, EXPERIMENTS[path].raw["searcher"]
    accumulation = hyperparameters.get("gradient_accumulation_steps", 1)
    assert searcher["time_metric"] == "batches"  # Determined reports these, and fit() is called with them
    assert searcher["max_time"] == hyperparameters["max_steps"] * accumulation
    rungs = expconf.rungs(searcher)
    assert len(rungs) > 1
    assert [rung % (hyperparameters["eval_steps"] * accumulation) for rung in rungs] == [0] * len(rungs)
    assert isinstance(hyperparameters["global_batch_size"], int)  # or equal batches would not be equal work


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "fid_quickstart"])
def test_determineds_local_test_mode_runs_the_quickstarts(name: str, tmp_path: Path) -> None:
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
