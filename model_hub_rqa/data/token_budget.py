"""Batches by their tokens rather than their examples: memory and time of a batch are then nearly the same for all.

Such batches have different numbers of examples. So that each example weighs the same in training, and not each batch,
a batch's loss (the mean over its examples) is multiplied by its examples over the average batch's.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.data

from model_hub_rqa.errors import ConfigError

WEIGHT = "batch_weight"
"""The column of a batch that holds its examples over those of the average batch: a float32 scalar."""
_SPREAD = 0.2  # how much longer an example may be taken for when examples are put in order, so that neighbours change


def cut_by_tokens(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Cuts a sequence of examples into batches, none of which exceeds ``max_tokens``, padding included.

    Args:
        lengths: tokens of each example.
        max_tokens: of a batch: its examples times its longest.

    Returns:
        The indices of each batch's examples.

    Raises:
        ConfigError: one example alone is longer.
    """
    longest = int(lengths.max(initial=0))
    if longest > max_tokens:
        raise ConfigError(
            f"hyperparameters.max_tokens_per_batch: must be at least {longest:,}, the longest example, "
            f"got {max_tokens:,}"
        )
    begins, widest = [0], 0
    for index, length in enumerate(lengths.tolist()):
        widest = max(widest, length, 1)
        if (index + 1 - begins[-1]) * widest > max_tokens:
            begins.append(index)
            widest = max(length, 1)
    return np.split(np.arange(len(lengths)), begins[1:]) if len(lengths) else []


class TokenBudgetBatchSampler(torch.utils.data.BatchSampler):
    """Micro-batches of at most so many tokens, composed anew with every ``iter()``: an epoch.

    Examples of like length stand together; which ones, and the order of the batches, is drawn from the seed and the
    epoch. All epochs have as many batches: where an epoch would have fewer, its largest are cut in two. Each example
    comes once in an epoch, except that some come twice where there are fewer examples than ``group`` needs batches.

    Args:
        lengths: tokens of each example.
        max_tokens: of a micro-batch, padding included.
        group: the number of batches of an epoch is a multiple of it (micro-batches of an optimizer step: ranks times
            accumulation).
        seed: of the batches.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, max_tokens: int, *, group: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.max_tokens = max_tokens
        self.seed = seed
        self.epoch = 0
        self.count = -(-len(self._cut(0, _SPREAD)) // group) * group

    def __len__(self) -> int:
        """Micro-batches of an epoch over all ranks."""
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        # Without spread there are never more batches than with it: their number is that of the sorted lengths.
        cuts = (self._cut(epoch, spread) for spread in (_SPREAD, _SPREAD / 2, _SPREAD / 4, 0.0))
        batches = _split_largest(next(cut for cut in cuts if len(cut) <= self.count), self.count)
        order = np.random.default_rng([self.seed, epoch, 1]).permutation(len(batches))
        for number in np.resize(order, self.count).tolist():  # np.resize repeats from the beginning
            yield batches[number].tolist()

    @property
    def average(self) -> float:
        """Examples of a micro-batch, on average over an epoch."""
        return len(self.lengths) / max(self.count, 1)

    def _cut(self, epoch: int, spread: float) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self.lengths))
        lengths = self.lengths[shuffled]
        order = shuffled[np.argsort(-lengths * (1 + spread * rng.random(len(lengths))), kind="stable")]
        return [order[batch] for batch in cut_by_tokens(self.lengths[order], self.max_tokens)]


def _split_largest(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Cuts the batches with the most examples in two until there are ``count``, or each has one example."""
    heap = [(-len(batch), number, batch) for number, batch in enumerate(batches)]
    heapq.heapify(heap)
    while heap and len(heap) < count and heap[0][0] < -1:
        batch = heapq.heappop(heap)[2]
        for half in np.array_split(batch, 2):
            heapq.heappush(heap, (-len(half), int(half[0]) + len(batches), half))
    return [batch for _, _, batch in heap]


class WeighingCollator:
    """Adds `WEIGHT` to the batches of a collator.

    Args:
        collate: makes a batch, a dict, of examples.
        average: examples of the average batch.
    """

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]], average: float) -> None:
        self.collate = collate
        self.average = average

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        return {**self.collate(features), WEIGHT: torch.tensor(len(features) / self.average)}
