"""Settings under the names of transformers' TrainingArguments: what each does, as a flag and in a configuration."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
from cluster_runs import Trial, run_here
from stand_in_master import StandInMaster

from model_hub_rqa import train
from model_hub_rqa.cli import main
from model_hub_rqa.commands import train_arguments as command_line
from model_hub_rqa.config import TrainerKwargs, parse_dict_to_dataclasses
from model_hub_rqa.config.trainer_names import with_global_batch_size, with_searcher_metric
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.runtime import experiments

EPOCH = 5  # steps of it: 40 examples in batches of 8


def changed(path: Path, **sections: Any) -> str:
    """The configuration with values put into its sections, or in the place of other keys."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, value in sections.items():
        config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


def trained(config: Path, run: Path, *flags: str) -> tuple[list[int], list[str]]:
    """The steps after which a run validated, and its checkpoints."""
    assert train.main([str(config), "--output_dir", str(run), *flags]) == 0
    steps = [report["steps"] for report in tiny.reports(run, "validation")]
    return steps, sorted(path.name for path in (run / "checkpoints").glob("checkpoint-*"))


# ---- the batch ----


@pytest.mark.parametrize(
    ("hparams", "slots", "size"),
    [
        ({"per_device_train_batch_size": 4}, 1, 4),
        ({"per_device_train_batch_size": 4}, 8, 32),
        ({"per_device_train_batch_size": 4.0}, 2, 8),  # a cluster's JSON
        ({"per_device_train_batch_size": 4, "global_batch_size": 8}, 2, 8),
        ({"global_batch_size": 8}, 2, 8),
        ({}, 2, None),
    ],
)
def test_the_batch_is_that_of_a_slot_times_the_slots(hparams: Any, slots: int, size: int | None) -> None:
    """Nothing else is changed, and the mapping given stays as it is."""
    before = json.dumps(hparams)
    assert with_global_batch_size(hparams, slots).get("global_batch_size") == size
    assert json.dumps(hparams) == before


@pytest.mark.parametrize(
    ("hparams", "error"),
    [
        (
            {"per_device_train_batch_size": 4, "global_batch_size": 8},
            "must be global_batch_size (8) over 1 slots, got 4",
        ),
        ({"per_device_train_batch_size": 0}, "must be a whole number >= 1, got 0"),
        ({"per_device_train_batch_size": True}, "must be a whole number >= 1, got true"),
    ],
)
def test_batches_that_disagree(hparams: Any, error: str) -> None:
    """Both given, with the slots that there are; or no number."""
    with pytest.raises(ConfigError, match=re.escape(f"hyperparameters.per_device_train_batch_size: {error}")):
        with_global_batch_size(hparams, 1)


def test_a_slots_batch_in_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag takes the place of the file's batch; in the file both disagree; validate counts the file's slots."""
    config = tiny.experiment(tmp_path, num_train_epochs=1)
    run = tmp_path / "run"
    assert trained(config, run, "--per_device_train_batch_size", "10") == ([4], ["checkpoint-4"])
    written = experiments.read_config(str(run / "config.yaml"))
    assert written["hyperparameters"]["global_batch_size"] == 10
    changed(config, hyperparameters={"per_device_train_batch_size": 4}, resources={"slots_per_trial": 2})
    assert main(["validate", str(config)]) == 0
    assert main(["train", str(config), "--output-dir", str(tmp_path / "other")]) == 2
    assert "must be global_batch_size (8) over 1 slots, got 4" in capsys.readouterr().err
    changed(config, hyperparameters={"per_device_train_batch_size": 3})
    assert main(["validate", str(config)]) == 2
    assert "must be global_batch_size (8) over 2 slots, got 3" in capsys.readouterr().err


def test_flags_alone_have_no_default_beside_a_slots_batch() -> None:
    """8 a slot stands where no flag says otherwise."""
    trial = "model_hub_rqa:QATrial"
    given = {"hyperparameters": {"per_device_train_batch_size": 3}}
    config = command_line.config_of_flags(trial, given, [])
    assert config["hyperparameters"] == {"per_device_train_batch_size": 3, "global_batch_size": 3}
    assert command_line.config_of_flags(trial, {}, [])["hyperparameters"] == {"global_batch_size": 8}


def test_a_cluster_reads_the_same(tmp_path: Path) -> None:
    """A script's task: the batch of its slots, one validation, one checkpoint beside the default policy."""
    names = {"per_device_train_batch_size": 10, "eval_strategy": False, "save_strategy": "no", "eval_steps": None}
    config = experiments.read_config(str(tiny.experiment(tmp_path, **names)))
    del config["hyperparameters"]["global_batch_size"]
    with StandInMaster() as master:
        assert run_here(Trial(tmp_path, {**config, "checkpoint_policy": "best"}), master) == 0
        assert [report.steps for report in master.of("validation")] == [8]  # two epochs of 40 examples
        assert len(master.checkpoints) == 1


# ---- validations and checkpoints ----


@pytest.mark.parametrize(
    ("hparams", "error"),
    [
        ({"eval_strategy": "steps"}, "eval_strategy: needs eval_steps beside it"),
        ({"save_strategy": "steps"}, "save_strategy: needs save_steps beside it"),
        ({"eval_strategy": "epoch", "eval_steps": 3}, "eval_strategy: must be steps beside eval_steps, got 'epoch'"),
        ({"save_strategy": False, "save_steps": 3}, "save_strategy: must be steps beside save_steps, got 'no'"),
        ({"eval_strategy": "best"}, "eval_strategy: must be one of epoch, steps, no, got 'best'"),
        ({"evaluation_strategy": True}, "evaluation_strategy: must be text that is not empty, got true"),
    ],
)
def test_strategies_that_cannot_be(hparams: Any, error: str) -> None:
    """With the name that was written."""
    with pytest.raises(ConfigError, match=f"^hyperparameters.{re.escape(error)}$"):
        parse_dict_to_dataclasses((TrainerKwargs,), {"global_batch_size": 8, **hparams})


def test_an_unquoted_no_is_no() -> None:
    """YAML 1.1 reads it as false."""
    hparams = {"global_batch_size": 8, "eval_strategy": False, "save_strategy": "no"}
    [settings] = parse_dict_to_dataclasses((TrainerKwargs,), hparams)
    assert (settings.eval_strategy, settings.save_strategy) == ("no", "no")
    assert TrainerKwargs(**hparams) == settings


def test_strategies_in_a_run(tmp_path: Path) -> None:
    """steps, epoch and no, in the file and as flags over it; the folder is the file's output_dir."""
    steps = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "epoch", "output_dir": str(tmp_path / "own")}
    config = tiny.experiment(tmp_path, **steps)
    changed(config, checkpoint_policy="none")
    assert train.main([str(config)]) == 0
    reports = tiny.reports(tmp_path / "own", "validation")
    assert [report["steps"] for report in reports] == [4, 8, 2 * EPOCH]
    assert sorted(path.name for path in (tmp_path / "own/checkpoints").iterdir()) == ["checkpoint-10", "checkpoint-5"]
    flags = ["--eval_strategy", "epoch", "--save_strategy", "no"]
    found = trained(config, tmp_path / "epoch", *flags)
    assert found == ([EPOCH, 2 * EPOCH], ["checkpoint-10"])
    changed(config, checkpoint_policy="best")  # which would keep the best validation's as well
    found = trained(config, tmp_path / "no", "--eval_strategy", "no", "--save_strategy", "no")
    assert found == ([2 * EPOCH], ["checkpoint-10"])


def test_strategies_are_said_where_a_cluster_looks() -> None:
    """The periods of a module:Class entrypoint; those of other keys stay."""
    searcher, periods = {"name": "single", "metric": "f1"}, {"min_validation_period": {"batches": 9}}
    base = {"entrypoint": "model_hub_rqa:QATrial", "searcher": searcher, **periods}
    found = [
        command_line.with_lengths({**base, "hyperparameters": {"eval_strategy": strategy, **more}})
        for strategy, more in (("no", {}), ("epoch", {}), ("steps", {"eval_steps": 3}))
    ]
    assert [config.get("min_validation_period") for config in found] == [None, {"epochs": 1}, {"batches": 3}]
    never = command_line.with_lengths({**base, "hyperparameters": {"save_strategy": "no"}})
    assert (never["min_validation_period"], never["checkpoint_policy"]) == ({"batches": 9}, "none")


# ---- the best checkpoint ----


@pytest.mark.parametrize(
    ("hparams", "searcher", "expected"),
    [
        ({"metric_for_best_model": "f1"}, {}, {"metric": "f1", "smaller_is_better": False}),
        ({"metric_for_best_model": "eval_loss"}, {}, {"metric": "eval_loss", "smaller_is_better": True}),
        (
            {"metric_for_best_model": "f1", "greater_is_better": False},
            {},
            {"metric": "f1", "smaller_is_better": True},
        ),
        ({"greater_is_better": True}, {"metric": "f1"}, {"metric": "f1", "smaller_is_better": False}),
        ({"metric_for_best_model": "f1"}, {"metric": "f1"}, {"metric": "f1"}),  # the searcher's default stays
        ({}, {"metric": "f1"}, {"metric": "f1"}),
    ],
)
def test_the_metric_is_the_searchers(hparams: Any, searcher: Any, expected: Any) -> None:
    """Where it says none; greater is better unless the name ends in loss, as in transformers."""
    found = with_searcher_metric({"hyperparameters": hparams, "searcher": {"name": "single", **searcher}})
    assert found["searcher"] == {"name": "single", **expected}


@pytest.mark.parametrize(
    ("hparams", "policy", "error"),
    [
        (
            {"metric_for_best_model": "exact_match"},
            "best",
            "metric_for_best_model: must be searcher.metric ('f1'), got",
        ),
        (
            {"greater_is_better": False},
            "best",
            "greater_is_better: must be true, since searcher.smaller_is_better is f",
        ),
        (
            {"load_best_model_at_end": True},
            "none",
            "load_best_model_at_end: must be false beside checkpoint_policy: no",
        ),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "best", "must be false beside save_strategy: no"),
        ({"load_best_model_at_end": True, "eval_strategy": "no"}, "best", "must be false beside eval_strategy: no"),
        ({"save_strategy": "no"}, "all", "save_strategy: must not be no beside checkpoint_policy: all"),
        ({"load_best_model_at_end": True, "metric_for_best_model": "f1", "greater_is_better": True}, "all", ""),
    ],
)
def test_what_cannot_choose_the_best(
    hparams: Any, policy: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its reason, before a model is loaded."""
    config = changed(tiny.experiment(tmp_path, **hparams), checkpoint_policy=policy)
    assert main(["validate", config]) == (2 if error else 0)
    assert error in capsys.readouterr().err


def test_flags_choose_the_metric(tmp_path: Path) -> None:
    """Of a run without a file: in place of the trial's own."""
    given = {"hyperparameters": {"metric_for_best_model": "exact_match", "learning_rate": 1e-4}}
    config = with_searcher_metric(command_line.config_of_flags("model_hub_rqa:QATrial", given, []))
    assert config["searcher"]["metric"] == "exact_match"
    assert config["searcher"]["smaller_is_better"] is False
    given = {"hyperparameters": {"metric_for_best_model": "f1"}}
    config = command_line.config_of_flags("model_hub_rqa:QATrial", given, ["searcher.metric=exact_match"])
    assert config["searcher"]["metric"] == "exact_match"  # and the trial refuses the two
