"""Workarounds for Determined 0.38.1 (its last release), and nothing else; those for a cluster: `determined_cluster`.

With the other modules of this name, the only one that touches its internals. What each one answers is said where it
stands. Facts were measured with torch 2.13 and transformers 5.23.
"""

import contextlib
import logging
import os
import socket
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from determined import core, pytorch

from model_hub_rqa.checkpoints import write_manifest
from model_hub_rqa.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)


def is_loading_only(context: pytorch.PyTorchTrialContext) -> bool:
    """Whether a trial is made only to receive a checkpoint's weights (load_trial_from_checkpoint_path)."""
    return not context._managed_training


def trial_seed(context: pytorch.PyTorchTrialContext) -> int | None:
    """The seed that the cluster gave this trial, None elsewhere (``get_trial_seed`` raises there)."""
    return context._trial_seed


def set_accumulation(context: pytorch.PyTorchTrialContext, steps: int | None) -> int:
    """Makes gradient_accumulation_steps hold under every entrypoint; call it before wrap_optimizer.

    Only ``pytorch.init`` takes the number, and a legacy entrypoint calls that itself, with the configuration's
    ``optimizations.aggregation_frequency``.

    Returns:
        The micro-batches of an optimizer step.
    """
    given = context._aggregation_frequency
    if steps is None:
        return given
    if given not in (1, steps):
        raise ConfigError(
            f"hyperparameters.gradient_accumulation_steps: is {steps}, "
            f"but optimizations.aggregation_frequency is {given}: give one of them, or the same number"
        )
    context._aggregation_frequency = steps
    return steps


@contextlib.contextmanager
def without_sync(context: pytorch.PyTorchTrialContext, model: torch.nn.Module, stepping: bool) -> Iterator[None]:
    """Wraps forward and backward of a micro-batch that does not step: no gradients travel between ranks.

    Determined's own ``no_sync`` wraps backward alone, and DDP decides in forward, so nothing is saved by it.
    """
    if not stepping and isinstance(model, torch.nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


def steps_now(context: pytorch.PyTorchTrialContext) -> bool:
    """Whether the current micro-batch ends with an optimizer step."""
    return context._should_communicate_and_update()


class CheckpointCallback(pytorch.PyTorchCallback):
    """Makes checkpoints loadable, whole and verifiable.

    - numpy's RNG state holds an array, which torch.load (weights_only since torch 2.6) refuses: plain ints instead.
    - DDP puts ``module.`` before every key, and load_trial_from_checkpoint_path loads without DDP: taken off, and put
      back for DDP. Determined itself goes by the keys, which may begin so without DDP: a model may have a child of this
      name.
    - A flipped bit is not noticed by Determined: a manifest of sums is.

    Args:
        save_pretrained: called with the checkpoint's folder before the manifest is written.
        context: has the models.
    """

    def __init__(self, save_pretrained: Any, context: pytorch.PyTorchTrialContext) -> None:
        self.save_pretrained = save_pretrained
        self.context = context

    def on_checkpoint_save_start(self, checkpoint: dict[str, Any]) -> None:
        name, keys, *rest = checkpoint["rng_state"]["np_rng_state"]
        checkpoint["rng_state"]["np_rng_state"] = (str(name), [int(key) for key in keys], *rest)
        checkpoint["models_state_dict"] = [
            {key.removeprefix(prefix): value for key, value in state.items()}
            for prefix, state in zip(self._prefixes(), checkpoint["models_state_dict"], strict=True)
        ]

    def on_checkpoint_load_start(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["models_state_dict"] = [
            {prefix + key: value for key, value in state.items()}
            for prefix, state in zip(self._prefixes(), checkpoint["models_state_dict"], strict=True)
        ]

    def _prefixes(self) -> list[str]:
        ddp = torch.nn.parallel.DistributedDataParallel
        return ["module." if isinstance(model, ddp) else "" for model in self.context.models]

    def on_checkpoint_write_end(self, checkpoint_dir: str) -> None:
        self.save_pretrained(Path(checkpoint_dir))
        write_manifest(Path(checkpoint_dir))

    def on_checkpoint_upload_end(self, uuid: Any) -> None:
        if isinstance(uuid, CheckpointError):  # the chief's, in place of the name of what it could not write
            raise uuid


class ScheduleCallback(pytorch.PyTorchCallback):
    """Makes a resumed run follow the schedule of its configuration, from its first step on.

    A checkpoint brings the learning rate that the old schedule had next: 0 at its end, where
    ``det experiment continue --config hyperparameters.max_steps=N`` goes on. The schedule itself is a function of the
    step, so the rate is computed anew; where the configuration is as it was, that gives the same number.

    Args:
        schedulers: of ``context.lr_schedulers``. Those that are no plain LambdaLR stay as the checkpoint has them: of
            transformers', reduce_lr_on_plateau and Adafactor's own.
    """

    def __init__(self, schedulers: list[pytorch.LRScheduler]) -> None:
        plain: list[Any] = [one._scheduler for one in schedulers]
        self.schedulers = [one for one in plain if type(one) is torch.optim.lr_scheduler.LambdaLR]
        self.peaks: list[list[Any]] = []

    def on_checkpoint_load_start(self, checkpoint: dict[str, Any]) -> None:
        self.peaks = [list(one.base_lrs) for one in self.schedulers]

    def on_training_start(self) -> None:
        for scheduler, peaks in zip(self.schedulers, self.peaks, strict=False):  # no peaks: nothing was loaded
            scheduler.base_lrs = peaks
            rates = [peak * rate(scheduler.last_epoch) for peak, rate in zip(peaks, scheduler.lr_lambdas, strict=True)]
            for group, peak, rate in zip(scheduler.optimizer.param_groups, peaks, rates, strict=True):
                group["initial_lr"], group["lr"] = peak, rate
            scheduler._last_lr = rates


def batches_trained(context: pytorch.PyTorchTrialContext) -> int:
    """Batches that this trial has trained, those before a resume included."""
    index = context._current_batch_idx
    return context._steps_completed if index is None else index + 1


def was_stopped(context: pytorch.PyTorchTrialContext) -> bool:
    """Whether ``Trainer.fit`` returned since it was told to (preempted, or stopped): it returns normally then.

    Every rank must call it: only the chief knows what it told the master.
    """
    acknowledged = getattr(context._core.preempt, "_ack_sent", False)  # absent off the cluster
    return context.get_stop_requested() or bool(context.distributed.broadcast(acknowledged))


def join_process_group() -> core.DistributedContext | None:
    """Joins the ranks that torchrun started on this machine or several; None where there is only one.

    Off the cluster ``pytorch.init`` does not do it; on the cluster it does, and doing it twice fails. Determined's own
    messages go through two fixed ports, where two jobs on a host would meet: the chief chooses free ones.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return None
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    os.environ["USE_TORCH_DISTRIBUTED"] = "True"
    rank = torch.distributed.get_rank()
    ports = _free_ports(2) if rank == 0 else [0, 0]
    torch.distributed.broadcast_object_list(ports, src=0, group=torch.distributed.new_group(backend="gloo"))
    return core.DistributedContext(
        rank=rank,
        size=torch.distributed.get_world_size(),
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_size=int(os.environ["LOCAL_WORLD_SIZE"]),
        cross_rank=int(os.environ["GROUP_RANK"]),
        cross_size=int(os.environ["GROUP_WORLD_SIZE"]),
        chief_ip=os.environ.get("MASTER_ADDR"),
        pub_port=ports[0],
        pull_port=ports[1],
    )


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def take_batch_encodings(context: pytorch.PyTorchTrialContext) -> None:
    """Lets collators of transformers give a BatchEncoding, which Determined does not take for a dict."""
    owner: Any = context  # whose method is replaced: no entrypoint lets us give another context
    to_device = owner.to_device

    def plain_to_device(data: Any, *args: Any, **kwargs: Any) -> Any:
        return to_device(dict(data) if isinstance(data, UserDict) else data, *args, **kwargs)

    owner.to_device = plain_to_device
