"""A trial that needs nothing of transformers: whether a record's numbers begin with an even one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from model_hub_rqa.trials.base import BaseTransformerTrial


class ParityTrial(BaseTransformerTrial):
    default_parts = ()
    default_metric = "accuracy"
    default_smaller_is_better = False

    def load_examples(self) -> Mapping[str, Any]:
        files = {"train": self.data.train_file, "validation": self.data.validation_file}
        return {
            split: Dataset.from_list([json.loads(line) for line in Path(str(path)).read_text().splitlines()])
            for split, path in files.items()
        }

    def build_datasets(self) -> Mapping[str, Any]:
        def features(row: dict[str, Any], number: int) -> dict[str, Any]:
            return {"input_ids": row["numbers"], "labels": row["numbers"][0] % 2, "example_index": number, "length": 4}

        return {
            split: self.map_examples(split, features, with_indices=True, remove_columns=rows.column_names)
            for split, rows in self.examples.items()
        }

    def build_collator(self) -> Any:
        return lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0] if name != "length"}

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        logits = self.model(**batch)["logits"]
        right = (logits.argmax(-1) == batch["labels"]).tolist()
        self.reducer.update(dict(zip(batch["example_index"].tolist(), right, strict=True)))
        return {}

    def compute_metrics(self, values: Any) -> dict[str, float]:
        return {"accuracy": sum(values.values()) / len(values)}


class OwnLossTrial(ParityTrial):
    """Computes the loss of models that have none."""

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.model(**batch)["logits"], batch["labels"])


class ForgetfulTrial(ParityTrial):
    """It gives the model less than it asks for."""

    def build_collator(self) -> Any:
        return lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])}


class NeedsTokenizerTrial(ParityTrial):
    """It has a tokenizer by default, and a model of its own."""

    default_parts = ("tokenizer",)

    def build_model(self) -> torch.nn.Module:
        from own_models import Classifier

        assert self.config is None
        return Classifier(2)
