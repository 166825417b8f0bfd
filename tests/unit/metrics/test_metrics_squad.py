"""SQuAD scores of whole files, and the evaluate.Metric classes around them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.errors import DataError
from model_hub_rqa.metrics.squad import missing_ids, question_scores, references_from_rows, squad_v1, squad_v2
from model_hub_rqa.metrics.text import exact_match_score, f1_score, max_over_ground_truths

SYSTEMS = [
    "v1.1-bert-ensemble",
    "v1.1-logistic-regression",
    "v1.1-match-lstm",
    "v1.1-r-net",
    "v1.1-slqa",
    "v2.0-bert-single",
    "v2.0-bidaf",
    "v2.0-nlnet",
]
V2_KEYS = ["exact", "f1", "total"]
V2_KEYS += [f"{group}_{key}" for group in ("HasAns", "NoAns") for key in V2_KEYS]
BEST_KEYS = ["best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"]


def read_references(path: Path) -> dict[str, list[str]]:
    """True answers by id from the official nested form, read here and not by the package."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    questions = [qa for article in articles for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    return {qa["id"]: [answer["text"] for answer in qa["answers"]] for qa in questions}


def test_squad_v1_by_hand() -> None:
    """Percentages over all questions: one right, one half right, one missing, one wrong."""
    predictions = {"q1": "The Seine", "q2": "Paris France", "q4": "x", "unknown": "y"}
    references = {"q1": ["Seine", "the river"], "q2": ["Paris"], "q3": ["a b"], "q4": ["z"]}
    scores = squad_v1(predictions, references)
    assert list(scores) == ["exact_match", "f1"]
    assert scores["exact_match"] == 25.0
    assert scores["f1"] == pytest.approx(100 * (1 + 2 / 3) / 4)
    assert missing_ids(predictions, references) == ["q3"]


def test_squad_v2_by_hand() -> None:
    """Answerable and unanswerable questions apart; a missing prediction is wrong even where "" would be right."""
    predictions = {"q1": "Seine", "q2": "Paris France", "q3": "", "q4": "x"}
    references = {"q1": ["Seine"], "q2": ["Paris", "..."], "q3": [], "q4": [], "q5": []}
    scores = squad_v2(predictions, references)
    assert list(scores) == V2_KEYS
    assert scores == {
        "exact": pytest.approx(100 * 2 / 5),
        "f1": pytest.approx(100 * (1 + 2 / 3 + 1) / 5),
        "total": 5,
        "HasAns_exact": pytest.approx(50.0),
        "HasAns_f1": pytest.approx(100 * (1 + 2 / 3) / 2),
        "HasAns_total": 2,
        "NoAns_exact": pytest.approx(100 / 3),
        "NoAns_f1": pytest.approx(100 / 3),
        "NoAns_total": 3,
    }
    assert isinstance(scores["total"], int)


@pytest.mark.parametrize(("truths", "absent"), [(["Seine"], "NoAns_"), ([], "HasAns_"), (["...", "the"], "HasAns_")])
def test_squad_v2_leaves_out_empty_groups(truths: list[str], absent: str) -> None:
    """A group without questions has no keys; gold answers that normalise to nothing make no question answerable."""
    keys = list(squad_v2({"q": ""}, {"q": truths}))
    assert keys == [key for key in V2_KEYS if not key.startswith(absent)]


def test_no_answer_threshold_by_hand() -> None:
    """Answers whose no-answer probability is above the threshold, and not those at it, count as refusals."""
    predictions = {"q1": "right", "q2": "right", "q3": "wrong", "q4": "wrong"}
    references: dict[str, list[str]] = {"q1": ["right"], "q2": ["right"], "q3": [], "q4": []}
    probabilities = {"q1": 0.9, "q2": 0.5, "q3": 0.9, "q4": 0.5}
    scores = squad_v2(predictions, references, probabilities, 0.5)
    assert scores["HasAns_exact"] == 50.0  # q1 was right and is refused
    assert scores["NoAns_exact"] == 50.0  # q3 was wrong and is refused
    assert squad_v2(predictions, references, probabilities)["exact"] == 50.0  # nothing is above 1.0


def test_best_threshold_by_hand() -> None:
    """The search refuses everything first (2 of 4), then accepts by rising probability: 3 of 4 at 0.1, at most."""
    predictions = {"q1": "right", "q2": "wrong", "q3": "right", "q4": "half right"}
    references = {"q1": [], "q2": [], "q3": ["right"], "q4": ["right"]}
    probabilities = {"q1": 0.6, "q2": 0.2, "q3": 0.1, "q4": 0.15}
    scores = squad_v2(predictions, references, probabilities)
    assert list(scores) == V2_KEYS + BEST_KEYS
    assert scores["best_exact"] == 75.0
    assert scores["best_exact_thresh"] == 0.1
    assert scores["best_f1"] == pytest.approx(100 * (2 + 1 + 2 / 3) / 4)
    assert scores["best_f1_thresh"] == 0.15


def test_best_threshold_when_refusing_all_is_best() -> None:
    """Where no acceptance gains anything the best threshold is 0.0, the official starting value."""
    scores = squad_v2({"q1": "x", "q2": "y"}, {"q1": [], "q2": ["z"]}, {"q1": 0.3, "q2": 0.4})
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (50.0, 0.0)


def test_best_threshold_ties_keep_the_order_of_the_mapping() -> None:
    """Equal probabilities are gone through as the mapping has them, so the order of the mapping can show."""
    predictions = {"good": "z", "bad": "x"}
    references: dict[str, list[str]] = {"good": ["z"], "bad": []}
    first_good = squad_v2(predictions, references, {"good": 0.5, "bad": 0.5})
    first_bad = squad_v2(predictions, references, {"bad": 0.5, "good": 0.5})
    assert (first_good["best_exact"], first_good["best_exact_thresh"]) == (100.0, 0.5)
    assert (first_bad["best_exact"], first_bad["best_exact_thresh"]) == (50.0, 0.0)


def test_missing_prediction_earns_nothing_under_a_threshold() -> None:
    """A question without a prediction stays wrong whatever the threshold, also in the search for the best one."""
    scores = squad_v2({"q1": ""}, {"q1": [], "q2": []}, {"q1": 0.9, "q2": 0.9}, 0.5)
    assert scores["NoAns_exact"] == 50.0
    assert scores["best_exact"] == 50.0


@pytest.mark.parametrize("system", SYSTEMS)
def test_equal_to_the_official_evaluators(rqa_data: Path, system: str) -> None:
    """Names, order and numbers are those of the official evaluators on the predictions of published systems."""
    folder = rqa_data / "squad"
    official = json.loads((folder / "predictions" / "official_scores.json").read_text())[system]
    predictions = json.loads((folder / "predictions" / f"{system}.json").read_text(encoding="utf-8"))
    version = system.split("-")[0]
    references = read_references(folder / f"dev-{version}.json")
    scores = (squad_v1 if version == "v1.1" else squad_v2)(predictions, references)
    assert list(scores) == list(official)
    assert scores == pytest.approx(official, abs=1e-9)


def test_best_f1_of_a_real_system_is_reached(rqa_data: Path) -> None:
    """Applying the best threshold that was found gives the best score, and no worse a score than accepting all."""
    folder = rqa_data / "squad"
    predictions = json.loads((folder / "predictions" / "v2.0-bidaf.json").read_text(encoding="utf-8"))
    references = read_references(folder / "dev-v2.0.json")
    # Every probability is different, so every step of the search is a threshold that can be applied.
    probabilities = {key: (7919 * number % 11873) / 11873 for number, key in enumerate(references)}
    scores = squad_v2(predictions, references, probabilities)
    for name in ("exact", "f1"):
        applied = squad_v2(predictions, references, probabilities, scores[f"best_{name}_thresh"])
        assert applied[name] == pytest.approx(scores[f"best_{name}"], abs=1e-9)
        assert scores[f"best_{name}"] >= scores[name]


# A prediction that is only an article is left out: the official search for the best threshold takes it for an answer.
guesses = st.sampled_from(["", "seine", "the Seine", "river seine", "a big river"])
answers = st.one_of(guesses, st.just("the"))
Case = tuple[dict[str, str], dict[str, list[str]], dict[str, float]]


@st.composite
def scored_sets(draw: st.DrawFn) -> Case:
    """Predictions, references and distinct no-answer probabilities of one to eight questions."""
    keys = [f"q{number}" for number in range(draw(st.integers(1, 8)))]
    references = {key: draw(st.lists(answers, max_size=3)) for key in keys}
    predictions = {key: draw(guesses) for key in keys}
    order = draw(st.permutations(range(1, len(keys) + 1)))
    return predictions, references, {key: rank / 10 for key, rank in zip(keys, order, strict=True)}


@given(scored_sets())
def test_scores_are_means_of_the_pairwise_scores(case: Case) -> None:
    """A question scores what the best of its gold answers scores by the functions for one pair."""
    predictions, references, _ = case
    exact, f1 = question_scores(predictions, references, version_2=True)
    for key, truths in references.items():
        kept = [truth for truth in truths if truth not in ("", "the")] or [""]
        assert exact[key] == max_over_ground_truths(exact_match_score, predictions[key], kept)
        best = max_over_ground_truths(lambda left, right: f1_score(left, right, version_2=True), predictions[key], kept)
        assert f1[key] == pytest.approx(best)
    assert squad_v2(predictions, references)["f1"] == pytest.approx(100 * sum(f1.values()) / len(f1))


@given(scored_sets())
def test_best_threshold_is_the_best_of_all(case: Case) -> None:
    """With distinct probabilities no threshold, tried one by one, gives a better score than the best one found."""
    predictions, references, probabilities = case
    scores = squad_v2(predictions, references, probabilities)
    for name in ("exact", "f1"):
        limits = [scores[f"best_{name}_thresh"], 0.0, *probabilities.values()]
        tried = [squad_v2(predictions, references, probabilities, limit)[name] for limit in limits]
        assert scores[f"best_{name}"] == pytest.approx(max(tried))
        assert tried[0] == pytest.approx(max(tried))


@given(scored_sets(), st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order(case: Case, random: Any) -> None:
    """Shuffled predictions and references give the same numbers."""
    predictions, references, probabilities = case
    keys = list(references)
    random.shuffle(keys)
    shuffled = squad_v2({key: predictions[key] for key in keys}, {key: references[key] for key in keys}, probabilities)
    assert shuffled == pytest.approx(squad_v2(predictions, references, probabilities))


IDS = ("q1", "q2", "q3")
WRONG: Any = {"q1": None, "q2": 3, "q3": "x", "unknown": None}
WRONG_TRUTHS: Any = {"q1": [], "q2": "Seine", "q3": ["x", None]}


def row(key: Any, truths: Any) -> dict[str, Any]:
    """A row of a SQuAD table, right or wrong."""
    return {"id": key, "answers": {"text": truths}}


@pytest.mark.parametrize(
    ("score", "lines"),
    [
        (lambda: squad_v1({}, {}), ["references: need at least one question, got none"]),
        (lambda: squad_v2({}, {}), ["references: need at least one question, got none"]),
        (
            lambda: squad_v2(WRONG, {"q1": ["a"], "q2": [], "q3": []}),
            ["predictions: q1: must be a string, got None", "predictions: q2: must be a string, got 3"],
        ),
        (
            lambda: squad_v1({"q1": "x"}, WRONG_TRUTHS),
            [
                "references: q1: needs at least one answer in SQuAD v1.1, got none",
                "references: q2: must be a list of strings, got 'Seine'",
                "references: q3: every answer must be a string, got ['x', None]",
            ],
        ),
        (
            lambda: squad_v2(dict.fromkeys(IDS, "x"), dict.fromkeys(IDS, ()), {"q1": 0.5, "q2": float("nan")}),
            [
                "no_answer_probabilities: q2: must be a number for every prediction, got nan",
                "no_answer_probabilities: q3: must be a number for every prediction, got none",
            ],
        ),
        (
            lambda: references_from_rows([{"id": "q1"}, row(7, ["x"]), row("q2", "x")]),
            [
                "row 0: needs id and answers.text, got {'id': 'q1'}",
                "row 1: id must be a string and answers.text a list, got (7, ['x'])",
                "row 2: id must be a string and answers.text a list, got ('q2', 'x')",
            ],
        ),
        (
            lambda: references_from_rows([row("q", ["x"]), row("q", [])]),
            ["row 1: id 'q' was seen before with other answers, got []"],
        ),
    ],
)
def test_errors_are_listed_all_at_once(score: Callable[[], object], lines: list[str]) -> None:
    """Every error is a line that names the place, the rule and the value found."""
    with pytest.raises(DataError, match=re.escape(lines[0])) as caught:
        score()
    assert list(caught.value.errors) == lines


def test_references_from_rows() -> None:
    """Rows become lists of strings by id; a repeated row is the same question."""
    rows = [
        {"id": "q1", "context": "c", "answers": {"text": ["x", "y"], "answer_start": [0, 1]}},
        {"id": "q2", "answers": {"text": ()}},
        {"id": "q1", "answers": {"text": ["x", "y"]}},
    ]
    assert references_from_rows(rows) == {"q1": ["x", "y"], "q2": []}


PREDICTIONS = [{"id": "q1", "prediction_text": "the Seine"}, {"id": "q2", "prediction_text": "Paris France"}]
REFERENCES = [
    {"id": "q1", "answers": {"text": ["Seine"], "answer_start": [3]}},
    {"id": "q2", "answers": {"text": ["Paris", "Lyon"], "answer_start": [9, 30]}},
]
REFERENCES_V2 = [REFERENCES[0], {"id": "q2", "answers": {"text": [], "answer_start": []}}]


def test_squad_metric_in_batches(tmp_path: Path) -> None:
    """Several instances fed in turns stay apart, with files and without, and each can be used again."""
    from model_hub_rqa.metrics.evaluate_metrics import SquadMetric

    metrics = [
        SquadMetric(cache_dir=str(tmp_path)),
        SquadMetric(cache_dir=str(tmp_path)),
        SquadMetric(cache_dir=str(tmp_path), keep_in_memory=False, experiment_id="first"),
        SquadMetric(cache_dir=str(tmp_path), keep_in_memory=False, experiment_id="second"),
    ]
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        for metric in metrics:
            metric.add_batch(predictions=[prediction], references=[reference])
    metrics[1].add(prediction={"id": "q3", "prediction_text": "x"}, reference={**REFERENCES[0], "id": "q3"})
    expected = {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2)}
    results = [metric.compute() for metric in metrics]
    assert [results[0], results[2], results[3]] == [expected] * 3
    assert results[1]["exact_match"] == pytest.approx(100 / 3)
    assert metrics[0].compute(predictions=PREDICTIONS[:1], references=REFERENCES[:1])["exact_match"] == 100.0
    assert all(type(value) is float for value in results[0].values())


def test_squad_v2_metric_with_and_without_probabilities(tmp_path: Path) -> None:
    """The names are the official ones, and best_* appear where every prediction has a no-answer probability."""
    from model_hub_rqa.metrics.evaluate_metrics import SquadV2Metric

    metric = SquadV2Metric(cache_dir=str(tmp_path))
    plain = metric.compute(predictions=PREDICTIONS, references=REFERENCES_V2)
    assert list(plain) == V2_KEYS
    assert (plain["HasAns_exact"], plain["NoAns_exact"]) == (100.0, 0.0)
    sure = [{**row, "no_answer_probability": p} for row, p in zip(PREDICTIONS, (0.1, 0.9), strict=True)]
    metric.add(prediction=sure[0], reference=REFERENCES_V2[0])
    metric.add_batch(predictions=sure[1:], references=REFERENCES_V2[1:])
    full = metric.compute(no_answer_threshold=0.5)
    assert list(full) == V2_KEYS + BEST_KEYS
    assert (full["exact"], full["best_exact"], full["best_exact_thresh"]) == (100.0, 100.0, 0.1)
    assert {type(value) for value in full.values()} == {float, int}


def test_squad_v2_metric_refuses_some_probabilities(tmp_path: Path) -> None:
    """A no-answer probability in some predictions only is an error that names the others."""
    from model_hub_rqa.metrics.evaluate_metrics import SquadV2Metric

    mixed = [{**PREDICTIONS[0], "no_answer_probability": 0.1}, PREDICTIONS[1]]
    with pytest.raises(DataError, match="predictions: q2: no_answer_probability"):
        SquadV2Metric(cache_dir=str(tmp_path)).compute(predictions=mixed, references=REFERENCES_V2)


def test_subclass_of_squad_metric(tmp_path: Path) -> None:
    """A subclass may add to the result."""
    from model_hub_rqa.metrics.evaluate_metrics import SquadMetric

    class Counting(SquadMetric):
        def _compute(self, **inputs: Any) -> dict[str, float]:
            return {**super()._compute(**inputs), "total": len(inputs["references"])}

    result = Counting(cache_dir=str(tmp_path)).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert list(result) == ["exact_match", "f1", "total"]
