"""The default schedule of the learning rate, and the number of steps that it takes."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from model_hub_rqa.config import LR_SCHEDULER_TYPES, LRSchedulerKwargs
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models.optimizers import (
    build_default_lr_scheduler,
    build_default_optimizer,
    compute_num_training_steps,
)


def optimizer_of(learning_rate: float = 1.0) -> torch.optim.Optimizer:
    return build_default_optimizer(nn.Linear(2, 2), {"learning_rate": learning_rate})


def rates(scheduler: Any, steps: int) -> list[float]:
    """The first group's learning rate at each of the first steps."""
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]),
        ({"warmup_steps": 2}, [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ({"warmup_ratio": 0.11}, [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ({"warmup_steps": 2, "warmup_ratio": 0.9}, [0, 0.5, 1, 7 / 8]),
        ({"lr_scheduler_type": "constant"}, [1] * 12),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4}, [0, 0.25, 0.5, 0.75, 1, 1, 1]),
        ({"lr_scheduler_type": "cosine"}, [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]),
        (
            {"lr_scheduler_type": "cosine", "warmup_steps": 2},
            [0, 0.5, *((1 + math.cos(math.pi * step / 8)) / 2 for step in range(9))],
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.5}},
            [0.5 + (1 + math.cos(math.pi * step / 10)) / 4 for step in range(11)],
        ),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0, "lr_end": 0.0}},
            [((10 - step) / 10) ** 2 for step in range(11)],
        ),
        (
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "warmup_steps": 2,
                "lr_scheduler_kwargs": {"num_decay_steps": 4, "decay_type": "linear"},
            },
            [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0],
        ),
    ],
)
def test_the_rates_are_those_of_the_closed_form(settings: dict[str, Any], expected: list[float]) -> None:
    """Over ten steps with a peak of 1; a ratio of 0.11 is two steps of warmup, rounded up."""
    scheduler = build_default_lr_scheduler(optimizer_of(1.0), settings, num_training_steps=10)
    assert rates(scheduler, len(expected)) == pytest.approx(expected)


NEEDED: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 2},
}


@pytest.mark.parametrize("kind", LR_SCHEDULER_TYPES)
def test_every_type_is_built_or_says_why_not(kind: str) -> None:
    """All but the two that step on a metric are driven by optimizer steps; those two are refused by name."""
    settings = LRSchedulerKwargs(lr_scheduler_type=kind, warmup_steps=1, lr_scheduler_kwargs=NEEDED.get(kind))
    if kind in ("reduce_lr_on_plateau", "greedy"):
        with pytest.raises(ConfigError, match=rf"^lr_scheduler_type: .* but {kind} steps on a metric$"):
            build_default_lr_scheduler(optimizer_of(), settings, 10)
        return
    scheduler = build_default_lr_scheduler(optimizer_of(), settings, 10)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    assert all(0 <= rate <= 1 for rate in rates(scheduler, 10))


@pytest.mark.parametrize(
    ("settings", "total", "error"),
    [
        ({}, None, r"^num_training_steps: linear: .*requires `num_training_steps`"),
        ({"warmup_ratio": 0.1, "lr_scheduler_type": "constant_with_warmup"}, None, r"^num_training_steps: is required"),
        ({"lr_scheduler_kwargs": {"num_cycles": 1}}, 10, r"^lr_scheduler_kwargs: linear: .*num_cycles"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, 10, r"^lr_scheduler_kwargs: cosine_with_min_lr needs one of"),
        (
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 1, "decay_type": "x"},
            },
            10,
            r"^lr_scheduler_kwargs: warmup_stable_decay: Unknown decay type",
        ),
    ],
)
def test_a_schedule_that_cannot_be_built_is_a_error(settings: dict[str, Any], total: int | None, error: str) -> None:
    """What is missing or unknown is named, with the type."""
    with pytest.raises(ConfigError, match=error):
        build_default_lr_scheduler(optimizer_of(), settings, total)


def test_the_number_of_steps_is_the_arguments_first() -> None:
    """num_training_steps of the settings counts where the argument is not given; nothing given is changed."""
    settings = {"num_training_steps": 4, "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 0.5}}
    before = copy.deepcopy(settings)
    assert rates(build_default_lr_scheduler(optimizer_of(), settings), 5)[-1] == pytest.approx(0)
    assert rates(build_default_lr_scheduler(optimizer_of(), settings, 8), 5)[-1] == pytest.approx(0.5)
    assert settings == before


def test_a_warmup_beyond_the_training_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """The learning rate would never reach its peak."""
    build_default_lr_scheduler(optimizer_of(), {"warmup_steps": 20}, 10)
    assert [record.getMessage() for record in caplog.records] == [
        "the warmup of 20 steps is longer than the training of 10"
    ]


# ---- the number of steps ----


@pytest.mark.parametrize(
    ("batches", "epochs", "max_steps", "accumulation", "steps"),
    [
        (10, 3.0, -1, 1, 30),
        (10, 3.0, 7, 1, 7),
        (10, 3.0, 7, 4, 7),
        (10, 1.0, -1, 4, 3),
        (10, 2.0, -1, 4, 6),
        (10, 0.25, -1, 1, 3),
        (10, 0.01, -1, 1, 1),
        (1, 1.0, -1, 8, 1),
        (0, 1.0, 5, 1, 5),
    ],
)
def test_the_steps_of_a_run(batches: int, epochs: float, max_steps: int, accumulation: int, steps: int) -> None:
    """Both roundings are upwards: within an epoch, and over all of them."""
    found = compute_num_training_steps(
        batches_per_epoch=batches,
        num_train_epochs=epochs,
        max_steps=max_steps,
        gradient_accumulation_steps=accumulation,
    )
    assert found == steps


@given(st.integers(1, 10**6), st.integers(1, 100), st.integers(1, 64))
def test_whole_epochs_take_enough_steps_and_no_more(batches: int, epochs: int, accumulation: int) -> None:
    """The steps of whole epochs cover every batch, and one fewer an epoch would not."""
    steps = compute_num_training_steps(
        batches_per_epoch=batches, num_train_epochs=epochs, gradient_accumulation_steps=accumulation
    )
    per_epoch, rest = divmod(steps, epochs)
    assert rest == 0
    assert (per_epoch - 1) * accumulation < batches <= per_epoch * accumulation


def test_no_batches_are_a_error() -> None:
    """Without max_steps an empty epoch gives no number; every argument at error is named."""
    with pytest.raises(ConfigError, match=r"^batches_per_epoch: must be > 0") as caught:
        compute_num_training_steps(batches_per_epoch=0, num_train_epochs=-1)
    assert caught.value.errors == (
        "batches_per_epoch: must be > 0, got 0",
        "num_train_epochs: must be >= 0, got -1",
    )
