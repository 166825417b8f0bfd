"""Trials on a stand-in's cluster whose searcher stops them, and trials that start from another's checkpoint."""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from cluster_runs import BOTH, Trial, run_here, tiny_trial
from stand_in_master import Asha, Error, StandInMaster
from transformers import BertModel

from model_hub_rqa.checkpoints import write_manifest

SEARCH = {"name": "adaptive_asha", "metric": "f1", "smaller_is_better": False, "max_trials": 8}


def rates(master: StandInMaster, run: int | None = None) -> list[float]:
    """The learning rate of each step."""
    return [report.metrics["learning_rate"] for report in master.of("training") if run in (None, report.run)]


# ---- a searcher's stop ----


@BOTH
def test_a_search_stops_the_trials_that_it_decides_against(tmp_path: Path, legacy: bool) -> None:
    """Eight trials, in the order of these ratings, at rungs of 5 and 10 batches: Asha keeps the better half.

    By hand: 50 is the first, 40 comes behind it, 60 leads, 30 is last of four, 55 is second of five, 35 fifth of six,
    58 second of seven, 45 fifth of eight; a place below half of the rung's trials (but at least 1) goes on.
    """
    ratings = {50: [5, 10], 40: [5], 60: [5, 10], 30: [5], 55: [5, 10], 35: [5], 58: [5, 10], 45: [5]}
    searcher = Asha([5, 10], divisor=2)
    trial = tiny_trial(tmp_path)
    trial.trial_class, trial.legacy = "cluster_trials:Rated", legacy
    trial.config["searcher"] = SEARCH
    for rating, validated in ratings.items():
        trial.hparams = {**trial.config["hyperparameters"], "adam_epsilon": rating * 1e-8}
        with StandInMaster(stops=searcher) as master:
            assert run_here(trial, master) == 0
            assert [report.steps for report in master.of("validation")] == validated, rating
            assert len(master.of("training")) == validated[-1]
            assert trial.latest(master)["metadata"]["steps_completed"] == validated[-1]
            assert master.acknowledged == master.early_exits == []  # it is no preemption, and no failure
            asked = master.asked("GET /api/v1/trials/5")
            assert len(asked) <= 1 + len(validated)  # once at the start, once a validation


def test_the_log_says_that_the_searcher_stopped_it(
    trial: Trial, master: StandInMaster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    master.stops = lambda batches, metric: True
    assert run_here(trial, master) == 0
    assert "the searcher stops this trial: training ends with a checkpoint" in caplog.text
    assert "training was stopped after 5 of 10 batches" in caplog.text


@pytest.mark.parametrize("error", [{"status": 500}, {"status": 404}], ids=str)
def test_a_state_that_cannot_be_asked_for_stops_nothing(
    error: dict[str, Any],
    trial: Trial,
    master: StandInMaster,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request after the first validation fails; the next one is answered."""
    monkeypatch.setenv("DET_RETRY_CONFIG", '{"total": 0}')
    trial.config["hyperparameters"] |= {"eval_steps": 2}
    master.stops = lambda batches, metric: batches >= 2
    master.errors = [Error("GET /api/v1/trials/5", after=1, **error)]
    assert run_here(trial, master) == 0
    assert [report.steps for report in master.of("validation")] == [2, 4]
    assert re.search(r"the trial's state could not be asked for \(.*\): training goes on", caplog.text)


# ---- warm starts ----


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, StandInMaster]:
    """A trial that has come to its end, with learning rate 0."""
    trial = tiny_trial(tmp_path_factory.mktemp("source"))
    with StandInMaster() as master:
        assert run_here(trial, master) == 0
    return trial, master


def forked(source: tuple[Trial, StandInMaster], *, legacy: bool = False, **changes: Any) -> Trial:
    """Another trial that starts from the last checkpoint of that one, on the same storage."""
    trial = tiny_trial(source[0].folder, **changes)
    trial.number, trial.legacy, trial.source = 6, legacy, source[0].latest(source[1])["uuid"]
    return trial


@BOTH
def test_a_warm_start_takes_the_weights_and_trains(
    legacy: bool, source: tuple[Trial, StandInMaster], master: StandInMaster, caplog: pytest.LogCaptureFixture
) -> None:
    """With the schedule, the batches and the validations of a fresh run, to weights that moved.

    ``init_checkpoint`` with the same weights trains to the same ones, to the bit.
    """
    caplog.set_level(logging.INFO)
    trial = forked(source, legacy=legacy)
    assert run_here(trial, master) == 0
    assert rates(master) == rates(source[1])
    assert rates(master)[0] == pytest.approx(1e-3)
    assert [report.steps for report in master.of("validation")] == [5, 10]
    assert not tiny.equal(trial.weights(master), source[0].weights(source[1]))
    assert f"starting from the weights of checkpoint {trial.source} of trial 5" in caplog.text
    weights = source[0].storage / str(trial.source) / "pretrained"
    initialised = tiny_trial(source[0].folder, init_checkpoint=str(weights))
    with StandInMaster() as other:
        assert run_here(initialised, other) == 0
        assert tiny.equal(trial.weights(master), initialised.weights(other))


def test_a_warm_start_goes_on_exactly(source: tuple[Trial, StandInMaster], master: StandInMaster) -> None:
    """Preempted, it resumes from its own checkpoint, and its source plays no part any more."""
    with StandInMaster() as undisturbed:
        whole = forked(source)
        assert run_here(whole, undisturbed) == 0
    trial = forked(source)
    master.preempt_at = ("training", 3)
    assert run_here(trial, master) == 0
    assert trial.latest(master)["metadata"]["steps_completed"] == 3
    master.preempt_at = None
    assert run_here(trial, master) == 0
    assert rates(master) == rates(undisturbed)
    assert tiny.equal(trial.weights(master), whole.weights(undisturbed))


def test_a_warm_start_validates_the_weights(source: tuple[Trial, StandInMaster], master: StandInMaster) -> None:
    """``num_train_epochs: 0`` reports the source's last metrics again."""
    assert run_here(forked(source, num_train_epochs=0), master) == 0
    (report,) = master.of("validation")
    assert report.metrics["f1"] == source[1].of("validation")[-1].metrics["f1"]


def test_a_warm_start_that_does_not_fit(
    source: tuple[Trial, StandInMaster], master: StandInMaster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of another shape are named; so is a checkpoint that another kind of trial wrote."""
    trial = forked(source, config_overrides={"intermediate_size": 48}, use_pretrained_weights=False)
    assert run_here(trial, master) == 2
    assert re.search(r"ConfigError: searcher.source_checkpoint_uuid: .* have another shape", capsys.readouterr().err)
    stranger = source[0].storage / "stranger"
    shutil.copytree(source[0].storage / source[0].latest(source[1])["uuid"], stranger)
    shutil.rmtree(stranger / "pretrained")
    write_manifest(stranger)
    trial = forked(source)
    trial.source = "stranger"
    assert run_here(trial, master) == 2
    wanted = "CheckpointError: searcher.source_checkpoint_uuid: stranger must be a checkpoint of this package"
    assert wanted in capsys.readouterr().err
    assert master.reports == []


# ---- a run that is continued with another length ----


def test_a_continued_trial_follows_its_new_schedule_from_the_first_step(trial: Trial, master: StandInMaster) -> None:
    """``det experiment continue --config hyperparameters.max_steps=20``: half of the new schedule is left, not 0."""
    trial.config["hyperparameters"]["max_steps"] = 10
    assert run_here(trial, master) == 0
    trial.config["hyperparameters"]["max_steps"] = 20
    assert run_here(trial, master) == 0
    assert rates(master, run=2) == pytest.approx([1e-3 * (20 - step) / 20 for step in range(10, 20)])


def test_a_resumed_schedule_is_the_same_to_the_bit(trial: Trial, master: StandInMaster) -> None:
    """Preempted after each third batch, every learning rate is that of the undisturbed run."""
    with StandInMaster() as other:
        assert run_here(trial, other) == 0
    master.preempt_at = ("training", 3)
    for _ in range(4):
        assert run_here(trial, master) == 0
    assert rates(master) == rates(other)
    assert all(torch.isfinite(torch.tensor(rates(master))))


# ---- the log ----


@BOTH
def test_the_log_shows_metrics_rounded_and_the_main_ones_first(
    legacy: bool, trial: Trial, master: StandInMaster, caplog: pytest.LogCaptureFixture
) -> None:
    """The master gets every digit."""
    trial.legacy = legacy
    caplog.set_level(logging.INFO)
    assert run_here(trial, master) == 0
    lines = [m for m in caplog.messages if m.startswith("report_validation_metrics(")]
    reported = [report.metrics for report in master.of("validation")]
    assert len(lines) == len(reported) == 2
    for line, metrics in zip(lines, reported, strict=True):
        shown = f"metrics={{f1: {metrics['f1']:.5g}, exact_match: {metrics['exact_match']:.5g}, "
        assert shown in line
    assert any(len(repr(value)) > 8 for metrics in reported for value in metrics.values())


@BOTH
def test_libraries_draw_nothing_into_the_log(
    legacy: bool, trial: Trial, master: StandInMaster, capfd: pytest.CaptureFixture[str]
) -> None:
    """A model whose head is new has a table of it in transformers, and datasets and weights have bars."""
    folder = Path(trial.config["hyperparameters"]["pretrained_model_name_or_path"])
    BertModel.from_pretrained(folder).save_pretrained(folder)
    trial.legacy = legacy
    capfd.readouterr()
    assert run_here(trial, master) == 0
    printed = "".join(capfd.readouterr())
    assert "LOAD REPORT" not in printed
    assert "it/s" not in printed
    assert "examples/s]" not in printed
