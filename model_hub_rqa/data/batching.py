"""Batches: seeded shuffling, length buckets, token budgets, and effective batches that keep their size.

The samplers are plain iterables of index lists, which Determined's loader repeats, shards over ranks and skips on
resume. Everything is drawn from (seed, epoch), so the same batches come again in every process and after every stop.
"""

import heapq
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.data

from model_hub_rqa.errors import ConfigError

BATCHES_A_BUCKET = 50  # batches among which lengths are sorted: as transformers' LengthGroupedSampler chose it


class TrainBatchSampler(torch.utils.data.BatchSampler):
    """Micro-batches of an epoch, in an order drawn from the seed; a new epoch with every ``iter()``.

    Examples are drawn in effective batches of ``batch_size * group`` (``group`` micro-batches make one optimizer step:
    ranks times accumulation). An effective batch is cut into its micro-batches by order, so an optimizer step sees the
    same examples however it is divided. An epoch's last effective batch is filled up from the epoch's beginning: no
    example is left out and no step is smaller than the others.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a micro-batch on one rank.
        group: micro-batches of an effective batch.
        seed: of the order.
        group_by_length: sort by length within buckets of 50 effective batches, whose order is then drawn again.
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, batch_size: int, *, group: int, seed: int, group_by_length: bool
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.group = group
        self.seed = seed
        self.group_by_length = group_by_length
        self.draws = len(self.lengths)  # of an epoch, before its last effective batch is filled up
        self.epoch = 0

    def __len__(self) -> int:
        """Micro-batches of an epoch over all ranks: a multiple of ``group``."""
        return -(-self.draws // (self.batch_size * self.group)) * self.group

    def __iter__(self) -> Iterator[list[int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        for effective in self.effective_batches(epoch):
            for i in range(0, len(effective), self.batch_size):
                yield effective[i : i + self.batch_size].tolist()

    def epoch_order(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        """The examples that an epoch draws, [draws]; ``rng`` is the epoch's own."""
        return rng.permutation(len(self.lengths))

    def sort_bucket(self, part: np.ndarray) -> np.ndarray:
        """The examples of a bucket, those of like length together."""
        return np.asarray(part[np.argsort(-self.lengths[part], kind="stable")])

    def effective_batches(self, epoch: int) -> np.ndarray:
        """The epoch's examples, [steps, batch_size * group]."""
        rng = np.random.default_rng([self.seed, epoch])
        size = self.batch_size * self.group
        order = self.epoch_order(epoch, rng)
        steps = len(self) // self.group
        order = np.resize(order, steps * size)  # np.resize repeats from the beginning
        if not self.group_by_length:
            return order.reshape(steps, size)
        bucket = size * BATCHES_A_BUCKET
        for i in range(0, len(order), bucket):
            order[i : i + bucket] = self.sort_bucket(order[i : i + bucket])
        batches = order.reshape(steps, size)
        shuffled = batches[rng.permutation(steps)]
        # The longest first, so that a lack of memory shows at once and not after hours.
        longest = int(np.argmax(self.lengths[shuffled].max(axis=1)))
        shuffled[[0, longest]] = shuffled[[longest, 0]]
        return shuffled


class EvalBatchSampler(torch.utils.data.BatchSampler):
    """Every example once, the longest first, in batches; some again where there would be fewer batches than ranks.

    A rank without a validation batch would crash, so tiny data is spread: batches shrink until each rank has one, and
    where there are fewer examples than ranks they are repeated (metrics are reduced by id, so none counts twice).

    Args:
        lengths: tokens of each example.
        batch_size: examples of a batch on one rank.
        ranks: their number.
        dataset_ids: the number of the set that each example is in, where there are several: a set's batches are the
            same as if it were the only one, so that its metrics are, to the last bit.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        *,
        ranks: int = 1,
        dataset_ids: np.ndarray | None = None,
    ) -> None:
        every = np.asarray(lengths)
        ids = np.zeros(len(every), np.int64) if dataset_ids is None else np.asarray(dataset_ids)
        self.batches: list[list[int]] = []
        for number in np.unique(ids):
            members = np.flatnonzero(ids == number)
            order = members[np.argsort(-every[members], kind="stable")]
            order = np.resize(order, max(len(order), ranks))
            size = max(1, min(batch_size, len(order) // ranks))
            self.batches += [order[i : i + size].tolist() for i in range(0, len(order), size)]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def leave_signals_to_parent(worker: int) -> None:
    """A loader's worker_init_fn: SIGTERM and Ctrl-C are the training process's to answer, with a checkpoint.

    torchrun, schedulers and terminals send them to every process of a run, and a worker that dies of one takes the
    training process along. A SIGTERM of the training process itself still ends the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_at_the_parents_word, daemon=True).start()


def _end_at_the_parents_word() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


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
