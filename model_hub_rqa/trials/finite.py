"""A loss that is not finite stops training on every rank before the weights take it, and names its examples."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from determined import core

from model_hub_rqa.errors import NonFiniteLoss


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
        problems = [
            f"loss: must be a finite number, got {loss} (rank {rank}) for the examples {_listed(ids)}"
            for rank, loss, ids in culprits
        ] or [
            f"gradients: must be finite, got the norm {norm.item()} (rank {rank}, loss {loss:.4g}) "
            f"for the examples {_listed(ids)}"
            for rank, loss, ids in found
        ]
        raise NonFiniteLoss(problems)


def _listed(ids: list[str]) -> str:
    return ", ".join(ids) or "(unknown)"
