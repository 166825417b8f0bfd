"""Mixing several training sets: who is drawn how often, in which order, on any number of ranks and after any stop."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from determined.pytorch import samplers
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.data.batching import EvalBatchSampler, TrainBatchSampler
from model_hub_rqa.data.mixing import (
    KeyedBatchSampler,
    KeyedCollator,
    MixedBatchSampler,
    allocate,
    draws_per_epoch,
    mixing_probabilities,
    stream,
)

KINDS = ["in_turn", "temperature", "keyed"]


def sampler(
    kind: str, sizes: list[int], batch_size: int, group: int = 1, seed: int = 0, by_length: bool = True, **settings: Any
) -> Any:
    total = sum(sizes)
    lengths = np.random.default_rng(7).integers(5, 400, total)
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    common: dict[str, Any] = {"group": group, "seed": seed, "group_by_length": by_length}
    if kind == "keyed":
        return KeyedBatchSampler(lengths, numbers, batch_size, **common)
    return MixedBatchSampler(lengths, numbers, batch_size, mixing=kind, **common, **settings)


@pytest.mark.parametrize(
    ("sizes", "temperature", "expected"),
    [
        ([30, 10], 1, [3 / 4, 1 / 4]),
        ([100, 25], 2, [10 / 15, 5 / 15]),  # square roots
        ([81, 16, 1], 4, [3 / 6, 2 / 6, 1 / 6]),  # fourth roots
        ([8, 1], 1 / 0.7, [8**0.7 / (8**0.7 + 1), 1 / (8**0.7 + 1)]),  # multilingual BERT's exponent
        ([1000, 1], 1e9, [1 / 2, 1 / 2]),
        ([10**9, 10**3], 1e-3, [1, 0]),  # no overflow
    ],
)
def test_the_share_of_a_set(sizes: list[int], temperature: float, expected: list[float]) -> None:
    """p_i = n_i^(1/T) / sum of n_j^(1/T), computed by hand."""
    assert mixing_probabilities(sizes, temperature) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (10, [0.5, 0.5], [5, 5]),
        (10, [0.25, 0.75], [3, 7]),  # 2.5 and 7.5: the first of two equal remainders is rounded up
        (7, [0.5, 0.3, 0.2], [4, 2, 1]),  # 3.5, 2.1, 1.4
        (5, [0.99, 0.01], [4, 1]),  # nobody goes without
        (1, [0.6, 0.4], [1, 0]),
    ],
)
def test_draws_are_shared_out(total: int, shares: list[float], expected: list[int]) -> None:
    """By largest remainders; the sum is kept."""
    assert allocate(total, np.array(shares)).tolist() == expected


@pytest.mark.parametrize(
    ("kind", "sizes", "expected"),
    [
        ("in_turn", [3, 5], [5, 5]),
        ("in_turn", [7, 2, 1], [7, 7, 7]),
        ("temperature", [100, 25], [83, 42]),  # of 125: 83.3 and 41.7
        ("temperature", [4, 4], [4, 4]),
    ],
)
def test_draws_of_an_epoch(kind: str, sizes: list[int], expected: list[int]) -> None:
    """Computed by hand, with T = 2 for temperature; the sampler draws just so many."""
    assert draws_per_epoch(sizes, kind).tolist() == expected
    one = sampler(kind, sizes, 1, by_length=False)
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    drawn = Counter(int(numbers[index]) for (index,) in one)
    assert [drawn[number] for number in range(len(sizes))] == expected


@given(size=st.integers(1, 9), begin=st.integers(0, 40), count=st.integers(0, 40))
def test_a_stream_is_the_same_wherever_it_is_entered(size: int, begin: int, count: int) -> None:
    """Permutation after permutation, and a part of it is that part of the whole."""
    whole = stream(size, 0, 90, [3]).tolist()
    assert stream(size, begin, count, [3]).tolist() == whole[begin : begin + count]
    for i in range(0, 90 // size * size, size):
        assert sorted(whole[i : i + size]) == list(range(size))


def test_in_turn_takes_one_of_each_set_after_another() -> None:
    """a b c a b c ..., the largest once, the others again from the beginning of another order."""
    one = sampler("in_turn", [4, 2, 1], 3, by_length=False)
    rows = sorted(map(tuple, one))
    assert [tuple(sorted(row)) == row and row[0] < 4 <= row[1] < 6 == row[2] for row in rows] == [True] * 4
    assert sorted(row[0] for row in rows) == [0, 1, 2, 3]
    assert Counter(row[1] for row in rows) == {4: 2, 5: 2}


def test_in_turn_keeps_the_share_of_a_batch_when_sorted_by_length() -> None:
    """Every batch has its share of each set, and pads less than at random."""
    sizes = [300, 100]
    grouped, plain = (list(sampler("in_turn", sizes, 8, by_length=by_length)) for by_length in (True, False))
    lengths = np.random.default_rng(7).integers(5, 400, 400)

    def padding(batches: list[list[int]]) -> int:
        return sum(int(max(lengths[batch]) * 8 - sum(lengths[batch])) for batch in batches)

    assert {sum(index < 300 for index in batch) for batch in grouped} == {4}
    assert padding(grouped) < padding(plain) / 2


@pytest.mark.parametrize("temperature", [1, 2, 5])
def test_no_example_is_drawn_twice_before_every_one_was(temperature: float) -> None:
    """Over all epochs, within each set: the counts of its examples never differ by more than one."""
    one = sampler("temperature", [37, 11, 3], 1, by_length=False, temperature=temperature)
    counts = np.zeros(51, int)
    for _ in range(7):
        for (index,) in one:
            counts[index] += 1
        for begin, end in ((0, 37), (37, 48), (48, 51)):
            assert np.ptp(counts[begin:end]) <= 1
    assert counts.sum() == 7 * 51


def test_temperature_one_is_by_size() -> None:
    """Every example once in an epoch, as in a plain one."""
    order = [index for batch in sampler("temperature", [30, 12], 6, temperature=1) for index in batch]
    assert sorted(order) == list(range(42))


def split(batch: list[int], sizes: list[int]) -> list[list[int]]:
    """The sets' parts of a keyed micro-batch, in the numbers of each set."""
    size, begins = len(batch) // len(sizes), np.cumsum([0, *sizes])
    return [[index - begins[i] for index in batch[i * size : (i + 1) * size]] for i in range(len(sizes))]


def test_a_keyed_batch_is_a_full_batch_of_each_set() -> None:
    """The epoch ends with the longest; each set is gone through before it starts over, across epochs."""
    sizes = [20, 8]
    one = sampler("keyed", sizes, 4, by_length=False)
    assert len(one) == 5
    parts: list[list[list[int]]] = [[], []]
    for _ in range(4):
        for batch in one:
            for kept, part in zip(parts, split(batch, sizes), strict=True):
                kept.append(part)
    for kept, size in zip(parts, sizes, strict=True):
        assert len(kept) == 20
        order = list(itertools.chain(*kept))
        assert all(sorted(order[i : i + size]) == list(range(size)) for i in range(0, len(order), size))
    assert parts[1][:2] != parts[1][2:4]  # another order each time


@pytest.mark.parametrize(("anchor", "batches"), [(0, 5), (1, 2), (None, 5)])
def test_the_anchors_length_is_an_epoch(anchor: int | None, batches: int) -> None:
    """Every example of the anchor once an epoch, and the longer set goes on where it was."""
    sizes = [20, 8]
    numbers = np.repeat([0, 1], sizes)
    settings: dict[str, Any] = {"group": 1, "seed": 0, "group_by_length": False}
    one = KeyedBatchSampler(np.ones(28, int), numbers, 4, anchor=anchor, **settings)
    epochs = [[split(batch, sizes) for batch in one] for _ in range(5)]
    assert [len(one), *map(len, epochs)] == [batches] * 6
    for epoch in epochs if anchor is not None else []:
        assert sorted(itertools.chain(*(parts[anchor] for parts in epoch))) == list(range(sizes[anchor]))
    flat = list(itertools.chain(*epochs))
    longest = KeyedBatchSampler(np.ones(28, int), numbers, 4, **settings)
    assert flat == [split(batch, sizes) for _ in range(5) for batch in longest][: len(flat)]


def test_a_set_of_a_keyed_batch_is_grouped_by_length() -> None:
    """As if it were alone: its batches are those of a sampler of its own."""
    lengths = np.random.default_rng(7).integers(5, 400, 28)
    one = sampler("keyed", [20, 8], 4)
    alone = TrainBatchSampler(
        lengths[20:], 4, group=1, seed=int(np.random.SeedSequence([0, 2]).generate_state(1)[0]), group_by_length=True
    )
    expected = [*alone, *alone, *alone][:5]
    assert [split(batch, [20, 8])[1] for batch in one] == expected


def test_the_collator_takes_a_keyed_batch_apart() -> None:
    """{name: batch}, in the order of the sets."""
    collate = KeyedCollator(lambda rows: {"x": rows}, ["forget", "retain"])
    assert collate([1, 2, 3, 4]) == {"forget": {"x": [1, 2]}, "retain": {"x": [3, 4]}}
    assert list(collate([1, 2])) == ["forget", "retain"]


@pytest.mark.parametrize("kind", KINDS)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    size=st.sampled_from([4, 8, 12]),
    by_length=st.booleans(),
)
def test_an_effective_batch_is_the_same_however_it_is_divided(
    kind: str, sizes: list[int], size: int, by_length: bool
) -> None:
    """On 1, 2 and 4 ranks, or as micro-batches, a step sees the same examples, none of them on two ranks."""
    parts = len(sizes) if kind == "keyed" else 1
    whole = [sampler(kind, sizes, size, by_length=by_length)]
    epochs = [[split_plain(batch, parts) for batch in one] for one in whole for _ in range(3)]
    for ranks in (2, 4):
        shards = []
        for rank in range(ranks):
            own = sampler(kind, sizes, size // ranks, group=ranks, by_length=by_length)
            shards.append([list(samplers.DistributedBatchSampler(own, ranks, rank)) for _ in range(3)])
        for epoch, expected in enumerate(epochs):
            steps = zip(*(shard[epoch] for shard in shards), strict=True)
            united = [
                [list(itertools.chain(*pieces)) for pieces in zip(*(split_plain(b, parts) for b in step), strict=True)]
                for step in steps
            ]
            assert united == expected


def split_plain(batch: list[int], parts: int) -> list[list[int]]:
    size = len(batch) // parts
    return [batch[i * size : (i + 1) * size] for i in range(parts)]


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_skips_to_the_same_batches_across_epochs(kind: str) -> None:
    """Determined's skipping over a repeated sampler goes on exactly where the uninterrupted order was."""

    def made() -> Any:
        return samplers.RepeatBatchSampler(sampler(kind, [40, 9, 3], 4, group=2))

    repeated = iter(made())
    order = [next(repeated) for _ in range(70)]
    for stop in (1, 13, 26, 29, 50):
        resumed = iter(samplers.SkipBatchSampler(made(), stop))
        assert [next(resumed) for _ in range(70 - stop)] == order[stop:]


@pytest.mark.parametrize("kind", KINDS)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=4), batch_size=st.integers(1, 9), group=st.integers(1, 4)
)
def test_every_micro_batch_is_full(kind: str, sizes: list[int], batch_size: int, group: int) -> None:
    """And their number is what the sampler says, a multiple of the group; the seed decides."""
    one = sampler(kind, sizes, batch_size, group)
    batches = list(one)
    assert {len(batch) for batch in batches} == {batch_size * (len(sizes) if kind == "keyed" else 1)}
    assert len(batches) == len(one)
    assert len(batches) % group == 0
    assert batches == list(sampler(kind, sizes, batch_size, group))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_and_the_epoch_decide_the_order(kind: str) -> None:
    """Another seed, or another epoch, gives another order."""
    one, other = sampler(kind, [50, 20], 8), sampler(kind, [50, 20], 8, seed=1)
    first, second = list(one), list(one)
    assert first != second
    assert first != list(other)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_set_is_evaluated_in_the_batches_that_it_has_alone(ranks: int) -> None:
    """So that its outputs are the same to the last bit, whatever stands beside it."""
    lengths = np.random.default_rng(1).integers(1, 50, 17)
    numbers = np.repeat([0, 1], [14, 3])
    both = list(EvalBatchSampler(lengths, 4, ranks=ranks, dataset_ids=numbers))
    first = list(EvalBatchSampler(lengths[:14], 4, ranks=ranks))
    second = list(EvalBatchSampler(lengths[14:], 4, ranks=ranks))
    assert both == first + [[14 + index for index in batch] for batch in second]
