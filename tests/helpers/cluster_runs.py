"""Runs of a trial against the stand-in master: the whole chain of a cluster's container, or only what follows it.

- `launch` runs Determined's prep_container, exec.launch and launcher in a mount namespace, where /run and /tmp are its
  own: nothing of /run/determined stays behind (its presence alone would make every later run one of a cluster).
- `run_ranks` needs no namespace: it starts the ranks under torchrun and gives each its ClusterInfo.
- `run_here` does so in this process, for one slot, which takes a second.
"""

import functools
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import determined
import pytest
import stand_in_master
import tiny
import torch
from determined.exec import harness
from stand_in_master import StandInMaster

from model_hub_rqa import train
from model_hub_rqa.checkpoints import verify_checkpoint
from model_hub_rqa.runtime import determined_cluster

ROOT = Path(__file__).parents[2]
QA = "model_hub_rqa.trials.qa:QATrial"
SCRIPT = "python3 -m determined.launch.torch_distributed -- python3 -m model_hub_rqa.train --trial"
LIMIT = 300  # seconds of one run
BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["script", "legacy"])  # ways to run a trial


@dataclass
class Trial:
    """A trial on the stand-in's cluster: its configuration, and what it needs from run to run.

    Args:
        folder: where configuration, data and storage are.
        config: of the experiment, as the user wrote it; the defaults that a master adds are added.
        trial_class: module:Class.
        legacy: whether that is the entrypoint, or this package's script with it.
        slots: of the trial.
        hparams: those that the searcher chose; the configuration's own where it chose nothing.
        seed: that the experiment gave the trial. 42 is the package's own default.
        number: of the trial.
        source: the checkpoint of another trial that this one starts from.
    """

    folder: Path
    config: dict[str, Any]
    trial_class: str = QA
    legacy: bool = False
    slots: int = 1
    hparams: dict[str, Any] | None = None
    seed: int = 42
    number: int = 5
    source: str | None = None
    log: str = field(default="", init=False)

    def full_config(self) -> dict[str, Any]:
        return {
            "debug": False,
            "checkpoint_policy": "best",
            "min_checkpoint_period": {"batches": 0},
            "min_validation_period": {"batches": 5},
            "scheduling_unit": 1,
            "optimizations": {
                "aggregation_frequency": 1,
                "average_aggregated_gradients": True,
                "gradient_compression": False,
            },
            "profiling": {"enabled": False},
            "perform_initial_validation": False,
            "resources": {"slots_per_trial": self.slots},
            **self.config,
            "hyperparameters": {name: _spec(value) for name, value in self.config["hyperparameters"].items()},
            # a script says itself how long it trains
            "searcher": {**({"max_length": {"batches": 10}} if self.legacy else {}), **self.config["searcher"]},
            "entrypoint": self.entrypoint,
            "checkpoint_storage": {"type": "directory", "container_path": str(self.storage)},
        }

    @property
    def entrypoint(self) -> str:
        return self.trial_class if self.legacy else f"{SCRIPT} {self.trial_class}"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def begin(self, master: StandInMaster) -> None:
        master.begin_run()
        self.storage.mkdir(exist_ok=True)

    def latest(self, master: StandInMaster) -> dict[str, Any]:
        first = {"uuid": self.source, "metadata": {"steps_completed": 0}}
        return master.checkpoints[-1] if master.checkpoints else first

    def environment(self, master: StandInMaster) -> dict[str, str]:
        """The variables that an agent gives the trial's container, and ports that no other run uses."""
        latest = self.latest(master)
        port = free_port(3)
        values = {
            "DET_MASTER": master.url,
            "DET_CLUSTER_ID": "stand-in",
            "DET_AGENT_ID": "agent",
            "DET_SLOT_IDS": json.dumps(list(range(self.slots))),
            "DET_TASK_ID": "7.stand-in",
            "DET_ALLOCATION_ID": master.allocation,
            "DET_SESSION_TOKEN": stand_in_master.TOKEN,
            "DET_TASK_TYPE": "TRIAL",
            "DET_USER": "somebody",
            "DET_RESOURCES_ID": "resources",
            "DET_RESOURCES_TYPE": "docker-container",
            "DET_CONTAINER_ID": "container",
            "DET_TRIAL_ID": str(self.number),
            "DET_EXPERIMENT_ID": "3",
            "DET_TRIAL_SEED": str(self.seed),
            "DET_EXPERIMENT_CONFIG": json.dumps(self.full_config()),
            "DET_HPARAMS": json.dumps(self.chosen()),
            "DET_STEPS_COMPLETED": str(latest["metadata"]["steps_completed"]),
            "DET_TRIAL_RUN_ID": str(master.run),
            "C10D_PORT": str(port),
            "INTER_TRAIN_PROCESS_COMM_PORT_1": str(port + 1),
            "INTER_TRAIN_PROCESS_COMM_PORT_2": str(port + 2),
        }
        return values if latest["uuid"] is None else {**values, "DET_LATEST_CHECKPOINT": latest["uuid"]}

    def chosen(self) -> dict[str, Any]:
        return dict(self.config["hyperparameters"] if self.hparams is None else self.hparams)

    def cluster_info(self, master: StandInMaster, environment: Mapping[str, str]) -> dict[str, Any]:
        """What prep_container would have written to its files, as arguments of Determined's classes."""
        return {
            "info": {
                "master_url": master.url,
                "cluster_id": environment["DET_CLUSTER_ID"],
                "agent_id": environment["DET_AGENT_ID"],
                "slot_ids": json.loads(environment["DET_SLOT_IDS"]),
                "task_id": environment["DET_TASK_ID"],
                "allocation_id": environment["DET_ALLOCATION_ID"],
                "session_token": environment["DET_SESSION_TOKEN"],
                "task_type": "TRIAL",
                "latest_checkpoint": environment.get("DET_LATEST_CHECKPOINT"),
            },
            "trial": {
                "trial_id": self.number,
                "experiment_id": 3,
                "trial_seed": self.seed,
                "hparams": json.loads(environment["DET_HPARAMS"]),
                "config": json.loads(environment["DET_EXPERIMENT_CONFIG"]),
                "steps_completed": int(environment["DET_STEPS_COMPLETED"]),
                "trial_run_id": master.run,
                "debug": False,
                "inter_node_network_interface": None,
            },
            "rendezvous": {
                "container_addrs": ["127.0.0.1"],
                "container_rank": 0,
                "container_slot_counts": [self.slots],
            },
        }

    def checkpoint(self, master: StandInMaster, steps: int) -> Path:
        """The folder of the reported checkpoint after so many batches; it is whole."""
        (uuid,) = {c["uuid"] for c in master.checkpoints if c["metadata"]["steps_completed"] == steps}
        verify_checkpoint(self.storage / uuid)
        return self.storage / uuid

    def weights(self, master: StandInMaster, steps: int = 10) -> dict[str, torch.Tensor]:
        state: Any = torch.load(self.checkpoint(master, steps) / "state_dict.pth", weights_only=True)
        found: dict[str, torch.Tensor] = state["models_state_dict"][0]
        return found


def _spec(value: Any) -> Any:
    """A hyperparameter as a master writes it into the configuration: every value is a search specification."""
    if not isinstance(value, dict):
        return {"type": "const", "val": value}
    if value.get("type") in ("const", "int", "double", "log", "categorical"):
        return value
    return {name: _spec(inner) for name, inner in value.items()}


def tiny_trial(folder: Path, *, data: Mapping[str, Any] | None = None, **changes: Any) -> Trial:
    """A trial of the tiny model on tiny data: 2 epochs of 5 steps, a report each; ``changes`` are hyperparameters."""
    config = json.loads(tiny.experiment(folder, **changes).read_text(encoding="utf-8"))
    config["data"] |= data or {}
    return Trial(folder, config)


def free_port(count: int) -> int:
    """The first of some neighbouring ports that nobody listens on."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
        try:
            for number in range(port, port + count):
                with socket.socket() as other:
                    other.bind(("127.0.0.1", number))
        except (OSError, OverflowError):
            continue
        return port


# ---- the whole chain ----


@functools.cache
def namespace() -> tuple[str, ...] | None:
    """The command that makes a mount namespace, as root or as a user; None where this machine allows neither."""
    for command in (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount")):
        try:
            tried = subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/run"], capture_output=True, check=False)
        except FileNotFoundError:
            return None
        if tried.returncode == 0:
            return command
    return None


_CONTAINER = """
mount -t tmpfs none /run
mkdir -p /run/kept /run/determined/info /run/determined/train/model /run/determined/workdir
keep() {
    mkdir -p "/run/kept$1"
    mount --bind "$1" "/run/kept$1"
}
bring_back() {
    mkdir -p "$1"
    mount --bind "/run/kept$1" "$1"
}
IFS=:
for folder in $KEPT; do keep "$folder"; done
mount -t tmpfs none /tmp
for folder in $KEPT; do bring_back "$folder"; done
cd /run/determined/workdir
python3 -m determined.exec.prep_container --download_context_directory --resources --proxy
python3 -m determined.exec.prep_container --rendezvous
exec python3 -m determined.exec.launch
"""


def _kept(*folders: Path) -> str:
    """What a run needs of /tmp, which is otherwise empty to it: its own folder, and this code and its Python there."""
    needed = {*folders, ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    inside = sorted({folder.resolve() for folder in needed if folder.resolve().is_relative_to("/tmp")})
    outermost = [one for one in inside if not any(one != other and one.is_relative_to(other) for other in inside)]
    return ":".join(map(str, outermost))


def launch(trial: Trial, master: StandInMaster) -> int:
    """A run of the trial as in a cluster's container; returns its exit code, and leaves its log in ``trial.log``."""
    command = namespace()
    assert command is not None, "call this only where a namespace can be made"
    trial.begin(master)
    environment = {**trial.environment(master), "KEPT": _kept(trial.folder)}
    return _run(trial, [*command, "sh", "-e", "-c", _CONTAINER], environment)


def run_ranks(trial: Trial, master: StandInMaster) -> int:
    """A run of the trial's ranks alone, under torchrun."""
    trial.begin(master)
    environment = {**trial.environment(master), "USE_TORCH_DISTRIBUTED": "True", "DET_CHIEF_IP": "127.0.0.1"}
    info = trial.folder / f"info-{master.run}.json"
    info.write_text(json.dumps(trial.cluster_info(master, environment)), encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(trial.slots)]
    entry = ["harness", trial.trial_class] if trial.legacy else ["train", "--trial", trial.trial_class]
    rank = [str(Path(__file__).with_name("injected_rank.py")), str(info), str(_model_copy(trial))]
    try:
        return _run(trial, [sys.executable, *torchrun, *rank, *entry], environment)
    finally:
        _remove_events(master)


def _run(trial: Trial, command: Sequence[str], environment: Mapping[str, str]) -> int:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DET_")}
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        command,
        cwd=trial.folder,
        env={**inherited, **paths, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        trial.log = process.communicate(timeout=LIMIT)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        trial.log = process.communicate()[0]
        pytest.fail(f"the run did not end within {LIMIT} seconds:\n{trial.log[-4000:]}")
    return process.returncode


def start(trial: Trial, master: StandInMaster) -> int:
    """`launch` where a namespace can be made, `run_ranks` elsewhere."""
    return run_ranks(trial, master) if namespace() is None else launch(trial, master)


def run_as_agent(trial: Trial, master: StandInMaster) -> int:
    """Starts the trial until it ends well, or may not be started again; returns how often it was started.

    As Determined's master decides it: after a failure a line of the log that a policy's pattern matches, with the
    action cancel_retries, ends the trial; otherwise it is started again ``max_restarts`` times.
    """
    policies = trial.config.get("log_policies", [])
    patterns = [policy["pattern"] for policy in policies if policy["action"] == "cancel_retries"]
    limit, started = trial.config.get("max_restarts", 5) + 1, 0
    while started < limit:
        started += 1
        if start(trial, master) == 0:
            break
        if any(re.search(pattern, line) for pattern in patterns for line in trial.log.splitlines()):
            break
    return started


# ---- in this process ----


def run_here(trial: Trial, master: StandInMaster, *options: str) -> int:
    """A run of a trial with one slot in this process; ``options`` are the script's. A failed harness raises."""
    trial.begin(master)
    environment = trial.environment(master)
    info = injected(trial.cluster_info(master, environment))
    module = importlib.import_module(trial.trial_class.partition(":")[0])
    allowed = os.environ.get(determined_cluster.ALLOW_UNVERIFIED, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(determined._info, "_info", info)
        patch.setattr(determined.constants, "MANAGED_TRAINING_MODEL_COPY", str(_model_copy(trial)))
        patch.setattr(determined.common, "set_logger", lambda debug: None)  # it would take pytest's handlers off
        patch.setenv(determined_cluster.ALLOW_UNVERIFIED, allowed)  # as it was, once the script has set it
        patch.setitem(sys.modules, module.__name__, module)  # Determined imports another copy
        for name in ("DET_SESSION_TOKEN", "DET_USER", "DET_ALLOCATION_ID"):
            patch.setenv(name, environment[name])
        try:
            if trial.legacy:
                return harness.main(trial.trial_class)
            return train.main(["--trial", trial.trial_class, *options])
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            _remove_events(master)


def injected(made: Mapping[str, Any]) -> determined.ClusterInfo:
    """Determined's own object of `Trial.cluster_info`."""
    return determined.ClusterInfo(
        **made["info"],
        trial_info=determined.TrialInfo(**made["trial"]),
        rendezvous_info=determined.RendezvousInfo(**made["rendezvous"]),
        resources_info=determined.ResourcesInfo([]),
    )


def _model_copy(trial: Trial) -> Path:
    folder = trial.folder / "model_copy"
    folder.mkdir(exist_ok=True)
    return folder


def _remove_events(master: StandInMaster) -> None:
    for path in Path("/tmp").glob(f"tensorboard-{master.allocation}-*"):  # Determined's, whatever TMPDIR says
        shutil.rmtree(path, ignore_errors=True)
