"""From the best spans of features to answers with n-best lists: the second half of an extractive reader's decoding.

All questions are decoded at once, on arrays; see `spans` for the source.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_hub_rqa.errors import DataError
from model_hub_rqa.records import Answer
from model_hub_rqa.tasks.extractive.spans import SpanCandidates, TopSpan, add_logits, check_sizes

PLACEHOLDER = "empty"  # the text of the entry that the published algorithm puts in where there is no span at all


@dataclass(frozen=True, slots=True)
class DecodedSpans:
    """What a reader says to one question.

    Attributes:
        prediction: the answer, ``""`` for "no answer".
        n_best: the best entries by falling score, as in the published nbest_predictions.json: text, probability (over
            these entries), start_logit, end_logit.
        spans: the characters (start, end) of each entry of ``n_best``; (-1, -1) for one that is not in the context.
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
    (answer,) = decode_many(
        [context],
        [features],
        n_best_size=n_best_size,
        version_2_with_negative=version_2_with_negative,
        null_score_diff_threshold=null_score_diff_threshold,
    )
    return answer


def decode_many(
    contexts: Sequence[str],
    features: Sequence[Sequence[SpanCandidates]],
    *,
    n_best_size: int = 20,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
) -> list[DecodedSpans]:
    """``decode_spans`` of many questions, each with its context and its features in their order."""
    check_sizes(n_best_size=n_best_size)
    if not all(features):
        raise DataError("features: need at least one feature of the question, got none")
    if not features:
        return []
    entries = _best_entries(contexts, features, n_best_size, version_2_with_negative)
    choice = _choose(entries, null_score_diff_threshold) if version_2_with_negative else None
    return _assemble(contexts, entries, choice)


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
    indices = np.searchsorted(owner[order], np.arange(len(contexts)))
    missing = np.setdiff1d(np.arange(len(contexts)), owner)
    if len(missing):
        raise DataError(f"features: need at least one feature of question {number}, got none" for number in missing)
    best = order[indices]
    # how many entries the n-best list would have: "" alone in it becomes "empty" there
    total = np.minimum(np.bincount(owner, weights=spans.total, minlength=len(contexts)), n_best_size)
    bounds = zip(spans.char_start[best].tolist(), spans.char_end[best].tolist(), strict=True)
    found = [context[max(start, 0) : max(end, 0)] for context, (start, end) in zip(contexts, bounds, strict=True)]
    texts = [text.strip() for text in found]
    return [text if text or count > 1 else PLACEHOLDER for text, count in zip(texts, total.tolist(), strict=True)]


def no_answer_probability(score_diff: float) -> float:
    """The softmax of the null score against the best span's, from their difference alone: its logistic function."""
    if score_diff >= 0:
        return 1.0 / (1.0 + math.exp(-score_diff))
    odds = math.exp(score_diff)
    return odds / (1.0 + odds)


def answer_logits(found: DecodedSpans) -> float:
    """The sum of the start and the end logit of an answer."""
    entry = found.n_best[found.best]
    total: float = entry["start_logit"] + entry["end_logit"]
    return total


def choose_passage(decoded: Sequence[DecodedSpans], rank: Callable[[DecodedSpans], float] = answer_logits) -> Answer:
    """The answer of a question that was read in several passages.

    Each passage answers or not by itself, as a context does: in v2.0 by the lowest null score of its windows, the score
    of its best span and the threshold (Devlin et al. 2018, arXiv:1810.04805, section 4.3; `decode_spans`). The answer
    is "" where no passage answers. Of the passages that do, the highest-ranking span wins, and the better ranked
    passage of equals: logits are compared across passages as they are, as those of a question's windows (and as in
    Wang et al. 2019, arXiv:1908.08167, section 2). Null scores of different passages are not compared: a passage far
    from the question may have low logits of both kinds. Probabilities are over the n best of all passages together,
    and the score of a passage is what its own sum up to.

    Args:
        decoded: what was decoded of each passage, the best ranked first.
        rank: the number by which passages that answer are compared.
    """
    entries = [
        (index, number, entry["start_logit"] + entry["end_logit"])
        for index, found in enumerate(decoded)
        for number, entry in enumerate(found.n_best)
        if found.spans[number] != (-1, -1) or not entry["text"]  # "empty" stands for nothing that was found
    ]
    highest = max((total for *_, total in entries), default=0.0)
    weights = {(index, number): math.exp(total - highest) for index, number, total in entries}
    mass = math.fsum(weights.values()) or 1.0
    scores = [0.0] * len(decoded)
    for (index, number), weight in weights.items():
        scores[index] += weight / mass if decoded[index].n_best[number]["text"] else 0.0
    answering = [index for index, found in enumerate(decoded) if found.prediction and found.spans[found.best][0] >= 0]
    if not answering:
        nothing = math.fsum(weight for (index, number), weight in weights.items() if not _text(decoded, index, number))
        return Answer("", nothing / mass, passage_scores=tuple(scores))
    best = max(answering, key=lambda index: rank(decoded[index]))
    found = decoded[best]
    start, end = found.spans[found.best]
    return Answer(found.prediction, weights[best, found.best] / mass, best, start, end, tuple(scores))


def _text(decoded: Sequence[DecodedSpans], index: int, number: int) -> str:
    text: str = decoded[index].n_best[number]["text"]
    return text


class _Entries(NamedTuple):
    """The n-best entries of all questions, question after question, the best first.

    ``begin`` [Q + 1] says where each question's begin; the others have one element an entry: the question, the logits,
    the score, the characters (-1 for none), whether it is a span, and whether its text is empty. ``null_score``
    [Q] is that of "no answer".
    """

    begin: NDArray[Any]
    owner: NDArray[Any]
    start: NDArray[np.float32]
    end: NDArray[np.float32]
    score: NDArray[np.float32]
    char_start: NDArray[Any]
    char_end: NDArray[Any]
    is_span: NDArray[np.bool_]
    is_empty: NDArray[np.bool_]
    null_score: NDArray[np.float32]


def _best_entries(
    contexts: Sequence[str], features: Sequence[Sequence[SpanCandidates]], n_best_size: int, version_2: bool
) -> _Entries:
    """The best spans of all features of each question and, in v2, the null prediction, which stays even where it falls
    off the end. The placeholder stands before an entry without text that is alone, and where there is none. Spans end
    up without their outer white space."""
    flat = [feature for row in features for feature in row]
    count = len(contexts)
    question = np.repeat(np.arange(count), [len(row) for row in features])
    null_start, null_end, null_score = _nulls(flat, question, count)
    owner = np.repeat(question, [len(feature) for feature in flat])
    columns = [
        np.concatenate([getattr(feature, name) for feature in flat])
        for name in ("start_logit", "end_logit", "char_start", "char_end")
    ]
    kinds = np.zeros(len(owner), np.int8)  # 0: a span, 1: the null prediction, 2: the placeholder
    if version_2:
        nowhere = np.full(count, -1)
        added = (null_start, null_end, nowhere, nowhere)
        columns = [np.concatenate(pair) for pair in zip(columns, added, strict=True)]
        owner, kinds = np.concatenate([owner, np.arange(count)]), np.concatenate([kinds, np.ones(count, np.int8)])
    score = add_logits(*columns[:2])
    order = np.lexsort((-score, owner))  # stable: equal scores keep the order of the features, null last
    order = order[_kept(order, owner, kinds, columns[2], columns[3], count, n_best_size)]
    owner, kinds, score, *columns = (values[order] for values in (owner, kinds, score, *columns))
    _trim(contexts, owner, columns[2], columns[3])

    lengths = np.fromiter(map(len, contexts), np.int64, count)
    is_empty = columns[2] >= np.minimum(columns[3], lengths[owner])
    total = np.bincount(owner, minlength=count)
    with_text = np.bincount(owner, weights=~is_empty, minlength=count)
    lonely = np.flatnonzero((total == 0) | ((total == 1) & (with_text == 0)))
    indices = np.searchsorted(owner, lonely)
    owner, kinds = np.insert(owner, indices, lonely), np.insert(kinds, indices, 2)
    start, end, score = (np.insert(values, indices, 0.0) for values in (*columns[:2], score))
    char_start, char_end = (np.insert(values, indices, -1) for values in columns[2:])
    is_empty = np.insert(is_empty, indices, False)
    begin = np.searchsorted(owner, np.arange(count + 1))
    return _Entries(begin, owner, start, end, score, char_start, char_end, kinds == 0, is_empty, null_score)


def _trim(contexts: Sequence[str], owner: NDArray[Any], char_start: NDArray[Any], char_end: NDArray[Any]) -> None:
    """Moves spans past their outer white space, in place: some tokenizers count the space before a word to its token.
    One of nothing else becomes empty, at its end: (0, 0) would be taken for the null prediction."""
    indices = zip(owner.tolist(), char_start.tolist(), char_end.tolist(), strict=True)
    for number, (question, start, end) in enumerate(indices):
        text = contexts[question][start:end]
        if text[:1].isspace() or text[-1:].isspace():
            char_start[number], char_end[number] = trim_span(contexts[question], start, end)


def trim_span(context: str, start: int, end: int) -> tuple[int, int]:
    """The characters of a span without its outer white space.

    >>> trim_span("an  oil embargo", 2, 8), trim_span("an  oil embargo", 2, 4)
    ((4, 7), (4, 4))
    """
    text = context[start:end].lstrip()
    first = start + len(context[start:end]) - len(text)
    return first, first + len(text.rstrip())


def _nulls(
    flat: Sequence[SpanCandidates], question: NDArray[Any], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The logits and the score of "no answer" of each question: the lowest of its features', of equals the first."""
    starts = np.array([feature.null_start_logit for feature in flat], np.float32)
    ends = np.array([feature.null_end_logit for feature in flat], np.float32)
    scores = add_logits(starts, ends)
    order = np.lexsort((scores, question))
    first = order[np.searchsorted(question[order], np.arange(count))]
    return starts[first], ends[first], scores[first]


def _kept(
    order: NDArray[Any],
    owner: NDArray[Any],
    kinds: NDArray[np.int8],
    char_start: NDArray[Any],
    char_end: NDArray[Any],
    count: int,
    n_best_size: int,
) -> NDArray[np.bool_]:
    """Which of the sorted entries stay: each question's first ``n_best_size``, and its null prediction. The published
    algorithm knows that by the characters (0, 0), so an empty span at the context's start (a token of no width) stands
    for it too."""
    sorted_owner = owner[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_owner, np.arange(count))[sorted_owner]
    kept: NDArray[np.bool_] = rank < n_best_size
    is_null = kinds[order] == 1
    stands_for_it = is_null | ((char_start[order] == 0) & (char_end[order] == 0))
    present = np.bincount(sorted_owner[kept & stands_for_it], minlength=count) > 0
    result: NDArray[np.bool_] = kept | (is_null & ~present[sorted_owner])
    return result


class _Choice(NamedTuple):
    """v2: which entry answers each question, and the null score minus the best span's."""

    best: NDArray[Any]
    score_diff: NDArray[np.float32]


def _choose(entries: _Entries, threshold: float) -> _Choice:
    is_null = (entries.char_start == 0) & (entries.char_end == 0) | ~entries.is_span & entries.is_empty
    null = _first(is_null, entries)
    answer = _first(entries.is_span & ~entries.is_empty, entries)
    answered = answer < entries.begin[1:]
    index = np.where(answered, answer, 0)
    with np.errstate(invalid="ignore", over="ignore"):  # one logit after the other in float32, as published
        diff = entries.null_score - entries.start[index] - entries.end[index]
    diff = np.where(np.isnan(diff), np.float32(0), diff)  # both are masked: neither is the better one
    diff = np.where(answered, diff, entries.null_score)
    best = np.where(answered & ~(diff > threshold), answer, null)
    return _Choice(best - entries.begin[:-1], diff)


def _first(mask: NDArray[np.bool_], entries: _Entries) -> NDArray[Any]:
    """The index of each question's first entry in the mask; where its entries end if there is none."""
    indices = np.append(np.flatnonzero(mask), len(mask))
    found = indices[np.searchsorted(indices, entries.begin[:-1])]
    result: NDArray[Any] = np.minimum(found, entries.begin[1:])
    return result


def _probabilities(entries: _Entries) -> NDArray[np.float64]:
    """Softmax over each question's scores, in float32; equal shares where every one of them is masked (-inf)."""
    shares = np.empty(len(entries.score))
    sizes = np.diff(entries.begin)
    # The placeholder's score is no float32, which makes the published softmax one in float64.
    exact = ~entries.is_span[entries.begin[:-1]] & ~entries.is_empty[entries.begin[:-1]]
    # Questions with as many entries are taken together: sums of rows then round as those of single questions do.
    for size in np.unique(sizes).tolist():
        for dtype in (np.float32, np.float64):
            questions = np.flatnonzero((sizes == size) & (exact == (dtype is np.float64)))
            indices = entries.begin[questions, None] + np.arange(size)
            scores = entries.score[indices].astype(dtype)
            top = scores.max(axis=1, initial=-np.inf, keepdims=True)
            finite = np.isfinite(top)
            weights = np.exp(np.where(finite, scores - np.where(finite, top, 0), 0))
            shares[indices] = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _assemble(contexts: Sequence[str], entries: _Entries, choice: _Choice | None) -> list[DecodedSpans]:
    spans = list(zip(entries.char_start.tolist(), entries.char_end.tolist(), strict=True))
    owners = entries.owner.tolist()
    texts = [
        "" if empty else contexts[owner][start:end]
        for owner, empty, (start, end) in zip(owners, entries.is_empty.tolist(), spans, strict=True)
    ]
    for index in np.flatnonzero(~entries.is_span & ~entries.is_empty).tolist():
        texts[index] = PLACEHOLDER
    columns = (_probabilities(entries).tolist(), entries.start.tolist(), entries.end.tolist())
    n_best = [
        {"text": text, "probability": probability, "start_logit": start, "end_logit": end}
        for text, probability, start, end in zip(texts, *columns, strict=True)
    ]
    bounds = entries.begin.tolist()
    best = [0] * len(contexts) if choice is None else choice.best.tolist()
    diffs: list[float | None] = [None] * len(contexts) if choice is None else choice.score_diff.tolist()
    return [
        DecodedSpans(
            prediction=texts[low + index],
            n_best=n_best[low:high],
            spans=spans[low:high],
            best=index,
            score_diff=diff,
            no_answer_probability=0.0 if diff is None else no_answer_probability(diff),
        )
        for low, high, index, diff in zip(bounds[:-1], bounds[1:], best, diffs, strict=True)
    ]
