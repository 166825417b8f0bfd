"""Shared casts under autocast: the same numbers as torch's own, fewer casts, and nothing kept for longer."""

import copy
from typing import Any

import pytest
import torch
from fusion_models_for_tests import FAMILIES
from torch.utils._python_dispatch import TorchDispatchMode

from model_hub_rqa.models import casting
from model_hub_rqa.models.casting import share_casts


@pytest.fixture(autouse=True)
def small_tensors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "_WORTH_LOOKING_UP", 1)


class Casts(TorchDispatchMode):
    """Counts copies from float32 to bfloat16, and the other way."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and {args[0].dtype, result.dtype} == {torch.float32, torch.bfloat16}:
            self.count += 1
        return result


class Readers(torch.nn.Module):
    """Three linear layers of the same states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4, bias=False) for _ in range(3))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(states) for layer in self.layers])


def readers(share: bool = True) -> Readers:
    model = Readers()
    if share:
        share_casts(model)
    return model


def bf16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_a_model_computes_the_same(kind: str) -> None:
    """Logits bitwise; gradients to the rounding of sums that are now taken in bfloat16."""
    plain = FAMILIES[kind]().eval()
    shared = copy.deepcopy(plain)
    share_casts(shared)
    inputs = {"input_ids": torch.arange(5, 23).view(2, 9), "decoder_input_ids": torch.arange(5, 13).view(2, 4)}
    gradients = []
    logits = []
    for model in (plain, shared):
        with bf16():
            logits.append(model(**inputs).logits)
        logits[-1].float().square().mean().backward()
        gradients.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]))
    assert logits[0].equal(logits[1])
    assert (gradients[0] - gradients[1]).norm() < 0.01 * gradients[0].norm()


def test_states_are_cast_once() -> None:
    """What is no leaf, which autocast would keep for itself: one cast forward and one backward in place of three."""
    counts = []
    for share in (False, True):
        model, states = readers(share), torch.randn(2, 4, requires_grad=True)
        with Casts() as casts, bf16():
            model(states * 2).float().sum().backward()
        counts.append(casts.count)
    assert counts[0] - counts[1] == 4  # two casts fewer each way


def test_what_was_changed_is_cast_anew() -> None:
    model, states = readers(), torch.ones(2, 4)
    with bf16(), torch.no_grad():
        before = model(states)
        states.mul_(2)
        assert torch.allclose(model(states), 2 * before)


def test_gradients_flow_after_a_pass_without() -> None:
    """As gradient checkpointing has it: the first pass tracks nothing, the second must."""
    model, states = readers(), torch.randn(2, 4, requires_grad=True)
    with bf16():
        with torch.no_grad():
            model(states)
        model(states).float().sum().backward()
    assert states.grad is not None
    assert states.grad.count_nonzero() > 0


def test_each_backward_has_its_own_cast() -> None:
    """The graph of a cast ends with its backward pass where the states' own does: a second pass on a new leaf works."""
    model = readers()
    for _ in range(2):
        states = torch.randn(2, 4, requires_grad=True)
        with bf16():
            model(states * 2).float().sum().backward()
        assert states.grad is not None


@pytest.mark.parametrize("kept", [True, False])
def test_casts_end_with_what_was_cast(kept: bool) -> None:
    model = readers()
    [casts] = {hook.__self__ for layer in model.layers for hook in layer._forward_pre_hooks.values()}
    states = torch.randn(2, 4)
    with bf16():
        model(states)
    if not kept:
        del states
    assert len(casts._kept) == kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_autocast_nothing_is_cast(dtype: torch.dtype) -> None:
    model = readers().to(dtype)
    assert model(torch.randn(2, 4, dtype=dtype)).dtype == dtype


def test_small_casts_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casting, "_WORTH_LOOKING_UP", 9)
    model = readers()
    [casts] = {hook.__self__ for layer in model.layers for hook in layer._forward_pre_hooks.values()}
    small, large = torch.randn(2, 4), torch.randn(3, 4)
    with bf16():
        model(small), model(large)
        assert model.layers[0](input=large).dtype == torch.bfloat16
    assert list(casts._kept) == [large]


def test_inference_mode() -> None:
    model, states = readers(), torch.randn(2, 4)
    with bf16():
        expected = model(states)
        with torch.inference_mode():
            assert model(states * 1).equal(expected)
