"""Batches by their tokens."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa import train
from model_hub_rqa.data.token_budget import TokenBudgetBatchSampler, cut_by_tokens
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.trials import experiments


def test_groups_by_hand() -> None:
    """Two of five tokens fit into ten, then three of three; what is left stands alone."""
    groups = cut_by_tokens(np.array([3, 5, 2, 5, 3, 3]), 10)
    assert [group.tolist() for group in groups] == [[1, 3], [0, 4, 5], [2]]


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 4), st.integers(0, 3))
def test_every_example_in_batches_that_fit(lengths: list[int], group: int, seed: int) -> None:
    """Each epoch has the same batches, each example in them, none too large, and their number fits the ranks."""
    sampler = TokenBudgetBatchSampler(lengths, 40, group=group, seed=seed)
    for _ in range(2):
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert len(sampler) % group == 0
        assert all(len(batch) * max(lengths[i] for i in batch) <= 40 for batch in batches)
        assert {i for batch in batches for i in batch} == set(range(len(lengths)))
        times = Counter(map(tuple, batches)).values()
        assert not batches or max(times) - min(times) <= 1


def test_epochs_differ_in_order_and_come_again() -> None:
    """The order is drawn from seed and epoch alone."""
    lengths = list(range(1, 60))
    first, second = (TokenBudgetBatchSampler(lengths, 60, group=1, seed=5) for _ in range(2))
    epochs = [list(first), list(first)]
    assert epochs[0] != epochs[1]
    assert [list(second), list(second)] == epochs


def test_an_example_that_is_too_long_is_named() -> None:
    """With what would be enough."""
    with pytest.raises(ConfigError, match="max_tokens_per_batch: must be at least 41, the longest example, got 40"):
        TokenBudgetBatchSampler([3, 41], 40, group=1, seed=0)


def test_a_run_by_tokens(tmp_path: Path) -> None:
    """Steps are counted in batches of tokens; each epoch trains on every example."""
    path = tiny.experiment(tmp_path, train=30, max_tokens_per_batch=256, num_train_epochs=2)
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    trial = experiments.validate(experiments.load_experiment(str(path)))
    groups = cut_by_tokens(trial.datasets["train"]["length"][:], 256)
    assert len(groups) > 4
    assert tiny.reports(tmp_path / "run", "validation")[-1]["steps"] == 2 * len(groups)
