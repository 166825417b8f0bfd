"""Training and validation data: files, slices, the hub, splits, subsamples and unused columns."""

import json
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.data.file_loaders import Records
from model_hub_rqa.data.hub import count_unanswerable
from model_hub_rqa.data.loading import default_load_dataset, load_file, remove_unused_columns
from model_hub_rqa.data.slices import FileSlice, parse_slice
from model_hub_rqa.errors import ConfigError, DataError


def row(number: int, *, negative: bool = False) -> dict[str, Any]:
    answers = {"text": [], "answer_start": []} if negative else {"text": ["b"], "answer_start": [2]}
    return {"id": str(number), "title": "", "context": "a b", "question": "?", "answers": answers}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    return write(tmp_path / "train.jsonl", [row(n) for n in range(100)])


@pytest.fixture
def dev(tmp_path: Path) -> str:
    return write(tmp_path / "dev.jsonl", [row(n) for n in range(1_000, 1_020)])


def load(tmp: Path, *, seed: int = 42, reader: Any = None, **config: Any) -> Any:
    return default_load_dataset({"cache_dir": str(tmp / "cache"), **config}, seed=seed, reader=reader)


def ids(dataset: Any) -> list[int]:
    return [int(id_) for id_ in dataset["id"]]


def test_both_files_are_loaded_in_order(tmp_path: Path, train: str, dev: str) -> None:
    """Without limits every record of either file is there; a mapping and an object of attributes do alike."""
    config: dict[str, Any] = {"train_file": train, "validation_file": dev, "validation_split_percentage": 5}
    loaded = load(tmp_path, **config)
    assert list(loaded) == ["train", "validation"]
    assert ids(loaded["train"]) == list(range(100))
    assert ids(loaded["validation"]) == list(range(1_000, 1_020))
    assert loaded["train"][0] == row(0)
    again = default_load_dataset(SimpleNamespace(**config, cache_dir=str(tmp_path / "cache")))
    assert again["train"]._fingerprint == loaded["train"]._fingerprint


def test_a_random_part_of_train_becomes_validation(tmp_path: Path, train: str) -> None:
    """The two parts are disjoint, cover the file, are in its order, and depend on the seed alone."""
    options: dict[str, Any] = {"train_file": train, "validation_split_percentage": 30}
    first, same, other = (load(tmp_path, seed=seed, **options) for seed in (1, 1, 2))
    kept, drawn = ids(first["train"]), ids(first["validation"])
    assert (len(kept), len(drawn)) == (70, 30)
    assert sorted(kept + drawn) == list(range(100))
    assert (kept, drawn) == (sorted(kept), sorted(drawn))
    assert drawn not in (list(range(30)), list(range(70, 100)))
    assert (ids(same["train"]), ids(same["validation"])) == (kept, drawn)
    assert same["train"]._fingerprint == first["train"]._fingerprint
    assert ids(other["validation"]) != drawn


@pytest.mark.parametrize(
    ("percentage", "sizes"), [(0.4, "100 for training and 0 for"), (99.6, "0 for training and 100")]
)
def test_a_split_that_empties_a_side_is_refused(tmp_path: Path, train: str, percentage: float, sizes: str) -> None:
    """Each side needs one example at least; the message tells the sizes."""
    with pytest.raises(DataError, match=f"validation_split_percentage: {percentage}% of 100 examples leaves {sizes}"):
        load(tmp_path, train_file=train, validation_split_percentage=percentage)


def test_subsamples_are_random_seeded_and_in_order(tmp_path: Path, train: str, dev: str) -> None:
    """max_train_samples and max_eval_samples draw; a limit beyond the data keeps all."""
    options: dict[str, Any] = {
        "train_file": train,
        "validation_file": dev,
        "max_train_samples": 10,
        "max_eval_samples": 50,
    }
    first, same, other = (load(tmp_path, seed=seed, **options) for seed in (1, 1, 2))
    drawn = ids(first["train"])
    assert len(set(drawn)) == 10
    assert drawn == sorted(drawn) != list(range(10))
    assert ids(same["train"]) == drawn != ids(other["train"])
    assert ids(first["validation"]) == list(range(1_000, 1_020))


def test_subsamples_come_after_the_split(tmp_path: Path, train: str) -> None:
    """The limits cut the two parts, and never mix them."""
    options: dict[str, Any] = {"train_file": train, "validation_split_percentage": 30}
    whole = load(tmp_path, **options)
    cut = load(tmp_path, **options, max_train_samples=20, max_eval_samples=5)
    assert (len(cut["train"]), len(cut["validation"])) == (20, 5)
    assert set(ids(cut["train"])) < set(ids(whole["train"]))
    assert set(ids(cut["validation"])) < set(ids(whole["validation"]))


SLICES = [
    ("[:40]", range(40)),
    ("[20:30]", range(20, 30)),
    ("[95:]", range(95, 100)),
    ("[-5:]", range(95, 100)),
    ("[:-98]", range(2)),
    ("[:10%]", range(10)),
    ("[ 10% : 12 ]", range(10, 12)),
    ("[-5%:]", range(95, 100)),
    ("[:]", range(100)),
    ("[:100]", range(100)),
]


@pytest.mark.parametrize(("spelled", "expected"), SLICES)
def test_a_slice_of_a_file(tmp_path: Path, train: str, spelled: str, expected: range) -> None:
    """Counts, negative counts and percentages as datasets slices its splits."""
    assert ids(load_file(train + spelled, cache_dir=str(tmp_path))) == list(expected)


@pytest.mark.parametrize("spelled", ["[5]", "[]", "[a:b]", "[1:2:3]", "[:1.5]", "[:5%%]", "[:+3]", "[--1:]"])
def test_a_malformed_slice_is_named(tmp_path: Path, train: str, dev: str, spelled: str) -> None:
    """Both fields are named together, before any file is read."""
    with pytest.raises(
        ConfigError, match=rf"^data\.train_file: a slice must be as .*, got {re.escape(spelled)} in "
    ) as raised:
        load(tmp_path, train_file=train + spelled, validation_file="none.json" + spelled)
    assert len(raised.value.errors) == 2
    for field, error in zip(("data.train_file", "data.validation_file"), raised.value.errors, strict=True):
        assert error.startswith(f"{field}: a slice must be as [:4000], [1000:2000] or [:10%], got {spelled} in ")


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        ("[:101]", "the slice reaches beyond the file, which has 100 records"),
        ("[-101:]", "the slice reaches beyond the file, which has 100 records"),
        ("[:101%]", "the slice reaches beyond the file, which has 100 records"),
        ("[5:5]", "no record is in the slice, the file has 100"),
        ("[9:3]", "no record is in the slice, the file has 100"),
        ("[:0%]", "no record is in the slice, the file has 100"),
    ],
)
def test_a_slice_that_does_not_fit_the_file_is_named(tmp_path: Path, train: str, spelled: str, said: str) -> None:
    """The message holds the slice and the file's size, for every file at error."""
    other = shutil.copy(train, tmp_path / "other.jsonl")
    with pytest.raises(DataError, match=re.escape(said)) as raised:
        load(tmp_path, train_file=train + spelled, validation_file=f"{other}{spelled}")
    assert raised.value.errors == tuple(f"{path}{spelled}: {said}" for path in (train, other))


def test_a_file_whose_name_ends_like_a_slice_is_that_file(tmp_path: Path) -> None:
    """What exists under the whole name is not sliced."""
    folder = tmp_path / "data[:2]"
    assert parse_slice(str(folder)) == FileSlice(str(tmp_path / "data"), "", "2")
    folder.mkdir()
    assert parse_slice(str(folder)) == FileSlice(str(folder))
    assert parse_slice("a[1].json") == FileSlice("a[1].json")


@given(st.integers(0, 500), st.integers(-600, 600), st.integers(-600, 600))
def test_slices_agree_with_pythons(total: int, start: int, stop: int) -> None:
    """Where a slice fits the file, it means what Python's slice means."""
    try:
        bounds = FileSlice("f", str(start), str(stop)).bounds(total)
    except DataError:
        assert max(abs(start), abs(stop)) > total or not range(total)[start:stop]
    else:
        assert range(*bounds) == range(total)[start:stop]


def test_the_whole_file_is_validated_before_it_is_sliced(tmp_path: Path) -> None:
    """An error behind the slice counts."""
    path = write(tmp_path / "a.jsonl", [row(0), row(1), {**row(2), "question": ""}])
    with pytest.raises(DataError, match="record 2"):
        load_file(f"{path}[:1]", cache_dir=str(tmp_path))


def test_slices_come_before_split_and_subsample(tmp_path: Path, train: str) -> None:
    """The first half of a file, split and cut down, stays within it."""
    loaded = load(tmp_path, train_file=f"{train}[:50]", validation_split_percentage=20, max_train_samples=30)
    assert (len(loaded["train"]), len(loaded["validation"])) == (30, 10)
    assert max(ids(loaded["train"]) + ids(loaded["validation"])) < 50


def test_the_errors_of_both_files_are_raised_together(tmp_path: Path) -> None:
    """One run is enough to see them all."""
    bad = write(tmp_path / "bad.jsonl", [row(0), {**row(1), "question": None}])
    with pytest.raises(DataError, match=r"record 1 \(line 2\)") as raised:
        load(tmp_path, train_file=bad, validation_file=str(tmp_path / "none.json"))
    assert [error.split(": ")[1] for error in raised.value.errors] == ["record 1 (line 2)", "no such file"]


def test_skipped_records_are_reported(tmp_path: Path, dev: str, caplog: pytest.LogCaptureFixture) -> None:
    """With on_bad_record "skip" a warning tells how many records were left out, and which."""
    bad = write(tmp_path / "bad.jsonl", [row(0), {**row(1), "question": None}])
    with caplog.at_level(logging.WARNING):
        loaded = load(tmp_path, train_file=bad, validation_file=dev, on_bad_record="skip")
    assert ids(loaded["train"]) == [0]
    assert f"{bad}: 1 bad records left out:\n{bad}: record 1 (line 2): question must be text" in caplog.text


def test_version_2_needs_an_unanswerable_question_in_one_file_at_least(tmp_path: Path, train: str, dev: str) -> None:
    """Training and validation data are judged together; either setting that does not fit the data is an error."""
    negative = write(tmp_path / "negative.jsonl", [row(0), row(1, negative=True)])
    files: dict[str, Any] = {"train_file": train, "validation_file": dev, "version_2_with_negative": True}
    with pytest.raises(DataError, match="none of 120 questions is unanswerable: set version_2_with_negative: false"):
        load(tmp_path, **files)
    assert len(load(tmp_path, **{**files, "validation_file": f"{negative}[:1]"})["validation"]) == 1
    with pytest.raises(DataError, match="1 of 2 questions are unanswerable: set version_2_with_negative: true"):
        load(tmp_path, train_file=train, validation_file=negative)
    config = {"train_file": train, "validation_file": negative, "cache_dir": str(tmp_path)}
    assert len(default_load_dataset(config, version_2_with_negative=True)["validation"]) == 2


def test_another_reader_reads_other_data(tmp_path: Path, train: str) -> None:
    """A reader of one's own gets the path and on_bad_record; the rules of SQuAD do not apply to its rows."""
    asked = []

    def reader(path: str, on_bad_record: str) -> Records:
        asked.append((path, on_bad_record))
        return Records([{"id": str(number), "target": "x"} for number in range(10)])

    loaded = load(
        tmp_path, train_file=train, validation_split_percentage=10, reader=reader, version_2_with_negative=True
    )
    assert asked == [(train, "error")]
    assert loaded["train"].column_names == ["id", "target"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, ["data.train_file: must be given, or dataset_name, got neither"]),
        ({"validation_file": "v.json"}, ["data.train_file: must be given"]),
        ({"dataset_name": "x", "validation_file": "v.json"}, ["data.train_file: must be given"]),
        (
            {"train_file": "t", "max_train_samples": 0, "max_eval_samples": -1},
            [
                "data.max_train_samples: must be at least 1, got 0",
                "data.max_eval_samples: must be at least 1, got -1",
            ],
        ),
    ],
)
def test_contradicting_fields_are_named_together(tmp_path: Path, config: dict[str, Any], said: list[str]) -> None:
    """What the fields lack or contradict is told before any file is read."""
    with pytest.raises(ConfigError, match=re.escape(said[0])) as raised:
        load(tmp_path, **config)
    assert len(raised.value.errors) == len(said)
    assert all(error.startswith(start) for error, start in zip(raised.value.errors, said, strict=True))


def test_files_stand_in_for_a_named_data_set(tmp_path: Path, train: str) -> None:
    """Where both are given, the files are read and the hub is not asked."""
    loaded = load(tmp_path, dataset_name="squad", train_file=train, validation_split_percentage=50)
    plain = load(tmp_path, train_file=train, validation_split_percentage=50)
    assert loaded["train"].to_list() == plain["train"].to_list()


def test_no_validation_data_and_no_percentage_is_a_error(tmp_path: Path, train: str) -> None:
    """Something has to become the validation data."""
    with pytest.raises(ConfigError, match=r"data.validation_split_percentage: must be given"):
        load(tmp_path, train_file=train)


def test_the_first_questions_of_real_data(tmp_path: Path, rqa_data: Path) -> None:
    """The first 4,000 training questions and the whole of dev, as an experiment would ask for them."""
    squad = rqa_data / "squad"
    loaded = load(
        tmp_path,
        train_file=f"{squad}/dev-v2.0.json[:4000]",
        validation_file=f"{squad}/dev-v1.1.json",
        version_2_with_negative=True,
    )
    first = json.loads((squad / "dev-v2.0.json").read_text())["data"][0]["paragraphs"][0]["qas"][0]
    assert (len(loaded["train"]), len(loaded["validation"])) == (4_000, 10_570)
    assert loaded["train"][0]["id"] == first["id"]
    assert loaded["train"][0]["answers"]["text"] == [answer["text"] for answer in first["answers"]]
    assert count_unanswerable(loaded["train"]) == sum(not answers["text"] for answers in loaded["train"]["answers"]) > 0


class Model:
    """Takes two features and labels, as a model's forward does."""

    def forward(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> None:
        """Nothing is computed."""


def test_unused_columns_are_hidden_in_place_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Rows show what forward takes and the label columns, as in model-hub; the columns are still there."""
    from datasets import Dataset

    columns = ["input_ids", "example_id", "labels", "label_ids", "label", "offset_mapping"]
    wrapped: Any = object.__new__(torch.nn.parallel.DistributedDataParallel)  # of ranks, without starting them
    wrapped.__dict__["module"] = Model()
    models: list[Any] = [Model(), wrapped]
    for model in models:
        dataset = Dataset.from_dict({name: [[1, 2]] for name in columns}).with_format("numpy")
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert remove_unused_columns(model, dataset) is dataset
        assert list(dataset[0]) == ["input_ids", "labels", "label_ids", "label"]
        assert (dataset.format["type"], dataset.column_names) == ("numpy", columns)
        assert "columns that Model.forward does not take are hidden: example_id, offset_mapping" in caplog.text


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "txt", "parquet", "folder"])
def test_files_of_any_form(kind: str, tmp_path: Path) -> None:
    """What is not in SQuAD's form is read by `datasets`, by its ending; labels and columns stay what they are."""
    from datasets import ClassLabel, Dataset, Features, Value

    names = ["no", "yes"] if kind == "folder" else None
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=names) if names else Value("int64")})
    rows = Dataset.from_dict({"sentence": ["oil", "price", "river"], "label": [1, 0, 1]}, features=features)
    path = tmp_path / f"data.{kind}"
    if kind == "txt":
        path.write_text("oil\nprice\nriver\n")
    elif kind == "folder":
        rows.save_to_disk(path)
    else:
        {"csv": rows.to_csv, "parquet": rows.to_parquet}.get(kind, rows.to_json)(str(path))
    config = {"train_file": f"{path}[:2]", "validation_file": str(path), "cache_dir": str(tmp_path / "cache")}
    loaded = default_load_dataset({**config, "max_seq_length": 8})
    first = {"text": "oil"} if kind == "txt" else {"sentence": "oil", "label": 1}
    assert loaded["train"][0] == first
    assert {split: len(part) for split, part in loaded.items()} == {"train": 2, "validation": 3}
    if names:
        assert loaded["train"].features["label"].names == names
    del config["validation_file"]
    assert list(default_load_dataset(config)) == ["train"]
    assert len(default_load_dataset({**config, "validation_split_percentage": 50})["validation"]) == 1


def test_files_of_any_form_that_cannot_be_read(tmp_path: Path) -> None:
    """The file is named."""
    (tmp_path / "data.parquet").write_text("no table")
    (tmp_path / "data.abc").write_text("what is this")
    for name, error in (("none.txt", "no such file"), ("data.abc", "cannot be read"), ("data.parquet", "data.parquet")):
        with pytest.raises(DataError, match=error):
            default_load_dataset({"train_file": str(tmp_path / name), "cache_dir": str(tmp_path)})


def test_a_data_set_that_a_model_takes_nothing_of_is_refused() -> None:
    """A model without a column in common with its data would train on nothing."""
    from datasets import Dataset

    model: Any = Model()
    with pytest.raises(DataError, match=r"Model.forward takes none of the columns \['id'\]"):
        remove_unused_columns(model, Dataset.from_dict({"id": [1]}))
