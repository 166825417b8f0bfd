"""What does a question ask for? A network of one's own, with a loss of its own, in a trial without a model by default.

Questions and gold answers are the quickstart's: an id such as ``train-00123-founder-q2-s3`` names what is asked for.
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from model_hub_rqa.data.loading import default_load_dataset
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.trials.task_trial import TaskTrial


class QuestionModel(nn.Module):
    """A recurrent network, read both ways; the largest of each state over the words, and a class from these."""

    def __init__(self, words: int, padding: int, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, hidden_size, padding_idx=padding)
        self.read = nn.GRU(hidden_size, hidden_size, batch_first=True, bidirectional=True)
        self.classify = nn.Linear(2 * hidden_size, num_labels)

    def forward(self, input_ids, labels, **_):
        states, _ = self.read(self.embed(input_ids))
        padding = input_ids.eq(self.embed.padding_idx).unsqueeze(-1)
        logits = self.classify(states.masked_fill(padding, -1.0).amax(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def build_model(tokenizer: Any, num_labels: int, hidden_size: int = 64) -> nn.Module:
    """What ``_target_`` names: the trial's tokenizer comes by its name, the rest is in the YAML."""
    return QuestionModel(len(tokenizer), tokenizer.pad_token_id, hidden_size, num_labels)


class OwnModelTrial(TaskTrial):
    """Validation reports the share of questions whose subject was told right."""

    default_parts = ("tokenizer",)  # transformers builds neither a config nor a model
    default_metric = "accuracy"
    default_smaller_is_better = False
    higher_is_better = {"accuracy": True}  # noqa: RUF012 - a declaration

    def load_examples(self):
        return default_load_dataset(self.data_settings, seed=self.seed, version_2_with_negative=True)

    def check(self):
        self.subjects = sorted({name.split("-")[2] for name in self.examples["train"]["id"]})
        if self.trainer.model["num_labels"] < len(self.subjects):
            raise ConfigError(f"hyperparameters.model.num_labels: must be at least {len(self.subjects)}, the subjects")

    def build_datasets(self):
        encode = functools.partial(encode_row, tokenizer=self.tokenizer, subjects=self.subjects)
        return {split: self.map_examples(split, encode) for split in self.examples}

    def build_collator(self):
        return functools.partial(collate, padding=self.tokenizer.pad_token_id)

    def evaluate_batch(self, batch, batch_idx):
        right = self.model(**batch)["logits"].argmax(-1).eq(batch["labels"])
        self.reducer.update(dict(zip(batch["example_index"].tolist(), right.tolist(), strict=True)))
        return {}

    def compute_metrics(self, values):
        return {"accuracy": sum(values.values()) / len(values)}


def encode_row(row: dict[str, Any], *, tokenizer: Any, subjects: list[str]) -> dict[str, Any]:
    ids, subject = tokenizer(row["question"])["input_ids"], row["id"].split("-")[2]
    return {"input_ids": ids, "labels": subjects.index(subject)}


def collate(rows: list[dict[str, Any]], *, padding: int) -> dict[str, torch.Tensor]:
    ids = pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True, padding_value=padding)
    return {"input_ids": ids} | {
        name: torch.tensor([row[name] for row in rows]) for name in ("labels", "example_index")
    }
