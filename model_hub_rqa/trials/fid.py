"""FiDTrial: a Fusion-in-Decoder reader, which generates answers from many passages."""

from model_hub_rqa.tasks.fid.task import FusionInDecoder
from model_hub_rqa.trials.task_trial import TaskTrial


class FiDTrial(TaskTrial):
    """Trains `FusionInDecoder`: a Fusion-in-Decoder reader, which generates answers from many passages."""

    task_class = FusionInDecoder
    task: FusionInDecoder
