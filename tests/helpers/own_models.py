"""Models of a user's own, for tests of ``model: {_target_: own_models...}``."""

from typing import Any

import torch
from torch import nn

NOT_CALLABLE = 3


class Output(dict[str, torch.Tensor]):
    """A mapping whose values are attributes as well, as transformers' outputs are."""

    __getattr__ = dict.__getitem__


class SpanReader(nn.Module):
    """Start and end logits of each token from its embedding and its neighbours'; no loss."""

    def __init__(self, words: int, hidden_size: int, kernel: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, hidden_size)
        self.mix = nn.Conv1d(hidden_size, hidden_size, kernel, padding=kernel // 2)
        self.head = nn.Linear(hidden_size, 2)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Output:
        mixed = torch.relu(self.mix(self.embed(input_ids).transpose(1, 2))).transpose(1, 2)
        start, end = self.head(mixed).unbind(-1)
        return Output(start_logits=start, end_logits=end)


def build_reader(tokenizer: Any, hidden_size: int = 8, *, kernel: int = 3) -> SpanReader:
    return SpanReader(len(tokenizer), hidden_size, kernel)


def build_for_config(config: Any) -> SpanReader:
    return SpanReader(config.vocab_size, config.hidden_size, 1)


def build_number(**_: Any) -> int:
    return 3


class Nested(nn.Module):
    """All of it is in a child that is called as DistributedDataParallel's is."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Classifier()

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        return self.module(input_ids, labels)


class Classifier(nn.Module):
    """The class of a bag of numbers, with a loss of its own where it gets labels."""

    def __init__(self, classes: int = 2, loss: str = "mapping") -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(50, classes)
        self.tied = self.embed.weight  # one tensor under two names, as tied embeddings are
        self.loss = loss

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        logits = self.embed(input_ids)
        each = nn.functional.cross_entropy(logits, labels, reduction="none")
        match self.loss:
            case "mapping":
                return {"loss": each.mean(), "logits": logits}
            case "vector":
                return {"loss": each}
            case "tuple":
                return each.mean(), logits
        return {"logits": logits}
