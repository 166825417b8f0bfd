"""Objectives on logits computed by hand, against independent references, and their need of data sets."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.objectives import (
    NPO,
    GradDiff,
    TrainedTask,
    build_objective,
    finetune,
    grad_ascent,
    needed_datasets,
    needs_reference,
)
from model_hub_rqa.registry import OBJECTIVES, RegisteredObjects, read_registered
from model_hub_rqa.tasks.causal_lm.task import next_token_losses


def task(model: dict[str, torch.Tensor], reference: dict[str, torch.Tensor] | None = None) -> TrainedTask:
    """A task whose batch is {"set": name, "labels": [B, T]}, with the logits of each set given."""

    def log_probs(logits: dict[str, torch.Tensor], batch: Any) -> torch.Tensor:
        return -next_token_losses(logits[batch["set"]], batch["labels"])[0]

    def loss(batch: Any) -> torch.Tensor:
        losses, tokens = next_token_losses(model[batch["set"]], batch["labels"])
        return (losses / tokens).mean()

    return TrainedTask(loss, lambda batch: log_probs(model, batch), lambda batch: log_probs(reference or model, batch))


def uniform(rows: int, tokens: int, vocabulary: int) -> torch.Tensor:
    return torch.zeros(rows, tokens, vocabulary)


LABELS = torch.tensor([[-100, -100, 1, 2], [-100, 3, -100, -100]])
FORGET = {"set": "forget", "labels": LABELS}
RETAIN = {"set": "retain", "labels": LABELS[:, :3]}
BATCH = {"forget": FORGET, "retain": RETAIN}


def test_losses_of_answers_by_hand() -> None:
    """Each label is predicted from the position before it, padding counts nothing, and all of [B] is of answers."""
    logits = uniform(2, 4, 4)
    logits[0, 1] = torch.tensor([0.0, math.log(3), 0.0, 0.0])  # before the label 1: 3 / 6
    logits[0, 3] = 100.0  # behind the last label: read by none
    losses, tokens = next_token_losses(logits, LABELS)
    assert losses.tolist() == pytest.approx([math.log(2) + math.log(4), math.log(4)])
    assert tokens.tolist() == [2, 1]


def test_finetune_and_ascent() -> None:
    """The trial's own loss, and the same the other way round."""
    losses = task({"forget": uniform(2, 4, 4)})
    assert finetune(losses, FORGET).item() == pytest.approx(math.log(4))
    assert grad_ascent(losses, FORGET).item() == pytest.approx(-math.log(4))


def test_grad_diff_by_hand() -> None:
    """-gamma L(forget) + alpha L(retain)."""
    losses = task({"forget": uniform(2, 4, 4), "retain": uniform(2, 3, 8)})
    assert GradDiff()(losses, BATCH).item() == pytest.approx(-math.log(4) + math.log(8))
    assert GradDiff(gamma=0.5, alpha=2)(losses, BATCH).item() == pytest.approx(-0.5 * math.log(4) + 2 * math.log(8))
    assert GradDiff(alpha=0)(losses, {"forget": FORGET}).item() == pytest.approx(-math.log(4))


def test_npo_by_hand() -> None:
    """Where model and reference agree the loss is 2 log(2) / beta; one answer twice as likely has a ratio of 2."""
    same = task({"forget": uniform(2, 4, 4), "retain": uniform(2, 3, 8)})
    assert NPO(beta=0.5, alpha=0)(same, {"forget": FORGET}).item() == pytest.approx(4 * math.log(2))
    assert NPO(beta=0.5, alpha=3)(same, BATCH).item() == pytest.approx(4 * math.log(2) + 3 * math.log(8))
    model = uniform(2, 4, 4)
    model[1, 0] = torch.tensor([0.0, 0.0, 0.0, math.log(3)])  # the second answer: 1/2 in place of 1/4
    changed = task({"forget": model}, {"forget": uniform(2, 4, 4)})
    beta = 2.0  # 2/beta log(1 + ratio^beta), ratios 1 and 2
    expected = (math.log(2) + math.log(1 + 2**beta)) / 2 * 2 / beta
    assert NPO(beta=beta, alpha=0)(changed, {"forget": FORGET}).item() == pytest.approx(expected)


def test_npo_has_the_gradient_of_ascent_in_the_limit_of_beta() -> None:
    """Zhang et al. 2024, section 3: with beta towards 0 the gradient is that of ascent on the answers' sums."""
    gradients = []
    for objective in (NPO(beta=1e-4, alpha=0, gamma=1.0), None):
        logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        model = task({"forget": logits}, {"forget": uniform(2, 4, 5)})
        loss = objective(model, {"forget": FORGET}) if objective else model.log_probs(FORGET).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append(logits.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-3)


@given(st.floats(0.05, 5), st.lists(st.floats(-20, 0), min_size=1, max_size=6), st.randoms())
def test_npo_agrees_with_its_other_form(beta: float, log_probs: list[float], random: Any) -> None:
    """2/beta mean log(1 + (pi / pi_ref)^beta), in float64 and from the probabilities."""
    reference = [random.uniform(-20, 0) for _ in log_probs]
    values = [torch.tensor(numbers, dtype=torch.float64) for numbers in (log_probs, reference)]
    losses = TrainedTask(lambda batch: torch.zeros(()), lambda batch: values[0], lambda batch: values[1])
    expected = (
        2
        / beta
        * sum(math.log1p(math.exp(beta * (one - other))) for one, other in zip(log_probs, reference, strict=True))
    )
    found = NPO(beta=beta, alpha=0)(losses, {"forget": {}}).item()
    assert found == pytest.approx(expected / len(log_probs), rel=1e-9)


def chosen(**objective: Any) -> RegisteredObjects:
    return read_registered({"objective": objective}, {})


@pytest.mark.parametrize(
    ("objective", "train_names", "keyed", "error"),
    [
        ({"name": "NPO"}, ["forget"], True, "NPO needs data.train to name the sets forget and retain: there is no "
         r"retain set \(got forget\)"),
        ({"name": "GradDiff"}, [], False, r"there is no forget set \(got none\)"),
        ({"name": "GradDiff"}, ["forget", "retian"], True, r"no retain set \(got forget, retian\): did you mean ret"),
        ({"name": "GradDiff"}, ["forget", "retain"], False, "GradDiff needs data.mixing: keyed"),
        ({"name": "NPO", "args": {"beta": 0}}, ["forget"], True, r"hyperparameters.objective.args.beta: must be > 0"),
        ({"name": "NPO", "args": {"beta": "x"}}, ["forget"], True, r"args.beta: must be a number, got 'x'"),
        ({"name": "GradDiff", "args": {"gamma": -1}}, [], True, r"args.gamma: must be a number >= 0, got -1"),
    ],
)  # fmt: skip
def test_errors(objective: dict[str, Any], train_names: list[str], keyed: bool, error: str) -> None:
    """An objective's arguments, and the data sets that it needs, are held to before anything is loaded."""
    with pytest.raises(ConfigError, match=error):
        build_objective(chosen(**objective), train_names, keyed)


def test_what_is_there_is_taken() -> None:
    """With its sets an objective is made; without weight, the retain set is not asked for."""
    assert build_objective(chosen(name="NPO", args={"beta": 0.2}), ["forget", "retain"], True) == NPO(beta=0.2)
    assert build_objective(chosen(name="GradDiff", args={"alpha": 0}), ["forget"], True) == GradDiff(alpha=0)
    assert build_objective(RegisteredObjects(), [], False) is None


def test_a_function_may_ask_for_sets_and_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its attributes, which its bound arguments do not hide."""
    monkeypatch.setattr(OBJECTIVES, "_factories", dict(OBJECTIVES._factories))

    @OBJECTIVES.register("Mine")
    def mine(task: Any, batch: Any, weight: float = 1.0) -> torch.Tensor: ...

    built = build_objective(chosen(name="Mine", args={"weight": 2.0}), [], False)
    assert (needed_datasets(built), needs_reference(built)) == ((), False)
    mine.sets, mine.needs_reference = ("forget",), True  # type: ignore[attr-defined]
    assert (needed_datasets(built), needs_reference(built)) == (("forget",), True)
    with pytest.raises(ConfigError, match=r"Mine needs data\.train to name the sets forget"):
        build_objective(chosen(name="Mine"), ["retain"], True)
