"""GenerationTrial: a causal language model that reads passages and a question, and generates the answer."""

from model_hub_rqa.tasks.causal_lm.task import CausalLM
from model_hub_rqa.trials.task_trial import TaskTrial


class GenerationTrial(TaskTrial):
    """Trains `CausalLM`: a causal language model that reads passages and a question, and generates the answer."""

    task_class = CausalLM
    task: CausalLM
