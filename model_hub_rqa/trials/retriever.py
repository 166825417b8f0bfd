"""RetrieverTrial: an embedding model, which finds the passages that answer a question."""

from model_hub_rqa.tasks.retriever.task import RetrieverTask
from model_hub_rqa.trials.task_trial import TaskTrial


class RetrieverTrial(TaskTrial):
    """Trains `RetrieverTask`: an embedding model, which finds the passages that answer a question."""

    task_class = RetrieverTask
    task: RetrieverTask
