"""Scores of answers that were written rather than extracted, each against several true answers.

The standard library only, so that importing it costs nothing.
"""

import re
from collections.abc import Mapping, Sequence

from model_hub_rqa.metrics.text import exact_match_score, f1_score, max_over_ground_truths

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")


def rouge_tokens(text: str) -> list[str]:
    """Lower-case runs of ASCII letters and digits: the tokens of Google's rouge_score, without its stemmer.

    Other scripts have no tokens, there as here.
    """
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Bit-parallel (Crochemore et al. 2001, "A fast and practical bit-vector algorithm for the longest common subsequence
    problem"): one row of the usual table is one whole number, whose zero bits count the steps.
    """
    places: dict[str, int] = {}
    for i, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << i
    everything = (1 << len(first)) - 1
    row = everything
    for token in second:
        matches = row & places.get(token, 0)
        row = (row + matches | row - matches) & everything
    return len(first) - row.bit_count()


def rouge_l(prediction: str, truth: str) -> float:
    """ROUGE-L (Lin 2004): the F-measure of the longest common subsequence, as Google's rouge_score computes it.

    >>> rouge_l("the cat sat", "the cat sat down on the mat")
    0.6

    Returns:
        A fraction from 0.0 to 1.0; 0.0 where either has no tokens.
    """
    predicted, true = rouge_tokens(prediction), rouge_tokens(truth)
    common = lcs_length(predicted, true)
    return 2 * common / (len(predicted) + len(true)) if common else 0.0


def generation_metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over all questions, in percent, each of the best score over the question's true answers.

    >>> generation_metrics(["the Cat", "dog"], [["cat", "feline"], ["a puppy"]])
    {'exact_match': 50.0, 'f1': 50.0, 'rougeL': 33.33...}

    Args:
        predictions: one answer a question.
        references: the true answers of each, at least one.

    Returns:
        exact_match and f1 on normalised answers (see `metrics.text`), and rougeL.

    Raises:
        ValueError: there is no question, or the two differ in length.
        DataError: a question has no true answer.
    """
    if not predictions:
        raise ValueError("predictions: needs at least one, found none")
    scores: Mapping[str, list[float]] = {"exact_match": [], "f1": [], "rougeL": []}
    for prediction, truths in zip(predictions, references, strict=True):
        for values, score in zip(scores.values(), (exact_match_score, f1_score, rouge_l), strict=True):
            values.append(max_over_ground_truths(score, prediction, truths))
    return {name: 100 * sum(values) / len(values) for name, values in scores.items()}
