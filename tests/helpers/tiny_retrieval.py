"""A tiny encoder and questions with passages, for retrievers and rerankers."""

import json
import random
from pathlib import Path
from typing import Any

import tiny
import torch
from tiny_records import write_lines
from tokenizers_for_tests import bert
from transformers import BertConfig, BertModel

from model_hub_rqa import train

WORDS = ["price", "oil", "river", "name", "embargo", "barrel", "basin", "crisis", "members", "rainforest"]


def encoder_folder(folder: Path, kind: Any = BertModel, **settings: Any) -> Path:
    """A BERT of a few thousand weights with its tokenizer; dropout is off."""
    torch.manual_seed(0)
    tokenizer = bert()
    plain = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    plain |= {"max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    kind(BertConfig(vocab_size=len(tokenizer), **{**plain, **settings})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings_file = folder / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]  # as a tokenizer of BERT's own class has them
    settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), "model_input_names": names}))
    return folder


def passage(first: str, second: str) -> dict[str, Any]:
    return {"title": "", "text": f"the {first} of the {second} is here"}


def record(number: int, *, negatives: int = 2) -> dict[str, Any]:
    """A question about two words; its positive has both, its negatives one of them; a teacher scores them."""
    rng = random.Random(number)
    first, second, *others = rng.sample(WORDS, 3 + negatives)
    hard = [{**passage(first, other), "score": -1.0 - rng.random()} for other in others[:negatives]]
    return {
        "id": f"q{number}",
        "question": f"what {first} has the {second} ?",
        "positive_ctxs": [{**passage(first, second), "score": 2.0 + rng.random()}],
        "hard_negative_ctxs": hard,
    }


def config(
    folder: Path, *, trial: str = "Retriever", train: int = 32, validation: int = 12, **changes: Any
) -> dict[str, Any]:
    """An experiment of RetrieverTrial or RerankerTrial; ``changes`` are hyperparameters."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        encoder_folder(folder / "model")
    return {
        "name": f"tiny-{trial.lower()}",
        "entrypoint": f"model_hub_rqa.trials.{trial.lower()}:{trial}Trial",
        "data": {
            "train_file": write_lines(folder / "train.jsonl", map(record, range(train))),
            "validation_file": write_lines(folder / "dev.jsonl", map(record, range(1000, 1000 + validation))),
            "cache_dir": str(folder / "cache"),
        },
        "hyperparameters": {
            "pretrained_model_name_or_path": str(folder / "model"),
            "global_batch_size": 8,
            "learning_rate": 1e-3,
            "max_steps": 6,
            "logging_steps": 1,
            **changes,
        },
        "searcher": {"name": "single", "metric": "nDCG@10", "smaller_is_better": False},
    }


def write_config(folder: Path, content: dict[str, Any]) -> str:
    path = folder / "config.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return str(path)


def run(folder: Path, config: dict[str, Any], *words: str, name: str = "run") -> dict[str, Any]:
    """Trains, and returns the last validation."""
    assert train.main([write_config(folder, config), "--output-dir", str(folder / name), *words]) == 0
    return tiny.reports(folder / name, "validation")[-1]
