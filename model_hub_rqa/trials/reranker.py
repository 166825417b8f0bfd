"""RerankerTrial: a model that reads a question with a passage and scores it."""

from model_hub_rqa.tasks.reranker import RerankerTask
from model_hub_rqa.trials.task_trial import TaskTrial


class RerankerTrial(TaskTrial):
    """Trains `RerankerTask`: a model that reads a question with a passage and scores it."""

    task_class = RerankerTask
    task: RerankerTask
