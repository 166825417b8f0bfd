"""Trials on a stand-in's cluster that go wrong: by their hyperparameters, their metrics, or their master."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from cluster_runs import BOTH, Trial, run_here, tiny_trial
from determined.common.api import errors
from stand_in_master import Error, StandInMaster

from model_hub_rqa.errors import ConfigError, DataError, NonFiniteLoss

INVALID = "EXITED_REASON_INVALID_HP"
SEARCH = {"name": "random", "metric": "f1", "smaller_is_better": False, "max_trials": 4}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of a trial whose master never failed."""
    trial = tiny_trial(tmp_path_factory.mktemp("undisturbed"))
    with StandInMaster() as master:
        assert run_here(trial, master) == 0
        return trial.weights(master)


def search(trial: Trial, **values: Any) -> None:
    """Makes the trial one of a search, which chose ``values`` from ranges."""
    trial.config["searcher"] = dict(SEARCH)
    trial.hparams = {**trial.config["hyperparameters"], **values}
    trial.config["hyperparameters"] |= {
        name: {"type": "categorical", "vals": [value]} for name, value in values.items()
    }


def fails(
    trial: Trial, master: StandInMaster, kind: type[Exception], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs what has to fail, with ``wanted``: the harness raises it; the script exits with 2, and says it on stderr."""
    if trial.legacy:
        with pytest.raises(kind, match=re.escape(wanted)):
            run_here(trial, master)
    else:
        assert run_here(trial, master) == 2
        assert wanted in capsys.readouterr().err


# ---- hyperparameters ----

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "an overlap of whole windows": ({"max_seq_length": 32, "doc_stride": 32}, "doc_stride: must be < max_seq_length"),
    "an overlap that data names": ({"max_seq_length": 16}, "doc_stride: must be < max_seq_length"),
    "windows longer than the model": ({"max_seq_length": 4096}, "max_seq_length: must be at most 128"),
    "no room for a question": ({"doc_stride": 63}, "doc_stride: must leave room for a question"),
}


@BOTH
@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_impossible_hyperparameters_of_a_search(
    kind: str, legacy: bool, trial: Trial, master: StandInMaster, caplog: pytest.LogCaptureFixture
) -> None:
    """The trial ends as InvalidHP with exit code 0, so that the search goes on; the log says what was impossible."""
    values, error = IMPOSSIBLE[kind]
    trial.legacy = legacy
    search(trial, **values)
    assert run_here(trial, master) == 0
    assert master.early_exits == [INVALID]
    assert error in caplog.text
    assert master.reports == []


@BOTH
def test_impossible_hyperparameters_of_a_single_trial(
    legacy: bool, trial: Trial, master: StandInMaster, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing that could go on: the trial fails, with the error."""
    trial.legacy = legacy
    search(trial, doc_stride=64)
    trial.config["searcher"]["name"] = "single"
    fails(trial, master, ConfigError, "doc_stride: must be < max_seq_length (64), got 64", capsys)
    assert master.early_exits == []


def test_a_search_of_the_batch_size(trial: Trial, master: StandInMaster) -> None:
    """Determined itself would fail a trial whose batch is smaller than its slots, or is 8.0."""
    search(trial, global_batch_size=-1)
    assert run_here(trial, master) == 0
    assert master.early_exits == [INVALID]
    trial.config["hyperparameters"] |= {"global_batch_size": {"type": "const", "val": -1}}
    with StandInMaster() as other:
        assert run_here(trial, other) == 2
        assert other.early_exits == []
    search(trial, global_batch_size=8.0)
    with StandInMaster() as other:
        assert run_here(trial, other) == 0
        assert len(other.of("training")) == 10


def test_a_nested_range_is_searched(trial: Trial, master: StandInMaster, caplog: pytest.LogCaptureFixture) -> None:
    """An error in a mapping of hyperparameters is the search's where the search varies one of its values."""
    trial.config["searcher"] = dict(SEARCH)
    plain = trial.config["hyperparameters"]
    trial.hparams = {**plain, "config_overrides": {"no_such": 3}}
    trial.config["hyperparameters"] = {**plain, "config_overrides": {"no_such": 3}}
    assert run_here(trial, master) == 2
    specs = {"no_such": {"type": "int", "minval": 1, "maxval": 3}}
    trial.config["hyperparameters"] = {**plain, "config_overrides": specs}
    with StandInMaster() as other:
        assert run_here(trial, other) == 0
        assert other.early_exits == [INVALID]
    assert "config_overrides.no_such: BertConfig has no such attribute" in caplog.text


@BOTH
@pytest.mark.parametrize("kind", ["of no search", "beside the search's", "a missing file", "bad data"])
def test_what_no_search_can_mend_fails(
    kind: str, legacy: bool, trial: Trial, master: StandInMaster, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that every trial of the search has is a failure, or the search would replace its trials without end."""
    trial.legacy = legacy
    expected, wanted = ConfigError, "learning_rate: must be"
    if kind == "of no search":
        trial.config["hyperparameters"]["learning_rate"] = -1
        search(trial, doc_stride=16)
    elif kind == "beside the search's":
        trial.config["hyperparameters"]["learning_rate"] = -1
        search(trial, doc_stride=64)
    elif kind == "a missing file":
        trial.config["data"]["train_file"] = "/no/such/file.json"
        expected, wanted = DataError, "/no/such/file.json"
        search(trial, doc_stride=16)
    else:
        Path(trial.config["data"]["train_file"]).write_text(json.dumps({"data": 1}), encoding="utf-8")
        expected, wanted = DataError, "train.json"
        search(trial, doc_stride=16)
    fails(trial, master, expected, wanted, capsys)
    assert master.early_exits == []


# ---- metrics ----


@BOTH
@pytest.mark.parametrize("name", ["NotANumber", "Infinite"])
def test_a_searcher_is_never_told_what_is_not_finite(
    name: str, legacy: bool, trial: Trial, master: StandInMaster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under a search such a trial ends as InvalidHP; a single one fails. No validation is reported in either case."""
    trial.trial_class, trial.legacy = f"cluster_trials:{name}", legacy
    fails(trial, master, ConfigError, "searcher.metric: f1 must be finite, got", capsys)
    assert master.early_exits == master.of("validation") == []
    assert [checkpoint["metadata"]["steps_completed"] for checkpoint in master.checkpoints] == [5]  # written before
    search(trial, learning_rate=1e-3)
    with StandInMaster() as other:
        assert run_here(trial, other) == 0
        assert other.early_exits == [INVALID]
        assert other.of("validation") == []
        assert [report.steps for report in other.of("training")] == [1, 2, 3, 4, 5]


@BOTH
def test_a_loss_that_is_not_finite(
    legacy: bool, trial: Trial, master: StandInMaster, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search's values made training diverge: the trial is invalid; a single one fails, and names its examples."""
    trial.trial_class, trial.legacy = "cluster_trials:Diverging", legacy
    fails(trial, master, NonFiniteLoss, "loss: must be a finite number, got inf (rank 0) for the examples q", capsys)
    assert master.early_exits == []
    search(trial, learning_rate=1e-3)
    with StandInMaster() as other:
        assert run_here(trial, other) == 0
        assert other.early_exits == [INVALID]


@pytest.mark.parametrize("policy", ["best", "all"])
def test_a_searcher_metric_that_is_not_reported(
    policy: str, trial: Trial, master: StandInMaster, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trial fails in the metric's name, whatever the policy, and whether it is one of a search or not."""
    search(trial, learning_rate=1e-3)
    trial.trial_class, trial.config["checkpoint_policy"] = "cluster_trials:Silent", policy
    assert run_here(trial, master) == 2
    assert "searcher.metric: must be one of the validation metrics (exact_match), got 'f1'" in capsys.readouterr().err
    assert master.early_exits == master.of("validation") == []
    assert [checkpoint["metadata"]["steps_completed"] for checkpoint in master.checkpoints] == [5]  # written before


# ---- the master ----

SURVIVED = {
    "late": Error("POST .*/metrics", late=1),
    "late at the start": Error("POST /api/v1/runs/start", late=1),
    "late to say whether to stop": Error("GET .*/preemption", late=1),
    "no answer to the start": Error("POST /api/v1/runs/start", drop=True),
    "no answer to metrics": Error("POST .*/metrics", drop=True, after=3),
    "no answer to a state": Error("POST .*/runner/metadata", drop=True, after=2),
    "no answer to a checkpoint": Error("POST /api/v1/checkpoints", drop=True),
    "no answer to whether to stop": Error("GET .*/preemption", drop=True),
    "an error to whether to stop": Error("GET .*/preemption", status=500),
}


@BOTH
@pytest.mark.parametrize("kind", SURVIVED)
def test_what_a_trial_survives(
    kind: str, legacy: bool, trial: Trial, master: StandInMaster, undisturbed: dict[str, Any]
) -> None:
    """A slow master and lost connections: Determined asks again, and neither metrics nor weights differ."""
    trial.legacy = legacy
    error = SURVIVED[kind]
    master.errors = [Error(**vars(error))]
    start = time.monotonic()
    assert run_here(trial, master) == 0
    assert master.errors[0].times == 0
    assert time.monotonic() - start >= error.late
    assert [report.steps for report in master.of("training")] == list(range(1, 11))
    assert [report.steps for report in master.of("validation")] == [5, 10]
    assert tiny.equal(trial.weights(master), undisturbed)


FATAL = {
    "not this run": (Error("POST /api/v1/runs/start", status=403), "POST /api/v1/runs/start: Forbidden"),
    "no such run": (Error("POST /api/v1/runs/start", status=404), "POST /api/v1/runs/start: .*was told to refuse"),
    "not this token": (Error("POST /api/v1/runs/start", status=401), "POST /api/v1/runs/start: Unauthenticated"),
    "no such trial": (Error("GET /api/v1/trials/5", status=404), "GET /api/v1/trials/5: .*was told to refuse"),
    "metrics not taken": (Error("POST .*/metrics", status=500), "POST /api/v1/trials/5/metrics: .*was told to refuse"),
    "the last metrics not taken": (Error("POST .*/metrics", status=500, after=11), "POST .*/metrics: .*told to refuse"),
    "a checkpoint not taken": (Error("POST /api/v1/checkpoints", status=403), "POST /api/v1/checkpoints: Forbidden"),
    "a master that is gone": (Error(".*", drop=True, times=10**6, after=4), "POST /api/v1/trials/5/.*: .*Max retries"),
}


@BOTH
@pytest.mark.parametrize("kind", FATAL)
def test_what_fails_a_trial(
    kind: str,
    legacy: bool,
    trial: Trial,
    master: StandInMaster,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the master refuses: the script exits with 1 and a line that says what was asked; the harness raises."""
    monkeypatch.setenv("DET_RETRY_CONFIG", json.dumps({"total": 2, "allowed_methods": False}))  # not 20, for minutes
    trial.legacy = legacy
    error, wanted = FATAL[kind]
    master.errors = [Error(**vars(error))]
    if legacy:
        with pytest.raises(errors.BadRequestException, match=wanted.rpartition(" ")[2]):
            run_here(trial, master)
    else:
        assert run_here(trial, master) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("the master at")]
        assert re.match(f"the master at {master.url} failed {wanted}", line)
    assert master.early_exits == []
