"""Trials on a stand-in's cluster, one slot, in this process: what they report, and how they stop, go on and fail."""

import math
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from cluster_runs import BOTH, Trial, run_here, tiny_trial
from determined import util
from stand_in_master import Report, StandInMaster

from model_hub_rqa import train
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.runtime import determined_cluster


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local run of what `trial` trains."""
    folder = tmp_path_factory.mktemp("local")
    assert train.main([str(tiny.experiment(folder)), "--output-dir", str(folder / "run")]) == 0
    return folder / "run"


def told(reports: list[Report]) -> list[tuple[int, dict[str, Any]]]:
    return [(report.steps, dict(report.metrics)) for report in reports]


def logged(run: Path, kind: str) -> list[tuple[int, dict[str, Any]]]:
    """The same of a local run."""
    return [(r.pop("steps"), {k: v for k, v in r.items() if k != "kind"}) for r in tiny.reports(run, kind)]


def refused(master: StandInMaster) -> list[Any]:
    """Requests that were not answered as wished; that there is no best validation yet is no error."""
    return [r for r in master.requests if r.status != 200 and not r.path.endswith("best_searcher_validation_metric")]


# ---- what is reported ----


@BOTH
def test_a_trial_reports_what_a_local_run_writes(
    legacy: bool, trial: Trial, master: StandInMaster, local: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each metric once, as plain numbers; states, progress and whole checkpoints; and the same weights to the bit."""
    trial.legacy = legacy
    caplog.set_level("INFO")
    assert run_here(trial, master) == 0
    for group in ("training", "validation"):
        reports = master.of(group)
        assert told(reports) == logged(local, group)
        assert util.json_encode([report.metrics for report in reports])
        values = [value for report in reports for value in report.metrics.values()]
        assert all(type(value) in (int, float) and math.isfinite(value) for value in values)
    assert tiny.equal(trial.weights(master), tiny.weights(local, 10))
    assert [c["metadata"]["steps_completed"] for c in master.checkpoints] == [5, 10]
    assert {r.body["state"] for r in master.asked("runner/metadata")} == {"training", "validating", "checkpointing"}
    assert [r.body["progress"] for r in master.asked("progress")] == pytest.approx([i / 10 for i in range(1, 11)])
    assert master.acknowledged == master.early_exits == refused(master) == []
    assert ("training is finished after 10 of 10 batches" in caplog.text) != legacy  # it is the script's word


@pytest.mark.parametrize(("policy", "steps"), [("all", [2, 4, 6, 8, 10]), ("none", [10]), ("best", None)])
def test_the_script_keeps_policy_and_periods(
    policy: str, steps: list[int] | None, tmp_path: Path, master: StandInMaster
) -> None:
    """checkpoint_policy decides on checkpoints after validations; periods are those of the hyperparameters."""
    trial = tiny_trial(tmp_path, eval_steps=2, save_steps=100, logging_steps=5)
    trial.config["checkpoint_policy"] = policy
    assert run_here(trial, master) == 0
    validations = master.of("validation")
    assert [report.steps for report in validations] == [2, 4, 6, 8, 10]
    if steps is None:
        scores = [report.metrics["f1"] for report in validations]
        best = [r.steps for i, r in enumerate(validations) if all(r.metrics["f1"] > s for s in scores[:i])]
        steps = sorted({*best, 10})
    assert [c["metadata"]["steps_completed"] for c in master.checkpoints] == steps


def test_accumulation_is_that_of_the_hyperparameters(tmp_path: Path, master: StandInMaster) -> None:
    """Lengths and periods count optimizer steps, and the weights are those of the local run."""
    changes = {"global_batch_size": 4, "gradient_accumulation_steps": 2, "eval_steps": 2, "logging_steps": 1}
    config = tiny.experiment(tmp_path, **changes)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    trial = tiny_trial(tmp_path, **changes)
    assert run_here(trial, master) == 0
    assert [report.steps for report in master.of("training")] == list(range(2, 21, 2))
    assert [report.steps for report in master.of("validation")] == [4, 8, 12, 16, 20]
    assert tiny.equal(trial.weights(master, 20), tiny.weights(tmp_path / "run", 10))


def test_accumulation_of_a_legacy_configuration(tmp_path: Path, master: StandInMaster) -> None:
    """optimizations.aggregation_frequency counts where no hyperparameter says another; two numbers are refused."""
    whole = tiny_trial(tmp_path, global_batch_size=4, gradient_accumulation_steps=2)
    assert run_here(whole, master) == 0
    legacy = tiny_trial(tmp_path, global_batch_size=4)
    legacy.legacy = True
    legacy.config |= {
        "optimizations": {
            "aggregation_frequency": 2,
            "average_aggregated_gradients": True,
            "gradient_compression": False,
        },
        "min_validation_period": {"batches": 10},
    }
    legacy.config["searcher"] |= {"max_length": {"batches": 20}}
    with StandInMaster() as other:
        assert run_here(legacy, other) == 0
        assert tiny.equal(legacy.weights(other, 20), whole.weights(master, 20))
    legacy.config["hyperparameters"]["gradient_accumulation_steps"] = 4
    with StandInMaster() as other, pytest.raises(ConfigError, match="aggregation_frequency is 2"):
        run_here(legacy, other)


def test_the_seed_is_the_trials(trial: Trial, master: StandInMaster, local: Path) -> None:
    """Where no hyperparameter gives one."""
    trial.seed = 7
    assert run_here(trial, master) == 0
    assert not tiny.equal(trial.weights(master), tiny.weights(local, 10))
    trial.config["hyperparameters"]["seed"] = 42
    with StandInMaster() as other:
        assert run_here(trial, other) == 0
        assert tiny.equal(trial.weights(other), tiny.weights(local, 10))


def test_an_initial_validation(trial: Trial, master: StandInMaster) -> None:
    """perform_initial_validation holds for the script as well."""
    trial.config["perform_initial_validation"] = True
    assert run_here(trial, master) == 0
    assert [report.steps for report in master.of("validation")] == [0, 5, 10]


def test_a_script_without_a_trial(trial: Trial, master: StandInMaster, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither --trial nor the entrypoint names one: exit code 2, in the option's name, and nothing was asked."""
    trial.trial_class = "model_hub_rqa.trials.qa:"
    assert run_here(trial, master) == 2
    assert "--trial: must be module:Class, or a script with --trial" in capsys.readouterr().err
    assert master.requests == []


# ---- preemption ----

MOMENTS = {
    "in the first batch": (("training", 1), 1),
    "during validation": (("validating", 1), 5),
    "during a checkpoint": (("checkpointing", 1), 5),
    "in the last batch": (("training", 10), 10),
    "during the last validation": (("validating", 2), 10),
}


@BOTH
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_preempted_trial_goes_on_as_if_it_had_not_been(
    legacy: bool,
    moment: str,
    trial: Trial,
    master: StandInMaster,
    local: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It exits with 0 and a checkpoint; its next run reports the rest, each metric once, and the weights are equal."""
    trial.legacy = legacy
    caplog.set_level("INFO")
    master.preempt_at, stopped = MOMENTS[moment]
    assert run_here(trial, master) == 0
    assert master.acknowledged == [1]
    assert trial.latest(master)["metadata"]["steps_completed"] == stopped
    assert max(report.steps for report in master.reports) == stopped
    assert "is finished" not in caplog.text
    assert legacy or f"training was stopped after {stopped} of 10 batches" in caplog.text
    master.preempt_at = None
    assert run_here(trial, master) == 0
    assert legacy or "training is finished after 10 of 10 batches" in caplog.text
    for group in ("training", "validation"):
        assert told(master.of(group)) == logged(local, group)
    assert tiny.equal(trial.weights(master), tiny.weights(local, 10))
    assert refused(master) == []


# ---- checkpoints that must not be loaded ----


def damage(path: Path) -> None:
    """One flipped bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def harm(target: Path) -> bytes:
    """A pickle that makes a folder when it is loaded."""

    class Harm:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(target),))

    return pickle.dumps(Harm())


DAMAGES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "a flipped bit": (lambda c, _: damage(c / "state_dict.pth"), "state_dict.pth: damaged"),
    "a pickle that runs code": (lambda c, t: (c / "trial_state.pkl").write_bytes(harm(t)), "trial_state.pkl: damaged"),
    "a missing file": (lambda c, _: (c / "trial_state.pkl").unlink(), "trial_state.pkl: is missing"),
    "no manifest": (lambda c, _: (c / "manifest.json").unlink(), "manifest.json is missing"),
    "an unfinished one": (lambda c, _: (c / "metadata.json").unlink(), "incomplete, metadata.json"),
}


@BOTH
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_checkpoint_is_verified_before_it_is_loaded(
    legacy: bool,
    kind: str,
    trial: Trial,
    master: StandInMaster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run fails in the file's name, nothing of the checkpoint was opened, and nothing more was trained."""
    change, error = DAMAGES[kind]
    master.preempt_at = ("training", 1)
    run_here(trial, master)
    master.preempt_at = None
    trial.legacy = legacy
    change(trial.storage / trial.latest(master)["uuid"], tmp_path / "harmed")
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("the checkpoint was opened"))
    if legacy:
        with pytest.raises(CheckpointError, match=error):
            run_here(trial, master)
    else:
        assert run_here(trial, master) == 2
        assert re.search(error, capsys.readouterr().err)
    assert not (tmp_path / "harmed").exists()
    assert [report.run for report in master.reports] == [1]


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_checkpoint_without_a_manifest_can_be_allowed(
    by: str, trial: Trial, master: StandInMaster, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the script's option, or by a variable, which a legacy entrypoint takes as well; the option leaves no trace."""
    master.preempt_at = ("training", 3)
    run_here(trial, master)
    master.preempt_at = None
    (trial.storage / trial.latest(master)["uuid"] / "manifest.json").unlink()
    if by == "variable":
        monkeypatch.setenv(determined_cluster.ALLOW_UNVERIFIED, "1")
        trial.legacy = True
    assert run_here(trial, master, *(["--allow-unverified"] if by == "option" else [])) == 0
    assert tiny.equal(trial.weights(master), tiny.weights(local, 10))


def test_a_damaged_checkpoint_is_never_allowed(trial: Trial, master: StandInMaster) -> None:
    """What allows one without a manifest does not allow one whose manifest does not match."""
    master.preempt_at = ("training", 1)
    run_here(trial, master)
    master.preempt_at = None
    damage(trial.storage / trial.latest(master)["uuid"] / "state_dict.pth")
    assert run_here(trial, master, "--allow-unverified") == 2


def test_a_local_run_goes_on_without_a_manifest_only_if_allowed(local: Path, tmp_path: Path) -> None:
    """--resume DIR takes the option as well."""
    config, checkpoint = local.parent / "experiment.yaml", tmp_path / "checkpoint-5"
    shutil.copytree(local / "checkpoints/checkpoint-5", checkpoint)
    (checkpoint / "manifest.json").unlink()
    options = [str(config), "--output-dir", str(tmp_path / "run"), "--resume", str(checkpoint)]
    assert train.main(options) == 2
    assert train.main([*options, "--allow-unverified"]) == 0
    assert tiny.equal(tiny.weights(tmp_path / "run", 10), tiny.weights(local, 10))
