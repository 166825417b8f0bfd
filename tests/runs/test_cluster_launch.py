"""Trials on a stand-in's cluster, each slot a process: Determined's own prep_container, exec.launch and launchers.

Where no mount namespace can be made, the ranks alone are started, and given their ClusterInfo; what then is not run is
skipped, and says so.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from cluster_runs import ROOT, Trial, launch, namespace, run_as_agent, run_ranks, start, tiny_trial
from stand_in_master import Error, StandInMaster
from tokenizers_for_tests import t5

from model_hub_rqa.runtime import experiments

pytestmark = pytest.mark.slow

INVALID = "EXITED_REASON_INVALID_HP"
WHOLE_CHAIN = pytest.mark.skipif(namespace() is None, reason="prep_container writes to /run: needs a mount namespace")
FILES = {"mine.py": "NUMBER = 7\n", "folder/README": "of the experiment\n"}
CASES = [(False, 1), (False, 2), (True, 1), (True, 2)]
Done = Callable[[bool, int], tuple[Trial, StandInMaster]]


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """Or every later run of this machine would be one of a cluster."""
    assert not Path("/run/determined/info").exists()
    yield
    assert not Path("/run/determined").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and data of all trials here."""
    folder = tmp_path_factory.mktemp("cluster")
    tiny.experiment(folder)
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> Done:
    """Makes, once, the trial of an entrypoint and a number of slots that was never disturbed."""
    kept: dict[tuple[bool, int], tuple[Trial, StandInMaster]] = {}

    def make(legacy: bool, slots: int) -> tuple[Trial, StandInMaster]:
        if (legacy, slots) not in kept:
            trial = trial_of(folder, legacy=legacy, slots=slots)
            with StandInMaster(slots=slots, context=FILES) as master:
                assert start(trial, master) == 0, trial.log
            kept[legacy, slots] = trial, master
        return kept[legacy, slots]

    return make


def trial_of(folder: Path, *, legacy: bool = False, slots: int = 2, **changes: Any) -> Trial:
    trial = tiny_trial(folder, **changes)
    trial.legacy, trial.slots = legacy, slots
    return trial


def told(master: StandInMaster, group: str) -> list[tuple[int, dict[str, Any]]]:
    return [(report.steps, dict(report.metrics)) for report in master.of(group)]


@WHOLE_CHAIN
@pytest.mark.parametrize(("legacy", "slots"), CASES)
def test_a_container_trains_from_its_first_command_to_its_last(legacy: bool, slots: int, done: Done) -> None:
    """Each endpoint is asked as often as it has to be, every metric is told once, and checkpoints hold the code."""
    trial, master = done(legacy, slots)
    counts = {
        "GET .*/context_directory": 1,
        "POST .*/acceleratorData": 1,
        "GET .*/rendezvous": 1,
        "POST /api/v1/runs/start": slots,
        "GET /api/v1/trials/5$": slots + 2,  # and by the chief after each validation
        "POST .*/early_exit": 0,
        "POST .*/ack_preemption": 0,
        "POST /api/v1/checkpoints": 2,
        "POST .*/metrics": 12,
    }
    assert {pattern: len(master.asked(pattern)) for pattern in counts} == counts
    assert {r.status for r in master.requests if "best_searcher" not in r.path} == {200}
    assert [report.steps for report in master.of("training")] == list(range(1, 11))
    assert [report.steps for report in master.of("validation")] == [5, 10]
    code = trial.checkpoint(master, 10) / "code"
    found = {p.relative_to(code).as_posix(): p.read_text() for p in code.rglob("*") if p.is_file()}
    assert found == FILES
    assert ("training is finished after 10 of 10 batches" in trial.log) != legacy
    assert "Traceback" not in trial.log


def test_entrypoints_agree(done: Done) -> None:
    """The script and the legacy harness train the same weights to the bit, and slots agree on the metrics."""
    runs = {(legacy, slots): done(legacy, slots) for legacy, slots in CASES}
    for slots in (1, 2):
        (script, one), (legacy, other) = runs[False, slots], runs[True, slots]
        assert tiny.equal(script.weights(one), legacy.weights(other))
        assert told(one, "training") == told(other, "training")
    assert len({json.dumps(told(master, "validation"), sort_keys=True) for _, master in runs.values()}) == 1


def test_ranks_that_are_given_their_cluster_info(done: Done, folder: Path) -> None:
    """Without prep_container and its files the ranks do the same, to the bit, by either entrypoint."""
    for legacy in (False, True):
        whole, first = done(legacy, 2)
        trial = trial_of(folder, legacy=legacy)
        with StandInMaster(slots=2) as master:
            assert run_ranks(trial, master) == 0, trial.log
            assert told(master, "training") == told(first, "training")
            assert told(master, "validation") == told(first, "validation")
            assert tiny.equal(trial.weights(master), whole.weights(first))
            assert not list(Path("/tmp").glob(f"*{master.allocation}*"))


@pytest.mark.parametrize(
    ("legacy", "slots", "state", "stopped"),
    [
        (False, 2, "training", 1),
        (False, 2, "validating", 5),
        (False, 2, "checkpointing", 5),
        (True, 2, "training", 1),
    ],
)
def test_a_preempted_trial_goes_on_as_if_it_had_not_been(
    legacy: bool, slots: int, state: str, stopped: int, done: Done, folder: Path
) -> None:
    """Exit code 0 and a checkpoint; the next run tells the rest, each metric once, and the weights are equal."""
    whole, undisturbed = done(legacy, slots)
    trial = trial_of(folder, legacy=legacy, slots=slots)
    with StandInMaster(slots=slots, context=FILES, preempt_at=(state, 1)) as master:
        assert start(trial, master) == 0, trial.log
        assert master.acknowledged == [1]
        assert trial.latest(master)["metadata"]["steps_completed"] == stopped
        assert "is finished" not in trial.log
        master.preempt_at = None
        assert start(trial, master) == 0, trial.log
        for group in ("training", "validation"):
            assert told(master, group) == told(undisturbed, group)
        assert tiny.equal(trial.weights(master), whole.weights(undisturbed))


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
@pytest.mark.parametrize("kind", ["impossible hyperparameters", "a metric that is not finite"])
def test_ranks_end_a_searchs_trial_together(kind: str, legacy: bool, folder: Path) -> None:
    """All exit with 0 in time, and the master is told once, though each rank finds the error."""
    trial = trial_of(folder, legacy=legacy)
    trial.config["searcher"] |= {"name": "random", "max_trials": 2}
    trial.hparams = dict(trial.config["hyperparameters"])
    if kind == "impossible hyperparameters":
        trial.hparams["doc_stride"] = 64
        trial.config["hyperparameters"]["doc_stride"] = {"type": "int", "minval": 16, "maxval": 64}
    else:
        trial.trial_class = "cluster_trials:NotANumber"
    context = {"cluster_trials.py": (Path(__file__).parents[1] / "helpers/cluster_trials.py").read_text()}
    with StandInMaster(slots=2, context=context) as master:
        assert start(trial, master) == 0, trial.log
        assert master.early_exits == [INVALID]
        assert len(master.asked("early_exit")) == 1
        assert master.of("validation") == []
        assert "must be" in trial.log


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
def test_ranks_are_stopped_by_the_searcher_together(legacy: bool, folder: Path) -> None:
    """The chief alone asks the master, and tells the other rank; a resume is not expected of either."""
    trial = trial_of(folder, legacy=legacy)
    with StandInMaster(slots=2, context=FILES, stops=lambda batches, metric: True) as master:
        assert start(trial, master) == 0, trial.log
        assert [report.steps for report in master.of("validation")] == [5]
        assert trial.latest(master)["metadata"]["steps_completed"] == 5
        assert len(master.asked("GET /api/v1/trials/5$")) == 2 + 1
        assert master.acknowledged == []


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
@pytest.mark.parametrize("kind", ["a wrong file name", "a loss that is not finite", "a killed process"])
def test_what_only_the_user_can_mend_is_started_once(kind: str, legacy: bool, folder: Path) -> None:
    """An agent that keeps max_restarts and log_policies of a shipped configuration, two ranks under torchrun.

    The error's own line is the last one before torchrun's report, which repeats it; what is no error of the user's is
    started again.
    """
    trial = trial_of(folder, legacy=legacy)
    shipped = experiments.load_experiment(str(ROOT / "experiment_configs/quickstart.yaml")).raw
    trial.config |= {key: shipped[key] for key in ("max_restarts", "log_policies")}
    if kind == "a wrong file name":
        trial.config["data"]["train_file"] = "/no/such/file.json"
        starts, error = 1, "model_hub_rqa.errors.DataError: /no/such/file.json: no such file"
    elif kind == "a loss that is not finite":
        trial.trial_class = "cluster_trials:Diverging"
        starts, error = 1, "model_hub_rqa.errors.NonFiniteLoss: loss: must be a finite number, got inf"
    else:
        trial.trial_class = "cluster_trials:Killed"
        starts, error = 3, ""
    context = {"cluster_trials.py": (Path(__file__).parents[1] / "helpers/cluster_trials.py").read_text()}
    with StandInMaster(slots=2, context=context) as master:
        assert run_as_agent(trial, master) == starts, trial.log
    if error:
        own, report = trial.log.split("ChildFailedError", 1)
        lines = [line for line in own.splitlines() if "model_hub_rqa.errors." in line]
        assert error in lines[-1]
        assert error.removeprefix("model_hub_rqa.errors.") in report


@pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])
def test_ranks_refuse_a_damaged_checkpoint_together(legacy: bool, folder: Path, done: Done) -> None:
    """The task fails in the file's name, and none waits for another."""
    whole, undisturbed = done(legacy, 2)
    (first, _) = undisturbed.checkpoints
    trial = trial_of(folder, legacy=legacy)
    with StandInMaster(slots=2, context=FILES) as master:
        damaged = {**first, "uuid": f"damaged-{legacy}"}
        copied = trial.storage / damaged["uuid"]
        shutil.copytree(whole.storage / first["uuid"], copied)
        (copied / "trial_state.pkl").write_bytes((copied / "trial_state.pkl").read_bytes() + b"x")
        master.checkpoints.append(damaged)
        assert start(trial, master) != 0
        assert re.search("trial_state.pkl: damaged", trial.log)
        assert master.reports == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Error("POST /api/v1/runs/start", status=403), "failed POST /api/v1/runs/start: Forbidden"),
        (Error("POST .*/metrics", status=500), "failed POST /api/v1/trials/5/metrics: the stand-in"),
    ],
    ids=["a rank refused", "metrics not taken"],
)
def test_a_rank_that_fails_takes_the_others_with_it(error: Error, said: str, folder: Path) -> None:
    """The task ends with a failure, and says what was asked of the master; no rank waits for ever."""
    trial = trial_of(folder)
    with StandInMaster(slots=2, context=FILES, errors=[Error(**vars(error))]) as master:
        assert start(trial, master) != 0
        assert said in trial.log
        assert master.early_exits == []


@WHOLE_CHAIN
def test_a_container_whose_code_is_refused_does_not_train(folder: Path) -> None:
    """Its first command fails, and nothing else is asked of the master."""
    trial = trial_of(folder, slots=1)
    with StandInMaster(errors=[Error("GET .*/context_directory", status=404)]) as master:
        assert launch(trial, master) != 0
        assert [request.status for request in master.requests] == [404]


@WHOLE_CHAIN
def test_a_trial_of_ones_own_comes_with_the_context_directory(folder: Path) -> None:
    """A module that is nowhere but in what the master sends is found, and kept in the checkpoint."""
    code = "from model_hub_rqa.trials.qa import QATrial\nclass Mine(QATrial):\n    pass\n"
    trial = trial_of(folder, slots=1, max_steps=1)
    trial.trial_class = "only_there:Mine"
    with StandInMaster(context={"only_there.py": code}) as master:
        assert launch(trial, master) == 0, trial.log
        assert (trial.checkpoint(master, 1) / "code/only_there.py").read_text() == code


def fusion_config(folder: Path) -> dict[str, Any]:
    """A tiny T5 from scratch on eight questions, 10 batches of which 5 are an epoch."""
    tokenizer = t5()
    tokenizer.save_pretrained(folder / "t5")
    rows = [
        {"id": f"q{i}", "question": f"{word}?", "answers": [word], "ctxs": [{"title": str(i), "text": f"it is {word}"}]}
        for i, word in enumerate(tiny.WORDS[:10])
    ]
    data = folder / "fusion.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}  # with dropout
    return {
        "name": "fusion",
        "data": {
            "train_file": str(data),
            "validation_file": str(data),
            "max_encoder_seq_length": 32,
            "max_decoder_seq_length": 16,
            "max_new_tokens": 4,
            "cache_dir": str(folder / "cache"),
        },
        "hyperparameters": {
            "global_batch_size": 2,
            "tokenizer_name": str(folder / "t5"),
            "config_overrides": {
                "model_type": "t5",
                "vocab_size": len(tokenizer),
                "eos_token_id": tokenizer.convert_tokens_to_ids("<sep>"),
                **shape,
            },
            "use_pretrained_weights": False,
            "num_train_epochs": 2,
            "logging_steps": 1,
        },
        "searcher": {"name": "single", "metric": "loss", "smaller_is_better": True},
    }


def test_fusion_in_decoder_trains_on_two_slots(folder: Path) -> None:
    """FiDTrial by the script, with dropout: preempted in the first batch it goes on to the same metrics and weights."""
    trial = Trial(folder, fusion_config(folder), "model_hub_rqa.trials.fid:FiDTrial", slots=2)
    one, two = StandInMaster(slots=2, metric="loss", smaller_is_better=True), StandInMaster(slots=2, metric="loss")
    two.smaller_is_better, two.preempt_at = True, ("training", 1)
    with one, two:
        assert start(trial, one) == 0, trial.log
        assert start(trial, two) == 0, trial.log
        assert two.acknowledged == [1]
        two.preempt_at = None
        assert start(trial, two) == 0, trial.log
        assert {"exact_match", "f1", "rougeL", "loss"} <= set(one.of("validation")[-1].metrics)
        for group, steps in (("training", list(range(1, 11))), ("validation", [5, 10])):
            assert [report.steps for report in one.of(group)] == steps
            assert told(one, group) == told(two, group)
        assert tiny.equal(trial.weights(one), trial.weights(two))
