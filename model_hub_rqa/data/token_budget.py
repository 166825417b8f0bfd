"""Batches by their tokens rather than their examples: memory and time of a batch are then nearly the same for all."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch.utils.data

from model_hub_rqa.errors import ConfigError


def cut_by_tokens(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Groups examples of like length, the longest first, so that none exceeds ``max_tokens``, padding included.

    Args:
        lengths: tokens of each example.
        max_tokens: of a batch: its examples times its longest.

    Raises:
        ConfigError: one example alone is longer.
    """
    longest = int(lengths.max(initial=0))
    if longest > max_tokens:
        raise ConfigError(
            f"hyperparameters.max_tokens_per_batch: must be at least {longest:,}, the longest example, "
            f"got {max_tokens:,}"
        )
    order = np.argsort(-lengths, kind="stable")
    groups = []
    begin = 0
    while begin < len(order):
        size = max_tokens // max(int(lengths[order[begin]]), 1)
        groups.append(order[begin : begin + size])
        begin += size
    return groups


class TokenBudgetBatchSampler(torch.utils.data.BatchSampler):
    """Micro-batches of at most so many tokens, in an order drawn from the seed, anew with every ``iter()``.

    The batches themselves are the same in every epoch, so that all epochs have as many. Some come twice where their
    number is no multiple of ``group`` (micro-batches of an optimizer step: ranks times accumulation).

    Args:
        lengths: tokens of each example.
        max_tokens: of a micro-batch, padding included.
        group: the number of batches of an epoch is a multiple of it.
        seed: of the order, and of which examples of one length stand together.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, max_tokens: int, *, group: int, seed: int) -> None:
        every = np.asarray(lengths)
        shuffled = np.random.default_rng([seed]).permutation(len(every))
        self.batches = [shuffled[group_].tolist() for group_ in cut_by_tokens(every[shuffled], max_tokens)]
        self.group = group
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Micro-batches of an epoch over all ranks."""
        return -(-len(self.batches) // self.group) * self.group

    def __iter__(self) -> Iterator[list[int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.batches))
        for number in np.resize(order, len(self)).tolist():  # np.resize repeats from the beginning
            yield self.batches[number]
