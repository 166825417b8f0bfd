"""Hub data: what reaches datasets.load_dataset, and what is made of what it gives."""

from pathlib import Path
from typing import Any

import pytest

from model_hub_rqa.data.loading import load_splits
from model_hub_rqa.errors import ConfigError, DataError


def row(number: int, *, negative: bool = False) -> dict[str, Any]:
    answers = {"text": [], "answer_start": []} if negative else {"text": ["b"], "answer_start": [2]}
    return {"id": str(number), "title": "", "context": "a b", "question": "?", "answers": answers}


def load(tmp: Path, **config: Any) -> Any:
    return load_splits({"cache_dir": str(tmp / "cache"), **config})


def hub(monkeypatch: Any, result: Any) -> list[dict[str, Any]]:
    """Puts ``result`` in the place of what the hub gives; returns the calls."""
    calls: list[dict[str, Any]] = []

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        calls.append({"path": path, "name": name, **options})
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return calls


def splits(**rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset, DatasetDict

    return DatasetDict({name: Dataset.from_list(found) for name, found in rows.items()})


def test_hub_data_are_loaded_with_all_their_fields(monkeypatch: Any, tmp_path: Path) -> None:
    """Name, configuration, revision, token and cache folder reach datasets.load_dataset; other splits are left out."""
    calls = hub(monkeypatch, splits(train=[row(0), row(1)], validation=[row(2)], test=[row(3)]))
    fields: dict[str, Any] = {"dataset_name": "me/mine", "dataset_config_name": "plain", "revision": "r", "token": "t"}
    loaded = load(tmp_path, **fields)
    assert (list(loaded), list(loaded["train"]["id"])) == (["train", "validation"], ["0", "1"])
    expected = {"path": "me/mine", "name": "plain", "revision": "r", "token": "t", "download_mode": None}
    assert calls == [{**expected, "cache_dir": str(tmp_path / "cache")}]
    load(tmp_path, **fields, overwrite_cache=True)
    assert calls[1]["download_mode"] == "reuse_cache_if_exists"


def test_hub_data_without_validation_are_split(monkeypatch: Any, tmp_path: Path) -> None:
    """The percentage works as for files."""
    hub(monkeypatch, splits(train=[row(number) for number in range(10)]))
    loaded = load(tmp_path, dataset_name="me/mine", validation_split_percentage=20)
    assert (len(loaded["train"]), len(loaded["validation"])) == (8, 2)


@pytest.mark.parametrize(
    ("name", "version_2"),
    [("squad", True), ("rajpurkar/squad", True), ("squad_v2", False), ("rajpurkar/squad_v2", False)],
)
def test_the_official_hub_names_must_fit_the_version(
    monkeypatch: Any, tmp_path: Path, name: str, version_2: bool
) -> None:
    """The contradiction is found before any download."""
    calls = hub(monkeypatch, splits(train=[row(0)]))
    with pytest.raises(ConfigError, match=rf"data.dataset_name: {name} has.* set version_2_with_negative: "):
        load(tmp_path, dataset_name=name, version_2_with_negative=version_2)
    assert calls == []


@pytest.mark.parametrize("error", [ConnectionError("no way"), FileNotFoundError("no way"), ValueError("no way\nmore")])
def test_hub_data_that_cannot_be_had_name_the_field(monkeypatch: Any, tmp_path: Path, error: Exception) -> None:
    """Whatever datasets raises becomes one line with the field, the name and the cause."""
    hub(monkeypatch, error)
    with pytest.raises(ConfigError, match=r"^data\.dataset_name: cannot load 'me/mine': ") as raised:
        load(tmp_path, dataset_name="me/mine")
    cause = f"cannot load 'me/mine': {type(error).__name__}: no way"
    assert raised.value.errors == (f"data.dataset_name: {cause}",)


def test_the_hub_is_really_asked(tmp_path: Path) -> None:
    """Offline, the real load_dataset fails, and the message names the field."""
    with pytest.raises(ConfigError, match=r"data.dataset_name: cannot load 'rajpurkar/squad': ConnectionError"):
        load(tmp_path, dataset_name="rajpurkar/squad")


def test_hub_data_of_another_form_are_refused(monkeypatch: Any, tmp_path: Path) -> None:
    """No split train, missing columns, answers of another form, or the other SQuAD version by content."""
    hub(monkeypatch, splits(test=[row(0)]))
    with pytest.raises(ConfigError, match=r'me/mine must have a split "train", got \[\'test\'\]'):
        load(tmp_path, dataset_name="me/mine")
    hub(monkeypatch, splits(train=[{"id": "1", "text": "x"}], validation=[{"id": "1"}]))
    with pytest.raises(DataError, match="split train: misses the columns") as raised:
        load(tmp_path, dataset_name="me/mine")
    for split, error in zip(("train", "validation"), raised.value.errors, strict=True):
        assert f"split {split}: misses the columns ['context', 'question', 'answers']" in error
    hub(monkeypatch, splits(train=[row(0), row(1, negative=True)], validation=[row(2)]))
    with pytest.raises(
        DataError, match="me/mine: 1 of 3 questions are unanswerable: set version_2_with_negative: true"
    ):
        load(tmp_path, dataset_name="me/mine")


@pytest.mark.parametrize("answers", [{"text": ["b"]}, "b", [{"text": "b", "answer_start": 2}]])
def test_hub_answers_of_another_form_are_refused(monkeypatch: Any, tmp_path: Path, answers: Any) -> None:
    """Answers have to be the two lists of the flat SQuAD form."""
    hub(monkeypatch, splits(train=[row(0)], validation=[{**row(0), "answers": answers}]))
    with pytest.raises(DataError, match="split validation: answers must hold the lists text and answer_start"):
        load(tmp_path, dataset_name="me/mine")
