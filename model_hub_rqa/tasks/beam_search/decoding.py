"""Decoding of a head that predicts the end from the start (XLNet's and XLM's): a beam of spans, and a null score.

The head (Yang et al. 2019, arXiv:1906.08237; in transformers, ``XLNetForQuestionAnswering``) gives P(start), for each
of its best starts P(end | start), and from the CLS token the log-odds that there is no answer. A span's score is the
logarithm of P(start) P(end | start). ``beam_candidates`` keeps the best spans of every feature, ``decode_beams`` joins
the features of each question.

Shapes: B features (a question with one window of its context), T tokens, S starts of the beam, E ends for each start.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_hub_rqa.errors import DataError
from model_hub_rqa.tasks.extractive.decoding import DecodedSpans, decode_many, no_answer_probability
from model_hub_rqa.tasks.extractive.spans import SpanCandidates, add_logits, check_sizes

NOWHERE = (-1, -1)  # the span of an entry without one in the context


def beam_candidates(
    start_log_probs: ArrayLike,
    start_index: ArrayLike,
    end_log_probs: ArrayLike,
    end_index: ArrayLike,
    cls_logits: ArrayLike,
    offsets: ArrayLike,
    *,
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> list[SpanCandidates]:
    """The ``n_best_size`` best spans of each feature's beam.

    A start and one of its ends are a span if both tokens are in the context, the end is not before the start, and it
    has at most ``max_answer_length`` tokens. Of equal scores the better start comes first, and then the better end.

    Args:
        start_log_probs: float [B, S], log P(start); -inf where the token is masked.
        start_index: int [B, S], the tokens of the starts.
        end_log_probs: float [B, S, E], log P(end | start).
        end_index: int [B, S, E], the tokens of each start's ends.
        cls_logits: float [B], log-odds of "no answer here".
        offsets: int [B, T, 2], the characters (start, end) that a context token covers in the context; -1 for all
            other tokens (question, special, padding).
        n_best_size: how many spans to keep of a feature.
        max_answer_length: in tokens.

    Returns:
        One SpanCandidates a feature, in the order of the batch: the logits are log-probabilities, and the null score
        is the feature's ``cls_logits``.

    Raises:
        ConfigError: a size is below 1.
        DataError: shapes that do not fit, a token outside the feature, or numbers that no probabilities have (NaN,
            +inf): the model has diverged.
    """
    check_sizes(n_best_size=n_best_size, max_answer_length=max_answer_length)
    starts, ends, nulls = (np.asarray(one, np.float32) for one in (start_log_probs, end_log_probs, cls_logits))
    first, last, token_offsets = np.asarray(start_index), np.asarray(end_index), np.asarray(offsets)
    _check_beams(starts, first, ends, last, nulls, token_offsets)
    size, n_starts, n_ends = ends.shape
    batch = np.arange(size)[:, None]
    begins = np.repeat(first, n_ends, axis=1)  # pairs start by start [B, S * E]
    stops = last.reshape(size, -1)
    start, end = np.repeat(starts, n_ends, axis=1), ends.reshape(size, -1)
    length = stops - begins + 1
    valid = (length >= 1) & (length <= max_answer_length)
    valid &= (token_offsets[batch, begins, 0] >= 0) & (token_offsets[batch, stops, 0] >= 0)
    order = np.lexsort((-add_logits(start, end), ~valid), axis=1)  # stable
    row, rank = np.nonzero(np.arange(n_starts * n_ends) < np.minimum(valid.sum(axis=1), n_best_size)[:, None])
    kept = order[row, rank]
    start, end = start[row, kept], end[row, kept]
    char_start = token_offsets[row, begins[row, kept], 0].astype(np.int32)
    char_end = token_offsets[row, stops[row, kept], 1].astype(np.int32)
    bounds = np.searchsorted(row, np.arange(size + 1)).tolist()
    return [
        SpanCandidates(start[low:high], end[low:high], char_start[low:high], char_end[low:high], null, 0.0)
        for (low, high), null in zip(pairwise(bounds), nulls.tolist(), strict=True)
    ]


def decode_beams(
    contexts: Sequence[str],
    features: Sequence[Sequence[SpanCandidates]],
    *,
    n_best_size: int = 20,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
) -> list[DecodedSpans]:
    """The answers of many questions, each with its context and the candidates of its features in their order.

    v1: as `decode_many`. v2: the null score is the lowest ``cls_logits`` of the features, and it is
    all of ``score_diff``, as published (transformers' example ``run_qa_beam_search``): ``""`` where it exceeds the
    threshold, else the best span with text. ``""`` stands in the n-best list as well, with the probability that the
    null score is the log-odds of; the spans share what is left as in v1.

    Raises:
        ConfigError: ``n_best_size`` is below 1.
        DataError: a question has no features.
    """
    decoded = decode_many(contexts, features, n_best_size=n_best_size)
    if not version_2_with_negative:
        return decoded
    return [
        _with_null(found, min(feature.null_score for feature in row), null_score_diff_threshold)
        for found, row in zip(decoded, features, strict=True)
    ]


def _with_null(found: DecodedSpans, null_score: float, threshold: float) -> DecodedSpans:
    """A v1 answer with the choice between it and "no answer"."""
    pairs = [pair for pair in zip(found.n_best, found.spans, strict=True) if pair[1] != NOWHERE]  # no placeholder
    nothing = no_answer_probability(null_score)
    entries = [{**entry, "probability": (1 - nothing) * entry["probability"]} for entry, _ in pairs]
    mass = math.fsum(math.exp(entry["start_logit"] + entry["end_logit"]) for entry in entries)
    null = {
        "text": "",
        "probability": nothing if entries else 1.0,
        # A softmax over the scores of the list gives its probabilities.
        "start_logit": null_score + (math.log(mass) if mass else 0.0),
        "end_logit": 0.0,
    }
    index = sum(entry["probability"] >= nothing for entry in entries)
    n_best = [*entries[:index], null, *entries[index:]]
    spans = [span for _, span in pairs]
    best = next((number for number, entry in enumerate(n_best) if entry["text"]), index)
    if null_score > threshold:
        best = index
    return DecodedSpans(
        prediction=n_best[best]["text"],
        n_best=n_best,
        spans=[*spans[:index], NOWHERE, *spans[index:]],
        best=best,
        score_diff=null_score,
        no_answer_probability=nothing,
    )


def _check_beams(
    starts: NDArray[Any],
    first: NDArray[Any],
    ends: NDArray[Any],
    last: NDArray[Any],
    nulls: NDArray[Any],
    offsets: NDArray[Any],
) -> None:
    """Raises DataError with every error of a batch."""
    if ends.ndim != 3 or offsets.ndim != 3:
        raise DataError(
            f"end_log_probs and offsets: must have the shapes [features, starts, ends] and [features, tokens, 2], "
            f"got {list(ends.shape)} and {list(offsets.shape)}"
        )
    size, n_starts, _ = ends.shape
    tokens = offsets.shape[1]
    errors = [
        f"{name}: must have the shape {wanted}, got {list(array.shape)}"
        for name, array, wanted in (
            ("start_log_probs", starts, [size, n_starts]),
            ("start_index", first, [size, n_starts]),
            ("end_index", last, list(ends.shape)),
            ("cls_logits", nulls, [size]),
            ("offsets", offsets, [size, tokens, 2]),
        )
        if list(array.shape) != wanted
    ]
    for name, numbers in (("start_log_probs", starts), ("end_log_probs", ends), ("cls_logits", nulls)):
        if (np.isnan(numbers) | np.isposinf(numbers)).any():
            errors.append(f"{name}: must hold no NaN and no +inf")
    for name, index in (("start_index", first), ("end_index", last)):
        if ((index < 0) | (index >= tokens)).any():
            errors.append(f"{name}: must be from 0 to {tokens - 1}, got {index.min()} to {index.max()}")
    if errors:
        raise DataError(errors)
