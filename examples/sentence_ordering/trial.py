"""Sentence ordering: the shuffled sentences of a paragraph stand in one input, and each gets a score at its own token.

Each sentence keeps its own [CLS], as in BERTSum (Liu and Lapata 2019, arXiv:1908.08345), and is scored at the token
behind it: its first word ("However", "The", "He") tells of its place, where all [CLS] begin alike. Sorted by their
scores, the highest first, the sentences are in order.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from model_hub_rqa.config import Kwargs, option
from model_hub_rqa.data.file_loaders import rows_reader
from model_hub_rqa.metrics.ranking import kendall_tau
from model_hub_rqa.trials.task_trial import TaskTrial


@dataclass(frozen=True, kw_only=True)
class OrderingKwargs(Kwargs):
    max_sentence_length: int = option(48, ge=3, help="tokens of a sentence, its [CLS] and [SEP] included")


class SentenceOrderingTrial(TaskTrial):
    """Reads rows of ``sentences``, shuffled, and ``positions``, the true position of each, counted from 0."""

    default_model_mode = "token-classification"  # with num_labels: 1, a number at each token
    default_bf16 = True
    task_kwargs = OrderingKwargs
    label_names = ("positions",)

    def build_reader(self):
        return rows_reader("sentences", "positions")

    def build_datasets(self):
        encode = functools.partial(encode_row, tokenizer=self.tokenizer, max_length=self.settings.max_sentence_length)
        return {split: self.map_examples(split, encode) for split in self.examples}

    def build_collator(self):
        return functools.partial(collate, padding=self.tokenizer.pad_token_id)

    def scores(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, S], a sentence's score; where a paragraph has fewer sentences, what stands there means nothing."""
        return self.model(**self.model_inputs(batch)).logits.squeeze(-1).float().gather(1, batch["markers"])

    def compute_loss(self, batch):
        return list_mle(self.scores(batch), batch["positions"])

    def predict(self, batch):
        return {"scores": self.scores(batch)}

    def compute_metrics(self, values):
        true = [row["positions"][row["positions"] >= 0] for row in values.values()]
        scores = [row["scores"][: len(truth)] for row, truth in zip(values.values(), true, strict=True)]
        pairs = [(np.argsort(np.argsort(-row)), truth) for row, truth in zip(scores, true, strict=True)]
        return {
            "kendall_tau": float(np.mean([kendall_tau(*pair) for pair in pairs])),
            "accuracy": float(np.mean(np.concatenate([rank == truth for rank, truth in pairs]))),
            "logits_mean": float(np.mean(np.concatenate(scores))),
            "logits_std": float(np.std(np.concatenate(scores))),
        }


def encode_row(row: dict[str, Any], *, tokenizer: Any, max_length: int) -> dict[str, Any]:
    """One input of all sentences, and the index of each one's first word, behind its [CLS]."""
    sentences = tokenizer(row["sentences"], truncation=True, max_length=max_length)["input_ids"]
    ids = [token for sentence in sentences for token in sentence]
    markers = (np.cumsum([0, *map(len, sentences[:-1])]) + 1).tolist()
    return {"input_ids": ids, "markers": markers}


def collate(rows: list[dict[str, Any]], *, padding: int) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask [B, T]; markers and positions (-1 where there is no sentence) [B, S]."""
    fills = {"input_ids": padding, "markers": 0, "positions": -1}
    columns = {
        name: pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=fill)
        for name, fill in fills.items()
    }
    index = torch.tensor([row["example_index"] for row in rows])
    return {**columns, "attention_mask": columns["input_ids"].ne(padding).long(), "example_index": index}


def list_mle(scores: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """ListMLE (Xia et al. 2008): -log of the chance to draw the true order, each next item by softmax of the rest.

    Args:
        scores: [B, S]. positions: the true ones, [B, S], -1 where there is no item.

    Returns:
        The mean over all lists, each divided by its items.
    """
    order = positions.masked_fill(positions < 0, positions.shape[1]).argsort(dim=1)
    missing = (positions < 0).gather(1, order)
    ranked = scores.gather(1, order).masked_fill(missing, -1e4)
    rest = ranked.flip(1).logcumsumexp(1).flip(1)
    return ((rest - ranked).masked_fill(missing, 0).sum(1) / (~missing).sum(1)).mean()
