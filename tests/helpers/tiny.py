"""Tiny models and data sets that train in a second."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers_for_tests import bert, t5
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from model_hub_rqa.checkpoints import write_manifest

WORDS = "the oil crisis began in October when members proclaimed an embargo price barrel river basin".split()  # noqa: SIM905 - it reads better


def model_folder(folder: Path, **settings: Any) -> Path:
    """A pretrained question-answering BERT of a few thousand weights, with its tokenizer; dropout is off."""
    torch.manual_seed(0)
    tokenizer = bert()
    plain = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 128,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = BertConfig(**{**plain, **settings})
    BertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def cross_encoder_folder(folder: Path, *, num_labels: int = 1, seed: int = 0) -> Path:
    """A BERT that scores pairs, of a few thousand random weights, with its tokenizer, as transformers saves it."""
    torch.manual_seed(seed)
    tokenizer = bert()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        num_labels=num_labels,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def seq2seq_folder(folder: Path) -> Path:
    """A pretrained T5 of a few thousand weights, with its tokenizer; dropout is off."""
    torch.manual_seed(0)
    tokenizer = t5()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def passages_file(path: Path, count: int, *, seed: int = 0) -> Path:
    """``count`` questions with three passages each, in FiD's form, as JSON lines."""
    rng = random.Random(seed)
    lines = []
    for number in range(count):
        ctxs = [{"title": word, "text": " ".join(rng.choices(WORDS, k=12))} for word in rng.sample(WORDS, 3)]
        question = f"What is {rng.choice(WORDS)} number {number}?"
        lines.append({"id": f"q{number}", "question": question, "answers": [rng.choice(WORDS)], "ctxs": ctxs})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def squad_file(path: Path, count: int, *, unanswerable: int = 0, seed: int = 0) -> Path:
    """A nested SQuAD file of ``count`` questions, the last ``unanswerable`` of them without an answer."""
    rng = random.Random(seed)
    paragraphs = []
    for number in range(count):
        words = [rng.choice(WORDS) for _ in range(rng.randrange(5, 40))]
        place = rng.randrange(len(words))
        start = len(" ".join([*words[:place], ""]))
        impossible = number >= count - unanswerable
        qa = {
            "id": f"q{number}",
            "question": f"What is {rng.choice(WORDS)} number {number}?",
            "answers": [] if impossible else [{"text": words[place], "answer_start": start}],
            "is_impossible": impossible,
        }
        paragraphs.append({"context": " ".join(words), "qas": [qa]})
    version = "v2.0" if unanswerable else "1.1"
    content = {"version": version, "data": [{"title": "t", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_experiment(
    folder: Path, trial: str, metric: str, data: dict[str, Any], hyperparameters: dict[str, Any]
) -> Path:
    """An experiment configuration of two epochs of batches of eight, in a file."""
    config = {
        "name": "tiny",
        "entrypoint": f"model_hub_rqa.trials.{trial}",
        "data": {**data, "cache_dir": str(folder / "cache")},
        "hyperparameters": {
            **{"global_batch_size": 8, "learning_rate": 1e-3, "num_train_epochs": 2, "logging_steps": 1},
            **hyperparameters,
        },
        "searcher": {"name": "single", "metric": metric, "smaller_is_better": False},
    }
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return path


def experiment(folder: Path, *, train: int = 40, validation: int = 11, unanswerable: int = 0, **changes: Any) -> Path:
    """An experiment configuration of the tiny model on tiny data; ``changes`` are hyperparameters."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model"
    if not model.exists():
        model_folder(model)
    data = {
        "train_file": str(squad_file(folder / "train.json", train, unanswerable=min(unanswerable, 1) * 10)),
        "validation_file": str(squad_file(folder / "validation.json", validation, unanswerable=unanswerable, seed=1)),
        "max_seq_length": 64,
        "doc_stride": 16,
        "version_2_with_negative": unanswerable > 0,
    }
    hyperparameters = {"pretrained_model_name_or_path": str(model), **changes}
    return write_experiment(folder, "qa:QATrial", "f1", data, hyperparameters)


def reports(run: Path, kind: str) -> list[dict[str, Any]]:
    """The run's reports of a kind, in order."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [report for report in map(json.loads, lines) if report["kind"] == kind]


def weights(run: Path, steps: int) -> dict[str, torch.Tensor]:
    """The model's weights in a run's checkpoint."""
    state: dict[str, Any] = torch.load(run / f"checkpoints/checkpoint-{steps}/state_dict.pth", weights_only=True)
    found: dict[str, torch.Tensor] = state["models_state_dict"][0]
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float = 0.0) -> bool:
    """Whether two models have the same weights, by default to the last bit."""
    pairs: Iterable[str] = one.keys()
    return one.keys() == other.keys() and all(torch.allclose(one[k], other[k], rtol=0, atol=atol) for k in pairs)


def same(one: Any, other: Any) -> bool:
    """Whether two values of tensors, dicts, lists and numbers are the same, bit for bit."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        alike = type(one) is type(other) and one.dtype == other.dtype and one.shape == other.shape
        return alike and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def sign(checkpoint: Path) -> None:
    """Writes the manifest anew, as someone could who changes a checkpoint on purpose."""
    write_manifest(checkpoint)
