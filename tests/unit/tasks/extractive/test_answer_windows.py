"""Answers that are too long for a span, counted, and windows without an answer, of which some can be left out."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from datasets import Dataset
from tokenizers_for_tests import ALL, bert, roberta, xlnet

from model_hub_rqa import cli
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.runtime import experiments
from model_hub_rqa.tasks.extractive.features import FeatureBuilder, build_features, keep_negative_windows
from model_hub_rqa.tasks.extractive.task import ExtractiveKwargs, count_long_answers


def row(context: str, *answers: str, key: str = "1") -> dict[str, Any]:
    found = {"text": list(answers), "answer_start": [context.index(answer) for answer in answers]}
    return {"id": key, "title": "", "question": "Who?", "context": context, "answers": found}


ROWS = [
    row("the price of oil", "the price of oil"),  # 4 tokens
    row("the price of oil", "the price of oil", "oil"),  # the shortest counts
    row("the price of oil rose", "price of oil "),  # 3: the space before price is its token's
    row("the price of oil"),
]


@pytest.mark.parametrize(("limit", "longer"), [(4, 0), (3, 1), (2, 2), (1, 2), (30, 0)])
@pytest.mark.parametrize("make", [bert, xlnet])
def test_long_answers_by_hand(make: Any, limit: int, longer: int) -> None:
    """Of the three questions with an answer, those whose answers are all longer."""
    found = count_long_answers(Dataset.from_list(ROWS), make(), limit)
    assert found == {"answered": 3, "longer_than_max_answer_length": longer}


@pytest.mark.parametrize("kind", ALL)
def test_the_length_is_that_of_the_label(kind: str) -> None:
    """As many tokens as the labelled span has in the context, for every kind of tokenizer."""
    tokenizer = ALL[kind]()
    for answer in ("oil", "of oil had risen", "the price", "US$3 per barrel"):
        example = row("the price of oil had risen from US$3 per barrel", answer)
        builder = FeatureBuilder(tokenizer, max_seq_length=200, doc_stride=8, labels=True)
        (feature,) = build_features(Dataset.from_list([example]), builder)
        tokens = int(feature["end_positions"] - feature["start_positions"]) + 1
        for limit in (tokens - 1, tokens):
            found = count_long_answers(Dataset.from_list([example]), tokenizer, limit)
            assert found["longer_than_max_answer_length"] == (limit < tokens)


LONG = "oil " * 60
WINDOWS = [row(f"price {LONG}", "price", key="1"), row(f"{LONG} price", "price", key="2"), row(LONG, key="3")]


def windows(make: Any) -> tuple[Any, int]:
    builder = FeatureBuilder(make(), max_seq_length=24, doc_stride=2, labels=True)
    return build_features(Dataset.from_list(WINDOWS), builder), builder.template.cls_index


def numbers(features: Any, cls_index: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(question, window) of the features with the answer and of those without."""
    pairs: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for one in features:
        cls = cls_index if cls_index >= 0 else one["length"] + cls_index
        pairs[int(one["start_positions"] == cls)].append((int(one["example_index"]), int(one["feature_index"])))
    return pairs


@pytest.mark.parametrize("make", [bert, roberta, xlnet])
@pytest.mark.parametrize("keep", [0, 0.25, 0.5, 0.999, 1, 2, 1000])
def test_which_windows_are_kept(make: Any, keep: float) -> None:
    """Every window with the answer; a share of the others, or so many of each question; in their order."""
    features, cls_index = windows(make)
    with_answer, without = numbers(features, cls_index)
    assert {question for question, _ in with_answer} == {0, 1}
    assert all(sum(question == one for question, _ in without) > 2 for one in range(3))
    kept = keep_negative_windows(features, keep, cls_index=cls_index, seed=7)
    found, left = numbers(kept, cls_index)
    assert found == with_answer
    assert set(left) <= set(without)
    assert list(kept["example_index"][:]) == sorted(kept["example_index"][:])
    each = [sum(question == one for question, _ in left) for one in range(3)]
    if keep >= 1:
        assert each == [min(keep, sum(question == one for question, _ in without)) for one in range(3)]
    else:
        assert len(left) - round(keep * len(without)) in (0, each[2] == 1)  # the question without answer keeps one
        assert each[2] >= 1


def test_the_seed_draws() -> None:
    """The same windows again for the same seed, others for another."""
    features, cls_index = windows(bert)
    kept = [keep_negative_windows(features, 2, cls_index=cls_index, seed=seed) for seed in (1, 1, 2)]
    drawn = [one["feature_index"][:].tolist() for one in kept]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("value", "message"),
    [(-0.5, "max_negative_windows: must be >= 0, got -0.5"),
     (1.5, "max_negative_windows: must be a share below 1 or a whole number, got 1.5")],
)  # fmt: skip
def test_values_that_are_neither_a_share_nor_a_count(value: float, message: str) -> None:
    """The message names the field, the rule and the value."""
    with pytest.raises(ConfigError, match=message):
        ExtractiveKwargs(max_negative_windows=value)


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """An experiment on WINDOWS and a question whose answer is too long, for training and for validation."""
    paragraphs = [
        {
            "context": one["context"],
            "qas": [
                {
                    "id": one["id"],
                    "question": one["question"],
                    "is_impossible": not one["answers"]["text"],
                    "answers": [
                        {"text": text, "answer_start": start}
                        for text, start in zip(
                            *(one["answers"][name] for name in ("text", "answer_start")), strict=True
                        )
                    ],
                }
            ],
        }
        for one in [*WINDOWS, row("the price of oil", "the price of oil", key="4")]
    ]
    path = tiny.experiment(tmp_path)
    (tmp_path / "data.json").write_text(
        json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}), encoding="utf-8"
    )
    config = json.loads(path.read_text())
    files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "data.json"))
    sizes = {"max_seq_length": 24, "doc_stride": 2, "max_answer_length": 3, "version_2_with_negative": True}
    config["data"].update(files | sizes)
    path.write_text(json.dumps(config))
    return path


def test_long_answers_are_counted_before_a_run(
    configuration: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """In a warning, and in what validate prints; with a limit that suits them there is no warning."""
    message = "33 % of the validation answers (1 of 3) are longer than max_answer_length 3 and cannot be found"
    for limit, longer in (("3", 1), ("4", 0)):
        caplog.clear()
        assert cli.main(["validate", str(configuration), "--config", f"data.max_answer_length={limit}"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["validation_answers"] == {"answered": 3, "longer_than_max_answer_length": longer}
        assert (message in caplog.text) == bool(longer)


def test_windows_are_left_out_of_training_alone(configuration: Path) -> None:
    """By the run's seed; a hyperparameter of the same name works as well."""

    def sizes(*changes: str) -> tuple[int, int, list[int]]:
        trial = experiments.validate(experiments.load_experiment(configuration, list(changes)))
        train = trial.datasets["train"]
        return len(train), len(trial.datasets["validation"]), train["feature_index"][:].tolist()

    every, few = sizes(), sizes("data.max_negative_windows=2")
    assert few[0] == 3 + 2 * 3 < every[0]  # an answer's window each, and two of each long context
    assert few[1] == every[1]
    assert sizes("hyperparameters.max_negative_windows=2") == few
    assert sizes("data.max_negative_windows=2", "hyperparameters.seed=7")[2] != few[2]
