"""BaseTransformerTrial, under its import path of version 0.1."""

from model_hub_rqa.trials.task_trial import TaskTrial as BaseTransformerTrial

__all__ = ["BaseTransformerTrial"]
