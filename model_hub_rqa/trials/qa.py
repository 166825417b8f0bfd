"""QATrial: an extractive reader."""

from model_hub_rqa.tasks.extractive.task import Extractive
from model_hub_rqa.trials.task_trial import TaskTrial


class QATrial(TaskTrial):
    """Trains `Extractive`: finds the answer to a question as a span of its context (SQuAD v1.1 and v2.0)."""

    task_class = Extractive
    task: Extractive
