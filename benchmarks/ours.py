"""This package's side: real trials on this machine, outside a cluster, one pass at a time."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from determined import pytorch


@contextlib.contextmanager
def trial_of(trial_class: type, data: dict[str, Any], hparams: dict[str, Any]) -> Iterator[Any]:
    """A trial as a local run makes it, in training mode."""
    with pytorch.init(hparams=hparams, exp_conf={"data": data, "hyperparameters": hparams}) as context:
        trial: Any = trial_class(context)
        trial.model.train()
        yield trial


def train_pass(trial: Any) -> None:
    """Every training batch once: collation, forward, backward, clipping, optimizer and schedule."""
    loader = trial.build_training_data_loader().get_data_loader(repeat=False, skip=0, num_replicas=1, rank=0)
    for number, batch in enumerate(loader):
        trial.context._current_batch_idx = number
        trial.train_batch(batch, 0, number)
        trial.lr_scheduler.step()


def validation_batches(trial: Any) -> list[Any]:
    """All validation batches, collated."""
    return list(trial.build_validation_data_loader().get_data_loader(repeat=False, skip=0, num_replicas=1, rank=0))


def validation_pass(trial: Any) -> dict[str, float]:
    """Metrics of all validation batches."""
    trial.model.eval()
    trial.reducer.reset()
    with torch.no_grad():
        for number, batch in enumerate(validation_batches(trial)):
            trial.evaluate_batch(batch, number)
    metrics: dict[str, float] = trial.reducer.cross_slot_reduce([trial.reducer.per_slot_reduce()])
    trial.model.train()
    return metrics
