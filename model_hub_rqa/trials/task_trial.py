"""TaskTrial: a transformers model under Determined, one hook a step.

A new task subclasses it and overrides the hooks that differ; see `QATrial` for one.
"""

import contextlib
import copy
import dataclasses
import functools
import json
import logging
import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from determined import pytorch

from model_hub_rqa.checkpoints import PRETRAINED, READER, TASK, TOKENIZER_SUM, tokenizer_sum
from model_hub_rqa.config import (
    CallbackKwargs,
    DatasetKwargs,
    LRSchedulerKwargs,
    OptimizerKwargs,
    TrainerKwargs,
    parse_dict_to_dataclasses,
)
from model_hub_rqa.config.datasets import check_factories
from model_hub_rqa.config.experiment import Experiment
from model_hub_rqa.config.trainer_names import best_checkpoint_errors
from model_hub_rqa.data.arrow_cache import Reader
from model_hub_rqa.data.batching import (
    WEIGHT,
    EvalBatchSampler,
    TokenBudgetBatchSampler,
    TrainBatchSampler,
    WeighingCollator,
    leave_signals_to_parent,
)
from model_hub_rqa.data.features import complete_datasets, with_shifted_rows
from model_hub_rqa.data.mixing import DEFAULT_TEMPERATURE, KeyedBatchSampler, KeyedCollator, MixedBatchSampler
from model_hub_rqa.data.shards import counting
from model_hub_rqa.errors import ConfigError, DataError, ErrorCollector, NonFiniteLoss, RqaError
from model_hub_rqa.models import build
from model_hub_rqa.models.dropout import use_cpu_dropout
from model_hub_rqa.models.first import parse_parts, read_first_model
from model_hub_rqa.models.hub import check_model_names
from model_hub_rqa.models.initial_weights import load_weights, save_weights
from model_hub_rqa.models.limits import Limits, read_limits
from model_hub_rqa.models.precision import computes_in_bf16, warn_of_slow_bf16
from model_hub_rqa.models.signature import check_loss, filter_kwargs, forward_names, loss_of, unwrapped
from model_hub_rqa.registry import TASKS, RegisteredObject, import_plugins
from model_hub_rqa.runtime import (
    cluster_run,
    determined_cluster,
    determined_controller,
    determined_fixes,
    metric_names,
    run_length,
)
from model_hub_rqa.runtime.experiments import experiment_of
from model_hub_rqa.runtime.finite import FiniteCheck, SkippedSteps
from model_hub_rqa.tasks.base import Task, Variant, task_name, write_file
from model_hub_rqa.trials.by_set import SetsTrial, example_number
from model_hub_rqa.trials.callbacks import MetricError, build_named_callbacks
from model_hub_rqa.trials.reducers import ByIdReducer, Values
from model_hub_rqa.utils import AttrDict

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TaskTrial(SetsTrial):
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
        examples: {"train", "validation"} as loaded; datasets: the same as features.
        file_counts: what became of the records of each file that was read.
        sets: {"train", "validation"}: of each named set of a side, in their order, the numbers of its examples in
            ``examples``; empty for a side that lists none.
        validation_set: while `compute_metrics` runs, the name of the set whose values it gets; "" where there is one.
        stop_reason: why a callback asked for a stop, None where none did.
        config, tokenizer: a PretrainedConfig and a PreTrainedTokenizerBase; known before the data are encoded.
        model, optimizer, lr_scheduler, reducer: wrapped by the context; they are there once the trial is built.
    """

    default_model_mode = "base"
    default_bf16 = False
    smooths_labels = False
    label_names: tuple[str, ...] = ("labels",)
    include_inputs: tuple[str, ...] = ()
    stop_reason: str | None = None
    metric_error: Exception | None = None
    default_parts: Collection[str] = ("config", "tokenizer", "model")
    task_class: type[Task] | None = None
    task: Task | None = None
    task_kwargs: type | None = None
    default_metric = "eval_loss"
    default_smaller_is_better = True
    smaller_is_better = True
    searcher: Mapping[str, Any] = {}
    metrics: Mapping[str, RegisteredObject] = {}
    accumulation = 1

    def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
        self.context = context
        self.output_dir: Path | None = None
        determined_cluster.patch_context(context)
        with cluster_run.reported_to_torchrun(), cluster_run.impossible_hyperparameters():
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
        torch.manual_seed(self.seed)
        model: Any = self.build_model()
        if self.task is not None:
            self.task.prepare_model(model)
        build.check_vocabulary(self.tokenizer, model)
        with determined_cluster.warm_start(context) as warm:
            if warm is not None:
                load_weights(model, warm, determined_cluster.WARM_START)
            elif self.first.folder is not None and not determined_fixes.is_loading_only(context):
                load_weights(model, self.first.folder)
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
        self.collator = self.build_chosen_collator() or self.build_collator()
        if self.datasets and not self.batches_checked:
            self.check_batches()
        self.finite_check = FiniteCheck(context.distributed, self.example_ids)
        self.reducer: Any = context.wrap_reducer(self.build_reducer(), for_training=False)
        own_loss = self._overrides("compute_loss") or (self.task is not None and type(self.task).loss is not Task.loss)
        if self.datasets and self.components.model is not None and not own_loss:
            rows = [self.datasets["train"][number] for number in range(min(2, len(self.datasets["train"])))]
            batch: Any = context.to_device(self.collator(rows))
            check_loss(self.components.model, model, self.model_inputs(batch), self.autocast())

    @property
    def higher_is_better(self) -> Mapping[str, bool | None]:
        """Of each metric; a class may set a plain dict in its place."""
        if self.task is None:
            return {"eval_loss": False, "loss": False}
        added = {name: getattr(one.factory, "higher_is_better", None) for name, one in self.metrics.items()}
        return {**self.task.higher_is_better, **added}

    # ---- configuration and data: all that comes before a model ----

    def prepare(self, experiment: Experiment) -> None:
        """Parses the settings, then loads examples, config and tokenizer and builds the features.

        Raises:
            ConfigError, DataError: with every error.
        """
        self.parse(experiment)
        self.examples: Mapping[str, Any] = {}
        self.datasets: Mapping[str, Any] = {}
        self.sets: dict[str, dict[str, range]] = {"train": {}, "validation": {}}
        context = getattr(self, "context", None)
        if context is not None and determined_fixes.is_loading_only(context):
            self._build_config_and_tokenizer()
            return
        with counting() as self.file_counts:
            loaded = self.take_settings(self._once_per_host(self.load_examples))
        self.examples = self._join_sets(loaded)
        self._build_config_and_tokenizer()
        self.check()
        self.read = self.examples
        built = self._once_per_host(self.build_datasets)
        self.datasets = complete_datasets(built, self.examples, f"{type(self).__name__}.build_datasets")
        for name in ("train", "validation"):
            if not len(self.datasets[name]):
                raise DataError(f"data: the {name} split holds no example")
        self._warn_of_large_batch()
        self.batches_checked = self.check_batches()

    def check_course(self) -> None:
        """Checks what depends on settings and data together: the run's length, and the metrics that steer it.

        Raises:
            ConfigError: every error.
        """
        errors: list[str] = []
        metric, smaller = self.searcher.get("metric"), self.searcher.get("smaller_is_better")
        try:
            self.num_training_batches()
        except ConfigError as error:
            errors += error.errors
        try:
            if metric is not None:
                self.smaller_is_better = metric_names.check_metric(self, metric, smaller, "searcher")
        except ConfigError as error:
            errors += error.errors
        for callback in self.callbacks.values():
            try:
                callback.check(self)
            except ConfigError as error:
                errors += error.errors
        if errors:
            raise ConfigError(errors)

    def _warn_of_large_batch(self) -> None:
        """Warns where an optimizer step takes more examples than there are: each counts several times in it."""
        trainer, examples = self.trainer, len(self.datasets["train"])
        step = trainer.global_batch_size * trainer.gradient_accumulation_steps
        if step <= examples or trainer.validates_only or trainer.max_tokens_per_batch is not None:
            return
        logger.warning(
            "hyperparameters.global_batch_size: an optimizer step takes %d examples%s, and there are %d to train on: "
            "they are repeated within the step",
            step,
            "" if trainer.gradient_accumulation_steps == 1 else f" ({trainer.global_batch_size} a batch)",
            examples,
        )

    def parse(self, experiment: Experiment) -> None:
        """Reads hyperparameters and data into named settings, gathering the errors of all of them."""
        hparams, data, self.searcher = experiment.hyperparameters, experiment.data, experiment.searcher
        self.data_config = AttrDict(data)
        errors: list[str] = []
        import_plugins(data.get("plugins"))  # which may register the task; their errors come with the others
        try:
            self.use_task(hparams)
            if self.task_class is not None:
                hparams = self.task_class.adapt_hyperparameters(hparams, data)
        except ConfigError as error:
            errors += error.errors

        def attempt(step: Callable[[], T]) -> T | None:
            try:
                return step()
            except ConfigError as error:
                errors.extend(line for line in error.errors if line not in errors)
                return None

        self.hparams = given = AttrDict(hparams)
        names = [field for field in getattr(self.task_kwargs, "__dataclass_fields__", {}) if field in given]
        task_settings = {**data, **{name: given[name] for name in names}}
        own, variables = [*experiment.referred["hyperparameters"], *names], experiment.referred["data"]
        attempt(lambda: self.parse_components(given, data))
        attempt(lambda: check_factories(data))
        first = attempt(lambda: read_first_model(given, self.default_parts, self.components.model))
        auto = None if first is None else attempt(lambda: parse_parts(first.hparams, first.parts, known=own))
        training = attempt(
            lambda: parse_dict_to_dataclasses((OptimizerKwargs, LRSchedulerKwargs, TrainerKwargs), given, known=own)
        )
        types = (DatasetKwargs, CallbackKwargs, *([] if self.task_kwargs is None else [self.task_kwargs]))
        keyed = data.get("mixing") == "keyed"  # how long an epoch is must not hang on a misspelt anchor
        settings = attempt(
            lambda: parse_dict_to_dataclasses(types, task_settings, section="data", known=variables, strict=keyed)
        )
        attempt(lambda: run_length.read_max_length(self.searcher))
        if training is not None and training[2].fp16 and not torch.cuda.is_available():
            errors.append("hyperparameters.fp16: needs a CUDA GPU and none is there; bf16 works on CPUs as well")
        if training is not None and training[2].label_smoothing_factor and not self.smooths_labels:
            errors.append(
                "hyperparameters.label_smoothing_factor: must be 0, since the loss of "
                f"{type(self).__name__} is not one of generated tokens, got {training[2].label_smoothing_factor}"
            )
        if training is not None:
            errors += best_checkpoint_errors(training[2], self.searcher, experiment.checkpoint_policy)
        if auto is not None and first is not None:
            errors += check_model_names(*auto, pretrained=first.pretrained)
        if (
            first is not None
            and given.get("model") is None
            and "model" not in first.parts
            and not self._overrides("build_model")
        ):
            errors.append(f"hyperparameters.model: is required, since {type(self).__name__} has no model of its own")
        sets = None if settings is None else attempt(lambda: self._parse_sets(settings[0]))
        callbacks = None if settings is None else attempt(lambda: build_named_callbacks(settings[1].callbacks or ()))
        metrics = None if settings is None else attempt(lambda: metric_names.read_metrics(settings[1].metrics or ()))
        if metrics and self.task_class is None:
            errors.append(f"data.metrics: needs a task, and {type(self).__name__} has its own compute_metrics")
        by_tokens = training is not None and training[2].max_tokens_per_batch is not None
        if by_tokens and settings is not None and settings[0].mixing != "by_size":
            errors.append(f"hyperparameters.max_tokens_per_batch: needs data.mixing: by_size, got {settings[0].mixing}")
        if errors or first is None or auto is None or training is None:
            raise ConfigError(errors)
        if settings is None or sets is None or callbacks is None or metrics is None:
            raise ConfigError(errors)
        self.first = first
        self.config_kwargs, self.tokenizer_kwargs, self.model_kwargs = auto
        self.optimizer_kwargs, self.lr_scheduler_kwargs, trainer = training
        self.trainer = dataclasses.replace(trainer, use_pretrained_weights=first.pretrained)
        self.data, self.settings = settings[0], settings[2] if len(settings) > 2 else None
        self.named_sets = sets
        self.callback_kwargs, self.callbacks, self.metrics = settings[1], callbacks, metrics
        self.data_settings = {**vars(self.data), **({} if self.settings is None else vars(self.settings))}
        self.seed = self._seed()
        if self.task_class is not None:
            self.task = self.task_class(self.settings)
            self.task.seed, self.task.language = self.seed, self.data.language
            self.task.overwrite_cache, self.task.on_bad_record = self.data.overwrite_cache, self.data.on_bad_record
            self.task.cache_dir, self.task.wants_loss = self.data.cache_dir, True
            self.task.label_smoothing = self.trainer.label_smoothing_factor
            self.task.padding_multiple = self.pad_to_multiple_of
            if taken := sorted(set(metrics) & set(self.task.higher_is_better)):
                raise ConfigError(f"data.metrics: {taken[0]} is a metric of the task already")

    def use_task(self, hparams: Mapping[str, Any]) -> None:
        """Takes over what the task says of itself: its settings, its model mode, its metric.

        Raises:
            ConfigError: the hyperparameter ``task`` names no task, or another one than the trial's.
        """
        self.task_class = find_task(type(self), hparams)
        for name, value in task_defaults(type(self), self.task_class).items():
            setattr(self, name, value)

    def load_examples(self) -> Mapping[str, Any]:
        """The raw "train" and "validation" examples; either may be a mapping of several sets by name."""
        from model_hub_rqa.data.loading import load_splits
        from model_hub_rqa.data.several import load_named_sets

        if self.task is not None and not self.task.reads_hub:
            self._refuse_hub(type(self.task))
        reader = self.build_reader()
        if not self.named_sets:
            result: Mapping[str, Any] = load_splits(self.data_settings, seed=self.seed, reader=reader)
            return result
        version_2 = bool(self.data_settings.get("version_2_with_negative"))
        return load_named_sets(self.named_sets, seed=self.seed, reader=reader, version_2_with_negative=version_2)

    def _refuse_hub(self, task: type[Task]) -> None:
        entries: dict[str, Any] = {
            f"data.{split}[{number}]": one for split, sets in self.named_sets.items() for number, one in enumerate(sets)
        }
        named = {path: one.dataset_name for path, one in {**entries, "data": self.data}.items()}
        errors = [
            f"{path}.dataset_name: examples of the task {task.name} come from files (train_file, validation_file), "
            f"got {name!r}"
            for path, name in named.items()
            if name is not None
        ]
        if errors:
            raise ConfigError(errors)

    def build_reader(self) -> Reader | None:
        """What reads and validates a file of examples; None for SQuAD's form."""
        return None if self.task is None else self.task.file_loader()

    def build_config_and_tokenizer(self) -> tuple[Any, Any]:
        """The model's config and tokenizer; a subclass may look at ``self.examples``, say for num_labels."""
        parts = self.first.parts
        return build.build_config_and_tokenizer(
            self.config_kwargs if "config" in parts else None, self.tokenizer_kwargs if "tokenizer" in parts else None
        )

    def _build_config_and_tokenizer(self) -> None:
        self.config, self.tokenizer = self.build_config_and_tokenizer()
        if self.task is not None:
            self.config = self.task.adapt_config(self.config, self.tokenizer)
            self.task.setup(self.config, self.tokenizer, self.limits)
            self.settings, self.task.variants = self.task.settings, self._variants()

    @functools.cached_property
    def limits(self) -> Limits:
        """What the model takes, known before its weights are loaded."""
        mode = self.trainer.model_mode or self.default_model_mode
        trust = bool(getattr(self.model_kwargs, "trust_remote_code", False))
        return read_limits(self.config, mode, trust_remote_code=trust)

    def check(self) -> None:
        """Raises ConfigError for settings that do not fit the config or the tokenizer."""
        if self.task is None:
            return
        errors = ErrorCollector()
        if self.task.fixed_model and self.components.model is not None:
            built = f"a {type(self).__name__} always builds its own"
            errors.add(ConfigError(f"hyperparameters.model: must be unset, {built}"))
        if self.task.fixed_model and self.trainer.model_mode not in (None, self.task.model_mode):
            mode = self.trainer.model_mode
            errors.add(ConfigError(f"hyperparameters.model_mode: must be {self.task.model_mode} or unset, got {mode}"))
        errors.attempt(self.task.check)
        errors.raise_any()

    def build_datasets(self) -> Mapping[str, Any]:
        """Turns ``self.examples`` into "train" and "validation", each a datasets.Dataset of features.

        Use ``self.map_examples(split, function)``: its cache notices when you edit the function. Two columns are added
        where they are missing and can be known: ``length``, the tokens of a feature, counted from its lists, and
        ``example_index``, the row of ``self.examples[split]`` that it is made of, where it maps row by row.
        """
        if self.task is None:
            raise ConfigError(f"{type(self).__name__}.build_datasets: must be written, or a task be named (task)")
        self.read = self.task.prepare(self.examples)
        errors = ErrorCollector()
        features = {split: errors.attempt(self._features, self.task, split) for split in self.read}
        errors.raise_any()
        return features

    def _features(self, task: Task, split: str) -> Any:
        """The features of a split: of each data set by its own settings, where some bring their own along."""
        examples, training = self.read[split], split == "train"
        variants = [variant for variant in task.variants if variant.split == split]
        if not variants:
            return task.features(examples, training=training)
        from datasets import concatenate_datasets

        errors, parts = ErrorCollector(), list[Any]()
        for variant in variants:
            rows = self.sets[split].get(variant.dataset, range(len(examples)))
            own = copy.copy(task)
            own.settings, own.dataset = variant.settings, variant.dataset
            made = errors.attempt(own.features, examples.select(rows), training=training)
            if made is not None:
                parts.append(with_shifted_rows(made, rows.start))
        errors.raise_any()
        return concatenate_datasets(parts).with_format(**parts[0].format) if len(parts) > 1 else parts[0]

    def _variants(self) -> list[Variant]:
        """The task's settings as each data set has them; [] where none brings its own along."""
        if not self.set_settings:
            return []
        errors: dict[str, None] = {}
        found = []
        for split, sets in self.sets.items():
            for name in sets or [""]:
                own = self.set_settings.get((split, name), {})
                path = f"data.datasets.{name or getattr(self.data, split)}.args" if own else "data"
                try:
                    found.append(Variant(split, name, dataclasses.replace(cast("Any", self.settings), **own), path))
                except ConfigError as error:
                    errors |= {f"{path}.{line.partition('.')[2]}": None for line in error.errors}
        if errors:
            raise ConfigError(errors)
        return found

    # ---- model, optimizer, scheduler, loaders ----

    def build_model(self) -> torch.nn.Module:
        if self.components.model is not None:
            return self.build_chosen_model(self.components.model)
        pretrained = self.trainer.use_pretrained_weights
        if self.task is not None:
            built: torch.nn.Module = self.task.build_model(self.trainer.model_mode, self.model_kwargs, pretrained)
            return built
        mode = self.trainer.model_mode or self.default_model_mode
        return build.build_model(self.config, mode, self.model_kwargs, pretrained)

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return build.build_default_optimizer(model, self.optimizer_kwargs)

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
        return build.build_default_lr_scheduler(optimizer, self.lr_scheduler_kwargs, given or whole)

    def build_collator(self) -> Callable[[list[Any]], dict[str, Any]]:
        """Makes a plain dict of tensors of a list of features; ``example_index`` among them, for a validation."""
        if self.task is None:
            raise ConfigError(f"{type(self).__name__}.build_collator: must be written, or a task be named (task)")
        return self.task.collate

    def build_reducer(self) -> pytorch.MetricReducer:
        """What gathers a validation over ranks: ``self.reducer``, which `evaluate_batch` updates."""
        return ByIdReducer(self._metrics_or_error, is_chief=self.context.distributed.rank == 0)

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
        steps = build.compute_num_training_steps(
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
            examples_by_set = (lengths, self.set_numbers("train"), batch_size)
            if self.data.mixing == "keyed":
                return KeyedBatchSampler(*examples_by_set, anchor=self.anchor(), **settings)
            temperature = self.data.mixing_temperature or DEFAULT_TEMPERATURE
            return MixedBatchSampler(*examples_by_set, mixing=self.data.mixing, temperature=temperature, **settings)
        if self.trainer.max_tokens_per_batch is not None:
            return TokenBudgetBatchSampler(lengths, self.trainer.max_tokens_per_batch, group=group, seed=self.seed)
        return TrainBatchSampler(
            lengths,
            batch_size,
            group=group,
            seed=self.seed,
            group_by_length=self.trainer.group_by_length,
        )

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
        numbers = self.set_numbers("validation") if self.sets["validation"] else None
        sampler = EvalBatchSampler(lengths, batch_size, ranks=self.context.distributed.size, set_numbers=numbers)
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

    # ---- training and evaluation ----

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        """One micro-batch: loss, backward and, where it completes an effective batch, a step."""
        self._seed_batch(batch_idx)
        if self.task is not None and self.data.mixing != "keyed":
            batch = self.task.training_batch(batch, batch_idx // self._epoch_length)
        weight = (
            batch.pop(WEIGHT) if WEIGHT in batch else None
        )  # of batches by tokens, so that each example weighs the same
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
            with cluster_run.reported_to_torchrun(), cluster_run.diverging():
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

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a batch that the model's forward takes; its other columns are for the trial alone."""
        return filter_kwargs(self._forward_names, batch)

    @functools.cached_property
    def _forward_names(self) -> frozenset[str] | None:
        return forward_names(self.model)

    def predict(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What a validation keeps of the model's outputs: tensors by name, each with a row an example.

        The model does not see the labels; an override may show them to it.
        """
        model = unwrapped(self.model)  # ranks may have different numbers of batches
        inputs = {name: column for name, column in batch.items() if name not in self.label_names}
        return {"logits": model(**self.model_inputs(inputs)).logits}

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Hands on, by ``example_index``, what `predict` gives, the labels and the columns of ``include_inputs``.

        Of a task, it hands on what `Task.predict` gives. For a trial without metrics of its own it hands on the loss of
        the batch, from `compute_loss`.
        """
        if self.task is not None:
            self.task.wants_files = self.output_dir is not None
            with self.autocast():
                self.reducer.update(self.task.predict(unwrapped(self.model), batch))
            return {}
        if not self._overrides("compute_metrics"):
            loss = self._validation_loss(batch)
            self.reducer.update(dict.fromkeys(batch["example_index"].tolist(), loss))
            return {}
        with self.autocast():
            predicted = self.predict({**batch})
        names = [name for name in (*self.label_names, *self.include_inputs) if name in batch]
        columns = {**predicted, **{name: batch[name] for name in names}}
        plain = {name: _to_numpy(column) for name, column in columns.items()}
        numbers = batch["example_index"].tolist()
        rows = ({name: column[row] for name, column in plain.items()} for row in range(len(numbers)))
        self.reducer.update(dict(zip(numbers, rows, strict=True)))
        return {}

    def _metrics_or_error(self, values: Values) -> dict[str, float]:
        if not values:  # `evaluate_batch` has returned metrics itself
            return {}
        try:
            return self.validation_metrics(values)
        except (
            Exception
        ) as error:  # of the user's code, say: the chief alone knows, and `MetricError` raises it everywhere
            self.metric_error = error
            return {}

    def _validation_loss(self, batch: Mapping[str, Any]) -> float:
        wrapped, self.model = self.model, unwrapped(self.model)  # ranks may have different numbers of batches
        try:
            with self.autocast():
                return self.compute_loss({**batch}).item()
        finally:
            self.model = wrapped

    def compute_metrics(self, values: Values) -> dict[str, float]:
        """Metrics of a validation from the values that `evaluate_batch` gave the reducer, sorted by id.

        Where ``data.validation`` lists several sets, it is called for each with that set's values alone.
        For an override a value is {name: array}: an example's rows of what `predict` gave and of the columns handed
        on. By default it is eval_loss (and loss, another name of it): the mean over the examples of their batch's loss.
        Of a task, the values are its predictions: they are decoded, written where ``output_dir`` is set, and scored.
        """
        if self.task is not None:
            return self._task_metrics(self.task, values)
        loss = sum(values.values()) / len(values)
        return {"eval_loss": loss, "loss": loss}

    def _task_metrics(self, task: Task, values: Values) -> dict[str, float]:
        keys: Any = list(values)
        numbers = sorted({example_number(key) for key in keys})
        rows: dict[Any, int] = {number: row for row, number in enumerate(numbers)}
        examples = self.evaluated(self.read["validation"], numbers)
        predictions = {
            (rows[key[0]], *key[1:]) if isinstance(key, tuple) else rows[key]: value for key, value in values.items()
        }
        languages = {one.name: one.language for one in self.named_sets.get("validation", ())}
        task.dataset, task.language = self.validation_set, languages.get(self.validation_set) or self.data.language
        results = task.decode(predictions, examples)
        if self.output_dir is not None:
            for name, content in task.files(results, examples).items():
                write_file(self.prediction_path(name), content)
        metrics = task.metrics(results, examples)
        if self.metrics:
            texts = [answer.text for answer in task.answers(results, examples)]
            metrics |= metric_names.added_metrics(self.metrics, texts, task.references(examples))
        return metrics

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 or fp16 for the forward pass, as the hyperparameters say."""
        if not (self.bf16 or self.trainer.fp16):
            return contextlib.nullcontext()
        return torch.autocast(self.context.device.type, torch.bfloat16 if self.bf16 else torch.float16)

    def example_ids(self, batch: Mapping[str, Any]) -> list[str]:
        """The data file's ids of a training batch's examples, each once; an override may know them otherwise."""
        if self.data.mixing == "keyed":
            parts = [part for part in batch.values() if "example_index" in part]
            numbers = [number for part in parts for number in part["example_index"].tolist()]
        else:
            numbers = batch["example_index"].tolist() if "example_index" in batch else []
        examples = self.examples["train"]
        return [str(examples[number].get("id", number)) for number in dict.fromkeys(numbers)]

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
                with cluster_run.reported_to_torchrun(), cluster_run.diverging():
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

    # ---- helpers ----

    def _seed(self) -> int:
        context = getattr(self, "context", None)
        on_cluster = determined_fixes.trial_seed(context) if context is not None else None
        return self.trainer.seed if "seed" in self.hparams or on_cluster is None else on_cluster

    def _overrides(self, hook: str) -> bool:
        return getattr(type(self), hook) is not getattr(TaskTrial, hook)

    def _once_per_host(self, step: Callable[[], T]) -> T:
        """Runs a step on each host's first rank, which fills the cache, and then on its others, which read it."""
        context = getattr(self, "context", None)
        if context is None or context.distributed.local_size == 1:
            return step()
        distributed = context.distributed
        result, failure = None, None
        if distributed.local_rank == 0:
            try:
                result = step()
            except Exception as error:
                distributed.broadcast_local(error if isinstance(error, RqaError) else RuntimeError(str(error)))
                raise
        failure = distributed.broadcast_local(failure)
        if failure is not None:
            raise failure
        return step() if result is None else result


def find_task(trial: type["TaskTrial"], hparams: Mapping[str, Any]) -> type[Task] | None:
    """The task that a trial trains: its own, or the one that the hyperparameter ``task`` names.

    Raises:
        ConfigError: there is no such task, or the trial has another one.
    """
    name = hparams.get("task")
    if name is None:
        return trial.task_class
    try:
        found: Any = TASKS.find(name)
    except ValueError as error:
        raise ConfigError(f"hyperparameters.task: {error}") from error
    if trial.task_class not in (None, found):
        raise ConfigError(f"hyperparameters.task: must be unset for {trial.__name__}, which has its own, got {name}")
    return cast("type[Task]", found)


def task_defaults(trial: type["TaskTrial"], task: type[Task] | None) -> dict[str, Any]:
    """What a trial's class attributes are for a task, where the trial does not set them itself."""
    if task is None:
        return {}
    of_task = {
        "task_kwargs": task.Settings,
        "default_model_mode": task.model_mode,
        "default_bf16": task.default_bf16,
        "smooths_labels": task.smooths_labels,
        "default_metric": task.metric,
        "default_smaller_is_better": task.smaller_is_better,
    }
    return {name: value for name, value in of_task.items() if getattr(trial, name) is getattr(TaskTrial, name)}


def _to_numpy(column: Any) -> Any:
    """A column on the CPU; bfloat16, which numpy lacks, as float32."""
    if not isinstance(column, torch.Tensor):
        return column
    column = column.detach().cpu()
    return (column.float() if column.is_floating_point() else column).numpy()
