"""Training on several sets: which examples an epoch draws from each, and in which batches.

- by_size: the sets stand one after another and every example is drawn once; batches have the sets' proportions.
- in_turn: one example of each set after another, until the largest is through; smaller ones start over.
- temperature: an epoch has as many draws as all sets have examples, shared out by p_i = n_i^(1/T) / sum_j n_j^(1/T)
  (T5: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2; with alpha = 1/T in mT5: Xue et al. 2021,
  arXiv:2010.11934, section 3.1; multilingual BERT's exponent is 0.7).
- keyed: a batch holds a batch of each set, by name; each set has its own order, and the shorter ones start over. An
  epoch is as long as one of them, the anchor.

Sets are counted in examples as they are trained on: windows, where long contexts are cut. Everything is drawn from
the seed and the epoch, so that a resume and other numbers of ranks see the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.utils.data

from model_hub_rqa.data.batching import TrainBatchSampler

DEFAULT_TEMPERATURE = 2.0  # T5's


def mixing_probabilities(sizes: Sequence[int], temperature: float) -> np.ndarray:
    """The share of each set: p_i proportional to n_i^(1/T); T = 1 is by size, and with a large T all are equal."""
    logits = np.log(np.asarray(sizes, dtype=np.float64)) / temperature
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def allocate(total: int, probabilities: np.ndarray) -> np.ndarray:
    """``total`` draws as whole numbers close to ``total * probabilities``: the largest remainders are rounded up.

    Where there are enough draws, no set goes without one.
    """
    exact = total * np.asarray(probabilities)
    counts = np.floor(exact).astype(np.int64)
    up = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[up] += 1
    while total >= len(counts) and not counts.all():
        counts[counts.argmin()] += 1
        counts[counts.argmax()] -= 1
    result: np.ndarray = counts
    return result


def draws_per_epoch(sizes: Sequence[int], mixing: str, temperature: float = DEFAULT_TEMPERATURE) -> np.ndarray:
    """How many examples an epoch draws from each of the sets (``mixing``: in_turn or temperature)."""
    if mixing == "in_turn":
        return np.full(len(sizes), max(sizes))
    return allocate(sum(sizes), mixing_probabilities(sizes, temperature))


def stream(size: int, begin: int, count: int, seed: Sequence[int]) -> np.ndarray:
    """The draws ``begin`` to ``begin + count`` of a set of ``size`` examples: permutation after permutation.

    So each example is drawn once before any is drawn again, over all epochs.
    """
    passes = range(begin // size, -(-(begin + count) // size))
    # 1 is added since numpy takes trailing zeros of a seed for none
    drawn = [np.random.default_rng([*seed, number + 1]).permutation(size) for number in passes]
    return np.concatenate([*drawn, np.empty(0, np.int64)])[begin % size :][:count]


class MixedBatchSampler(TrainBatchSampler):
    """The batches of `TrainBatchSampler`, of examples that are drawn from several sets, in_turn or by temperature.

    Args:
        lengths: tokens of each example.
        dataset_ids: the number of the set that each example is in; every number from 0 on has one.
        mixing: "in_turn" or "temperature".
        temperature: of "temperature".
        batch_size, group, seed, group_by_length: as `TrainBatchSampler` has them. In turn, only examples of one set
            change their order when they are sorted by length, so that every batch has its share of each set.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        dataset_ids: np.ndarray,
        batch_size: int,
        *,
        mixing: str,
        temperature: float = DEFAULT_TEMPERATURE,
        group: int,
        seed: int,
        group_by_length: bool,
    ) -> None:
        super().__init__(lengths, batch_size, group=group, seed=seed, group_by_length=group_by_length)
        self.dataset_ids = np.asarray(dataset_ids)
        self.members = [np.flatnonzero(self.dataset_ids == number) for number in range(self.dataset_ids.max() + 1)]
        self.in_turn = mixing == "in_turn"
        self.counts = draws_per_epoch([len(members) for members in self.members], mixing, temperature)
        self.draws = int(self.counts.sum())

    def epoch_order(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        """The examples that an epoch draws, [draws]."""
        sets = np.arange(len(self.members))
        pattern = np.tile(sets, self.counts[0]) if self.in_turn else rng.permutation(np.repeat(sets, self.counts))
        order = np.empty(self.draws, np.int64)
        for number, (members, count) in enumerate(zip(self.members, self.counts.tolist(), strict=True)):
            drawn = stream(len(members), epoch * count, count, [self.seed, number + 1])
            order[pattern == number] = members[drawn]
        return order

    def sort_bucket(self, part: np.ndarray) -> np.ndarray:
        if not self.in_turn:
            return super().sort_bucket(part)
        result = part.copy()
        for number in range(len(self.members)):
            in_set = self.dataset_ids[part] == number
            result[in_set] = super().sort_bucket(part[in_set])
        return result


class KeyedBatchSampler(torch.utils.data.BatchSampler):
    """Micro-batches of ``batch_size`` examples of each set, one set after another: `KeyedCollator` takes them apart.

    An epoch ends with the anchor. A shorter set has started over by then, and each set goes on in the next epoch where
    it was. The loss of each set is over whole effective batches of its own.

    Args:
        lengths, dataset_ids, batch_size, group, seed, group_by_length: as `MixedBatchSampler` has them.
        anchor: the number of the set whose batches are an epoch; None for the set that has the most.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        dataset_ids: np.ndarray,
        batch_size: int,
        *,
        group: int,
        seed: int,
        group_by_length: bool,
        anchor: int | None = None,
    ) -> None:
        ids = np.asarray(dataset_ids)
        self.members = [np.flatnonzero(ids == number) for number in range(ids.max() + 1)]
        self.samplers = [
            TrainBatchSampler(
                np.asarray(lengths)[members],
                batch_size,
                group=group,
                seed=int(np.random.SeedSequence([seed, number + 1]).generate_state(1)[0]),
                group_by_length=group_by_length,
            )
            for number, members in enumerate(self.members)
        ]
        self.batch_size = batch_size
        self.group = group
        self.anchor = anchor
        self.epoch = 0

    def __len__(self) -> int:
        """Micro-batches of an epoch over all ranks: a multiple of ``group``."""
        return max(map(len, self.samplers)) if self.anchor is None else len(self.samplers[self.anchor])

    def __iter__(self) -> Iterator[list[int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        steps = len(self) // self.group
        rows = [self._rows(number, epoch * steps, steps) for number in range(len(self.samplers))]
        for effective in zip(*rows, strict=True):
            for begin in range(0, self.batch_size * self.group, self.batch_size):
                yield np.concatenate([row[begin : begin + self.batch_size] for row in effective]).tolist()

    def _rows(self, number: int, begin: int, count: int) -> Iterator[np.ndarray]:
        """The effective batches ``begin`` to ``begin + count`` of a set, its own epochs one after another."""
        sampler, members = self.samplers[number], self.members[number]
        own = len(sampler) // self.group
        for epoch in range(begin // own, -(-(begin + count) // own)):
            rows = sampler.effective_batches(epoch)
            for row in rows[max(0, begin - epoch * own) : begin + count - epoch * own]:
                yield members[row]


class KeyedCollator:
    """Makes ``{name: batch of that set}`` of the examples of a `KeyedBatchSampler`'s micro-batch.

    Args:
        collate: makes a batch of the examples of one set.
        names: the sets', in their order.
    """

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]], names: Sequence[str]) -> None:
        self.collate = collate
        self.names = list(names)

    def __call__(self, features: list[Any]) -> dict[str, Mapping[str, Any]]:
        size = len(features) // len(self.names)
        return {name: self.collate(features[i * size : (i + 1) * size]) for i, name in enumerate(self.names)}
