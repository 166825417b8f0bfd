"""A tiny Fusion-in-Decoder experiment, as tiny.experiment is for the extractive reader."""

import json
from pathlib import Path
from typing import Any

import yaml
from readers_for_tests import SHAPE, sentence_piece
from tiny import write_experiment
from tiny_records import write_lines

from model_hub_rqa import train
from model_hub_rqa.runtime import experiments

WORDS = ["price", "oil", "river", "name", "embargo", "barrel", "basin", "café"]


def records(count: int) -> list[dict[str, Any]]:
    """Which word stands behind a number: the passage with the number says it, the others mislead."""
    found = []
    for i in range(count):
        ctxs = [{"title": str(k), "text": f"it is called {WORDS[(i + k) % 8]}"} for k in range(3)]
        word = WORDS[(i + i % 3) % 8]
        question = f"{i % 3} {WORDS[i % 8]}?"
        found.append({"id": f"q{i}", "question": question, "answers": [word, f"the {word}"], "ctxs": ctxs})
    return found


def experiment(folder: Path, *, train: int = 40, validation: int = 11, dropout: float = 0.0, **changes: Any) -> Path:
    """An experiment configuration; ``changes`` are hyperparameters."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = sentence_piece()
    tokenizer.save_pretrained(folder / "tokenizer")
    shape = {**SHAPE, "model_type": "t5", "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    data = {
        "train_file": write_lines(folder / "train.jsonl", records(train)),
        "validation_file": write_lines(folder / "validation.jsonl", records(validation)),
        "max_encoder_seq_length": 32,
        "max_decoder_seq_length": 16,
        "max_new_tokens": 4,
    }
    hyperparameters = {
        "tokenizer_name": str(folder / "tokenizer"),
        "config_overrides": {**shape, "dropout_rate": dropout},
        "use_pretrained_weights": False,
        **changes,
    }
    return write_experiment(folder, "fid:FiDTrial", "exact_match", data, hyperparameters)


def memorised(tmp_path: Path) -> dict[str, Any]:
    """A tiny T5 from scratch on eight questions."""
    changes = {
        "global_batch_size": 4,
        "bf16": False,  # whatever the machine has, so that numbers are compared to the last digits
        "max_steps": 4,
        "logging_steps": 20,
        "eval_steps": 1000,  # at the end, that is
        "save_steps": 1000,
    }
    path = experiment(tmp_path, train=8, validation=8, **changes)
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["data"]["max_new_tokens"] = 8
    return config


def write_config(config: dict[str, Any], folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def run(config: dict[str, Any], folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Trains in this process and returns the reports of validations."""
    output = folder / "run"
    assert train.main([write_config(config, folder), "--output-dir", str(output), *arguments]) == 0
    reports = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [report for report in reports if report["kind"] == "validation"]


def trial_of(config: dict[str, Any]) -> Any:
    return experiments.validate(experiments.checked(config))
