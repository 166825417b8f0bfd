"""How long a run is, where hyperparameters, the searcher's max_length, or both say it; and its learning rate's end."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from cluster_runs import Trial, run_here
from hypothesis import given
from hypothesis import strategies as st
from stand_in_master import StandInMaster

from model_hub_rqa import train
from model_hub_rqa.cli import main
from model_hub_rqa.commands.train_arguments import with_lengths
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.runtime import experiments
from model_hub_rqa.runtime.run_length import MaxLength, read_max_length, steps_in

ROOT = Path(__file__).parents[3]
LENGTHS: list[tuple[Any, int]] = [  # 30 questions in batches of 4: 8 batches an epoch
    ({"epochs": 2}, 16),
    ({"batches": 5}, 5),
    (5, 5),
    ({"records": 30}, 7),
    ({"records": 3}, 1),
]


@pytest.fixture
def master() -> Iterator[StandInMaster]:
    with StandInMaster() as master:
        yield master


def squad(folder: Path, max_length: Any, **changes: Any) -> dict[str, Any]:
    """experiment_configs/squad.yaml on a tiny model and tiny data; a change of None takes a hyperparameter out."""
    config = dict(experiments.read_config(str(ROOT / "experiment_configs/squad.yaml")))
    config["data"] = {
        "train_file": str(tiny.squad_file(folder / "train.json", 30)),
        "validation_file": str(tiny.squad_file(folder / "dev.json", 3, seed=1)),
        "max_seq_length": 128,
        "doc_stride": 32,
        "cache_dir": str(folder / "cache"),
    }
    model = {"pretrained_model_name_or_path": str(tiny.model_folder(folder / "model"))}
    hparams = {**config["hyperparameters"], **model, "global_batch_size": 4, "logging_steps": 1, **changes}
    config["hyperparameters"] = {name: value for name, value in hparams.items() if value is not None}
    config["searcher"]["max_length"] = max_length
    return config


def rate_at_the_end(checkpoint: Path) -> float:
    """The learning rate of the step that would come next."""
    state: Any = torch.load(checkpoint / "state_dict.pth", weights_only=True)
    (rate,) = set(state["lr_schedulers_state_dict"][0]["_last_lr"])  # of both groups of parameters
    return float(rate)


@pytest.mark.parametrize(("max_length", "batches"), LENGTHS, ids=str)
def test_the_learning_rate_ends_with_max_length_on_a_cluster(
    max_length: Any, batches: int, tmp_path: Path, master: StandInMaster
) -> None:
    """squad.yaml under module:Class: a linear fall from 3e-5, 0 at exactly the batch at which Determined stops."""
    trial = Trial(tmp_path, squad(tmp_path, max_length, num_train_epochs=None), legacy=True)
    assert run_here(trial, master) == 0
    rates = [report.metrics["learning_rate"] for report in master.of("training")]
    assert rates == pytest.approx([3e-5 * (1 - step / batches) for step in range(batches)])
    assert rate_at_the_end(trial.checkpoint(master, batches)) == 0.0


@pytest.mark.parametrize(("max_length", "batches"), LENGTHS[2:4], ids=str)
def test_a_local_run_is_as_long_as_on_a_cluster(max_length: Any, batches: int, tmp_path: Path) -> None:
    path, run = tmp_path / "squad.yaml", tmp_path / "run"
    path.write_text(json.dumps(squad(tmp_path, max_length, num_train_epochs=None)))
    assert train.main([str(path), "--output-dir", str(run)]) == 0
    rates = [report["learning_rate"] for report in tiny.reports(run, "training")]
    assert rates == pytest.approx([3e-5 * (1 - step / batches) for step in range(batches)])
    assert rate_at_the_end(run / f"checkpoints/checkpoint-{batches}") == 0.0


def test_accumulated_batches_of_max_length_make_whole_steps(tmp_path: Path, master: StandInMaster) -> None:
    """11 batches with accumulation 4 are two steps, after which the rate is 0: the other batches move nothing."""
    config = squad(tmp_path, {"batches": 11}, num_train_epochs=None, gradient_accumulation_steps=4)
    trial = Trial(tmp_path, config, legacy=True)
    assert run_here(trial, master) == 0
    rates = [report.metrics["learning_rate"] for report in master.of("training")]
    assert rates == pytest.approx([3e-5] * 4 + [1.5e-5] * 4 + [0] * 3)


AGREEING: dict[str, tuple[Any, dict[str, Any]]] = {
    "epochs": ({"epochs": 2}, {"num_train_epochs": 2}),
    "epochs as batches": ({"batches": 16}, {"num_train_epochs": 2}),
    "half an epoch as batches": ({"batches": 4}, {"num_train_epochs": 0.5}),
    "steps": ({"epochs": 1}, {"max_steps": 8, "num_train_epochs": 7}),  # max_steps goes first, as in transformers
    "steps of batches": ({"batches": 8}, {"max_steps": 2, "gradient_accumulation_steps": 4}),
    "records": ({"records": 20}, {"max_steps": 5}),
}
DISAGREEING: dict[str, tuple[Any, dict[str, Any], str]] = {
    "epochs": (
        {"epochs": 2},
        {"num_train_epochs": 3},
        r"hyperparameters.num_train_epochs: must be as long as searcher.max_length \(2 epochs: 16 optimizer steps\), "
        r"got 3.0: 24 steps",
    ),
    "the default of epochs, given": ({"batches": 16}, {"num_train_epochs": 3.0}, "num_train_epochs: .*got 3.0: 24"),
    "steps": ({"epochs": 1}, {"max_steps": 7}, r"max_steps: .*\(1 epochs: 8 optimizer steps\), got 7: 7 steps"),
    "batches that are not steps": (
        {"batches": 8},
        {"max_steps": 8, "gradient_accumulation_steps": 4},
        r"max_steps: .*\(8 batches: 2 optimizer steps\), got 8: 8 steps",
    ),
    "less than a step": (
        {"records": 15},
        {"gradient_accumulation_steps": 4, "num_train_epochs": None},
        r"searcher.max_length: must be at least one optimizer step, 4 batches .*, got 15 records, which is 3",
    ),
}


@pytest.mark.parametrize("kind", DISAGREEING)
def test_two_lengths_that_disagree(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In rqa validate, and where a run is asked for, locally and on a cluster under both entrypoints: none begins."""
    max_length, changes, wanted = DISAGREEING[kind]
    config = squad(tmp_path, max_length, **{"num_train_epochs": None, **changes})
    path = tmp_path / "squad.yaml"
    path.write_text(json.dumps(config))
    assert main(["validate", str(path)]) == 2
    assert re.search(wanted, capsys.readouterr().err)
    if kind != "steps":
        return
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 2
    assert re.search(wanted, capsys.readouterr().err)
    for legacy in (False, True):
        with StandInMaster() as master:
            trial = Trial(tmp_path, config, legacy=legacy)
            if legacy:
                with pytest.raises(ConfigError, match=wanted):
                    run_here(trial, master)
            else:
                assert run_here(trial, master) == 2
            assert master.reports == []


@pytest.mark.parametrize("kind", AGREEING)
def test_two_lengths_that_agree(kind: str, tmp_path: Path) -> None:
    max_length, changes = AGREEING[kind]
    path = tmp_path / "squad.yaml"
    path.write_text(json.dumps(squad(tmp_path, max_length, **{"num_train_epochs": None, **changes})))
    trial = experiments.validate(experiments.load_experiment(str(path)))
    wanted = MaxLength(*reversed(next(iter(max_length.items())))).batches(batches_per_epoch=8, global_batch_size=4)
    assert trial.num_training_batches() == wanted


def test_the_default_of_epochs_is_taken_where_nothing_is_given(tmp_path: Path) -> None:
    path = tmp_path / "squad.yaml"
    path.write_text(json.dumps(squad(tmp_path, None, num_train_epochs=None)))
    trial = experiments.validate(experiments.load_experiment(str(path)))
    assert trial.num_training_batches() == 24


def test_a_reference_may_lead_to_the_length(tmp_path: Path) -> None:
    config = squad(tmp_path, {"batches": "${data.batches}"}, num_train_epochs=None)
    config["data"]["batches"] = 3
    path = tmp_path / "squad.yaml"
    path.write_text(json.dumps(config))
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    assert len(tiny.reports(tmp_path / "run", "training")) == 3


def test_num_training_steps_is_the_schedules_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run is as long as before, and a schedule of another length is said."""
    path = tiny.experiment(tmp_path, max_steps=2, num_training_steps=4)
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    rates = [report["learning_rate"] for report in tiny.reports(tmp_path / "run", "training")]
    assert rates == pytest.approx([1e-3, 0.75e-3])
    assert "num_training_steps: the learning rate's schedule takes 4 steps, the run 2" in caplog.text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"steps": 5}, "{'steps': 5}"),
        ({"epochs": 1, "batches": 2}, "{'epochs': 1, 'batches': 2}"),
        ({"epochs": 1.5}, "{'epochs': 1.5}"),
        ({"epochs": True}, "{'epochs': True}"),
        ({}, "{}"),
        (0, "0"),
        (-1, "-1"),
        ("3", "'3'"),
    ],
)
def test_a_length_that_is_none(given: Any, shown: str) -> None:
    wanted = (
        f"searcher.max_length: must be a number of batches, or one of batches, records, epochs .*got {re.escape(shown)}"
    )
    with pytest.raises(ConfigError, match=wanted):
        read_max_length({"max_length": given})


@given(records=st.integers(1, 10**6), size=st.integers(1, 1000), accumulation=st.integers(1, 64))
def test_steps_never_take_more_records_than_max_length(records: int, size: int, accumulation: int) -> None:
    """Unless they do not fill one batch, which Determined trains all the same."""
    length = MaxLength(records, "records")
    batches = length.batches(batches_per_epoch=1, global_batch_size=size)
    assert batches * size <= max(records, size) < (batches + 1) * size + size
    if batches >= accumulation:
        steps = steps_in(length, batches, accumulation)
        assert 0 <= batches - steps * accumulation < accumulation


@pytest.mark.parametrize("entrypoint", ["a.b:C", "python3 -m model_hub_rqa.train --trial a.b:C"])
@pytest.mark.parametrize(
    ("hparams", "max_length"),
    [
        ({"max_steps": 2, "gradient_accumulation_steps": 3}, {"batches": 6}),
        ({"num_train_epochs": 4}, {"epochs": 4}),
        ({"num_train_epochs": 1.5}, None),
        ({"gradient_accumulation_steps": 2}, {"batches": 5}),  # says nothing of a length: the file's stays
    ],
)
def test_flags_go_before_max_length(entrypoint: str, hparams: dict[str, Any], max_length: Any) -> None:
    """A configuration changed by flags has one length, whatever its entrypoint."""
    config = {"entrypoint": entrypoint, "hyperparameters": hparams, "searcher": {"max_length": {"batches": 5}}}
    assert with_lengths(config)["searcher"].get("max_length") == max_length
    of_flags = {"epochs": 3} if max_length == {"batches": 5} else max_length  # or of their default
    expected = of_flags if entrypoint == "a.b:C" else None  # the script needs none
    assert with_lengths({**config, "searcher": {}})["searcher"].get("max_length") == expected
