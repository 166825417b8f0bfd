"""Checkpoints of a local run: folders that are whole or not there. Determined's own local run writes none like them."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import determined
from determined import core, pytorch

from model_hub_rqa.checkpoints import METADATA, RECORD, write_manifest
from model_hub_rqa.errors import CheckpointError


class LocalCheckpoints(core.DummyCheckpointContext):
    """Checkpoints of a local run, as ``checkpoint-STEPS`` folders under one root; the steps are the optimizer's.

    A checkpoint is written under another name, flushed to disk, and renamed when it is whole, so that a killed
    process or a full disk never leaves a folder that looks like a checkpoint.

    Args:
        distributed: the ranks.
        root: where the folders go.
        record: of the run, for the metadata of each checkpoint.
        on_stored: called with the folder of each new checkpoint.
        accumulation: the batches of an optimizer step.
    """

    def __init__(
        self,
        distributed: core.DistributedContext,
        root: Path,
        record: Mapping[str, Any],
        on_stored: Any,
        *,
        accumulation: int,
    ) -> None:
        super().__init__(distributed, storage_manager=None)  # type: ignore[arg-type]  # both users of it are below
        self.root = root
        self.record = record
        self.on_stored = on_stored
        self.accumulation = accumulation

    @contextlib.contextmanager
    def store_path(self, metadata: dict[str, Any] | None = None, *, shard: bool = False) -> Iterator[tuple[Path, str]]:
        assert metadata is not None, "a trial's controller gives metadata"
        assert not shard, "a trial's controller stores whole checkpoints"
        final = self.root / f"checkpoint-{metadata['steps_completed'] // self.accumulation}"
        partial = self.root / f".{final.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial, final.name
            content = {**metadata, RECORD: self.record}
            (partial / METADATA).write_text(json.dumps(content, indent=1), encoding="utf-8")
            write_manifest(partial)
            _flush(partial)
            hide_checkpoint(final)
            partial.rename(final)
            shutil.rmtree(_aside(final), ignore_errors=True)
        except Exception as error:  # on a full disk torch, safetensors and tokenizers each raise their own kind
            free = shutil.disk_usage(self.root).free
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, determined.InvalidHP):
                raise
            words = " ".join(str(error).split())
            failure = CheckpointError(f"{final}: could not be written, with {free:,} bytes of disk left: {words}")
            self._dist.broadcast(failure)  # the other ranks wait for the checkpoint's name
            raise failure from error
        self.on_stored(final)

    @contextlib.contextmanager
    def restore_path(self, storage_id: str, *args: Any, **kwargs: Any) -> Iterator[Path]:
        yield Path(storage_id)


def hide_checkpoint(checkpoint: Path) -> None:
    """Takes a checkpoint, where there is one, out of the run under a hidden name, until its steps are trained anew."""
    if checkpoint.exists():
        shutil.rmtree(_aside(checkpoint), ignore_errors=True)
        checkpoint.rename(_aside(checkpoint))


def _aside(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.replaced")


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def use_local_backends(
    context: pytorch.PyTorchTrialContext, checkpoints: LocalCheckpoints, train: core.TrainContext
) -> None:
    """Puts a run's own checkpoint and reporting contexts in place of those that only log."""
    context._core.checkpoint = checkpoints
    context._core.train = train
