"""A tiny causal language model and experiments of GenerationTrial on it."""

import json
from pathlib import Path
from typing import Any

import torch
from tiny import write_experiment
from tiny_fusion import records, write_lines
from tokenizers_for_tests import roberta
from transformers import GPT2Config, GPT2LMHeadModel


def causal_folder(folder: Path, **settings: Any) -> Path:
    """A pretrained GPT-2 of a few thousand weights, with its byte-level tokenizer; dropout is off."""
    torch.manual_seed(0)
    tokenizer = roberta()
    plain = {
        "vocab_size": len(tokenizer),
        "n_positions": 160,
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 4,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    GPT2LMHeadModel(GPT2Config(**{**plain, **settings})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def experiment(folder: Path, *, train: int = 40, validation: int = 11, dropout: float = 0.0, **changes: Any) -> Path:
    """An experiment configuration of questions with passages; ``changes`` are hyperparameters."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model"
    if not model.exists():
        causal_folder(model, **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), dropout))
    data = {
        "train_file": write_lines(folder / "train.jsonl", records(train)),
        "validation_file": write_lines(folder / "validation.jsonl", records(validation)),
        "n_context": 2,
        "max_length": 128,
        "max_new_tokens": 6,
    }
    hyperparameters = {"pretrained_model_name_or_path": str(model), **changes}
    return write_experiment(folder, "generation:GenerationTrial", "exact_match", data, hyperparameters)


def changed(path: Path, **sections: dict[str, Any]) -> Path:
    """The configuration with values put into its sections; None takes a value out."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for section, values in sections.items():
        config[section] = {key: value for key, value in {**config[section], **values}.items() if value is not None}
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def predictions(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
