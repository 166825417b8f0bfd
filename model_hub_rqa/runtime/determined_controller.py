"""A checkpoint of the last good optimizer step, written before an error ends a run.

Determined writes none: what was trained since the last checkpoint would be lost. Only its controller can write one, and
no entrypoint hands it out, so the controller is put where a trial finds it: on the context. Beside `determined_fixes`.
"""

import logging
from typing import Any

from determined import pytorch

logger = logging.getLogger(__name__)

_NAME = "rqa_controller"


class Controller(pytorch._PyTorchTrialController):
    """Determined's own controller, which its context knows."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        vars(self.context)[_NAME] = self


def use_controller() -> None:
    """Makes ``Trainer.fit`` build a `Controller`; it takes the class from its module by name."""
    vars(pytorch)["_PyTorchTrialController"] = Controller


def keep_last_step(context: pytorch.PyTorchTrialContext, *, lost_steps: int = 0) -> None:
    """Writes a checkpoint of the last good optimizer step, unless there is one; every rank must call it.

    Args:
        context: of the trial.
        lost_steps: steps that left the weights as they were, up to the one that the batch at hand completes; 0 outside
            of training.
    """
    controller: Any = vars(context).get(_NAME)
    if controller is None or controller.state is None:
        return
    state, accumulation = controller.state, context._aggregation_frequency
    if lost_steps:  # the batch at hand is not counted yet
        good = state.batches_trained + 1 - lost_steps * accumulation
        state.batches_trained = max(good, controller.start_from_batch)
        state.epochs_trained = controller._get_epoch_idx(state.batches_trained)
        state.last_val = min(state.last_val, state.batches_trained)
    if state.last_ckpt >= state.batches_trained:
        state.last_ckpt = state.batches_trained  # so that Determined writes no other one
        return
    controller._checkpoint(already_exiting=True)
    logger.warning("before the run ends, step %d is kept in a checkpoint", state.batches_trained // accumulation)
