"""A tiny Fusion-in-Decoder experiment, as tiny.experiment is for the extractive reader."""

import json
from pathlib import Path
from typing import Any

from test_fid_trial import SHAPE, records, sentence_piece, write_lines


def experiment(folder: Path, *, train: int = 40, validation: int = 11, dropout: float = 0.0, **changes: Any) -> Path:
    """An experiment configuration; ``changes`` are hyperparameters."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = sentence_piece()
    tokenizer.save_pretrained(folder / "tokenizer")
    shape = {**SHAPE, "model_type": "t5", "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = {
        "name": "tiny",
        "entrypoint": "model_hub_rqa.trials.fid:FiDTrial",
        "data": {
            "train_file": write_lines(folder / "train.jsonl", records(train)),
            "validation_file": write_lines(folder / "validation.jsonl", records(validation)),
            "max_encoder_seq_length": 32,
            "max_decoder_seq_length": 16,
            "max_new_tokens": 4,
            "cache_dir": str(folder / "cache"),
        },
        "hyperparameters": {
            "global_batch_size": 8,
            "tokenizer_name": str(folder / "tokenizer"),
            "config_overrides": {**shape, "dropout_rate": dropout},
            "use_pretrained_weights": False,
            "learning_rate": 1e-3,
            "num_train_epochs": 2,
            "logging_steps": 1,
            **changes,
        },
        "searcher": {"name": "single", "metric": "exact_match", "smaller_is_better": False},
    }
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return path
