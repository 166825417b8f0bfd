"""Whether the faster training learns as much: F1 after one epoch, ours in bf16 against the Trainer in fp32."""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import data, extractive, run_qa
from benchmarks.ours import train_pass, validation_pass
from benchmarks.timing import Row

LEARNING_RATE, WARMUP = 1e-4, 0.1


def f1(seeds: int, *, questions: int = 4000, validation: int = 1000) -> list[Row]:
    """F1 on SQuAD dev after one epoch on SQuAD train with MiniLM, for so many seeds; one and the same evaluation."""
    folder = Path(tempfile.mkdtemp())
    files = {
        "train_file": str(data.squad("train", questions, folder)),
        "validation_file": str(data.squad("dev", validation, folder)),
    }
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in range(1, seeds + 1):
        settings = {
            "learning_rate": LEARNING_RATE,
            "warmup_ratio": WARMUP,
            "bf16": True,
            "seed": seed,
            "num_train_epochs": 1,
        }
        with extractive.trial(files, folder, **settings) as trial:
            train_pass(trial)
            found["ours"].append(validation_pass(trial)["f1"])
            # the peer's weights are scored by the same evaluation, so that training alone tells them apart
            trial.model.load_state_dict(_trained_by_trainer(files["train_file"], seed))
            found["peer"].append(validation_pass(trial)["f1"])
        print(
            f"seed {seed}: " + ", ".join(f"{side} {scores[-1]:.2f}" for side, scores in found.items()), file=sys.stderr
        )
    shutil.rmtree(folder)
    shown = {side: f"{statistics.mean(scores):.1f} ± {_spread(scores):.1f}" for side, scores in found.items()}
    difference = statistics.mean(found["ours"]) - statistics.mean(found["peer"])
    what = f"F1 after one epoch on {questions:,} questions, {seeds} seeds, ours in bf16 minus Trainer in fp32 (points)"
    return [Row(what, difference, shown["ours"], shown["peer"], f"within {_spread(found['peer']):.1f}")]


def _spread(scores: list[float]) -> float:
    return statistics.stdev(scores) if len(scores) > 1 else 0.0


def _trained_by_trainer(path: str, seed: int) -> dict[str, torch.Tensor]:
    """Weights after run_qa's training, padded to the longest of a batch."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data.minilm())
    features = run_qa.train_features(extractive.examples_of(Path(path)), tokenizer, padding=False)
    trainer = run_qa.trainer(
        extractive.model(seed),
        features,
        tokenizer,
        pad_to_max=False,
        bf16=False,
        batch_size=extractive.BATCH_SIZE,
        seed=seed,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARMUP,  # a share, where it is below 1
    )
    trainer.train()
    weights: dict[str, torch.Tensor] = trainer.model.state_dict()
    return weights
