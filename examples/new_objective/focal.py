"""A focal loss on answers: those that are known by heart count little."""

from model_hub_rqa import OBJECTIVES


@OBJECTIVES.register("Focal")
def focal(task, batch, gamma: float = 1.0):
    """``mean (1 - p)^gamma (-log p)`` (Lin et al. 2017, arXiv:1708.02002), p being the probability of an answer."""
    log_p = task.log_probs(batch)
    return ((1 - log_p.exp()) ** gamma * -log_p).mean()
