"""Batch samplers: seeded, complete, and of a constant effective size."""

import itertools
import multiprocessing
import signal
import subprocess
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest
from determined.pytorch import samplers
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.data.batching import EvalBatchSampler, TrainBatchSampler, leave_signals_to_parent


def train_sampler(
    count: int, batch_size: int, group: int = 1, seed: int = 0, by_length: bool = True
) -> TrainBatchSampler:
    lengths = np.random.default_rng(7).integers(5, 400, count)
    return TrainBatchSampler(lengths, batch_size, group=group, seed=seed, group_by_length=by_length)


@given(
    count=st.integers(1, 200),
    batch_size=st.integers(1, 9),
    group=st.integers(1, 4),
    by_length=st.booleans(),
)
def test_an_epoch_holds_every_example_in_full_batches(count: int, batch_size: int, group: int, by_length: bool) -> None:
    """No example is left out, every micro-batch is full, and their number is a multiple of the group."""
    sampler = train_sampler(count, batch_size, group, by_length=by_length)
    batches = list(sampler)
    assert {index for batch in batches for index in batch} == set(range(count))
    assert {len(batch) for batch in batches} == {batch_size}
    assert len(batches) == len(sampler)
    assert len(batches) % group == 0
    assert len(batches) * batch_size < count + batch_size * group  # filled up, and no further


def test_the_seed_and_the_epoch_decide_the_order() -> None:
    """The same seed gives the same epochs in any process; another seed or epoch gives another order."""
    one, two, other = train_sampler(100, 8), train_sampler(100, 8), train_sampler(100, 8, seed=1)
    first, second = list(one), list(one)
    assert [first, second] == [list(two), list(two)]
    assert first != second
    assert first != list(other)


def test_an_effective_batch_is_the_same_however_it_is_divided() -> None:
    """12 at once, 2 micro-batches of 6 and 4 of 3 (2 ranks with 2 micro-batches) step on the same examples."""
    whole = list(train_sampler(100, 12))
    for size in (6, 3):
        parts = list(train_sampler(100, size, group=12 // size))
        group = 12 // size
        joined = [list(itertools.chain(*parts[i : i + group])) for i in range(0, len(parts), group)]
        assert joined == whole


def test_resuming_skips_to_the_same_batches_across_epochs() -> None:
    """Determined's skipping over a repeated sampler goes on exactly where the uninterrupted order was."""
    repeated = iter(samplers.RepeatBatchSampler(train_sampler(50, 8)))
    order = [next(repeated) for _ in range(30)]
    for stop in (1, 6, 7, 8, 20):
        resumed = iter(samplers.SkipBatchSampler(samplers.RepeatBatchSampler(train_sampler(50, 8)), stop))
        assert [next(resumed) for _ in range(30 - stop)] == order[stop:]


def test_ranks_share_an_effective_batch_without_overlap() -> None:
    """Two ranks see the two halves of each effective batch."""
    whole = list(train_sampler(96, 8))
    shards = [list(samplers.DistributedBatchSampler(train_sampler(96, 4, group=2), 2, rank)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shards, strict=True)] == whole


def test_length_buckets_save_padding() -> None:
    """Grouped by length, an epoch pads far less than in random order."""

    def padding(sampler: TrainBatchSampler) -> int:
        return sum(max(sampler.lengths[batch]) * len(batch) - sum(sampler.lengths[batch]) for batch in sampler)

    assert padding(train_sampler(2000, 8)) < padding(train_sampler(2000, 8, by_length=False)) / 4


def test_the_longest_batch_comes_first() -> None:
    """A batch that does not fit into memory shows in the first step."""
    sampler = train_sampler(500, 8)
    assert sampler.lengths.max() in sampler.lengths[next(iter(sampler))]


@pytest.mark.parametrize(
    ("count", "batch_size", "ranks", "sizes"),
    [
        (10, 4, 1, [4, 4, 2]),
        (8, 8, 2, [4, 4]),
        (1, 8, 4, [1, 1, 1, 1]),  # the same example on each of four ranks
        (7, 8, 4, [1] * 7),
        (101, 50, 2, [50, 50, 1]),
    ],
)
def test_every_rank_has_a_validation_batch(count: int, batch_size: int, ranks: int, sizes: list[int]) -> None:
    """Batches shrink, and examples repeat, until there is one for every rank; all examples are there."""
    batches = list(EvalBatchSampler(range(count), batch_size, ranks=ranks))
    assert [len(batch) for batch in batches] == sizes
    assert {index for batch in batches for index in batch} == set(range(count))
    assert len(batches) >= ranks


@pytest.mark.parametrize(
    ("settings", "batches"),
    [
        ({}, [[1, 3], [2, 0], [4]]),
        ({"ranks": 2}, [[1, 3], [2, 0], [4]]),
        ({"ranks": 5}, [[1], [3], [2], [0], [4]]),
        ({"ranks": 7}, [[1], [3], [2], [0], [4], [1], [3]]),  # repeated from the longest on
        ({"dataset_ids": np.array([1, 1, 0, 1, 0])}, [[2, 4], [1, 3], [0]]),
    ],
)
def test_a_validation_begins_with_the_longest(settings: dict[str, Any], batches: list[list[int]]) -> None:
    """In every set; of equal lengths, the first comes first."""
    assert list(EvalBatchSampler([3, 9, 5, 9, 1], 2, **settings)) == batches


def echo(connection: Connection) -> None:
    """What a loader's worker is to this test: it answers until it is ended."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    leave_signals_to_parent(0)
    while True:
        connection.send(connection.recv())


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="elsewhere SIGTERM ends a worker at once")
def test_signals_are_the_parents_to_answer() -> None:
    """A worker outlives Ctrl-C and another process's SIGTERM; one of the process that started it ends it."""
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=echo, args=(there,), daemon=True)
    worker.start()
    try:
        for number in (None, "INT", "TERM"):
            if number is not None:
                subprocess.run(["kill", f"-{number}", str(worker.pid)], check=True)
                worker.join(0.2)
            here.send(number)
            assert here.poll(30), f"dead after {number}"
            assert here.recv() == number
        worker.terminate()
        worker.join(30)
        assert worker.exitcode == 0
    finally:
        worker.kill()
