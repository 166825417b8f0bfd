"""Beginning a run: its folder is locked, and the checkpoint that it goes on from is checked against its settings."""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from determined import core
from torch.optim.lr_scheduler import LambdaLR

from model_hub_rqa.checkpoints import (
    MANIFEST,
    METADATA,
    RECORD,
    checkpoints_of,
    file_sum,
    newest_checkpoint,
    read_metadata,
    verify_checkpoint,
)
from model_hub_rqa.config.fields import show
from model_hub_rqa.errors import CheckpointError, ConfigError, RqaError

ALLOW = "--allow-changed-run"
ACCUMULATION = "hyperparameters.gradient_accumulation_steps"
_OPTIMIZER = "hyperparameters.optim"  # whose state another kind of optimizer cannot take
_EXAMPLES = "data"
_TRAINER = (
    *("global_batch_size", "max_tokens_per_batch", "group_by_length"),
    *("label_smoothing_factor", "fp16", "objective"),
)
_SAME_OPTIMIZER = ("optim", "adafactor")  # two names of one choice
_FREE = ("num_training_steps",)  # the length of a run may change
_HASHED_BYTES = 2**30  # of more training data than this, only every second (third ...) row is looked at


logger = logging.getLogger(__name__)


class Resumed(NamedTuple):
    """Where a run begins.

    Attributes:
        checkpoint: the verified folder to go on from, None for a run from the beginning.
        notes: what to tell the user of it.
    """

    checkpoint: Path | None
    notes: list[str]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a run's folder, and keeps other processes from writing it; the lock ends with this process.

    Raises:
        ConfigError: another process writes it; the message names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process, and of no child that it forks
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise ConfigError(
                    f"--output-dir: {folder} is being written by {holder}: wait for its end, or choose another folder"
                ) from error
            logger.warning("%s: cannot be locked (%s): start no second run in it", folder, error.strerror)
        file.truncate(0)
        since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        file.flush()
        yield
        file.truncate(0)


def is_run(folder: str | None) -> bool:
    """Whether ``--resume`` names a run's folder."""
    return folder is not None and (Path(folder) / "checkpoints").is_dir()


def begin(
    distributed: core.DistributedContext | None,
    folder: Path,
    resume: str | None,
    allow_unverified: bool,
    held: contextlib.ExitStack,
) -> Resumed:
    """Lets the chief lock the folder and decide where the run begins; every rank looks whether it sees that checkpoint.

    Args:
        distributed: the ranks; None for one.
        folder: the run's.
        resume: a checkpoint, a run's folder, "latest" or None, as the user gave it.
        allow_unverified: take a checkpoint without a manifest.
        held: gives the lock back when it is closed.

    Raises:
        ConfigError: a new run would write among the checkpoints of another, or a process writes the folder.
        CheckpointError: the one asked for is not whole, none of a run's is, or a rank does not see the chief's.
    """
    if distributed is None:
        held.enter_context(locked(folder))
        return _choose(folder, resume, allow_unverified)
    decided: Any = None
    if distributed.rank == 0:
        try:
            held.enter_context(locked(folder))
            decided = _choose(folder, resume, allow_unverified)
        except RqaError as error:
            decided = error
        if isinstance(decided, Resumed) and decided.checkpoint is not None:
            decided = (decided, _identity(decided.checkpoint))
    decided = distributed.broadcast(decided)
    if isinstance(decided, RqaError):
        raise decided
    if isinstance(decided, Resumed):
        return decided
    resumed, identity = decided
    # a relative path of one's own: each machine may have the shared folder elsewhere
    checkpoint = resumed.checkpoint if distributed.rank == 0 else _own_path(resumed.checkpoint, folder, resume)
    difference = None
    if _identity(checkpoint) != identity:
        difference = f"rank {distributed.rank} on {socket.gethostname()} does not see this checkpoint as {checkpoint}"
    errors = [line for line in distributed.allgather(difference) if line is not None]
    if errors:
        raise CheckpointError(
            [
                f"{resumed.checkpoint}: cannot be resumed: the run's folder must be one that all machines share",
                *errors,
            ]
        )
    return Resumed(checkpoint, resumed.notes)


def _own_path(checkpoint: Path, folder: Path, resume: str | None) -> Path:
    """The chief's checkpoint as this rank's own command line names it."""
    if resume in (None, "latest"):
        return (folder / "checkpoints" / checkpoint.name).resolve()
    own = Path(str(resume))
    return (own if own.name == checkpoint.name else own / "checkpoints" / checkpoint.name).resolve()


def _identity(checkpoint: Path) -> dict[str, str]:
    """The sums of the files that stand for all others of a checkpoint; without those that are not there."""
    return {name: file_sum(checkpoint / name) for name in (MANIFEST, METADATA) if (checkpoint / name).is_file()}


def _choose(folder: Path, resume: str | None, allow_unverified: bool) -> Resumed:
    if resume is None:
        if checkpoints_of(folder):
            raise ConfigError(
                f"--output-dir: {folder} already holds a run's checkpoints: go on with --resume latest, "
                "or choose another folder"
            )
        return Resumed(None, [])
    if resume != "latest" and not is_run(resume):
        verify_checkpoint(Path(resume), allow_unverified=allow_unverified)
        return Resumed(Path(resume).resolve(), [f"resuming from {resume}"])
    if resume != "latest":
        folder = Path(resume)
    elif not checkpoints_of(folder):  # a run that was killed before its first checkpoint goes on by itself, too
        return Resumed(None, [f"--resume latest: no checkpoint in {folder} yet, so the run starts from the beginning"])
    newest, passed_over = newest_checkpoint(folder)
    if newest is None:
        raise CheckpointError([f"--resume {resume}: {folder} holds no whole checkpoint", *passed_over])
    notes = [*(f"passed over: {line}" for line in passed_over), f"resuming from {newest}"]
    return Resumed(newest.resolve(), notes)


# ---- is it the same training? ----


def run_record(trial: Any) -> dict[str, Any]:
    """What decides the weights that a run ends with, as resolved: plain values by the name that the user knows.

    Its length, and what it reports, keeps and evaluates, is no part of it. The training examples are in it by a digest
    of their features.
    """
    trainer, optimizer, scheduler = vars(trial.trainer), vars(trial.optimizer_kwargs), vars(trial.lr_scheduler_kwargs)
    settings = {
        "seed": trial.seed,
        "gradient_accumulation_steps": trial.accumulation,
        "bf16": trial.bf16,
        "optim": "adafactor" if trial.optimizer_kwargs.use_adafactor else "adamw_torch",
        **{name: trainer[name] for name in _TRAINER},
        **{name: value for name, value in optimizer.items() if name not in _SAME_OPTIMIZER},
        **{name: value for name, value in scheduler.items() if name not in _FREE},
    }
    record = {
        "ranks": trial.context.distributed.size,
        **{f"hyperparameters.{name}": value for name, value in settings.items()},
        "data.mixing": trial.data.mixing,
        "data.mixing_temperature": trial.data.mixing_temperature,
        "data.anchor": trial.data.anchor,
        "data.train": {name: len(indices) for name, indices in trial.sets["train"].items()},
        _EXAMPLES: _digest(trial.datasets["train"]),
    }
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return plain


def check_same_run(trial: Any, checkpoint: Path, *, allow_changed: bool) -> tuple[dict[str, Any], list[str]]:
    """Holds a run to the record in the checkpoint that it is to go on from. Every rank must call it.

    Args:
        trial: of the run that begins.
        checkpoint: the folder.
        allow_changed: go on with what has changed, from the step reached.

    Returns:
        The checkpoint's record where something has changed, else an empty one; and what to tell the user.

    Raises:
        ConfigError: every setting that differs, where that is not allowed or cannot be.
    """
    distributed, found = trial.context.distributed, None
    if distributed.rank == 0:
        found = _compare(trial, checkpoint, allow_changed)
    found = distributed.broadcast(found)
    if isinstance(found, ConfigError):
        raise found
    before, notes = found
    return before, notes


def _compare(trial: Any, checkpoint: Path, allow_changed: bool) -> tuple[dict[str, Any], list[str]] | ConfigError:
    before = read_metadata(checkpoint).get(RECORD)
    if not isinstance(before, dict):
        return {}, [f"{checkpoint}: records no settings to compare with (a cluster's, or of version 0.1)"]
    now = run_record(trial)
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed and (not allow_changed or _OPTIMIZER in changed):
        errors = list(_errors(changed, before, now))
        if _OPTIMIZER not in changed:
            errors.append(f"{ALLOW} goes on with the new settings from the step reached")
        return ConfigError(errors)
    return (before if changed else {}), list(_notes(changed, before, now))


def _errors(changed: list[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in changed:
        if name == _EXAMPLES:
            yield f"{name}: the training examples must be those of the run that is resumed, got others"
        else:
            yield f"{name}: must be {show(before[name])}, as in the run that is resumed, got {show(now[name])}"


def _notes(changed: list[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in changed:
        if name == _EXAMPLES:
            yield f"{name}: the training examples are others than before"
        else:
            yield f"{name}: was {show(before[name])}, is {show(now[name])} from here on"


def batches_of(done: int, before: Mapping[str, Any], accumulation: int) -> int:
    """Micro-batches, of ``accumulation`` a step, for the optimizer steps of ``done`` batches of an earlier record."""
    return int(done // before.get(ACCUMULATION, accumulation) * accumulation)


@contextlib.contextmanager
def keeping_new_settings(context: Any) -> Iterator[None]:
    """While a checkpoint is loaded: optimizers and schedules get its state, and keep the settings they were made with.

    A schedule goes on at the step reached, at the rate that its new settings say for it.
    """
    groups = [[_without_params(group) for group in optimizer.param_groups] for optimizer in context.optimizers]
    schedules = [wrapped._scheduler for wrapped in context.lr_schedulers]
    rates = [list(schedule.base_lrs) for schedule in schedules]
    yield
    loaded = [[group["lr"] for group in optimizer.param_groups] for optimizer in context.optimizers]
    for optimizer, kept, old in zip(context.optimizers, groups, loaded, strict=True):
        for group, settings, rate in zip(optimizer.param_groups, kept, old, strict=True):
            group.update({**settings, "lr": rate})
    for schedule, peaks in zip(schedules, rates, strict=True):
        for number, group in enumerate(schedule.optimizer.param_groups):
            if group["lr"] is None:  # Adafactor finds its own
                continue
            if isinstance(schedule, LambdaLR):
                group["lr"] = peaks[number] * schedule.lr_lambdas[number](schedule.last_epoch)
            elif schedule.base_lrs[number]:
                group["lr"] *= peaks[number] / schedule.base_lrs[number]
        schedule.base_lrs = peaks
        schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]


def _without_params(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _digest(features: Any) -> str:
    """SHA-256, in hexadecimal, of the rows of a data set of datasets; of others, of their lengths alone."""
    import datasets
    import numpy as np
    import pyarrow as pa

    digest = hashlib.sha256(np.asarray(features["length"][:], np.int64).tobytes())
    if isinstance(features, datasets.Dataset):
        step = 1 + features.data.nbytes // _HASHED_BYTES
        sample = features if step == 1 else features.select(range(0, len(features), step))
        for table in sample.with_format("arrow").iter(batch_size=1000):
            # written out, a table has the same bytes whatever it was cut from
            with pa.BufferOutputStream() as stream:
                with pa.ipc.new_stream(stream, table.schema.remove_metadata()) as writer:
                    writer.write_table(table.replace_schema_metadata().combine_chunks())
                digest.update(stream.getvalue())
    return digest.hexdigest()
