"""The one answer of each question, straight from arrays: for where nobody asks for n-best lists (SQuAD v1.1)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_hub_rqa.errors import DataError
from model_hub_rqa.tasks.extractive.decoding import PLACEHOLDER
from model_hub_rqa.tasks.extractive.spans import check_batch, check_sizes, span_pairs


class TopSpan(NamedTuple):
    """The best span of each feature of a batch: its characters (-1 where there is none), its score (-inf then), and
    how many spans were candidates; arrays of one element a feature."""

    char_start: NDArray[Any]
    char_end: NDArray[Any]
    score: NDArray[np.float32]
    total: NDArray[Any]


def top_spans(
    start_logits: ArrayLike,
    end_logits: ArrayLike,
    offsets: ArrayLike,
    cls_index: ArrayLike,
    *,
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> TopSpan:
    """The first of ``span_candidates`` of each feature, without the others; arguments and errors are the same."""
    check_sizes(n_best_size=n_best_size, max_answer_length=max_answer_length)
    starts, ends = (np.asarray(logits, dtype=np.float32) for logits in (start_logits, end_logits))
    places, cls = np.asarray(offsets), np.asarray(cls_index)
    check_batch(starts, ends, places, cls)
    first, last, losses, valid = span_pairs(starts, ends, places, n_best_size, max_answer_length)
    batch, count = np.arange(len(starts)), valid.sum(axis=1)
    # Among equal losses the first pair wins, as in the sorted list; a masked span has the loss inf, as no span has.
    best = np.where(losses.min(axis=1) < np.inf, losses.argmin(axis=1), valid.argmax(axis=1))
    i, j = np.divmod(best, last.shape[1])
    found = count > 0
    return TopSpan(
        np.where(found, places[batch, first[batch, i], 0], -1),
        np.where(found, places[batch, last[batch, j], 1], -1),
        np.where(found, -losses[batch, best], -np.inf).astype(np.float32),
        count,
    )


def decode_top(
    contexts: Sequence[str], example_index: ArrayLike, spans: TopSpan, *, n_best_size: int = 20
) -> list[str]:
    """The v1 prediction of each question, without its n-best list: what ``decode_spans`` predicts.

    Args:
        contexts: of each question.
        example_index: int [features], the question's number; the windows of a question in their order.
        spans: of the features.
        n_best_size: the number that ``top_spans`` was given.

    Raises:
        DataError: a question has no feature.
    """
    owner = np.asarray(example_index)
    order = np.lexsort((np.arange(len(owner)), -spans.score, -(spans.total > 0).astype(np.int8), owner))
    places = np.searchsorted(owner[order], np.arange(len(contexts)))
    missing = np.setdiff1d(np.arange(len(contexts)), owner)
    if len(missing):
        raise DataError(f"features: need at least one feature of question {number}, found none" for number in missing)
    best = order[places]
    # how many entries the n-best list would have: "" alone in it becomes "empty" there
    total = np.minimum(np.bincount(owner, weights=spans.total, minlength=len(contexts)), n_best_size)
    bounds = zip(spans.char_start[best].tolist(), spans.char_end[best].tolist(), strict=True)
    found = [context[max(start, 0) : max(end, 0)] for context, (start, end) in zip(contexts, bounds, strict=True)]
    texts = [text.strip() for text in found]
    return [text if text or count > 1 else PLACEHOLDER for text, count in zip(texts, total.tolist(), strict=True)]
