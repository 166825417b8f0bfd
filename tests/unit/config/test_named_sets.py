"""Several named sets in the data section: what is refused, what is loaded, and how a trial trains on them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from model_hub_rqa import train
from model_hub_rqa.config import DatasetKwargs, parse_dict_to_dataclasses
from model_hub_rqa.config.datasets import parse_datasets
from model_hub_rqa.data.several import dataset_ids, join_datasets, load_datasets
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.trials.qa import QATrial


def parse(data: dict[str, Any]) -> Any:
    (settings,) = parse_dict_to_dataclasses((DatasetKwargs,), data, section="data")
    return parse_datasets(settings)


A, B = {"name": "a", "train_file": "a.json"}, {"name": "b", "dataset_name": "news"}
V = [{"name": "v", "validation_file": "v.json"}]


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        ({"train": [A, {**B, "name": "a"}], "validation": V}, ["data.train[1].name: must be of one set only, got 'a'"]),
        (
            {"train": [A, {"name": "b", "train_fiel": "b"}, {"train_file": "c"}], "validation": V},
            [
                "data.train[1].train_fiel: is not a known name: did you mean train_file?",
                "data.train[1].train_file: is required in a set of data.train (or dataset_name, or handler)",
                "data.train[2].name: is required",
            ],
        ),
        ({"train": [A], "validation": [A]}, ["data.validation[0].validation_file: is required"]),
        (
            {"train": ["newz"], "validation": V, "datasets": {"news": {"dataset_name": "n"}, "old": {}}},
            ["data.train[0]: must be a set under data.datasets (there are news, old), got 'newz': did you mean news?"],
        ),
        ({"train": ["x"], "validation": V}, ["data.train[0]: must be a set under data.datasets, which is empty"]),
        ({"train": [7], "validation": V}, ["data.train[0]: must be a mapping, or the name of a set"]),
        ({"train": [{**A, "name": "a/b"}], "validation": V}, ["data.train[0].name: must be of letters"]),
        (
            {"train": [{**A, "max_train_samples": 0}], "validation": V},
            ["data.train[0].max_train_samples: must be >= 1"],
        ),
        ({"train": [A], "train_file": "x", "validation": V}, ["data.train_file: is ignored beside the list"]),
        ({"train": [A]}, ["data.validation_file: is required beside the list data.train"]),
        ({"train": [A], "validation_split_percentage": 5}, ["data.validation_split_percentage: cannot be drawn"]),
        ({"validation": V}, ["data.train_file: is required beside the list data.validation"]),
        ({"train": [], "validation": V}, ["data.train: must be a list that is not empty"]),
        ({"train": "a", "validation": V}, ["data.train: must be a set under data.datasets, which is empty, got 'a'"]),
        ({"train": [A], "validation": V, "mixing": "by_sizes"}, ["data.mixing: must be one of by_size, in_turn"]),
        ({"train_file": "a", "validation_file": "b", "mixing": "keyed"}, ["data.mixing: needs data.train, a list"]),
        (
            {"train": [A], "validation": V, "mixing_temperature": 2},
            ["data.mixing_temperature: needs mixing: temperature beside it, got mixing: by_size"],
        ),
        ({"train": [A], "validation": V, "mixing": "temperature", "mixing_temperature": 0}, ["must be > 0"]),
    ],
)
def test_what_is_refused(data: dict[str, Any], errors: list[str]) -> None:
    """Every error of every entry is named, with its place, the rule and the nearest right name."""
    with pytest.raises(ConfigError, match=re.escape(errors[0])) as caught:
        parse(data)
    assert len(caught.value.errors) == len(errors), caught.value.errors
    for line, error in zip(caught.value.errors, errors, strict=True):
        assert error in line


def test_entries_take_what_they_leave_open_from_the_section() -> None:
    """And a set under data.datasets may be named on both sides."""
    news = {"train_file": "n.json", "validation_file": "m.json", "seed": 3, "cache_dir": "own"}
    sets = parse({"train": [A, "news"], "validation": ["news"], "datasets": {"news": news}, "cache_dir": "all"})
    assert [one.name for one in sets["train"]] == ["a", "news"]
    assert [one.cache_dir for one in sets["train"]] == ["all", "own"]
    assert sets["validation"] == sets["train"][1:]
    assert sets["validation"][0].seed == 3


def test_a_plain_side_stands_beside_a_list() -> None:
    """It is one set without a name; without any list there is nothing."""
    sets = parse({"train": [A], "validation_file": "v.json[:5]", "max_eval_samples": 3})
    assert [(one.name, one.validation_file, one.max_eval_samples) for one in sets["validation"]] == [
        ("", "v.json[:5]", 3)
    ]
    assert parse({"train_file": "a", "validation_file": "b"}) == {}


def files(folder: Path) -> dict[str, str]:
    return {
        "big": str(tiny.squad_file(folder / "big.json", 24, seed=3)),
        "small": str(tiny.squad_file(folder / "small.json", 6, seed=4)),
        "dev": str(tiny.squad_file(folder / "dev.json", 5, seed=5)),
    }


def test_sets_are_loaded_cut_down_and_joined(tmp_path: Path) -> None:
    """Slices, counts and seeds are each set's own; the whole knows where each one is."""
    found = files(tmp_path)
    sets = parse(
        {
            "train": [
                {"name": "big", "train_file": f"{found['big']}[:20]", "max_train_samples": 9, "seed": 1},
                {"name": "again", "train_file": f"{found['big']}[:20]", "max_train_samples": 9, "seed": 2},
                {"name": "small", "train_file": found["small"]},
            ],
            "validation_file": found["dev"],
            "cache_dir": str(tmp_path / "cache"),
        }
    )
    loaded = load_datasets(sets, seed=0)
    assert {name: len(part) for name, part in loaded["train"].items()} == {"big": 9, "again": 9, "small": 6}
    assert loaded["train"]["big"]["id"][:] != loaded["train"]["again"]["id"][:]
    assert loaded["train"]["again"]["id"][:] == load_datasets(sets, seed=77)["train"]["again"]["id"][:]
    whole, bounds = join_datasets(loaded["train"])
    assert bounds == {"big": range(0, 9), "again": range(9, 18), "small": range(18, 24)}
    assert [whole[i]["id"] for i in bounds["small"]] == loaded["train"]["small"]["id"][:]
    assert dataset_ids(bounds, [0, 8, 9, 17, 18, 23]).tolist() == [0, 0, 1, 1, 2, 2]
    assert join_datasets(loaded["train"])[0]._fingerprint == whole._fingerprint
    assert len(join_datasets({"x": [1, 2], "y": [3]})[0]) == 3  # sets of other kinds


def test_the_errors_of_all_sets_come_together(tmp_path: Path) -> None:
    """A missing file of one set does not hide a broken slice of another."""
    sets = parse({"train": [A, {"name": "b", "train_file": "b.json[x]"}], "validation": V})
    with pytest.raises(ConfigError, match=r"a\.json: no such file") as caught:
        load_datasets(sets, seed=0)
    assert len(caught.value.errors) == 3
    assert "a.json: no such file" in str(caught.value)


def test_sets_of_other_types_are_not_joined() -> None:
    """Columns that all have are kept; where there is none, or its types do not fit, the sets are named."""
    from datasets import Dataset

    one, two = Dataset.from_dict({"x": [1], "y": ["a"]}), Dataset.from_dict({"x": [2, 3], "z": [0, 0]})
    assert join_datasets({"one": one, "two": two})[0].to_dict() == {"x": [1, 2, 3]}
    with pytest.raises(DataError, match=r"must share their columns, got one: \['x', 'y'\]; other: \['q'\]"):
        join_datasets({"one": one, "other": Dataset.from_dict({"q": [1]})})
    with pytest.raises(DataError, match="words does not have the types of the first set"):
        join_datasets({"one": one, "words": Dataset.from_dict({"x": ["no number"]})})


# ---- training ----


class KeyedTrial(QATrial):
    """Weighs the two sets' losses against one another, and notes what it saw."""

    takes_keyed_batches = True
    seen: list[Any] = []  # noqa: RUF012 - cleared by each test

    def compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        self.seen.append({name: part["example_index"].tolist() for name, part in batch.items()})
        losses = {name: super(KeyedTrial, self).compute_loss(part) for name, part in batch.items()}
        return losses["big"] - 0.1 * losses["small"]


def experiment(folder: Path, mixing: str, trial: str = "model_hub_rqa:QATrial", **changes: Any) -> Path:
    path = tiny.experiment(folder, **changes)
    config = json.loads(path.read_text())
    found = files(folder)
    config["entrypoint"] = trial
    kept = {name: config["data"][name] for name in ("max_seq_length", "doc_stride", "cache_dir")}
    config["data"] = {
        **kept,
        "train": [{"name": name, "train_file": found[name]} for name in ("big", "small")],
        "validation_file": found["dev"],
        "mixing": mixing,
    }
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("mixing", ["by_size", "in_turn", "temperature", "keyed"])
def test_a_run_on_several_sets_resumes_in_the_middle_of_an_epoch(
    mixing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within an epoch, and within the second, it ends with the weights of a run that never stopped."""
    trial = f"{__name__}:KeyedTrial" if mixing == "keyed" else "model_hub_rqa:QATrial"
    config = experiment(tmp_path, mixing, trial, global_batch_size=4, save_steps=100, num_train_epochs=2)
    assert train.main([str(config), "--output-dir", str(tmp_path / "whole")]) == 0
    last = tiny.reports(tmp_path / "whole", "training")[-1]["steps"]
    plain, stop = QATrial.train_batch, {"in": 0}

    def train_batch(self: Any, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
        if batch_idx + 1 == stop["in"]:
            self.context.set_stop_requested(True)
        return plain(self, batch, epoch_idx, batch_idx)

    monkeypatch.setattr(QATrial, "train_batch", train_batch)
    argv = [str(config), "--output-dir", str(tmp_path / "run")]
    for stop["in"] in (3, last // 2 + 2, 0):
        assert train.main([*argv, "--resume", "latest"]) == 0
    assert tiny.reports(tmp_path / "run", "training") == tiny.reports(tmp_path / "whole", "training")
    assert tiny.same(tiny.weights(tmp_path / "run", last), tiny.weights(tmp_path / "whole", last))


def test_a_keyed_batch_reaches_compute_loss_by_name(tmp_path: Path) -> None:
    """A full batch of each set, which a trial that does not say that it takes them is never given."""
    KeyedTrial.seen.clear()
    config = experiment(tmp_path, "keyed", f"{__name__}:KeyedTrial", global_batch_size=4, num_train_epochs=1)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    assert {tuple(map(len, seen.values())) for seen in KeyedTrial.seen} == {(4, 4)}
    assert {index for seen in KeyedTrial.seen for index in seen["big"]} == set(range(24))
    assert {index for seen in KeyedTrial.seen for index in seen["small"]} == set(range(24, 30))


def test_a_trial_says_whether_it_takes_keyed_batches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before a model is loaded, together with what else is wrong."""
    config = experiment(tmp_path, "keyed", learning_rate=-1, max_tokens_per_batch=500)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "data.mixing: keyed needs a trial whose compute_loss takes batches by name, QATrial has none" in said
    assert "hyperparameters.learning_rate: must be >= 0" in said
    config = experiment(tmp_path, "in_turn", max_tokens_per_batch=500)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 2
    assert "max_tokens_per_batch: needs data.mixing: by_size, got in_turn" in capsys.readouterr().err
