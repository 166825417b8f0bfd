"""A loss that is not finite stops training on every rank before the weights take it, and names its examples.

Under fp16 some gradients overflow by design: their steps are skipped, and only too many of them in a row stop training.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from determined import core

from model_hub_rqa.errors import NonFiniteLoss

MOST_SKIPPED = 30  # steps in a row; from 2^16, where torch's loss scale begins, they halve it to 2^-14


class FiniteCheck:
    """Watches the micro-batches of an optimizer step.

    The gradients tell: they are reduced over the ranks, so that one that is not finite shows on every rank at the same
    step, and all of them stop there with the same words; nothing travels between the ranks while all is well.

    Args:
        distributed: the ranks.
        example_ids: from a batch to the ids of its examples.
    """

    def __init__(
        self, distributed: core.DistributedContext, example_ids: Callable[[Mapping[str, Any]], list[str]]
    ) -> None:
        self.distributed = distributed
        self.example_ids = example_ids
        self.seen: list[tuple[torch.Tensor, Mapping[str, Any]]] = []

    def watch(self, loss: torch.Tensor, batch: Mapping[str, Any]) -> torch.Tensor:
        """Notes a micro-batch, and returns its loss for backward: where it is not finite, no gradient will be."""
        self.seen.append((loss.detach(), batch))
        return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)

    def __call__(self, norm: torch.Tensor) -> None:
        """Raises NonFiniteLoss, before an optimizer step, where the norm of its gradients is not finite."""
        seen, self.seen = self.seen, []
        if math.isfinite(norm.item()):
            return
        losses = [(loss.item(), self.example_ids(batch)) for loss, batch in seen]
        found = [(rank, *one) for rank, ours in enumerate(self.distributed.allgather(losses)) for one in ours]
        culprits = [one for one in found if not math.isfinite(one[1])]
        errors = [
            f"loss: must be a finite number, got {loss} (rank {rank}) for the examples {_listed(ids)}"
            for rank, loss, ids in culprits
        ] or [
            f"gradients: must be finite, got the norm {norm.item()} (rank {rank}, loss {loss:.4g}) "
            f"for the examples {_listed(ids)}"
            for rank, loss, ids in found
        ]
        raise NonFiniteLoss(errors)


class SkippedSteps:
    """Counts the optimizer steps that a gradient scaler skips in a row.

    Args:
        scaler: torch's, or another that lowers its scale with each step that it skips.

    Attributes:
        count: steps skipped since the last one that was made.
    """

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self.scaler = scaler
        self.count = 0
        self._first_scale = 1.0

    def update(self) -> bool:
        """Updates the scaler after an optimizer step; returns whether that step was made."""
        before = self.scaler.get_scale()
        self.scaler.update()
        if self.scaler.get_scale() >= before:
            self.count = 0
            return True
        if self.count == 0:
            self._first_scale = before
        self.count += 1
        return False

    def error(self) -> NonFiniteLoss | None:
        """The error of too many skipped steps, where it is due; the loss scale is then as it was before them."""
        if self.count < MOST_SKIPPED:
            return None
        lowest = self.scaler.get_scale()
        self.scaler.update(self._first_scale)
        return NonFiniteLoss(
            f"gradients: must be finite at some loss scale, got {self.count} skipped optimizer steps in a row, down to "
            f"the scale {lowest:.3g} (a smaller learning_rate, or bf16 in place of fp16, may help)"
        )


def _listed(ids: list[str]) -> str:
    return ", ".join(ids) or "(unknown)"
