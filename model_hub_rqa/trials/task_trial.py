"""TaskTrial: a transformers model under Determined, one hook a step.

A new task subclasses it and overrides the hooks that differ; see `QATrial` for one.
"""

import contextlib
import copy
import functools
import json
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from determined import pytorch

from model_hub_rqa.checkpoints import PRETRAINED, READER, TASK, TOKENIZER_SUM, tokenizer_sum
from model_hub_rqa.data.batching import WEIGHT
from model_hub_rqa.errors import ConfigError, NonFiniteLoss
from model_hub_rqa.models import build, optimizers
from model_hub_rqa.models.dropout import use_cpu_dropout
from model_hub_rqa.models.init_source import load_weights, save_weights
from model_hub_rqa.models.precision import computes_in_bf16, warn_of_slow_bf16
from model_hub_rqa.models.signature import check_loss, filter_kwargs, forward_names, loss_of, unwrapped
from model_hub_rqa.objectives import Batch, TrainedTask, needs_reference
from model_hub_rqa.registry import RegisteredObject
from model_hub_rqa.runtime import cluster_run, determined_cluster, determined_controller, determined_fixes
from model_hub_rqa.runtime.experiments import experiment_of
from model_hub_rqa.runtime.finite import FiniteCheck, SkippedSteps
from model_hub_rqa.tasks.base import Task, task_name
from model_hub_rqa.trials.callbacks import MetricError
from model_hub_rqa.trials.validation import ValidationTrial
from model_hub_rqa.utils import AttrDict

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TaskTrial(ValidationTrial):
    """Builds everything from the experiment configuration, trains, and evaluates by id.

    The steps, in order, each a method to override: `load_examples`, `build_config_and_tokenizer`, `check`,
    `build_datasets`, `build_model`, `build_optimizer`, `build_lr_scheduler`, `build_collator`; then `compute_loss` for
    a training batch, `evaluate_batch` (calls ``self.reducer.update({id: value})``) and `compute_metrics` for a
    validation. Everything that can be wrong with the configuration or the data is found before a model is loaded.

    A trial of a task has all of these from the task. Each is overridden alone; the others go on as before:

    ==============================  ==================================================================================
    method                          returns
    ==============================  ==================================================================================
    `build_datasets`                {"train", "validation"}: features, with ``example_index``, of ``self.examples``
    `build_training_data_loader`    a ``determined.pytorch.DataLoader`` of training batches
    `build_validation_data_loader`  the same for a validation
    `evaluate_batch`                {metric: value} to average over batches; {} where ``self.reducer`` got the values
    `build_reducer`                 a ``MetricReducer`` whose ``update`` takes {id: prediction}; it gives the metrics
    ==============================  ==================================================================================

    Attributes:
        task_class: the task that is trained; None to take the one that the hyperparameter ``task`` names, or, for a
            trial that overrides the hooks above itself, none.
        task: an instance of it.
        default_model_mode: the Auto class where the hyperparameter ``model_mode`` is not given (`build.MODEL_MODES`).
        default_bf16: whether to compute in bfloat16 where the machine has it and ``bf16`` is not given.
        label_names: the columns of a batch that hold labels; a default validation hands them on to `compute_metrics`.
        include_inputs: further columns that it hands on.
        takes_keyed_batches: whether ``compute_loss`` takes batches of ``mixing: keyed``, {name of a set: its batch}.
        smooths_labels: whether ``compute_loss`` takes ``label_smoothing_factor`` into account.
        default_parts: what transformers' Auto classes build. Leave out a part that the trial does not use:
            ``self.config`` or ``self.tokenizer`` is None then. The hyperparameter ``model`` (a model of the user's own)
            stands in for "model", and the other two are built only where a name is given for them.
        task_kwargs: a dataclass of the task's own settings, read from the ``data`` section and overridden by
            hyperparameters of the same names, so that a search can vary them; None for a task without.
        default_metric, default_smaller_is_better: the searcher's, for runs without a configuration file.
        higher_is_better: of each metric that a validation reports, by name, whether a higher value is better; None for
            one that is neither. A property, where it depends on the settings. A trial that overrides `compute_metrics`
            without it has unknown metrics, which are not checked.
        smaller_is_better: whether a lower value of the searcher's metric is better.
        output_dir: where files of a validation go; None (the default, as on a cluster) writes none.
        trainer, data, settings: the parsed settings; ``settings`` are the task's.
        hparams, data_config, searcher: sections of the experiment, references resolved.
        metrics: of ``data.metrics``, by name.
        passage_reader: on the first rank, the reader that each validation asks (`Task.reader_folder`); else None.
        examples: {"train", "validation"} as loaded; datasets: the same as features.
        file_counts: what became of the records of each file that was read.
        sets: {"train", "validation"}: of each named data set of a split, in their order, the indices of its examples in
            ``examples``; empty for a split that lists none.
        validation_set: while `compute_metrics` runs, the name of the set whose values it gets; "" where there is one.
        stop_reason: why a callback asked for a stop, None where none did.
        config, tokenizer: a PretrainedConfig and a PreTrainedTokenizerBase; known before the data are encoded.
        model, optimizer, lr_scheduler, reducer: wrapped by the context; they are there once the trial is built.
    """

    stop_reason: str | None = None

    def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
        self.context = context
        self.output_dir: Path | None = None
        determined_cluster.patch_context(context)
        with cluster_run.reported_to_torchrun(), cluster_run.raising_invalid_hp():
            self._build(context)

    def _build(self, context: pytorch.PyTorchTrialContext) -> None:
        experiment = experiment_of(context)
        self.exp_config = AttrDict(context.get_experiment_config())
        if not determined_fixes.is_loading_only(context):
            experiment.for_slots(context.distributed.size)  # raises where two sizes disagree
        self.prepare(experiment)
        given = "gradient_accumulation_steps" in self.hparams
        self.accumulation = determined_fixes.set_accumulation(
            context, self.trainer.gradient_accumulation_steps if given else None
        )
        if self.trainer.validates_only:
            determined_cluster.refuse_length_of_cluster(context)
        if not determined_fixes.is_loading_only(context):
            self.check_course()
            self.passage_reader = self.load_reader()
        torch.manual_seed(self.seed)
        model: Any = self.build_model()
        if self.task is not None:
            self.task.prepare_model(model)
        build.check_vocabulary(self.tokenizer, model)
        with determined_cluster.warm_start(context) as warm:
            if warm is not None:
                load_weights(model, warm, determined_cluster.WARM_START)
            elif self.init_source.folder is not None and not determined_fixes.is_loading_only(context):
                load_weights(model, self.init_source.folder)
        if self.trainer.gradient_checkpointing:
            build.enable_gradient_checkpointing(model)
        self.bf16 = self.trainer.bf16
        if self.bf16:
            warn_of_slow_bf16(context.device.type, "hyperparameters.bf16")
        if self.bf16 is None:
            self.bf16 = self.default_bf16 and not self.trainer.fp16 and computes_in_bf16(context.device.type)
        self.scaler = self.build_scaler()
        if self.scaler is not None:
            context.wrap_scaler(self.scaler)
            self.skipped = SkippedSteps(self.scaler)
        self.reference = self.build_reference(model)
        if context.device.type == "cpu":
            use_cpu_dropout(model)
        self.model = context.wrap_model(model)
        self.optimizer = context.wrap_optimizer(self.build_optimizer(model))
        modes = pytorch.LRScheduler.StepMode  # Determined does not know of steps that a scaler skips
        self.lr_scheduler = context.wrap_lr_scheduler(
            self.build_lr_scheduler(self.optimizer),
            modes.STEP_EVERY_OPTIMIZER_STEP if self.scaler is None else modes.MANUAL_STEP,
        )
        self.grad_clip_fn = self._clip_gradients
        self.collator = self.build_registered_collator() or self.build_collator()
        if self.datasets and not self.batches_checked:
            self.check_batches()
        self.finite_check = FiniteCheck(context.distributed, self.example_ids)
        self.reducer: Any = context.wrap_reducer(self.build_reducer(), for_training=False)
        own_loss = self._overrides("compute_loss") or (self.task is not None and type(self.task).loss is not Task.loss)
        if self.datasets and self.components.model is not None and not own_loss:
            rows = [self.datasets["train"][number] for number in range(min(2, len(self.datasets["train"])))]
            batch: Any = context.to_device(self.collator(rows))
            check_loss(self.components.model, model, self.model_inputs(batch), self.autocast())

    # ---- model, optimizer, scheduler ----

    def build_model(self) -> torch.nn.Module:
        if self.components.model is not None:
            return self.build_registered_model(self.components.model)
        pretrained = self.trainer.use_pretrained_weights
        if self.task is not None:
            built: torch.nn.Module = self.task.build_model(self.trainer.model_mode, self.model_kwargs, pretrained)
            return built
        mode = self.trainer.model_mode or self.default_model_mode
        return build.build_model(self.config, mode, self.model_kwargs, pretrained)

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return optimizers.build_default_optimizer(model, self.optimizer_kwargs)

    def build_scaler(self) -> torch.amp.GradScaler | None:
        """What scales the loss, so that gradients in float16 do not vanish; None without fp16."""
        return torch.amp.GradScaler(self.context.device.type) if self.trainer.fp16 else None

    def build_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        given, whole = self.lr_scheduler_kwargs.num_training_steps, self.num_training_steps()
        if given is not None and given != whole:
            logger.warning(
                "hyperparameters.num_training_steps: the learning rate's schedule takes %d steps, the run %d",
                given,
                whole,
            )
        return optimizers.build_default_lr_scheduler(optimizer, self.lr_scheduler_kwargs, given or whole)

    # ---- training and evaluation ----

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        """One micro-batch: loss, backward and, where it completes an effective batch, a step."""
        self._seed_batch(batch_idx)
        if self.task is not None and self.data.mixing != "keyed":
            batch = self.task.training_batch(batch, batch_idx // self._epoch_length)
        # batches by tokens bring a weight, so that each example weighs the same
        weight = batch.pop(WEIGHT) if WEIGHT in batch else None
        learning_rate = self.lr_scheduler.get_last_lr()[0]
        stepping = determined_fixes.steps_now(self.context)
        with determined_fixes.without_sync(self.context, self.model, stepping):
            with self.autocast():
                loss = self.training_loss(batch)
            loss = loss.float() if weight is None else loss.float() * weight
            self.context.backward(self.scaler.scale(loss) if self.scaler else self.finite_check.watch(loss, batch))
        self.context.step_optimizer(self.optimizer, clip_grads=self.grad_clip_fn, scaler=self.scaler)
        if self.scaler and stepping:
            self._after_scaled_step()
        return {"loss": loss.detach(), "learning_rate": learning_rate}

    def _after_scaled_step(self) -> None:
        if self.skipped.update():
            self.lr_scheduler.step()
        elif (error := self.skipped.error()) is not None:
            determined_controller.keep_last_step(self.context, lost_steps=self.skipped.count)
            with cluster_run.reported_to_torchrun(), cluster_run.raising_invalid_hp():
                raise error

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of a training batch, a scalar: the mean over its examples.

        Call ``self.model`` itself and not a part of it, or gradients are not reduced over ranks.
        """
        if self.task is not None:
            result: torch.Tensor = self.task.loss(self.model, batch)
            return result
        loss = loss_of(self.model(**self.model_inputs(batch)))
        if loss is None:
            raise ConfigError(f"{type(self).__name__}: the model gives no loss, and the trial has no compute_loss")
        return loss

    def build_registered_model(self, component: RegisteredObject) -> torch.nn.Module:
        """What a registered model's factory makes."""
        model = component.build(
            config=self.config,
            tokenizer=self.tokenizer,
            model_kwargs=self.model_kwargs,
            use_pretrained_weights=self.trainer.use_pretrained_weights,
        )
        if not isinstance(model, torch.nn.Module):
            given = f"{component.name} must give a torch.nn.Module, got a {type(model).__name__}"
            raise ConfigError(f"{component.path}: {given}")
        return model

    def build_reference(self, model: torch.nn.Module) -> torch.nn.Module | None:
        """A frozen copy of the initial model, where the objective needs one."""
        if not needs_reference(self.objective):
            return None
        return copy.deepcopy(model).requires_grad_(False).eval().to(self.context.device)

    def training_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of the training objective: the configuration's, or else `compute_loss`."""
        if self.objective is None:
            return self._loss_of_copy(batch)
        task = TrainedTask(self._loss_of_copy, self._log_probs, self._reference_log_probs)
        loss: torch.Tensor = self.objective(task, batch)
        return loss

    def _loss_of_copy(self, batch: Batch) -> torch.Tensor:
        """`compute_loss`, which may take columns out of its batch, as is usual with transformers' Trainer."""
        copied: Any = copy.copy(batch)
        return self.compute_loss(copied)

    def _log_probs(self, batch: Batch) -> torch.Tensor:
        return self._answer_log_probs(self.model, batch)

    def _reference_log_probs(self, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return self._answer_log_probs(self.reference, batch)

    def _answer_log_probs(self, model: Any, batch: Batch) -> torch.Tensor:
        owner: Any = self.task or self
        log_probs: torch.Tensor = owner.answer_log_probs(model, batch)
        return log_probs

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a batch that the model's forward takes; its other columns are for the trial alone."""
        return filter_kwargs(self._forward_names, batch)

    @functools.cached_property
    def _forward_names(self) -> frozenset[str] | None:
        return forward_names(self.model)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 or fp16 for the forward pass, as the hyperparameters say."""
        if not (self.bf16 or self.trainer.fp16):
            return contextlib.nullcontext()
        return torch.autocast(self.context.device.type, torch.bfloat16 if self.bf16 else torch.float16)

    def example_ids(self, batch: Mapping[str, Any]) -> list[str]:
        """The data file's ids of a training batch's examples, each once; an override may know them otherwise."""
        if self.data.mixing == "keyed":
            parts = [part for part in batch.values() if "example_index" in part]
            indices = [index for part in parts for index in part["example_index"].tolist()]
        else:
            indices = batch["example_index"].tolist() if "example_index" in batch else []
        examples = self.examples["train"]
        return [str(examples[index].get("id", index)) for index in dict.fromkeys(indices)]

    def _seed_batch(self, batch_idx: int) -> None:
        """Seeds every generator from the batch's number: dropout is the same after a resume, and each rank's own.

        A checkpoint holds the generators of the first rank alone, so that restoring them is not enough.
        """
        seed = hash((self.seed, batch_idx, self.context.distributed.rank)) & (2**63 - 1)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _clip_gradients(self, parameters: Any) -> None:
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        if not self.scaler:  # a scaler makes infinite gradients by design, and skips their steps
            try:
                self.finite_check(norm)
            except NonFiniteLoss as error:
                determined_controller.keep_last_step(self.context, lost_steps=1)
                with cluster_run.reported_to_torchrun(), cluster_run.raising_invalid_hp():
                    raise error
        if self.optimizer_kwargs.max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.optimizer_kwargs.max_grad_norm, norm)

    # ---- checkpoints ----

    def build_callbacks(self) -> dict[str, pytorch.PyTorchCallback]:
        """The callbacks of ``data.callbacks`` and those that every run has; an override adds to them."""
        return {
            "metric_error": MetricError(self),
            **{name: callback.bind(self) for name, callback in self.callbacks.items()},
            "checkpoint": determined_fixes.CheckpointCallback(self.save_pretrained, self.context),
            "schedule": determined_fixes.ScheduleCallback(self.context.lr_schedulers),
            **cluster_run.callbacks(self.context, self.searcher),
        }

    def save_pretrained(self, checkpoint: Path) -> None:
        """Adds a folder that transformers loads by itself: weights, config, tokenizer and the task's settings."""
        folder = checkpoint / PRETRAINED
        (save_weights if self.task is None else self.task.save_model)(unwrapped(self.model), folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        found = None if self.tokenizer is None else tokenizer_sum(folder)
        settings = {**({} if self.settings is None else vars(self.settings)), TOKENIZER_SUM: found}
        if self.task_class is not None:
            settings[TASK] = task_name(self.task_class)
        (folder / READER).write_text(json.dumps(settings, indent=1), encoding="utf-8")
