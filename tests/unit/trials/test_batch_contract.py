"""The columns that every trial's features and batches have: length and example_index, added or asked for."""

import re
from pathlib import Path
from typing import Any

import own_trials
import pytest
from datasets import Dataset

from model_hub_rqa import cli, train
from model_hub_rqa.data.features import complete_features
from model_hub_rqa.errors import DataError
from model_hub_rqa.runtime import experiments
from model_hub_rqa.trials.task_trial import TaskTrial

EXAMPLES = [{"id": f"q{number}"} for number in range(3)]
LOSS = ["searcher.metric=eval_loss", "searcher.smaller_is_better=true"]  # what a default validation reports
LENGTHS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "given": ({"length": [7, 8, 9], "input_ids": [[1], [1, 2], []]}, [7, 8, 9]),
    "of input_ids": ({"input_ids": [[1], [1, 2], []], "labels": [[1] * 5] * 3}, [1, 2, 0]),
    "of nested input_ids": ({"input_ids": [[[1, 2], [3]], [[4]], [[], []]]}, [3, 1, 0]),
    "of the longest list": (
        {"a": [[1, 2], [1], []], "b": [[0.5], [0.5, 0.5, 0.5], []], "c": [["x"] * 9] * 3},
        [2, 3, 0],
    ),
}


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("form", [None, "numpy", "torch"])
def test_the_length_is_counted(kind: str, form: str | None) -> None:
    """By hand; whatever format the features have, which they keep."""
    columns, expected = LENGTHS[kind]
    features = Dataset.from_dict({**columns, "example_index": [0, 1, 2]}).with_format(form)
    made = complete_features(features, Dataset.from_list(EXAMPLES), "T.build_datasets: train")
    assert made.with_format(None)["length"][:] == expected
    assert made.format["type"] == form
    chosen = complete_features(features.select([2, 0]), Dataset.from_list(EXAMPLES), "T.build_datasets: train")
    assert chosen.with_format(None)["length"][:] == [expected[2], expected[0]]


def test_the_row_number_is_known_where_rows_are_the_examples() -> None:
    """A column that both share shows it; an order of its own, or other rows, do not."""
    examples = Dataset.from_list(EXAMPLES)
    features = examples.add_column("length", [1, 2, 3])
    assert complete_features(features, examples, "T")["example_index"][:] == [0, 1, 2]
    for other in (features.select([1, 0, 2]), features.select([0, 1]), features.remove_columns("id")):
        with pytest.raises(DataError, match=r"^T: must have the column example_index"):
            complete_features(other, examples, "T")


ERRORS: dict[str, tuple[Any, str]] = {
    "no list": (Dataset.from_dict({"text": ["a"] * 3, "example_index": [0, 1, 2]}), "T: must have the column length"),
    "text": (
        Dataset.from_dict({"length": ["3"] * 3, "example_index": [0, 1, 2]}),
        "T: length must be a whole number, got string",
    ),
    "ids": (
        Dataset.from_dict({"length": [3] * 3, "example_index": ["a"] * 3}),
        "T: example_index must be a whole number",
    ),
    "a list": ([{"length": 3}], "T: must be a datasets.Dataset, got list"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_cannot_be_known_is_named(kind: str) -> None:
    features, message = ERRORS[kind]
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        complete_features(features, Dataset.from_list(EXAMPLES), "T")


def test_a_trial_need_not_give_them(tmp_path: Path) -> None:
    """Its features get both columns, and it trains and validates."""
    path = own_trials.experiment(tmp_path, "BareTrial", num_train_epochs=1)
    trial = experiments.validate(experiments.load_experiment(str(path), LOSS))
    assert trial.datasets["train"]["length"][:] == [4] * 40
    assert trial.datasets["validation"]["example_index"][:] == list(range(9))
    words = [word for setting in LOSS for word in ("--config", setting)]
    assert train.main([str(path), "--output-dir", str(tmp_path / "run"), *words]) == 0


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (
            "WindowsTrial",
            r"WindowsTrial.build_datasets: train: must have the column example_index, .*the row of self.ex",
        ),
        ("WindowsTrial", r"WindowsTrial.build_datasets: validation: must have the column example_index"),
        (
            "LosingTrial",
            r"LosingTrial.build_collator: a batch must have the column example_index, .*got input_ids, labels",
        ),
        ("LosingOwnValidationTrial", r"LosingOwnValidationTrial.build_collator: a batch must have the column example_"),
        (
            "BreakingTrial",
            r"(?s)BreakingTrial.build_collator: fails on two train features \(numbers, .*own_trials.*'tokens'",
        ),
        ("UnwrittenTrial", r"UnwrittenTrial.build_collator: must be written"),
    ],
)
def test_a_missing_column_is_named_before_a_model_is_loaded(
    trial: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rqa validate, and by training."""
    monkeypatch.setattr(TaskTrial, "build_model", lambda self: pytest.fail("a model was built"))
    path = str(own_trials.experiment(tmp_path, trial))
    for command in (["validate", path], ["train", path, "--output-dir", str(tmp_path / "run")]):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert re.search(message, said), said
        assert "Traceback" not in said


def test_a_collator_that_needs_the_model_is_tried_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """rqa validate has none, and passes it."""
    words = [word for setting in LOSS for word in ("--config", setting)]
    path = str(own_trials.experiment(tmp_path, "NeedsModelTrial"))
    assert cli.main(["validate", path, *words]) == 0
    assert cli.main(["train", path, "--output-dir", str(tmp_path / "run"), *words]) == 2
    assert "NeedsModelTrial.build_collator: fails on two train features" in capsys.readouterr().err
