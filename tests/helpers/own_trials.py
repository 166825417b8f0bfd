"""A trial that needs nothing of transformers: whether a record's numbers begin with an even one."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from model_hub_rqa.trials.task_trial import TaskTrial


def experiment(folder: Path, trial: str = "ParityTrial", **changes: Any) -> Path:
    """A configuration of one of these trials, and its data; ``changes`` are hyperparameters."""
    rng = random.Random(0)
    for split, count in (("train", 40), ("validation", 9)):
        rows = [json.dumps({"numbers": [rng.randrange(50)] * 4}) + "\n" for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(rows))
    config = {
        "entrypoint": f"own_trials:{trial}",
        "data": {f"{split}_file": str(folder / f"{split}.jsonl") for split in ("train", "validation")},
        "hyperparameters": {
            "global_batch_size": 10,
            "learning_rate": 0.1,
            "num_train_epochs": 5,
            "logging_steps": 1,
            "model": {"_target_": "own_models.Classifier"},
            **changes,
        },
        "searcher": {"name": "single", "metric": "accuracy", "smaller_is_better": False},
    }
    path = folder / "parity.yaml"
    path.write_text(json.dumps(config))
    return path


class ParityTrial(TaskTrial):
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
        names = ("input_ids", "example_index")
        return lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in names}


class NeedsTokenizerTrial(ParityTrial):
    """It has a tokenizer by default, and a model of its own."""

    default_parts = ("tokenizer",)

    def build_model(self) -> torch.nn.Module:
        from own_models import Classifier

        assert self.config is None
        return Classifier(2)


class BareTrial(TaskTrial):
    """Its features are what the model takes, and nothing else; the validation is the default one."""

    default_parts = ()
    load_examples = ParityTrial.load_examples

    def build_datasets(self) -> Mapping[str, Any]:
        def features(row: dict[str, Any]) -> dict[str, Any]:
            return {"input_ids": row["numbers"], "labels": row["numbers"][0] % 2}

        return {split: self.map_examples(split, features) for split in self.examples}

    def build_collator(self) -> Any:
        names = ("input_ids", "labels", "example_index")
        return lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in names}


class WindowsTrial(BareTrial):
    """Cuts an example into two features, and does not say whose they are."""

    def build_datasets(self) -> Mapping[str, Any]:
        def windows(rows: dict[str, Any]) -> dict[str, Any]:
            ids = [row[start : start + 2] for row in rows["numbers"] for start in (0, 2)]
            return {"input_ids": ids, "labels": [row[0] % 2 for row in ids]}

        options = {"batched": True, "remove_columns": ["numbers"]}
        return {split: self.map_examples(split, windows, **options) for split in self.examples}


class LosingTrial(BareTrial):
    """Its batches do not say whose they are."""

    def build_collator(self) -> Any:
        return lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}


class LosingOwnValidationTrial(LosingTrial):
    """So do these, though its own validation asks."""

    evaluate_batch = ParityTrial.evaluate_batch


class BreakingTrial(BareTrial):
    """Its collator asks for a column that the features lack."""

    def build_collator(self) -> Any:
        return lambda rows: {"input_ids": torch.tensor([row["tokens"] for row in rows])}


class UnwrittenTrial(BareTrial):
    """It has no collator."""

    build_collator = TaskTrial.build_collator


class NeedsModelTrial(BareTrial):
    """Its collator asks for the model, and can only be tried once there is one."""

    def build_collator(self) -> Any:
        kind = type(self.model)
        return lambda rows: {"input_ids": torch.tensor([kind.tokens for _ in rows])}
