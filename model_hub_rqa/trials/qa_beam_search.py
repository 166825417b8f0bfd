"""QABeamSearchTrial: an extractive reader that predicts the end of an answer from its start."""

from model_hub_rqa.tasks.beam_search.task import BeamSearch
from model_hub_rqa.trials.qa import QATrial


class QABeamSearchTrial(QATrial):
    """Trains `BeamSearch`: QATrial for the heads of XLNet and XLM."""

    task_class = BeamSearch
    task: BeamSearch
