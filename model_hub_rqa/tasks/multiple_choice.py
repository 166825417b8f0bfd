"""Multiple choice: which of several texts answers a question, or ends a sentence (SWAG, RACE, CommonsenseQA)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from model_hub_rqa.config import Kwargs, option
from model_hub_rqa.records import Answer
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceKwargs(Kwargs):
    """How a context, a question and its choices become input."""

    max_seq_length: int = option(128, ge=8, help="tokens of a context with one choice; the context is cut")


@TASKS.register("multiple-choice")
class MultipleChoice(Task):
    """Chooses one of the choices of a record.

    A record has ``choices`` (a list of texts), ``label`` (the number of the right one, from 0), and ``context``,
    ``question`` or both. SWAG's columns (sent1, sent2, ending0 to ending3, label) are taken as well.
    """

    name, description = "multiple-choice", "a multiple-choice model"
    model_mode, Settings = "multiple-choice", MultipleChoiceKwargs
    metric, higher_is_better = "accuracy", {"accuracy": True}

    @classmethod
    def reads(cls, config: Any) -> bool:
        return any(name.endswith("ForMultipleChoice") for name in config.architectures or ())

    def parse(self, record: Mapping[str, Any], *, labelled: bool = True) -> Mapping[str, Any]:
        endings = [record[f"ending{number}"] for number in range(10) if record.get(f"ending{number}") is not None]
        choices, label = record.get("choices", endings), record.get("label")
        context = record.get("context") or record.get("sent1") or ""
        question = record.get("question") or record.get("sent2") or ""
        label = int(label) if isinstance(label, str) and label.isdecimal() else label
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) for text in choices):
            raise ValueError(f"choices must be at least two texts, got {choices!r}")
        if not (isinstance(context, str) and isinstance(question, str) and (context.strip() or question.strip())):
            raise ValueError("context or question must hold text, got neither")
        if labelled and (type(label) is not int or not 0 <= label < len(choices)):
            raise ValueError(f"label must be a number from 0 to {len(choices) - 1}, got {label!r}")
        return {"context": context, "question": question, "choices": choices, "label": label if labelled else None}

    def encode(self, example: Mapping[str, Any]) -> Mapping[str, Any]:
        ends = [f"{example['question']} {choice}".strip() for choice in example["choices"]]
        pair = [[example["context"]] * len(ends), ends] if example["context"] else [ends]
        encoded = self.tokenizer(
            *pair,
            truncation="only_first",
            max_length=min(self.settings.max_seq_length, self.limits.tokens),
            split_special_tokens=True,
        )
        return {**encoded, "label": -100 if example["label"] is None else example["label"]}

    def collate(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask and what else the tokenizer gives [B, C, T], labels and example_index [B]."""
        fills = {"input_ids": self.tokenizer.pad_token_id or 0}
        n_choices = max(len(feature["input_ids"]) for feature in features)
        batch = {}
        for name in (name for name in self.tokenizer.model_input_names if name in features[0]):
            rows = [torch.as_tensor(ids) for feature in features for ids in _filled(feature[name], n_choices)]
            batch[name] = pad_sequence(rows, batch_first=True, padding_value=fills.get(name, 0))
            batch[name] = batch[name].view(len(features), n_choices, -1)
        for name, column in (("labels", "label"), ("example_index", "example_index"), ("n_choices", "input_ids")):
            values = [len(feature[column]) if name == "n_choices" else int(feature[column]) for feature in features]
            batch[name] = torch.tensor(values)
        return batch

    def scores(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[B, C], minus infinity where a record has fewer choices than others of its batch."""
        logits = model(**self.inputs(model, batch, labels=False)).logits.float()
        missing = torch.arange(logits.shape[1], device=logits.device) >= batch["n_choices"][:, None]
        result: torch.Tensor = logits.masked_fill(missing, float("-inf"))
        return result

    def loss(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.scores(model, batch), batch["labels"])

    def predict(self, model: Any, batch: Mapping[str, torch.Tensor]) -> dict[Any, Any]:
        best = self.scores(model, batch).softmax(-1).max(-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return dict(zip(batch["example_index"].tolist(), pairs, strict=True))

    def metrics(self, results: Sequence[Any], examples: Any) -> dict[str, float]:
        right = [choice == label for (choice, _), label in zip(results, examples["label"], strict=True)]
        return {"accuracy": 100 * sum(right) / len(right)}

    def answers(self, results: Sequence[Any], examples: Any, questions: Any = None) -> list[Answer]:
        rows = zip(results, examples["choices"], strict=True)
        return [Answer(choices[choice], probability) for (choice, probability), choices in rows]

    def references(self, examples: Any) -> list[list[str]]:
        return [[choices[label]] for choices, label in zip(examples["choices"], examples["label"], strict=True)]


def _filled(rows: Sequence[Any], count: int) -> list[Any]:
    return [*rows, *[rows[0]] * (count - len(rows))]
