"""How long a `TaskTrial` trains, and its data loaders."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from determined import pytorch

from model_hub_rqa.data.batching import (
    EvalBatchSampler,
    TokenBudgetBatchSampler,
    TrainBatchSampler,
    WeighingCollator,
    leave_signals_to_parent,
)
from model_hub_rqa.data.mixing import DEFAULT_TEMPERATURE, KeyedBatchSampler, KeyedCollator, MixedBatchSampler
from model_hub_rqa.errors import ErrorCollector
from model_hub_rqa.models import optimizers
from model_hub_rqa.objectives import anchor_of
from model_hub_rqa.runtime import (
    metric_names,
    run_length,
)
from model_hub_rqa.trials.datasets import DatasetsTrial

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LoadersTrial(DatasetsTrial):
    """The third step of a `TaskTrial`: the length of the run, the order of its batches, the data loaders."""

    smaller_is_better = True
    accumulation = 1
    collator: Callable[[list[Any]], dict[str, Any]]

    def check_course(self) -> None:
        """Checks what depends on settings and data together: the run's length, and the metrics that steer it.

        Raises:
            ConfigError: every error.
        """
        errors = ErrorCollector()
        metric, smaller = self.searcher.get("metric"), self.searcher.get("smaller_is_better")
        errors.attempt(self.num_training_batches)
        if metric is not None:
            self.smaller_is_better = bool(errors.attempt(metric_names.check_metric, self, metric, smaller, "searcher"))
        for callback in self.callbacks.values():
            errors.attempt(callback.check, self)
        errors.raise_any()

    def batches_per_epoch(self) -> int:
        """Micro-batches of an epoch on one rank."""
        return len(self._train_sampler()) // self._slots[0]

    @functools.cached_property
    def _epoch_length(self) -> int:
        return self.batches_per_epoch()

    def num_training_steps(self) -> int:
        """Optimizer steps of the whole run, at least one: the learning rate's schedule divides by them."""
        if "train" not in self.datasets:
            return 1
        return max(1, self.num_training_batches() // self.accumulation)

    def num_training_batches(self) -> int:
        """Micro-batches of the whole run on one rank: whole optimizer steps.

        ``max_steps`` or ``num_train_epochs`` says how many, else ``searcher.max_length``, else the default of epochs.

        Raises:
            ConfigError: the hyperparameters and ``searcher.max_length`` are given and disagree.
        """
        epoch, trainer = self.batches_per_epoch(), self.trainer
        steps = optimizers.compute_num_training_steps(
            batches_per_epoch=epoch,
            num_train_epochs=trainer.num_train_epochs,
            max_steps=trainer.max_steps,
            gradient_accumulation_steps=self.accumulation,
        )
        length = run_length.read_max_length(self.searcher)
        if length is None or trainer.validates_only:
            return steps * self.accumulation
        batches = length.batches(batches_per_epoch=epoch, global_batch_size=trainer.global_batch_size)
        length_steps = run_length.steps_in(length, batches, self.accumulation)
        name = "max_steps" if trainer.max_steps > 0 else "num_train_epochs"
        if name in self.hparams:
            value = getattr(trainer, name)
            run_length.check_agreement(name, value, steps=steps, length=length, length_steps=length_steps)
        return length_steps * self.accumulation

    def period(self, name: str) -> int:
        """The micro-batches from one validation (``name``: "eval") or checkpoint ("save") to the next: as the
        hyperparameters say, or else the configuration's ``min_validation_period`` or ``min_checkpoint_period``, in
        whole optimizer steps, or else an epoch."""
        steps, strategy = getattr(self.trainer, f"{name}_steps"), getattr(self.trainer, f"{name}_strategy")
        epoch = self.batches_per_epoch()
        if strategy == "no":
            return self.num_training_batches() or epoch
        if steps is not None:
            return int(steps) * self.accumulation
        period = self.periods["min_validation_period" if name == "eval" else "min_checkpoint_period"]
        if period is None or strategy is not None:
            return epoch
        batches = period.batches(batches_per_epoch=epoch, global_batch_size=self.trainer.global_batch_size)
        return max(batches // self.accumulation, 1) * self.accumulation

    @property
    def _slots(self) -> tuple[int, int]:
        """The ranks, and the examples of a batch on each; one rank where nothing but the settings is known."""
        context = getattr(self, "context", None)
        if context is None:
            return 1, self.trainer.global_batch_size
        return context.distributed.size, context.get_per_slot_batch_size()

    def _train_sampler(self) -> TrainBatchSampler | TokenBudgetBatchSampler | KeyedBatchSampler:
        lengths = self.datasets["train"]["length"][:]
        ranks, batch_size = self._slots
        group = ranks * self.accumulation
        if self.data.mixing != "by_size":
            settings = {"group": group, "seed": self.seed, "group_by_length": self.trainer.group_by_length}
            batch_settings = (lengths, self.dataset_ids("train"), batch_size)
            if self.data.mixing == "keyed":
                return KeyedBatchSampler(*batch_settings, anchor=self.anchor(), **settings)
            temperature = self.data.mixing_temperature or DEFAULT_TEMPERATURE
            return MixedBatchSampler(*batch_settings, mixing=self.data.mixing, temperature=temperature, **settings)
        if self.trainer.max_tokens_per_batch is not None:
            return TokenBudgetBatchSampler(lengths, self.trainer.max_tokens_per_batch, group=group, seed=self.seed)
        return TrainBatchSampler(
            lengths,
            batch_size,
            group=group,
            seed=self.seed,
            group_by_length=self.trainer.group_by_length,
        )

    def anchor(self) -> int | None:
        """The number of the set whose length is an epoch of keyed batches; None for the longest."""
        name = self.data.anchor or anchor_of(self.objective)
        return list(self.sets["train"]).index(name) if name in self.sets["train"] else None

    def build_training_data_loader(self) -> pytorch.DataLoader:
        collate, sampler = self.collator, self._train_sampler()
        if self.data.mixing == "keyed":
            collate = KeyedCollator(collate, list(self.sets["train"]))
        if isinstance(sampler, TokenBudgetBatchSampler):
            collate = WeighingCollator(collate, sampler.average)
        return self._loader("train", sampler, collate)

    def build_validation_data_loader(self) -> pytorch.DataLoader:
        batch_size = self.trainer.per_device_eval_batch_size or self.context.get_per_slot_batch_size()
        lengths = self.datasets["validation"]["length"][:]
        dataset_ids = self.dataset_ids("validation") if self.sets["validation"] else None
        sampler = EvalBatchSampler(lengths, batch_size, ranks=self.context.distributed.size, dataset_ids=dataset_ids)
        return self._loader("validation", sampler, self.collator)

    def _loader(self, split: str, batch_sampler: Any, collate: Callable[[list[Any]], Any]) -> pytorch.DataLoader:
        return pytorch.DataLoader(
            self.datasets[split],
            batch_sampler=batch_sampler,
            collate_fn=collate,
            num_workers=self.trainer.dataloader_num_workers,
            pin_memory=self.context.device.type == "cuda",
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator().manual_seed(self.seed),  # workers are seeded from it, not from the global RNG
        )
