"""The settings of a run: dataclasses, their parsing from a configuration, and the resolving of search specifications.

Nothing here imports torch or transformers, so a configuration is checked in milliseconds, before any model is loaded.
"""

from model_hub_rqa.config.fields import FieldError, option
from model_hub_rqa.config.interpolation import resolve_search_specs
from model_hub_rqa.config.kwargs import (
    LR_SCHEDULER_TYPES,
    METRIC_LR_SCHEDULER_TYPES,
    MODEL_MODES,
    CallbackKwargs,
    ConfigKwargs,
    DatasetKwargs,
    HubKwargs,
    Kwargs,
    LRSchedulerKwargs,
    ModelKwargs,
    OptimizerKwargs,
    TokenizerKwargs,
    TrainerKwargs,
)
from model_hub_rqa.config.parsing import (
    default_parse_config_tokenizer_model_kwargs,
    default_parse_optimizer_lr_scheduler_kwargs,
    parse_dict_to_dataclasses,
)

__all__ = [
    "LR_SCHEDULER_TYPES",
    "METRIC_LR_SCHEDULER_TYPES",
    "MODEL_MODES",
    "CallbackKwargs",
    "ConfigKwargs",
    "DatasetKwargs",
    "FieldError",
    "HubKwargs",
    "Kwargs",
    "LRSchedulerKwargs",
    "ModelKwargs",
    "OptimizerKwargs",
    "TokenizerKwargs",
    "TrainerKwargs",
    "default_parse_config_tokenizer_model_kwargs",
    "default_parse_optimizer_lr_scheduler_kwargs",
    "option",
    "parse_dict_to_dataclasses",
    "resolve_search_specs",
]
