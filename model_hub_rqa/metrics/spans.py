"""From start and end logits to answers: the n-best decoding of extractive readers.

In two steps, so that a distributed evaluation gathers small things and never whole logits: ``span_candidates`` keeps
the few best spans of every feature where the logits are, ``decode_spans`` joins the features of one question. Together
they give what the published post-processing gives on whole logits (Devlin et al. 2018, arXiv:1810.04805, sections 4.2
and 4.3, in the form of transformers' question-answering example, ``postprocess_qa_predictions``).

Shapes: B features (a question with one window of its context), T tokens each.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_hub_rqa.errors import ConfigError, DataError

PAIRS_AT_ONCE = 1 << 21  # pairs of a start and an end held in memory together (about 20 bytes each)
PLACEHOLDER = "empty"  # the text of the entry that the published algorithm puts in where there is no span at all


@dataclass(frozen=True, slots=True, eq=False)
class SpanCandidates:
    """The best spans of one feature, the best first; equal scores as the published double loop meets them.

    Attributes:
        start_logit: float32 [K].
        end_logit: float32 [K].
        char_start: int32 [K], the first character of the span in the context.
        char_end: int32 [K], the character after its last.
        null_start_logit: the start logit of the feature's [CLS] token.
        null_end_logit: its end logit.
    """

    start_logit: NDArray[np.float32]
    end_logit: NDArray[np.float32]
    char_start: NDArray[np.int32]
    char_end: NDArray[np.int32]
    null_start_logit: float
    null_end_logit: float

    @property
    def null_score(self) -> float:
        """The score of "no answer here": the sum of the two null logits, in float32 like every score."""
        return float(_score(np.float32(self.null_start_logit), np.float32(self.null_end_logit)))

    def __len__(self) -> int:
        return len(self.start_logit)


@dataclass(frozen=True, slots=True)
class DecodedSpans:
    """What a reader says to one question.

    Attributes:
        prediction: the answer, ``""`` for "no answer".
        n_best: the best entries by falling score, as in the published nbest_predictions.json: text, probability (over
            these entries), start_logit, end_logit.
        spans: the characters (start, end) of each entry of ``n_best``; (-1, -1) for one without a place in the context.
        best: which entry of ``n_best`` the prediction is.
        score_diff: v2 only: null score minus the score of the best span; the published null odds.
        no_answer_probability: ``no_answer_probability(score_diff)``; 0.0 in v1.
    """

    prediction: str
    n_best: list[dict[str, Any]]
    spans: list[tuple[int, int]]
    best: int
    score_diff: float | None
    no_answer_probability: float


class DecodedPredictions(NamedTuple):
    """What a reader says to many questions, by their ids: the contents of the three published files."""

    predictions: dict[str, str]
    n_best: dict[str, list[dict[str, Any]]]
    null_odds: dict[str, float]


class _Entry(NamedTuple):
    """An n-best entry on its way: ``is_span`` is False for the null prediction and the placeholder."""

    text: str
    start_logit: float
    end_logit: float
    score: float
    span: tuple[int, int]
    is_span: bool


def span_candidates(
    start_logits: ArrayLike,
    end_logits: ArrayLike,
    offsets: ArrayLike,
    cls_index: ArrayLike,
    *,
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> list[SpanCandidates]:
    """The ``n_best_size`` best spans of each feature of a batch.

    The ``n_best_size`` largest starts and ends are taken over all tokens of the feature, in the order of
    ``np.argsort`` (which settles ties); a pair of them is a span if both tokens are in the context, the end is not
    before the start, and it has at most ``max_answer_length`` tokens. Scores are sums in float32; logits of other types
    are converted first.

    Args:
        start_logits: float [B, T]; -inf means masked.
        end_logits: float [B, T].
        offsets: int [B, T, 2], the characters (start, end) that a context token covers in the context; -1 for all
            other tokens (question, special, padding).
        cls_index: int [B], the token that stands for "no answer".
        n_best_size: how many starts, ends and spans to keep of a feature.
        max_answer_length: in tokens.

    Returns:
        One SpanCandidates a feature, in the order of the batch.

    Raises:
        ConfigError: a size is below 1.
        DataError: shapes that do not fit, a ``cls_index`` outside the feature, or logits that are NaN or +inf: a model
            that gives them has diverged, and any answer read from them would hide it.
    """
    _check_sizes(n_best_size=n_best_size, max_answer_length=max_answer_length)
    starts, ends = (np.asarray(logits, dtype=np.float32) for logits in (start_logits, end_logits))
    places, cls = np.asarray(offsets), np.asarray(cls_index)
    _check_batch(starts, ends, places, cls)
    if not len(starts):
        return []
    width = min(n_best_size, starts.shape[1])
    step = max(1, PAIRS_AT_ONCE // (width * width))
    found: list[SpanCandidates] = []
    for low in range(0, len(starts), step):
        part = slice(low, low + step)
        found.extend(_candidates(starts[part], ends[part], places[part], cls[part], n_best_size, max_answer_length))
    return found


def decode_spans(
    context: str,
    features: Sequence[SpanCandidates],
    *,
    n_best_size: int = 20,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
) -> DecodedSpans:
    """The answer of one question from the candidates of all its features.

    v1: the best span; the text "empty" if there is none, as published. v2: ``""`` if the lowest null score of the
    features exceeds the score of the best span by more than the threshold, else that span. Where no span has any text
    the published code would answer v2 questions with "empty" or fail; here the answer is ``""``, and ``score_diff`` is
    the null score.

    Args:
        context: what the offsets of the candidates count characters of.
        features: the candidates of each feature, in the order of the windows.
        n_best_size: how many entries to keep: the number that ``span_candidates`` was given.
        version_2_with_negative: whether a question may be unanswerable.
        null_score_diff_threshold: how much better than the best span "no answer" has to be.

    Raises:
        ConfigError: ``n_best_size`` is below 1.
        DataError: there are no features.
    """
    _check_sizes(n_best_size=n_best_size)
    if not features:
        raise DataError("features: need at least one feature of the question, found none")
    null = min(features, key=lambda feature: feature.null_score)
    entries = _best_entries(context, features, null if version_2_with_negative else None, n_best_size)
    if not entries or (len(entries) == 1 and not entries[0].text):
        entries.insert(0, _Entry(PLACEHOLDER, 0.0, 0.0, 0.0, (-1, -1), False))

    best, score_diff = 0, None
    if version_2_with_negative:
        best, score_diff = _choose(entries, null, null_score_diff_threshold)
    return DecodedSpans(
        prediction=entries[best].text,
        n_best=[
            {"text": e.text, "probability": float(p), "start_logit": e.start_logit, "end_logit": e.end_logit}
            for e, p in zip(entries, _probabilities(entries), strict=True)
        ],
        spans=[entry.span for entry in entries],
        best=best,
        score_diff=score_diff,
        no_answer_probability=0.0 if score_diff is None else no_answer_probability(score_diff),
    )


def decode_predictions(
    contexts: Mapping[str, str],
    candidates: Mapping[str, Mapping[int, SpanCandidates]],
    *,
    n_best_size: int = 20,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
) -> DecodedPredictions:
    """``decode_spans`` of many questions, whatever order their candidates arrived in.

    Args:
        contexts: the context by question id.
        candidates: by question id and the feature's number within the question.
        n_best_size: as for ``decode_spans``.
        version_2_with_negative: as for ``decode_spans``.
        null_score_diff_threshold: as for ``decode_spans``.

    Returns:
        predictions, n_best and null_odds (empty in v1) by id, in the order of ``contexts``; ids without candidates are
        absent.

    Raises:
        ConfigError: ``n_best_size`` is below 1.
        DataError: candidates of ids that have no context; all at once.
    """
    unknown = [key for key in candidates if key not in contexts]
    if unknown:
        raise DataError(f"candidates: {key}: needs a context, found none" for key in unknown)
    decoded = DecodedPredictions({}, {}, {})
    for key, context in contexts.items():
        by_number = candidates.get(key)
        if not by_number:
            continue
        answer = decode_spans(
            context,
            [by_number[number] for number in sorted(by_number)],
            n_best_size=n_best_size,
            version_2_with_negative=version_2_with_negative,
            null_score_diff_threshold=null_score_diff_threshold,
        )
        decoded.predictions[key] = answer.prediction
        decoded.n_best[key] = answer.n_best
        if answer.score_diff is not None:
            decoded.null_odds[key] = answer.score_diff
    return decoded


def no_answer_probability(score_diff: float) -> float:
    """The softmax of the null score against the best span's, from their difference alone: its logistic function."""
    if score_diff >= 0:
        return 1.0 / (1.0 + math.exp(-score_diff))
    odds = math.exp(score_diff)
    return odds / (1.0 + odds)


def _candidates(
    starts: NDArray[np.float32],
    ends: NDArray[np.float32],
    offsets: NDArray[Any],
    cls: NDArray[Any],
    n_best_size: int,
    max_answer_length: int,
) -> Iterator[SpanCandidates]:
    """``span_candidates`` of features that fit into memory as [B, n, n] pairs (outer axis start, inner axis end)."""
    size, tokens = starts.shape
    batch = np.arange(size)[:, None]
    first, last = (np.argsort(logits, axis=-1)[:, ::-1][:, :n_best_size] for logits in (starts, ends))
    start_logit, end_logit = starts[batch, first], ends[batch, last]
    char_start, char_end = offsets[batch, first, 0], offsets[batch, last, 1]

    # A start outside the context is put behind every end, and an end outside it before every start.
    behind = np.where(char_start >= 0, first, tokens).astype(np.int32)
    before = np.where(char_end >= 0, last, -1).astype(np.int32)
    length = before[:, None, :] - behind[:, :, None] + 1
    valid = (length >= 1) & (length <= max_answer_length)
    losses = np.where(valid, -_score(start_logit[:, :, None], end_logit[:, None, :]), np.float32(np.inf))
    losses, valid = losses.reshape(size, -1), valid.reshape(size, -1)

    # Sorting is the dear part, so only what can be among the best comes to it. A masked span has the loss inf as well.
    cut = min(n_best_size, losses.shape[1]) - 1
    worst = np.partition(losses, cut, axis=-1)[:, cut, None]
    row, pair = np.divmod(np.flatnonzero(valid & (losses <= worst)), losses.shape[1])
    order = np.lexsort((losses[row, pair], row))  # stable, so equal losses stay in the order of the loops
    row, (i, j) = row[order], np.divmod(pair[order], last.shape[1])
    logits = start_logit[row, i], end_logit[row, j]
    places = char_start[row, i].astype(np.int32), char_end[row, j].astype(np.int32)
    bounds = np.searchsorted(row, np.arange(size + 1)).tolist()
    null_starts, null_ends = starts[batch[:, 0], cls].tolist(), ends[batch[:, 0], cls].tolist()
    for index, (low, high) in enumerate(pairwise(bounds)):
        kept = slice(low, min(high, low + n_best_size))
        yield SpanCandidates(
            logits[0][kept], logits[1][kept], places[0][kept], places[1][kept], null_starts[index], null_ends[index]
        )


def _best_entries(
    context: str, features: Sequence[SpanCandidates], null: SpanCandidates | None, n_best_size: int
) -> list[_Entry]:
    """The best spans of all features and, in v2, the null prediction, which stays even where it falls off the end."""
    starts = np.concatenate([feature.start_logit for feature in features])
    ends = np.concatenate([feature.end_logit for feature in features])
    froms = np.concatenate([feature.char_start for feature in features])
    tos = np.concatenate([feature.char_end for feature in features])
    scores = _score(starts, ends)
    if null is not None:
        scores = np.append(scores, np.float32(null.null_score))
    entries = []
    for index in np.argsort(-scores, kind="stable")[:n_best_size].tolist():
        if null is not None and index == len(starts):
            entries.append(_null_entry(null))
            continue
        span = (int(froms[index]), int(tos[index]))
        text = context[span[0] : span[1]]
        entries.append(_Entry(text, float(starts[index]), float(ends[index]), float(scores[index]), span, True))
    if null is not None and _null_index(entries) == len(entries):
        entries.append(_null_entry(null))
    return entries


def _null_entry(null: SpanCandidates) -> _Entry:
    return _Entry("", null.null_start_logit, null.null_end_logit, null.null_score, (-1, -1), False)


def _null_index(entries: Sequence[_Entry]) -> int:
    """Where "no answer" is among the entries, their number if it is not. The published algorithm knows it by the
    characters (0, 0), so an empty span at the start of the context (a token of no width) stands for it too."""
    return next((i for i, e in enumerate(entries) if e.span == (0, 0) or (not e.is_span and not e.text)), len(entries))


def _choose(entries: Sequence[_Entry], null: SpanCandidates, threshold: float) -> tuple[int, float]:
    """The entry that answers a v2 question, and the null score minus the best span's."""
    diff = np.float32(null.null_score)
    answer = next((index for index, entry in enumerate(entries) if entry.is_span and entry.text), None)
    if answer is None:
        return _null_index(entries), float(diff)
    with np.errstate(invalid="ignore", over="ignore"):  # one logit after the other in float32, as published
        diff = diff - np.float32(entries[answer].start_logit) - np.float32(entries[answer].end_logit)
    if np.isnan(diff):
        diff = np.float32(0.0)  # both are masked: neither is the better one
    return (_null_index(entries) if diff > threshold else answer), float(diff)


def _probabilities(entries: Sequence[_Entry]) -> NDArray[Any]:
    """Softmax over the entries' scores; equal shares where every one of them is masked (-inf)."""
    # The placeholder's score is no float32, which makes the published softmax one in float64.
    exact = any(entry.text == PLACEHOLDER and not entry.is_span for entry in entries)
    scores = np.array([entry.score for entry in entries], dtype=np.float64 if exact else np.float32)
    top = scores.max()
    weights: NDArray[Any] = np.exp(scores - top) if np.isfinite(top) else np.ones_like(scores)
    weights /= weights.sum()
    return weights


def _score(start: Any, end: Any) -> Any:
    """The sum of float32 logits, arrays or numbers."""
    with np.errstate(over="ignore"):  # masks at the lowest float32 add up to -inf, which is what they mean
        return start + end


def _check_sizes(**sizes: int) -> None:
    problems = [f"{name}: must be at least 1, found {size!r}" for name, size in sizes.items() if size < 1]
    if problems:
        raise ConfigError(problems)


def _check_batch(starts: NDArray[Any], ends: NDArray[Any], offsets: NDArray[Any], cls: NDArray[Any]) -> None:
    """Raise every fault of a batch at once."""
    if starts.ndim != 2:
        raise DataError(f"start_logits: must have the shape [features, tokens], found {list(starts.shape)}")
    size, tokens = starts.shape
    problems = [
        f"{name}: must have the shape {wanted} like start_logits, found {list(array.shape)}"
        for name, array, wanted in (
            ("end_logits", ends, [size, tokens]),
            ("offsets", offsets, [size, tokens, 2]),
            ("cls_index", cls, [size]),
        )
        if list(array.shape) != wanted
    ]
    for name, logits in (("start_logits", starts), ("end_logits", ends)):
        broken = np.isnan(logits) | np.isposinf(logits)
        if broken.any():
            where = np.flatnonzero(broken.reshape(len(logits), -1).any(axis=-1)).tolist()
            problems.append(f"{name}: must hold no NaN and no +inf, found such in features {where} of the batch")
    if cls.shape == (size,) and ((cls < 0) | (cls >= tokens)).any():
        problems.append(f"cls_index: must be from 0 to {tokens - 1}, found {cls.tolist()}")
    if problems:
        raise DataError(problems)
