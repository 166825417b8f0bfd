"""Fine-tune and evaluate retrieval question answering on Determined, or on a laptop.

Importing the package is cheap: names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "BaseTransformerTrial": "model_hub_rqa.trials.base",
    "TaskTrial": "model_hub_rqa.trials.task_trial",
    "QATrial": "model_hub_rqa.trials.qa",
    "QABeamSearchTrial": "model_hub_rqa.trials.qa_beam_search",
    "FiDTrial": "model_hub_rqa.trials.fid",
    "GenerationTrial": "model_hub_rqa.trials.generation",
    **dict.fromkeys(
        (
            "MODELS",
            "TASKS",
            "DATASETS",
            "COLLATORS",
            "OBJECTIVES",
            "METRICS",
            "CALLBACKS",
            "RETRIEVERS",
            "RERANKERS",
            "REWRITERS",
        ),
        "model_hub_rqa.registry",
    ),
    "ExtractiveKwargs": "model_hub_rqa.tasks.extractive.task",
    "BeamSearchKwargs": "model_hub_rqa.tasks.beam_search.task",
    "FusionKwargs": "model_hub_rqa.tasks.fid.settings",
    "GenerationKwargs": "model_hub_rqa.tasks.causal_lm.settings",
    "TrialCallback": "model_hub_rqa.trials.callbacks",
    "register_callback": "model_hub_rqa.trials.callbacks",
    **dict.fromkeys(
        ("Reader", "ExtractiveReader", "BeamSearchReader", "FusionReader", "GenerationReader"),
        "model_hub_rqa.readers",
    ),
    "Task": "model_hub_rqa.tasks.base",
    "RQAPipeline": "model_hub_rqa.pipeline",
    "load_reader": "model_hub_rqa.pipeline",
    **dict.fromkeys(("AttrDict", "load_metric"), "model_hub_rqa.utils"),
    "build_using_auto": "model_hub_rqa.models.build",
    "build_default_optimizer": "model_hub_rqa.models.optimizers",
    "build_default_lr_scheduler": "model_hub_rqa.models.optimizers",
    "default_load_dataset": "model_hub_rqa.data.loading",
    "remove_unused_columns": "model_hub_rqa.data.loading",
    **dict.fromkeys(
        (
            "ConfigKwargs",
            "TokenizerKwargs",
            "ModelKwargs",
            "OptimizerKwargs",
            "LRSchedulerKwargs",
            "DatasetKwargs",
            "TrainerKwargs",
            "parse_dict_to_dataclasses",
            "default_parse_config_tokenizer_model_kwargs",
            "default_parse_optimizer_lr_scheduler_kwargs",
        ),
        "model_hub_rqa.config",
    ),
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from model_hub_rqa.trials.base import BaseTransformerTrial as BaseTransformerTrial
    from model_hub_rqa.trials.qa import QATrial as QATrial
    from model_hub_rqa.trials.task_trial import TaskTrial as TaskTrial


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
