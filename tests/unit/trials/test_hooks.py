"""The hooks of a trial that has a task: each is overridden alone, in a subclass of QATrial, and takes effect."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
from determined import pytorch

from model_hub_rqa import train
from model_hub_rqa.data.batching import EvalBatchSampler, TrainBatchSampler
from model_hub_rqa.trials.qa import QATrial
from model_hub_rqa.trials.reducers import ByIdReducer, Values

SEEN: dict[str, Any] = {}


class Watching(QATrial):
    """Notes what its steps get."""

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        SEEN.setdefault("trained", []).extend(batch["example_index"].tolist())
        return super().train_batch(batch, epoch_idx, batch_idx)

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        SEEN.setdefault("evaluated", []).append(len(batch["example_index"]))
        return super().evaluate_batch(batch, batch_idx)


class OwnDatasets(Watching):
    def build_datasets(self) -> Mapping[str, Any]:
        assert self.task is not None
        few = {"train": self.examples["train"].select(range(3)), "validation": self.examples["validation"]}
        return {split: self.task.features(rows, training=split == "train") for split, rows in few.items()}


class OwnTrainingLoader(Watching):
    def build_training_data_loader(self) -> pytorch.DataLoader:
        few = self.datasets["train"].select(range(4))
        sampler = TrainBatchSampler(few["length"][:], 2, group=1, seed=0, group_by_length=False)
        return pytorch.DataLoader(few, batch_sampler=sampler, collate_fn=self.collator)


class OwnValidationLoader(Watching):
    def build_validation_data_loader(self) -> pytorch.DataLoader:
        rows = self.datasets["validation"]
        return pytorch.DataLoader(rows, batch_sampler=EvalBatchSampler(rows["length"][:], 1), collate_fn=self.collator)


class OwnEvaluation(Watching):
    """What it returns is averaged over batches, as Determined does; the reducer gets nothing."""

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return {"f1": 12.5, "exact_match": 0.0}


class Counting(ByIdReducer):
    def cross_slot_reduce(self, per_slot_metrics: list[Any]) -> dict[str, float]:
        return {**super().cross_slot_reduce(per_slot_metrics), "windows": sum(map(len, per_slot_metrics))}


class OwnReducer(Watching):
    def build_reducer(self) -> pytorch.MetricReducer:
        return Counting(self.score)

    def score(self, values: Values) -> dict[str, float]:
        return {"f1": 50.0, "exact_match": 0.0}


def run(trial: type[QATrial], folder: Path) -> dict[str, Any]:
    """The last validation of two steps of four examples each."""
    SEEN.clear()
    path = tiny.experiment(folder, train=12, validation=5, max_steps=2, global_batch_size=4)
    config = json.loads(path.read_text())
    config["entrypoint"] = f"{__name__}:{trial.__name__}"
    path.write_text(json.dumps(config))
    assert train.main([str(path), "--output-dir", str(folder / "run")]) == 0
    return tiny.reports(folder / "run", "validation")[-1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The validation of a trial that overrides nothing, and what its steps got."""
    report = run(Watching, tmp_path_factory.mktemp("plain"))
    return report, dict(SEEN)


def test_without_overrides(plain: tuple[dict[str, Any], dict[str, Any]]) -> None:
    report, seen = plain
    assert len(seen["trained"]) == 8
    assert max(seen["trained"]) > 3
    assert max(seen["evaluated"]) > 1
    assert set(report) >= {"f1", "exact_match"}
    assert "windows" not in report


def test_build_datasets(tmp_path: Path) -> None:
    report = run(OwnDatasets, tmp_path)
    assert set(SEEN["trained"]) == {0, 1, 2}
    assert "f1" in report


def test_build_training_data_loader(tmp_path: Path) -> None:
    run(OwnTrainingLoader, tmp_path)
    assert len(SEEN["trained"]) == 4
    assert max(SEEN["trained"]) <= 3


def test_build_validation_data_loader(plain: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    """Batches of one, and the same metrics."""
    report = run(OwnValidationLoader, tmp_path)
    assert set(SEEN["evaluated"]) == {1}
    assert (report["f1"], report["exact_match"]) == (plain[0]["f1"], plain[0]["exact_match"])


def test_evaluate_batch(plain: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    """Its own metrics stand in place of the task's."""
    assert plain[0]["f1"] != 12.5
    assert run(OwnEvaluation, tmp_path)["f1"] == 12.5


def test_a_reducer_of_ones_own(plain: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    """It gets the predictions of every window."""
    assert plain[0]["f1"] != 50.0
    report = run(OwnReducer, tmp_path)
    assert report["f1"] == 50.0
    assert report["windows"] >= 5
