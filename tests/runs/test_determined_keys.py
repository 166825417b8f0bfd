"""A local run follows Determined's own keys of a configuration, as a cluster does."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from model_hub_rqa import train


def run(config: Path, output: Path, *options: str) -> int:
    return train.main([str(config), "--output-dir", str(output), *options])


def overrides(**changes: Any) -> list[str]:
    return [word for name, value in changes.items() for word in ("--config", f"hyperparameters.{name}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration: 2 epochs of 5 steps."""
    made = tmp_path_factory.mktemp("keys")
    tiny.experiment(made)
    return made


def test_a_local_run_takes_the_seed_of_the_experiment(folder: Path, tmp_path: Path) -> None:
    """`reproducibility.experiment_seed` is the seed where `hyperparameters.seed` is not given; 42 without both."""
    short = ("--config", "hyperparameters.max_steps=2", "--config", "hyperparameters.num_train_epochs=null")
    of_experiment = ("--config", "reproducibility.experiment_seed=7")
    runs = {
        "neither": (),
        "experiment": of_experiment,
        "hyperparameter": tuple(overrides(seed=7)),
        "both": (*of_experiment, *overrides(seed=42)),
    }
    for name, options in runs.items():
        assert run(folder / "experiment.yaml", tmp_path / name, *short, *options) == 0
    weights = {name: tiny.weights(tmp_path / name, 2) for name in runs}
    assert tiny.equal(weights["experiment"], weights["hyperparameter"])
    assert tiny.equal(weights["both"], weights["neither"])
    assert not tiny.equal(weights["experiment"], weights["neither"])


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5", "true", "seven"])
def test_a_seed_of_the_experiment_that_is_none_is_refused(
    seed: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is loaded."""
    options = ("--config", f"reproducibility.experiment_seed={seed}")
    assert run(folder / "experiment.yaml", tmp_path / "run", *options) == 2
    assert "reproducibility.experiment_seed: must be a whole number from 0 to 2**32 - 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "hparams", "validations", "checkpoints"),
    [
        ({"min_validation_period": {"batches": 3}}, {}, [3, 6, 9, 10], [5, 10]),
        ({"min_checkpoint_period": {"records": 32}}, {}, [5, 10], [4, 8, 10]),
        ({"min_validation_period": {"epochs": 2}, "min_checkpoint_period": {"batches": 0}}, {}, [10], [5, 10]),
        ({"perform_initial_validation": True}, {}, [0, 5, 10], [5, 10]),
        # 5 batches an epoch make 2 steps of 2, and one batch is left for the next epoch's
        ({"optimizations": {"aggregation_frequency": 2}, "min_validation_period": {"batches": 5}}, {}, [2, 4, 5], None),
        ({"min_validation_period": {"batches": 3}}, {"eval_steps": 4}, [4, 8, 10], [5, 10]),
        ({"min_validation_period": {"batches": 3}}, {"eval_strategy": "epoch"}, [5, 10], [5, 10]),
    ],
)
def test_a_local_run_follows_the_keys_of_the_cluster(
    keys: dict[str, Any],
    hparams: dict[str, Any],
    validations: list[int],
    checkpoints: list[int] | None,
    folder: Path,
    tmp_path: Path,
) -> None:
    """The same configuration validates, saves and steps alike here and there; hyperparameters go before those keys."""
    config = json.loads((folder / "experiment.yaml").read_text())
    config["hyperparameters"].pop("num_train_epochs")
    if "optimizations" not in keys:
        config["hyperparameters"]["num_train_epochs"] = 2
    else:
        config["hyperparameters"]["max_steps"] = 5
    config["hyperparameters"] |= hparams
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps({"checkpoint_policy": "all", **config, **keys}))
    assert run(path, tmp_path / "run") == 0
    assert [report["steps"] for report in tiny.reports(tmp_path / "run", "validation")] == validations
    found = sorted(int(one.name.rpartition("-")[2]) for one in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints is None or set(checkpoints) <= set(found) <= {*checkpoints, *validations} - {0}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"min_validation_period": {"steps": 3}}, "min_validation_period: must be a number of batches, or one of"),
        ({"min_checkpoint_period": {"batches": -1}}, "min_checkpoint_period: must be a number of batches, or one of"),
        (
            {"optimizations": {"aggregation_frequency": 0}},
            "optimizations.aggregation_frequency: must be a whole number",
        ),
    ],
)
def test_keys_of_the_cluster_that_say_nothing_sensible_are_refused(
    keys: dict[str, Any], expected: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is loaded."""
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps({**json.loads((folder / "experiment.yaml").read_text()), **keys}))
    assert run(path, tmp_path / "run") == 2
    assert expected in capsys.readouterr().err
