"""label_smoothing_factor: the losses against transformers' LabelSmoother, and in training."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_fusion
import tiny_generation
import torch
from transformers.trainer_pt_utils import LabelSmoother

from model_hub_rqa import train
from model_hub_rqa.tasks.causal_lm.task import next_token_losses
from model_hub_rqa.tasks.passages.generation import answer_losses

LABELS = torch.tensor([[-100, 1, 3, 2], [-100, 0, -100, -100], [-100, -100, 4, 4]])


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(("losses_of", "shifts"), [(next_token_losses, True), (answer_losses, False)])
def test_losses_are_those_of_label_smoother(factor: float, losses_of: Any, shifts: bool) -> None:
    """Over all tokens, and for each answer by itself."""
    logits = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3
    losses, tokens = losses_of(logits, LABELS, label_smoothing=factor)
    smoother = LabelSmoother(epsilon=factor)
    found = losses.sum() / tokens.sum()
    torch.testing.assert_close(found, smoother({"logits": logits}, LABELS.clone(), shift_labels=shifts))
    for row in range(3):
        one = {"logits": logits[row : row + 1]}
        expected = smoother(one, LABELS[row : row + 1].clone(), shift_labels=shifts)
        torch.testing.assert_close(losses[row] / tokens[row], expected)


@pytest.mark.parametrize(("kind", "name"), [(tiny_fusion, "loss"), (tiny_generation, "eval_loss")])
def test_training_is_smoothed_and_validation_is_not(kind: Any, name: str, tmp_path: Path) -> None:
    """The training loss of the first step is another, and greater; before it, a validation's is the same."""
    config = str(kind.experiment(tmp_path, train=8, validation=2, max_steps=1, learning_rate=0.0, bf16=False))
    first, losses = [], []
    for factor in ("0.0", "0.5"):
        run = tmp_path / factor
        assert train.main([config, "--output-dir", str(run), "--label_smoothing_factor", factor]) == 0
        first.append(tiny.reports(run, "training")[0]["loss"])
        losses.append(tiny.reports(run, "validation")[0][name])
    assert abs(first[1] - first[0]) > 1e-3
    assert losses[0] == losses[1]


def test_a_loss_of_positions_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """QATrial refuses a factor, which transformers' Trainer would ignore."""
    config = str(tiny.experiment(tmp_path, label_smoothing_factor=0.1))
    assert train.main([config, "--output-dir", str(tmp_path / "run")]) == 2
    line = "hyperparameters.label_smoothing_factor: must be 0, since the loss of QATrial is not one of generated tokens"
    assert f"{line}, got 0.1" in capsys.readouterr().err
