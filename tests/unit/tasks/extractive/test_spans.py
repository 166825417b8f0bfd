"""From logits to answers: tables by hand, parity with the plain double loop, properties."""

import json
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_spans import reference_decode

from model_hub_rqa.errors import ConfigError, DataError, RqaError
from model_hub_rqa.tasks.extractive import spans
from model_hub_rqa.tasks.extractive.decoding import DecodedSpans, decode_spans, no_answer_probability
from model_hub_rqa.tasks.extractive.spans import SpanCandidates, span_candidates
from model_hub_rqa.tasks.extractive.task import Extractive, ExtractiveKwargs

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
NO = float("-inf")
CONTEXT = "Paris is in France"
#          [CLS]     question  [SEP]     Paris   is      in       France    [SEP]
OFFSETS = [(-1, -1), (-1, -1), (-1, -1), (0, 5), (6, 8), (9, 11), (12, 18), (-1, -1)]
START = [1.0, 9.0, 0.0, 4.0, 0.0, 0.5, 3.0, 0.0]
END = [0.5, 9.0, 0.0, 2.0, 0.0, -1.0, 5.0, 0.0]


def candidates_of(start: list[float], end: list[float], **sizes: int) -> SpanCandidates:
    """The candidates of one feature over CONTEXT."""
    found = span_candidates([start], [end], [OFFSETS], [0], **sizes)
    assert len(found) == 1
    return found[0]


def made(*rows: tuple[float, float, int, int], null: tuple[float, float] = (0.0, 0.0)) -> SpanCandidates:
    """Candidates from rows of (start_logit, end_logit, char_start, char_end)."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    logits = [np.array(column, dtype=np.float32) for column in columns[:2]]
    places = [np.array(column, dtype=np.int32) for column in columns[2:]]
    return SpanCandidates(logits[0], logits[1], places[0], places[1], *null)


def rows_of(candidates: SpanCandidates) -> list[tuple[float, float, str]]:
    """Candidates as rows of (start_logit, end_logit, text)."""
    columns = candidates.start_logit, candidates.end_logit, candidates.char_start, candidates.char_end
    return [(float(s), float(e), CONTEXT[a:b]) for s, e, a, b in zip(*columns, strict=True)]


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        (  # the question token takes one of the four places among the starts and the ends
            {"n_best_size": 4, "max_answer_length": 30},
            [(4.0, 5.0, "Paris is in France"), (3.0, 5.0, "France"), (4.0, 2.0, "Paris")],
        ),
        ({"n_best_size": 4, "max_answer_length": 3}, [(3.0, 5.0, "France"), (4.0, 2.0, "Paris")]),
        ({"n_best_size": 2, "max_answer_length": 30}, [(4.0, 5.0, "Paris is in France")]),
        ({"n_best_size": 1, "max_answer_length": 30}, []),  # only the question token is looked at
        (
            {"n_best_size": 99, "max_answer_length": 2},
            [
                (3.0, 5.0, "France"),
                (4.0, 2.0, "Paris"),
                (0.5, 5.0, "in France"),
                (4.0, 0.0, "Paris is"),
                (0.0, 0.0, "is"),
                (0.5, -1.0, "in"),
                (0.0, -1.0, "is in"),
            ],
        ),
    ],
)
def test_candidates_by_hand(sizes: dict[str, int], rows: list[tuple[float, float, str]]) -> None:
    """The best pairs inside the context, the end not before the start, not too long, by falling score."""
    found = candidates_of(START, END, **sizes)
    assert rows_of(found) == rows
    assert (found.null_start_logit, found.null_end_logit, found.null_score) == (1.0, 0.5, 1.5)


@pytest.mark.parametrize(
    ("n_best_size", "texts"),
    [(2, ["Paris is in", "Paris is in France"]), (3, ["Paris is in", "Paris is in France", "is in"])],
)
def test_ties_keep_the_order_of_the_loops(n_best_size: int, texts: list[str]) -> None:
    """Of equal scores (3 + 1 and 2 + 2) the one with the larger start logit comes first, also where the list is cut."""
    start, end = [NO] * 8, [NO] * 8
    start[3], start[4], end[5], end[6] = 3.0, 2.0, 2.0, 1.0
    assert [row[2] for row in rows_of(candidates_of(start, end, n_best_size=n_best_size))] == texts


def test_cls_is_where_cls_index_says() -> None:
    """Each feature's null score is read at its own [CLS] token, as with tokenizers that put it last."""
    found = span_candidates([START, START], [END, END], [OFFSETS, OFFSETS], [7, 1])
    assert [feature.null_score for feature in found] == [0.0, 18.0]


def test_masked_spans_stay_behind_all_others() -> None:
    """Spans with a masked logit, be it -inf or the lowest float32, are candidates of a score without warning."""
    lowest = float(np.finfo(np.float32).min)
    found = candidates_of([0.0] * 3 + [lowest, 2.0, 1.0, 0.0, 0.0], [0.0] * 3 + [lowest, NO, 1.0, 3.0, 0.0])
    with np.errstate(over="ignore"):
        scores = found.start_logit + found.end_logit
    assert [row[2] for row in rows_of(found)][:2] == ["is in France", "in France"]
    assert np.isneginf(scores).any()
    assert (np.diff(scores[np.isfinite(scores)]) <= 0).all()
    assert np.isneginf(scores[~np.isfinite(scores)]).all()
    answer = decode_spans(CONTEXT, [found], version_2_with_negative=True)
    assert sum(entry["probability"] for entry in answer.n_best) == pytest.approx(1.0)


def test_no_features_no_candidates() -> None:
    """An empty batch gives an empty list."""
    assert span_candidates(np.zeros((0, 8)), np.zeros((0, 8)), np.zeros((0, 8, 2)), np.zeros(0, dtype=int)) == []


def test_decode_v1_by_hand() -> None:
    """v1 answers with the best span of all features; probabilities are the softmax of the scores."""
    features = [made((1.0, 2.0, 0, 5), (0.5, 0.5, 6, 8)), made((2.0, 2.0, 12, 18), null=(9.0, 9.0))]
    answer = decode_spans(CONTEXT, features)
    weights = [math.exp(4), math.exp(3), math.exp(1)]
    assert answer.prediction == "France"
    assert [entry["text"] for entry in answer.n_best] == ["France", "Paris", "is"]
    assert [entry["probability"] for entry in answer.n_best] == pytest.approx([w / sum(weights) for w in weights])
    assert list(answer.n_best[1]) == ["text", "probability", "start_logit", "end_logit"]
    assert (answer.n_best[1]["start_logit"], answer.n_best[1]["end_logit"]) == (1.0, 2.0)
    assert answer.spans == [(12, 18), (0, 5), (6, 8)]
    assert (answer.best, answer.score_diff, answer.no_answer_probability) == (0, None, 0.0)
    assert json.loads(json.dumps(answer.n_best)) == answer.n_best


@pytest.mark.parametrize(
    ("nulls", "threshold", "prediction", "score_diff"),
    [
        ([(1.0, 1.5)], 0.0, "Paris", -0.5),
        ([(2.0, 1.5)], 0.0, "", 0.5),
        ([(2.0, 1.5)], 0.5, "Paris", 0.5),  # only a difference above the threshold refuses
        ([(1.0, 1.5)], -1.0, "", -0.5),
        ([(5.0, 5.0), (1.0, 1.5)], 0.0, "Paris", -0.5),  # every window has to say that there is no answer
        ([(1.5, 1.5)], 0.0, "Paris", 0.0),
    ],
)
def test_decode_v2_by_hand(
    nulls: list[tuple[float, float]], threshold: float, prediction: str, score_diff: float
) -> None:
    """v2 refuses if the lowest null score exceeds the best span's score (3.0) by more than the threshold."""
    features = [made((1.0, 2.0, 0, 5), null=nulls[0]), *(made(null=null) for null in nulls[1:])]
    answer = decode_spans(CONTEXT, features, version_2_with_negative=True, null_score_diff_threshold=threshold)
    assert answer.prediction == prediction
    assert answer.score_diff == score_diff
    assert answer.no_answer_probability == pytest.approx(1 / (1 + math.exp(-score_diff)))
    assert answer.n_best[answer.best]["text"] == prediction
    assert answer.spans[answer.best] == ((0, 5) if prediction else (-1, -1))
    entry = next(entry for entry in answer.n_best if entry["text"] == "")
    assert (entry["start_logit"], entry["end_logit"]) == min(nulls)


def test_null_prediction_is_added_back() -> None:
    """A null prediction too low for the n-best list is put at its end, as an entry more."""
    feature = made((3.0, 3.0, 0, 5), (2.0, 2.0, 6, 8), (1.0, 1.0, 9, 11), null=(0.0, -1.0))
    answer = decode_spans(CONTEXT, [feature], n_best_size=2, version_2_with_negative=True)
    assert [entry["text"] for entry in answer.n_best] == ["Paris", "is", ""]
    assert sum(entry["probability"] for entry in answer.n_best) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("feature", "version_2", "prediction", "texts", "score_diff"),
    [
        (made(), False, "empty", ["empty"], None),
        (made((1.0, 1.0, 6, 6)), False, "empty", ["empty", ""], None),
        (made(null=(1.0, 2.0)), True, "", ["empty", ""], 3.0),
        (made(null=(-1.0, -2.0)), True, "", ["empty", ""], -3.0),  # the published code answers "empty" here
        (made((1.0, 1.0, 6, 6), null=(0.0, 0.0)), True, "", ["", ""], 0.0),  # and fails here
        (made((1.0, 1.0, 0, 0), null=(0.0, 0.0)), True, "", ["", ""], 0.0),
    ],
)
def test_no_span_with_text(
    feature: SpanCandidates, version_2: bool, prediction: str, texts: list[str], score_diff: float | None
) -> None:
    """Without any text v1 says the published placeholder and v2 says that there is no answer."""
    answer = decode_spans(CONTEXT, [feature], version_2_with_negative=version_2)
    assert answer.prediction == prediction
    assert [entry["text"] for entry in answer.n_best] == texts
    assert answer.score_diff == score_diff


def test_everything_masked() -> None:
    """Where every score is -inf the entries share the probability and the score difference is 0."""
    answer = decode_spans(CONTEXT, [made((NO, 0.0, 0, 5), null=(NO, 0.0))], version_2_with_negative=True)
    assert [entry["probability"] for entry in answer.n_best] == [0.5, 0.5]
    assert (answer.score_diff, answer.no_answer_probability, answer.prediction) == (0.0, 0.5, "Paris")


@pytest.mark.parametrize(
    ("score_diff", "probability"),
    [(0.0, 0.5), (math.log(3), 0.75), (-math.log(3), 0.25), (1e4, 1.0), (-1e4, 0.0), (math.inf, 1.0), (NO, 0.0)],
)
def test_no_answer_probability(score_diff: float, probability: float) -> None:
    """The logistic function of the score difference, without overflow at either end."""
    assert no_answer_probability(score_diff) == pytest.approx(probability)


def decoded(
    contexts: list[str], predictions: dict[tuple[int, int], SpanCandidates], **options: Any
) -> list[DecodedSpans]:
    """What the task makes of candidates by the question's and the window's number."""
    return Extractive(ExtractiveKwargs(**options)).decode(predictions, {"context": contexts})


def test_windows_are_decoded_by_their_numbers() -> None:
    """Results are in the order of the contexts, features in that of their numbers, whatever order they arrived in."""
    tie = [made((1.0, 1.0, 0, 5)), made((1.0, 1.0, 12, 18))]
    candidates = {(1, 10): tie[0], (1, 2): tie[1], (0, 0): tie[0], (0, 1): tie[1]}
    results = decoded([CONTEXT, CONTEXT], candidates, version_2_with_negative=True)
    assert [found.prediction for found in results] == ["Paris", "France"]
    assert results[1].score_diff == -2.0
    assert [found.score_diff for found in decoded([CONTEXT, CONTEXT], candidates)] == [None, None]


@pytest.mark.parametrize(
    ("call", "error", "lines"),
    [
        (
            lambda: span_candidates([START], [END], [OFFSETS], [0], n_best_size=0, max_answer_length=0),
            ConfigError,
            ["n_best_size: must be at least 1, got 0", "max_answer_length: must be at least 1, got 0"],
        ),
        (lambda: decode_spans("", [made()], n_best_size=0), ConfigError, ["n_best_size: must be at least 1, got 0"]),
        (lambda: decode_spans("", []), DataError, ["features: need at least one feature of the question, got none"]),
        (
            lambda: decoded([CONTEXT] * 2, {(0, 0): made()}),
            DataError,
            ["features: need at least one feature of the question, got none"],
        ),
        (
            lambda: span_candidates(START, END, OFFSETS, 0),
            DataError,
            ["start_logits: must have the shape [features, tokens], got [8]"],
        ),
        (
            lambda: span_candidates([START], [END[:-1]], OFFSETS, [0, 0]),
            DataError,
            [
                "end_logits: must have the shape [1, 8] like start_logits, got [1, 7]",
                "offsets: must have the shape [1, 8, 2] like start_logits, got [8, 2]",
                "cls_index: must have the shape [1] like start_logits, got [2]",
            ],
        ),
        (
            lambda: span_candidates([START] * 2, [[math.nan] * 8, [math.inf] * 8], [OFFSETS] * 2, [8, 0]),
            DataError,
            [
                "end_logits: must hold no NaN and no +inf, got such in features [0, 1] of the batch",
                "cls_index: must be from 0 to 7, got [8, 0]",
            ],
        ),
    ],
)
def test_errors_are_listed_all_at_once(call: Callable[[], object], error: type[RqaError], lines: list[str]) -> None:
    """Every error is a line that names the place, the rule and the value found; NaN is an error, not a low score."""
    with pytest.raises(error, match=re.escape(lines[0])) as caught:
        call()
    assert list(caught.value.errors) == lines


def test_candidates_pickle_small() -> None:
    """What is gathered of a feature is a few small arrays, far less than its logits, and survives pickling."""
    found = span_candidates(
        np.random.default_rng(0).normal(size=(1, 384)), np.zeros((1, 384)), np.ones((1, 384, 2)), [0]
    )[0]
    blob = pickle.dumps(found)
    assert len(found) == 20
    assert len(blob) < 1000
    again = pickle.loads(blob)
    assert again.null_score == found.null_score
    assert {again.start_logit.dtype, again.end_logit.dtype} == {np.dtype(np.float32)}
    assert {again.char_start.dtype, again.char_end.dtype} == {np.dtype(np.int32)}
    assert again.start_logit.tolist() == found.start_logit.tolist()


def question(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    """Random logits of one question: B features of T tokens, a context window in each, [CLS] anywhere outside it."""
    size, tokens = int(rng.integers(1, 5)), int(rng.integers(1, 50))
    start, end = (rng.normal(scale=3, size=(size, tokens)).astype(np.float32) for _ in range(2))
    if kind != "floats":  # many ties
        start, end = np.round(start), np.round(end)
    if kind == "masked":
        start[rng.random(start.shape) < 0.4] = NO
        end[rng.random(end.shape) < 0.4] = NO
    offsets = np.full((size, tokens, 2), -1)
    for feature in range(size):
        low, high = sorted(rng.integers(0, tokens + 1, size=2).tolist())
        low = min(low + 1, high) if kind != "outside" else high  # "outside": no token is in the context
        # Zero-width tokens come up too: their spans have no text.
        widths = rng.integers(0, 4, size=high - low)
        ends = int(rng.integers(0, 5)) + np.cumsum(widths)
        offsets[feature, low:high] = np.stack([ends - widths, ends], axis=-1)
    cls = rng.integers(0, tokens, size=size)
    start[np.arange(size), cls] = np.maximum(start[np.arange(size), cls], np.float32(-9))
    end[np.arange(size), cls] = np.maximum(end[np.arange(size), cls], np.float32(-9))
    return {"start_logits": start, "end_logits": end, "offsets": offsets, "cls_index": cls}


LETTERS = "".join(chr(ord("a") + number % 26) for number in range(200))


@pytest.mark.parametrize("version_2", [False, True])
@pytest.mark.parametrize("kind", ["floats", "ties", "masked", "outside"])
def test_equal_to_the_double_loop(kind: str, version_2: bool) -> None:
    """Answers, n-best lists and score differences are exactly the plain loop's, in whatever order features come."""
    rng = np.random.default_rng(7)
    for _ in range(150):
        case = question(rng, kind)
        sizes: dict[str, Any] = {"n_best_size": int(rng.choice([1, 2, 5, 20, 100]))}
        sizes["max_answer_length"] = int(rng.integers(1, 12))
        options: dict[str, Any] = {"version_2_with_negative": version_2}
        options["null_score_diff_threshold"] = float(rng.choice([-2, 0, 1.5]))
        expected = reference_decode(LETTERS, **case, **sizes, **options)
        found = span_candidates(**case, **sizes)
        arrived = {(0, int(number)): found[number] for number in rng.permutation(len(found))}
        (result,) = decoded([LETTERS], arrived, n_best_size=sizes["n_best_size"], **options)
        if not all(math.isfinite(entry["probability"]) for entry in expected["n_best"]):
            continue  # all masked: the plain loop divides nothing by nothing
        assert result.prediction == expected["prediction"]
        assert result.n_best == expected["n_best"]
        assert result.score_diff == expected["score_diff"]


def test_features_taken_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping fewer pairs in memory at once changes nothing."""
    case = question(np.random.default_rng(4), "ties")
    whole = span_candidates(**case, n_best_size=5)
    assert len(whole) > 1
    monkeypatch.setattr(spans, "PAIRS_AT_ONCE", 1)
    parts = span_candidates(**case, n_best_size=5)
    assert [(rows_of(feature), feature.null_score) for feature in parts] == [
        (rows_of(feature), feature.null_score) for feature in whole
    ]


def test_arguments_are_left_alone() -> None:
    """The caller's arrays are not changed."""
    case = question(np.random.default_rng(1), "masked")
    before = {name: array.copy() for name, array in case.items()}
    span_candidates(**case)
    assert all(np.array_equal(case[name], before[name]) for name in case)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["floats", "ties"]), st.booleans(), st.integers(1, 4))
def test_shards_and_arrival_order_do_not_matter(seed: int, kind: str, version_2: bool, ranks: int) -> None:
    """Features of several questions dealt out to ranks, in any order, give the answers of one process."""
    rng = np.random.default_rng(seed)
    batch = [question(rng, kind) for _ in range(3)]
    together = {
        (number, feature): found
        for number, case in enumerate(batch)
        for feature, found in enumerate(span_candidates(**case))
    }
    work = [(number, feature) for number, case in enumerate(batch) for feature in range(len(case["cls_index"]))]
    rng.shuffle(work)
    gathered: dict[tuple[int, int], SpanCandidates] = {}
    for rank in range(ranks):
        for number, feature in work[rank::ranks]:
            alone = {name: array[feature : feature + 1] for name, array in batch[number].items()}
            sent = pickle.loads(pickle.dumps(span_candidates(**alone)))
            gathered[number, feature] = sent[0]
    options = {"version_2_with_negative": version_2}
    assert decoded([LETTERS] * 3, gathered, **options) == decoded([LETTERS] * 3, together, **options)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["floats", "ties", "masked", "outside"]), st.booleans())
def test_answers_are_parts_of_the_context(seed: int, kind: str, version_2: bool) -> None:
    """An answer is part of the context (or the v1 placeholder); n-best probabilities fall and sum to 1."""
    found = span_candidates(**question(np.random.default_rng(seed), kind))
    answer = decode_spans(LETTERS, found, version_2_with_negative=version_2)
    assert answer.prediction in LETTERS or (answer.prediction == "empty" and not version_2)
    assert answer.n_best[answer.best]["text"] == answer.prediction
    for entry, (low, high) in zip(answer.n_best, answer.spans, strict=True):
        assert low < 0 or entry["text"] == LETTERS[low:high]
    chances = [entry["probability"] for entry in answer.n_best]
    assert sum(chances) == pytest.approx(1.0, abs=1e-5)
    if answer.n_best[0]["text"] != "empty":
        assert chances == sorted(chances, reverse=True)
    if version_2:
        assert answer.no_answer_probability == no_answer_probability(answer.score_diff or 0.0)
    else:
        assert (answer.score_diff, answer.no_answer_probability) == (None, 0.0)
