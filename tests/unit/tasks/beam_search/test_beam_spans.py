"""Decoding of a beam of starts and ends: against a search over all spans, a plain loop, and tables computed by hand."""

import math
from typing import Any

import numpy as np
import pytest

from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.tasks.beam_search.decoding import beam_candidates, decode_beams
from model_hub_rqa.tasks.extractive.spans import SpanCandidates

Span = tuple[float, int, int]  # score, first character, character after the last


class Case:
    """A random feature: its context's place, and the probabilities of every start and, for each, of every end."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.tokens = int(rng.integers(3, 14))
        self.low = int(rng.integers(0, self.tokens - 1))
        self.high = int(rng.integers(self.low, self.tokens + 1))  # the context may be empty
        self.longest = int(rng.integers(1, self.tokens + 2))
        self.n_best = int(rng.integers(1, 12))
        sharpness = rng.choice([0.5, 3.0])
        self.start = rng.normal(size=self.tokens) * sharpness
        self.end = rng.normal(size=(self.tokens, self.tokens)) * sharpness
        self.start -= np.log(np.exp(self.start).sum())
        self.end -= np.log(np.exp(self.end).sum(axis=1, keepdims=True))
        self.null = float(rng.normal())
        self.offsets = np.full((self.tokens, 2), -1)
        self.offsets[self.low : self.high, 0] = np.arange(self.high - self.low) * 3
        self.offsets[self.low : self.high, 1] = np.arange(self.high - self.low) * 3 + 2

    def beam(self, n_starts: int, n_ends: int) -> tuple[Any, ...]:
        """The best starts, and the best ends of each, as arrays of a batch of one."""
        first = np.argsort(-self.start)[:n_starts]
        last = np.stack([np.argsort(-self.end[start])[:n_ends] for start in first])
        ends = np.stack([self.end[start][row] for start, row in zip(first, last, strict=True)])
        one = np.newaxis
        return self.start[first][one], first[one], ends[one], last[one], np.array([self.null]), self.offsets[one]

    def decoded(self, n_starts: int, n_ends: int) -> list[Span]:
        sizes = {"n_best_size": self.n_best, "max_answer_length": self.longest}
        (found,) = beam_candidates(*self.beam(n_starts, n_ends), **sizes)
        assert found.null_score == pytest.approx(self.null)
        columns = (found.start_logit + found.end_logit, found.char_start, found.char_end)
        return list(zip(*(column.tolist() for column in columns), strict=True))


def assert_same(found: list[Span], expected: list[Span]) -> None:
    assert [span[1:] for span in found] == [span[1:] for span in expected]
    assert [span[0] for span in found] == pytest.approx([span[0] for span in expected], rel=1e-5)


def test_a_full_beam_finds_what_a_search_over_all_spans_finds() -> None:
    """With a beam of all tokens, the list is that of all spans by the joint probability of start and end."""
    for seed in range(200):
        case = Case(seed)
        spans = [
            (case.start[i] + case.end[i, j], 3 * (i - case.low), 3 * (j - case.low) + 2)
            for i in range(case.low, case.high)
            for j in range(i, min(case.high, i + case.longest))
        ]
        expected = sorted(spans, key=lambda span: -span[0])[: case.n_best]
        assert_same(case.decoded(case.tokens, case.tokens), expected)


def test_a_smaller_beam_agrees_with_a_plain_loop_over_it() -> None:
    """Whatever of the beam lies outside the context, ends before its start or is too long is left out."""
    for seed in range(200):
        case = Case(seed)
        rng = np.random.default_rng(seed)
        n_starts, n_ends = (int(rng.integers(1, case.tokens + 1)) for _ in range(2))
        starts, first, ends, last, _, offsets = (array[0] for array in case.beam(n_starts, n_ends))
        spans = []
        for s in range(n_starts):
            for e in range(n_ends):
                begin, stop = first[s], last[s, e]
                if offsets[begin, 0] < 0 or offsets[stop, 0] < 0 or stop < begin or stop - begin + 1 > case.longest:
                    continue
                spans.append((starts[s] + ends[s, e], int(offsets[begin, 0]), int(offsets[stop, 1])))
        assert_same(case.decoded(n_starts, n_ends), sorted(spans, key=lambda span: -span[0])[: case.n_best])


def test_features_of_a_batch_do_not_mix() -> None:
    """Each is decoded as if it were alone, those without any span included."""
    cases = [case for case in map(Case, range(300)) if case.tokens == 9][:12]
    assert any(case.low == case.high for case in cases)
    together = [np.concatenate(arrays) for arrays in zip(*(case.beam(4, 3) for case in cases), strict=True)]
    found = beam_candidates(*together, n_best_size=5, max_answer_length=6)
    for case, batched in zip(cases, found, strict=True):
        (alone,) = beam_candidates(*case.beam(4, 3), n_best_size=5, max_answer_length=6)
        for name in ("start_logit", "end_logit", "char_start", "char_end"):
            assert np.array_equal(getattr(alone, name), getattr(batched, name))


def test_equal_scores_keep_the_order_of_the_beam() -> None:
    """The better start first, then the better end; a masked start is a span as well, and the last one."""
    offsets = [[[0, 1], [1, 2], [2, 3]]]
    starts, first = [[-1.0, -1.0, -np.inf]], [[1, 0, 2]]
    ends, last = [[[-2.0, -2.0], [-2.0, -2.0], [-0.1, -0.2]]], [[[2, 1], [2, 0], [2, 0]]]
    (found,) = beam_candidates(starts, first, ends, last, [0.0], offsets)
    places = list(zip(found.char_start.tolist(), found.char_end.tolist(), strict=True))
    assert places == [(1, 3), (1, 2), (0, 3), (0, 1), (2, 3)]


# ---- from features to answers, by hand ----

CONTEXT = "red fox ran"


def feature(null: float, *spans: tuple[float, int, int]) -> SpanCandidates:
    """A feature of spans (probability, first character, character after the last), the best first."""
    logs = np.array([math.log(probability) for probability, *_ in spans], np.float32)
    places = np.array([span[1:] for span in spans], np.int32).reshape(-1, 2)
    return SpanCandidates(logs / 2, logs / 2, places[:, 0], places[:, 1], null, 0.0)


RED, FOX, RAN = (0, 3), (4, 7), (8, 11)
ODDS = math.log(3)  # of a probability of 3/4

# features, v2, threshold -> prediction, the texts and probabilities of the n-best list, null odds
TABLE = [
    ([feature(0.0, (0.6, *FOX), (0.2, *RED))], False, 0.0, "fox", [("fox", 0.75), ("red", 0.25)], None),
    ([feature(9.0, (0.1, *RED)), feature(9.0, (0.3, *FOX))], False, 0.0, "fox", [("fox", 0.75), ("red", 0.25)], None),
    ([feature(0.0)], False, 0.0, "empty", [("empty", 1.0)], None),
    # no answer has 1/4: the spans share 3/4, and fox's part of it is 3/4
    (
        [feature(-ODDS, (0.6, *FOX), (0.2, *RED))],
        *(True, 0.0, "fox", [("fox", 0.5625), ("", 0.25), ("red", 0.1875)], -ODDS),
    ),
    ([feature(ODDS, (0.6, *FOX), (0.2, *RED))], True, 0.0, "", [("", 0.75), ("fox", 0.1875), ("red", 0.0625)], ODDS),
    # the same odds, and a threshold above them
    ([feature(ODDS, (0.6, *FOX), (0.2, *RED))], True, 1.2, "fox", [("", 0.75), ("fox", 0.1875), ("red", 0.0625)], ODDS),
    ([feature(-ODDS, (0.6, *FOX))], True, -1.2, "", [("fox", 0.75), ("", 0.25)], -ODDS),
    # the lowest null score of all windows counts, whichever has the best span
    ([feature(-ODDS, (0.1, *RED)), feature(5.0, (0.3, *RAN))], True, 0.0, "ran", None, -ODDS),
    # at the threshold there is an answer
    ([feature(0.0, (0.5, *FOX))], True, 0.0, "fox", [("fox", 0.5), ("", 0.5)], 0.0),
    # without a span there is none, and its list has nothing else
    ([feature(-ODDS)], True, 0.0, "", [("", 1.0)], -ODDS),
    # a token of no width is no answer
    ([feature(-ODDS, (0.9, 4, 4), (0.1, *FOX))], True, 0.0, "fox", [("", 0.675), ("", 0.25), ("fox", 0.075)], -ODDS),
]


@pytest.mark.parametrize(("features", "v2", "threshold", "prediction", "n_best", "null"), TABLE)
def test_answers_computed_by_hand(
    features: list[SpanCandidates],
    v2: bool,
    threshold: float,
    prediction: str,
    n_best: list[tuple[str, float]] | None,
    null: float | None,
) -> None:
    """The answer, the n-best list with its probabilities, and the null score."""
    settings = {"version_2_with_negative": v2, "null_score_diff_threshold": threshold}
    (found,) = decode_beams([CONTEXT], [features], **settings)  # type: ignore[arg-type]
    assert found.prediction == prediction == found.n_best[found.best]["text"]
    assert found.score_diff == (None if null is None else pytest.approx(null))
    assert found.no_answer_probability == pytest.approx(0.0 if null is None else 1 / (1 + math.exp(-null)))
    for entry, (start, end) in zip(found.n_best, found.spans, strict=True):
        assert entry["text"] == ("empty" if not v2 and start < 0 else CONTEXT[max(start, 0) : max(end, 0)])
    probabilities = [entry["probability"] for entry in found.n_best]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities == sorted(probabilities, reverse=True)
    scores = np.array([entry["start_logit"] + entry["end_logit"] for entry in found.n_best])
    assert probabilities == pytest.approx((np.exp(scores) / np.exp(scores).sum()).tolist(), rel=1e-5)
    if n_best is not None:
        assert [entry["text"] for entry in found.n_best] == [text for text, _ in n_best]
        assert probabilities == pytest.approx([probability for _, probability in n_best], rel=1e-5)


def test_many_questions_are_decoded_as_each_alone() -> None:
    """In their order."""
    rows = [features for features, *_ in TABLE]
    found = decode_beams([CONTEXT] * len(rows), rows, version_2_with_negative=True)
    assert found == [decode_beams([CONTEXT], [row], version_2_with_negative=True)[0] for row in rows]


# ---- errors ----


def beam() -> list[Any]:
    """Two features of three tokens, with two starts and one end each."""
    zeros = np.zeros((2, 2))
    return [zeros - 1, zeros.astype(int), zeros[..., None] - 1, zeros[..., None].astype(int), np.zeros(2), _OFFSETS]


_OFFSETS = np.zeros((2, 3, 2), int)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, np.full((2, 2), np.nan), "start_log_probs: must hold no NaN"),
        (2, np.full((2, 2, 1), np.inf), r"end_log_probs: must hold no NaN and no \+inf"),
        (4, np.array([0.0, np.nan]), "cls_logits: must hold no NaN"),
        (1, np.array([[0, 3], [0, 0]]), "start_index: must be from 0 to 2, got 0 to 3"),
        (3, np.full((2, 2, 1), -1), "end_index: must be from 0 to 2"),
        (1, np.zeros((2, 3), int), r"start_index: must have the shape \[2, 2\], got \[2, 3\]"),
        (3, np.zeros((2, 1, 2), int), r"end_index: must have the shape \[2, 2, 1\], got \[2, 1, 2\]"),
        (2, np.zeros((2, 2)), r"end_log_probs and offsets: must have the shapes"),
        (5, np.zeros((3, 3, 2), int), r"offsets: must have the shape \[2, 3, 2\], got \[3, 3, 2\]"),
    ],
)
def test_a_beam_that_cannot_be_is_refused(place: int, value: Any, message: str) -> None:
    """A model that has diverged, or arrays that do not belong together."""
    arrays = beam()
    assert len(beam_candidates(*arrays)) == 2
    arrays[place] = value
    with pytest.raises(DataError, match=message):
        beam_candidates(*arrays)


def test_sizes_are_at_least_one() -> None:
    """And a question has at least one feature."""
    with pytest.raises(ConfigError, match="n_best_size: must be at least 1, got 0"):
        beam_candidates(*beam(), n_best_size=0)
    with pytest.raises(DataError, match="need at least one feature"):
        decode_beams([CONTEXT], [[]], version_2_with_negative=True)
