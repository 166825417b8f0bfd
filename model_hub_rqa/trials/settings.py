"""The settings of a `TaskTrial`: a configuration's sections as dataclasses, and the objects that it names."""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch

from model_hub_rqa.config import (
    CallbackKwargs,
    DatasetKwargs,
    LRSchedulerKwargs,
    OptimizerKwargs,
    TrainerKwargs,
    parse_dict_to_dataclasses,
)
from model_hub_rqa.config.datasets import NamedDatasetKwargs, check_factories, parse_datasets
from model_hub_rqa.config.experiment import Experiment
from model_hub_rqa.config.fields import did_you_mean
from model_hub_rqa.config.trainer_names import best_checkpoint_errors
from model_hub_rqa.errors import ConfigError, ErrorCollector
from model_hub_rqa.models.hub import check_model_names
from model_hub_rqa.models.init_source import parse_parts, read_init_source
from model_hub_rqa.objectives import Objective, build_objective, needed_datasets, needs_reference
from model_hub_rqa.registry import TASKS, RegisteredObject, RegisteredObjects, import_plugins, read_registered
from model_hub_rqa.runtime import (
    determined_fixes,
    metric_names,
    run_length,
)
from model_hub_rqa.tasks.base import Task
from model_hub_rqa.trials.base import BaseTransformerTrial
from model_hub_rqa.trials.callbacks import build_named_callbacks
from model_hub_rqa.utils import AttrDict

logger = logging.getLogger(__name__)

T = TypeVar("T")

PERIODS = ("min_validation_period", "min_checkpoint_period")


class SettingsTrial(BaseTransformerTrial):
    """The first step of a `TaskTrial`: `parse` reads its settings. Attributes are described there."""

    default_model_mode = "base"
    default_bf16 = False
    smooths_labels = False
    takes_keyed_batches = False
    default_parts: Collection[str] = ("config", "tokenizer", "model")
    task_class: type[Task] | None = None
    task: Task | None = None
    task_kwargs: type | None = None
    default_metric = "eval_loss"
    default_smaller_is_better = True
    searcher: Mapping[str, Any] = {}
    metrics: Mapping[str, RegisteredObject] = {}
    components = RegisteredObjects()
    objective: Objective | None = None
    data: DatasetKwargs
    named_datasets: Mapping[str, tuple[NamedDatasetKwargs, ...]]
    trainer: Any = None
    build_model: Callable[..., torch.nn.Module]

    def parse(self, experiment: Experiment) -> None:
        """Reads hyperparameters and data into named settings.

        Raises:
            ConfigError: the errors of all of them.
        """
        hparams, data, self.searcher = experiment.hyperparameters, experiment.data, experiment.searcher
        self.data_config = AttrDict(data)
        errors = ErrorCollector()
        import_plugins(data.get("plugins"))  # which may register the task; their errors come with the others
        self.hparams = AttrDict(errors.attempt(self.use_task, hparams, data) or hparams)
        of_task = [name for name in getattr(self.task_kwargs, "__dataclass_fields__", {}) if name in self.hparams]
        known = [*experiment.referenced["hyperparameters"], *of_task]
        errors.attempt(self.parse_components, self.hparams, data)
        errors.attempt(check_factories, data)
        errors.attempt(self._parse_model, known)
        errors.attempt(self._parse_training, known, experiment.checkpoint_policy)
        errors.attempt(run_length.read_max_length, self.searcher)
        self.periods = {name: errors.attempt(run_length.read_period, experiment.resolved, name) for name in PERIODS}
        settings = {**data, **{name: self.hparams[name] for name in of_task}}
        errors.attempt(self._parse_data, settings, experiment.referenced["data"])
        by_tokens = getattr(self.trainer, "max_tokens_per_batch", None) is not None
        if by_tokens and hasattr(self, "data") and self.data.mixing != "by_size":
            rule = f"needs data.mixing: by_size, got {self.data.mixing}"
            errors.add(ConfigError(f"hyperparameters.max_tokens_per_batch: {rule}"))
        errors.raise_any()
        self.trainer = dataclasses.replace(self.trainer, use_pretrained_weights=self.init_source.pretrained)
        self.data_settings = {**vars(self.data), **({} if self.settings is None else vars(self.settings))}
        self.seed = self._seed(experiment)
        if self.task_class is not None:
            self.task = self._build_task(self.task_class)

    def _parse_model(self, known: Collection[str]) -> None:
        self.init_source = read_init_source(self.hparams, self.default_parts, self.components.model)
        auto = parse_parts(self.init_source.hparams, self.init_source.parts, known=known)
        self.config_kwargs, self.tokenizer_kwargs, self.model_kwargs = auto
        errors = list(check_model_names(*auto, pretrained=self.init_source.pretrained))
        has_model = self.hparams.get("model") is not None or "model" in self.init_source.parts
        if not has_model and not self._overrides("build_model"):
            errors.append(f"hyperparameters.model: is required, since {type(self).__name__} has no model of its own")
        if errors:
            raise ConfigError(errors)

    def _parse_training(self, known: Collection[str], checkpoint_policy: str) -> None:
        types = (OptimizerKwargs, LRSchedulerKwargs, TrainerKwargs)
        training = parse_dict_to_dataclasses(types, self.hparams, known=known)
        self.optimizer_kwargs, self.lr_scheduler_kwargs, self.trainer = training
        errors = list(best_checkpoint_errors(self.trainer, self.searcher, checkpoint_policy))
        if self.trainer.fp16 and not torch.cuda.is_available():
            errors.append("hyperparameters.fp16: needs a CUDA GPU and none is there; bf16 works on CPUs as well")
        if self.trainer.label_smoothing_factor and not self.smooths_labels:
            errors.append(
                "hyperparameters.label_smoothing_factor: must be 0, since the loss of "
                f"{type(self).__name__} is not one of generated tokens, got {self.trainer.label_smoothing_factor}"
            )
        if errors:
            raise ConfigError(errors)

    def _parse_data(self, settings: Mapping[str, Any], known: Collection[str]) -> None:
        types = (DatasetKwargs, CallbackKwargs, *([] if self.task_kwargs is None else [self.task_kwargs]))
        keyed = settings.get("mixing") == "keyed"  # how long an epoch is must not hang on a misspelt anchor
        parsed = parse_dict_to_dataclasses(types, settings, section="data", known=known, strict=keyed)
        self.data, self.callback_kwargs, self.settings = parsed[0], parsed[1], parsed[2] if len(parsed) > 2 else None
        errors = ErrorCollector()
        self.named_datasets = errors.attempt(self._parse_datasets, self.data) or {}
        self.callbacks = errors.attempt(build_named_callbacks, self.callback_kwargs.callbacks or ()) or {}
        self.metrics = errors.attempt(metric_names.read_metrics, self.callback_kwargs.metrics or ()) or {}
        if self.metrics and self.task_class is None:
            text = f"needs a task, and {type(self).__name__} has its own compute_metrics"
            errors.add(ConfigError(f"data.metrics: {text}"))
        errors.raise_any()

    def _build_task(self, task_class: type[Task]) -> Task:
        """The task with what settings that are not its own say of it."""
        task = task_class(self.settings)
        task.seed, task.language, task.wants_loss = self.seed, self.data.language, True
        task.overwrite_cache, task.cache_dir = self.data.overwrite_cache, self.data.cache_dir
        task.on_bad_record = self.data.on_bad_record
        task.label_smoothing = self.trainer.label_smoothing_factor
        task.padding_multiple = self.pad_to_multiple_of
        if taken := sorted(set(self.metrics) & set(task.higher_is_better)):
            raise ConfigError(f"data.metrics: {taken[0]} is a metric of the task already")
        return task

    def use_task(self, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Takes over what the task says of itself: its settings, its model mode, its metric.

        Returns:
            The hyperparameters as the task's own settings complete them.

        Raises:
            ConfigError: the hyperparameter ``task`` names no task, or another one than the trial's.
        """
        self.task_class = find_task(type(self), hparams)
        for name, value in task_defaults(type(self), self.task_class).items():
            setattr(self, name, value)
        return hparams if self.task_class is None else self.task_class.adapt_hyperparameters(hparams, data)

    def parse_components(self, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Raises ConfigError with every error of plugins, names, arguments and of the objective's data sets."""
        self.components = read_registered(hparams, data)
        self.dataset_settings: dict[tuple[str, str], Mapping[str, Any]] = {}
        train, keyed = data.get("train"), data.get("mixing") == "keyed"
        entries = train if isinstance(train, list) else []
        names = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in entries]
        self.objective = build_objective(self.components, [str(name) for name in names], keyed)
        named, gives = self.components.objective, hasattr(self.task_class or self, "answer_log_probs")
        if named is not None and needs_reference(self.objective) and not gives:
            raise ConfigError(
                f"hyperparameters.objective: {named.name} needs the probabilities of answers, "
                f"which {type(self).__name__} does not give (answer_log_probs)"
            )

    def objective_takes_sets(self) -> bool:
        """Whether the objective takes batches of several sets by name; so may one that cannot be built."""
        return bool(needed_datasets(self.objective)) or (self.objective is None and "objective" in self.hparams)

    def _parse_datasets(self, data: DatasetKwargs) -> Mapping[str, tuple[NamedDatasetKwargs, ...]]:
        sets = parse_datasets(data)
        names = [one.name for one in sets.get("train", ())]
        if data.anchor is not None and data.anchor not in names:
            raise ConfigError(
                f"data.anchor: must be a set of data.train ({', '.join(names)}), got {data.anchor!r}"
                f"{did_you_mean(data.anchor, names)}"
            )
        if data.mixing == "keyed" and not (self.takes_keyed_batches or self.objective_takes_sets()):
            raise ConfigError(
                f"data.mixing: keyed needs a trial whose compute_loss takes batches by name, {type(self).__name__} has "
                "none (takes_keyed_batches)"
            )
        return sets

    def _seed(self, experiment: Experiment) -> int:
        """``hyperparameters.seed``, or else the one that a cluster gives this trial, or else the experiment's."""
        context = getattr(self, "context", None)  # None for rqa validate
        of_trial = None if context is None else determined_fixes.trial_seed(context)
        given = [seed for seed in (of_trial, experiment.seed) if seed is not None]
        return given[0] if given and "seed" not in self.hparams else self.trainer.seed

    @property
    def pad_to_multiple_of(self) -> int:
        """To what lengths batches are padded: on a GPU to a multiple of 8 tokens."""
        context = getattr(self, "context", None)  # None for rqa validate
        return 8 if context is not None and context.device.type == "cuda" else 1

    def _overrides(self, hook: str) -> bool:
        """Whether a class of the user's own defines a hook."""
        owner = next(one for one in type(self).__mro__ if hook in vars(one))
        return not owner.__module__.startswith("model_hub_rqa.trials.")


def find_task(trial: "type[SettingsTrial]", hparams: Mapping[str, Any]) -> type[Task] | None:
    """The task that a trial trains: its own, or the one that the hyperparameter ``task`` names.

    Raises:
        ConfigError: there is no such task, or the trial has another one.
    """
    name = hparams.get("task")
    if name is None:
        return trial.task_class
    try:
        found: type[Task] = TASKS.find(name)
    except ValueError as error:
        raise ConfigError(f"hyperparameters.task: {error}") from error
    if trial.task_class not in (None, found):
        raise ConfigError(f"hyperparameters.task: must be unset for {trial.__name__}, which has its own, got {name}")
    return found


def task_defaults(trial: "type[SettingsTrial]", task: type[Task] | None) -> dict[str, Any]:
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
    return {name: value for name, value in of_task.items() if getattr(trial, name) is getattr(SettingsTrial, name)}
