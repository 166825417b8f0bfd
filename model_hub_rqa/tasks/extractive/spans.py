"""From start and end logits to the best spans of every feature: the first half of an extractive reader's decoding.

In two steps, so that a distributed evaluation gathers small things and never whole logits: ``span_candidates`` keeps
the few best spans of every feature where the logits are, and `decoding` joins the features of each question.
Together they give what the published post-processing gives on whole logits (Devlin et al. 2018, arXiv:1810.04805,
sections 4.2 and 4.3, in the form of transformers' question-answering example, ``postprocess_qa_predictions``).

Shapes: B features (a question with one window of its context), T tokens each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_hub_rqa.errors import ConfigError, DataError

PAIRS_AT_ONCE = 1 << 21  # pairs of a start and an end held in memory together (about 20 bytes each)


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
        return float(add_logits(np.float32(self.null_start_logit), np.float32(self.null_end_logit)))

    def __len__(self) -> int:
        return len(self.start_logit)


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

    The ``n_best_size`` largest starts and ends are taken over all tokens of the feature, of equal ones the later token
    first; a pair of them is a span if both tokens are in the context, the end is not
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
    check_sizes(n_best_size=n_best_size, max_answer_length=max_answer_length)
    starts, ends = (np.asarray(logits, dtype=np.float32) for logits in (start_logits, end_logits))
    token_offsets, cls = np.asarray(offsets), np.asarray(cls_index)
    check_batch(starts, ends, token_offsets, cls)
    if not len(starts):
        return []
    width = min(n_best_size, starts.shape[1])
    step = max(1, PAIRS_AT_ONCE // (width * width))
    found: list[SpanCandidates] = []
    for low in range(0, len(starts), step):
        part = slice(low, low + step)
        found.extend(
            _candidates(starts[part], ends[part], token_offsets[part], cls[part], n_best_size, max_answer_length)
        )
    return found


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
    token_offsets, cls = np.asarray(offsets), np.asarray(cls_index)
    check_batch(starts, ends, token_offsets, cls)
    first, last, losses, valid = span_pairs(starts, ends, token_offsets, n_best_size, max_answer_length)
    batch, count = np.arange(len(starts)), valid.sum(axis=1)
    # Among equal losses the first pair wins, as in the sorted list; a masked span has the loss inf, as no span has.
    best = np.where(losses.min(axis=1) < np.inf, losses.argmin(axis=1), valid.argmax(axis=1))
    i, j = np.divmod(best, last.shape[1])
    found = count > 0
    return TopSpan(
        np.where(found, token_offsets[batch, first[batch, i], 0], -1),
        np.where(found, token_offsets[batch, last[batch, j], 1], -1),
        np.where(found, -losses[batch, best], -np.inf).astype(np.float32),
        count,
    )


def _candidates(
    starts: NDArray[np.float32],
    ends: NDArray[np.float32],
    offsets: NDArray[Any],
    cls: NDArray[Any],
    n_best_size: int,
    max_answer_length: int,
) -> Iterator[SpanCandidates]:
    """``span_candidates`` of features that fit into memory as [B, n, n] pairs (outer axis start, inner axis end)."""
    size = len(starts)
    batch = np.arange(size)[:, None]
    first, last, losses, valid = span_pairs(starts, ends, offsets, n_best_size, max_answer_length)
    start_logit, end_logit = starts[batch, first], ends[batch, last]
    char_start, char_end = offsets[batch, first, 0], offsets[batch, last, 1]

    # Sorting is the dear part, so only what can be among the best comes to it. A masked span has the loss inf as well.
    cut = min(n_best_size, losses.shape[1]) - 1
    worst = np.partition(losses, cut, axis=-1)[:, cut, None]
    row, pair = np.divmod(np.flatnonzero(valid & (losses <= worst)), losses.shape[1])
    order = np.lexsort((losses[row, pair], row))  # stable, so equal losses stay in the order of the loops
    row, (i, j) = row[order], np.divmod(pair[order], last.shape[1])
    logits = start_logit[row, i], end_logit[row, j]
    token_offsets = char_start[row, i].astype(np.int32), char_end[row, j].astype(np.int32)
    bounds = np.searchsorted(row, np.arange(size + 1)).tolist()
    null_starts, null_ends = starts[batch[:, 0], cls].tolist(), ends[batch[:, 0], cls].tolist()
    for index, (low, high) in enumerate(pairwise(bounds)):
        kept = slice(low, min(high, low + n_best_size))
        yield SpanCandidates(
            logits[0][kept],
            logits[1][kept],
            token_offsets[0][kept],
            token_offsets[1][kept],
            null_starts[index],
            null_ends[index],
        )


def span_pairs(
    starts: NDArray[np.float32],
    ends: NDArray[np.float32],
    offsets: NDArray[Any],
    n_best_size: int,
    max_answer_length: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32], NDArray[np.bool_]]:
    """The best starts and ends of each feature [B, n], and of their pairs, start by start, the negative scores (inf
    where the pair is no span) and whether they are spans [B, n * n]."""
    size, tokens = starts.shape
    batch = np.arange(size)[:, None]
    first, last = _largest(starts, n_best_size), _largest(ends, n_best_size)
    # A start outside the context is put behind every end, and an end outside it before every start.
    behind = np.where(offsets[batch, first, 0] >= 0, first, tokens).astype(np.int32)
    before = np.where(offsets[batch, last, 1] >= 0, last, -1).astype(np.int32)
    length = before[:, None, :] - behind[:, :, None] + 1
    valid = (length >= 1) & (length <= max_answer_length)
    scores = add_logits(starts[batch, first][:, :, None], ends[batch, last][:, None, :])
    losses = np.where(valid, -scores, np.float32(np.inf))
    return first, last, losses.reshape(size, -1), valid.reshape(size, -1)


def _largest(logits: NDArray[np.float32], count: int) -> NDArray[Any]:
    """The tokens of the ``count`` largest logits of each row, the largest first, of equal ones the later first.

    Logits become whole numbers of the same order (of IEEE 754's bits), with the token in the lower half: these are all
    different, and partitioning them is many times as fast as sorting rows.
    """
    bits = (logits + np.float32(0)).view(np.int32)  # + 0: minus zero is zero
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (ordered.astype(np.int64) << 32) | np.arange(logits.shape[1])
    count = min(count, logits.shape[1])
    kept = np.sort(np.partition(keys, -count, axis=1)[:, -count:], axis=1)[:, ::-1]
    tokens: NDArray[Any] = kept & 0xFFFFFFFF
    return tokens


def add_logits(start: Any, end: Any) -> Any:
    """The score of spans: the sum of their float32 logits, arrays or numbers."""
    with np.errstate(over="ignore"):  # masks at the lowest float32 add up to -inf, which is what they mean
        return start + end


def check_sizes(**sizes: int) -> None:
    """Raises ConfigError for each size below 1."""
    errors = [f"{name}: must be at least 1, got {size!r}" for name, size in sizes.items() if size < 1]
    if errors:
        raise ConfigError(errors)


def check_batch(starts: NDArray[Any], ends: NDArray[Any], offsets: NDArray[Any], cls: NDArray[Any]) -> None:
    """Raises DataError with every error of a batch."""
    if starts.ndim != 2:
        raise DataError(f"start_logits: must have the shape [features, tokens], got {list(starts.shape)}")
    size, tokens = starts.shape
    errors = [
        f"{name}: must have the shape {wanted} like start_logits, got {list(array.shape)}"
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
            errors.append(f"{name}: must hold no NaN and no +inf, got such in features {where} of the batch")
    if cls.shape == (size,) and ((cls < 0) | (cls >= tokens)).any():
        errors.append(f"cls_index: must be from 0 to {tokens - 1}, got {cls.tolist()}")
    if errors:
        raise DataError(errors)
