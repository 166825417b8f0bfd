"""Batches by their tokens."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa import train
from model_hub_rqa.data.batching import TokenBudgetBatchSampler, cut_by_tokens
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.runtime import experiments
from model_hub_rqa.trials.qa import QATrial


def test_cuts_by_hand() -> None:
    """Two of five tokens fit into ten, then three of three; one of two does not beside the four of six."""
    cuts = cut_by_tokens(np.array([5, 5, 3, 3, 3, 2]), 10)
    assert [cut.tolist() for cut in cuts] == [[0, 1], [2, 3, 4], [5]]
    assert [cut.tolist() for cut in cut_by_tokens(np.array([2, 6, 2]), 10)] == [[0], [1], [2]]


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 4), st.integers(0, 3))
def test_every_example_once_in_batches_that_fit(lengths: list[int], group: int, seed: int) -> None:
    """All epochs have as many batches, a multiple of the group; examples come twice only where they are too few."""
    sampler = TokenBudgetBatchSampler(lengths, 40, group=group, seed=seed)
    for _ in range(4):
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert len(sampler) % group == 0
        assert all(len(batch) * max(lengths[i] for i in batch) <= 40 for batch in batches)
        drawn = [index for batch in batches for index in batch]
        assert set(drawn) == set(range(len(lengths)))
        assert len(drawn) == max(len(lengths), len(sampler))


def test_batches_are_composed_anew_and_come_again() -> None:
    """From seed and epoch alone; nearly all batches hold other examples in each epoch."""
    lengths = np.random.default_rng(0).integers(10, 200, 500)
    first, second = (TokenBudgetBatchSampler(lengths, 1000, group=4, seed=5) for _ in range(2))
    epochs = [list(first) for _ in range(3)]
    assert [list(second) for _ in range(3)] == epochs
    composed = [{frozenset(batch) for batch in epoch} for epoch in epochs]
    for one, other in itertools.combinations(composed, 2):
        assert len(one & other) < 0.1 * len(one)
    padded = sum(len(batch) * lengths[batch].max() for batch in epochs[0])
    assert padded < 1.2 * lengths.sum()  # like lengths stand together


def test_an_example_that_is_too_long_is_named() -> None:
    """With what would be enough."""
    with pytest.raises(ConfigError, match="max_tokens_per_batch: must be at least 41, the longest example, got 40"):
        TokenBudgetBatchSampler([3, 41], 40, group=1, seed=0)


def test_a_run_by_tokens(tmp_path: Path) -> None:
    """Steps are counted in batches of tokens."""
    path = tiny.experiment(tmp_path, train=30, max_tokens_per_batch=256, num_train_epochs=2)
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    trial = experiments.validate(experiments.load_experiment(str(path)))
    sampler = TokenBudgetBatchSampler(trial.datasets["train"]["length"][:], 256, group=1, seed=42)
    assert len(sampler) > 4
    assert tiny.reports(tmp_path / "run", "validation")[-1]["steps"] == 2 * len(sampler)


def whole_gradient(trial: QATrial) -> list[torch.Tensor]:
    """Of the mean of the loss over all training examples."""
    features = trial.datasets["train"]
    loss = trial.compute_loss(trial.collator([features[i] for i in range(len(features))]))
    return list(torch.autograd.grad(loss, [one for one in trial.model.parameters() if one.requires_grad]))


class CheckedTrial(QATrial):
    """Compares the gradient of its first step, which is an epoch, with that of all examples at once."""

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        if batch_idx == 0:
            self.whole = whole_gradient(self)
            self.sizes = []
        self.sizes.append(len(batch["input_ids"]))
        return super().train_batch(batch, epoch_idx, batch_idx)

    def _clip_gradients(self, parameters: Any) -> None:
        found = torch.cat([one.grad.flatten() for one in self.model.parameters() if one.requires_grad])
        torch.testing.assert_close(found, torch.cat([one.flatten() for one in self.whole]), rtol=1e-4, atol=1e-6)
        assert len(set(self.sizes)) > 1
        print("the gradients agree")
        super()._clip_gradients(parameters)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_example_weighs_the_same(ranks: int, tmp_path: Path) -> None:
    """Over ranks and accumulation: the gradient of an epoch in one step is that of the mean over all examples."""
    steps = {"gradient_accumulation_steps": 8 // ranks, "max_steps": 1}
    path = tiny.experiment(tmp_path, train=30, max_tokens_per_batch=512, **steps)
    config = json.loads(path.read_text())
    config["entrypoint"] = f"{__name__}:CheckedTrial"
    config["data"]["max_seq_length"] = 40  # windows of different lengths
    path.write_text(json.dumps(config))
    arguments = [str(path), "--output-dir", str(tmp_path / "run")]
    assert forked.run_ranks(ranks, arguments, tmp_path / "logs") == [0] * ranks
    for rank in range(ranks):
        assert (tmp_path / "logs" / f"{rank}.log").read_text().count("the gradients agree") == 1
    assert tiny.reports(tmp_path / "run", "validation")[-1]["batches"] == 8 // ranks


def test_resume_is_exact(tmp_path: Path) -> None:
    """Within an epoch and beyond the first."""
    path = tiny.experiment(tmp_path, train=30, max_tokens_per_batch=512, num_train_epochs=3, save_steps=1)
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    last = tiny.reports(tmp_path / "run", "validation")[-1]["steps"]
    whole = tiny.weights(tmp_path / "run", last)
    for done in range(last // 2 + 1, last + 1):
        shutil.rmtree(tmp_path / f"run/checkpoints/checkpoint-{done}")
    assert train.main([str(path), "--output-dir", str(tmp_path / "run"), "--resume", "latest"]) == 0
    assert tiny.equal(tiny.weights(tmp_path / "run", last), whole)
