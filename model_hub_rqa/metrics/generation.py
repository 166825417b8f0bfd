"""Scores of generated answers, each against several gold answers.

The standard library only, so that importing it costs nothing.
"""

import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from model_hub_rqa.libraries import require
from model_hub_rqa.metrics.languages import rules_for, unicode_words
from model_hub_rqa.metrics.text import (
    SQUAD_RULES,
    AnswerRules,
    exact_match_score,
    f1_score,
    max_over_ground_truths,
    precision_score,
)
from model_hub_rqa.registry import METRICS

_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")
_BLEU_TOKENIZERS = {
    "zh": ("zh",),
    "ja": ("ja-mecab", "char"),
    "ko": ("ko-mecab", "char"),
    **dict.fromkeys(("th", "lo", "km", "my", "bo", "dz"), ("char",)),
}

Tokenize = Callable[[str], list[str]]


def rouge_tokens(text: str) -> list[str]:
    """Lower-case runs of ASCII letters and digits: the tokens of Google's rouge_score, without its stemmer.

    Other scripts have no tokens, there as here: `languages.unicode_words` is for answers that are not in English.
    """
    return _NOT_ALPHANUMERIC.sub(" ", text.lower()).split()


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    Bit-parallel (Crochemore et al. 2001, "A fast and practical bit-vector algorithm for the longest common subsequence
    error"): one row of the usual table is one whole number, whose zero bits count the steps.
    """
    positions: dict[str, int] = {}
    for i, token in enumerate(first):
        positions[token] = positions.get(token, 0) | 1 << i
    everything = (1 << len(first)) - 1
    row = everything
    for token in second:
        matches = row & positions.get(token, 0)
        row = (row + matches | row - matches) & everything
    return len(first) - row.bit_count()


def rouge_l(prediction: str, reference: str, tokenize: Tokenize = rouge_tokens) -> float:
    """ROUGE-L (Lin 2004): the F-measure of the longest common subsequence, as Google's rouge_score computes it.

    >>> rouge_l("the cat sat", "the cat sat down on the mat")
    0.6

    Returns:
        A fraction from 0.0 to 1.0; 0.0 where either has no tokens.
    """
    predicted, true = tokenize(prediction), tokenize(reference)
    common = lcs_length(predicted, true)
    return 2 * common / (len(predicted) + len(true)) if common else 0.0


def rouge_n(prediction: str, reference: str, n: int, tokenize: Tokenize = rouge_tokens) -> float:
    """ROUGE-N (Lin 2004): the F-measure of common runs of ``n`` tokens, as Google's rouge_score computes it.

    >>> rouge_n("the cat sat", "the cat ran", 2)
    0.5
    """
    predicted, true = (_runs(tokenize(text), n) for text in (prediction, reference))
    common = (predicted & true).total()
    return 2 * common / (predicted.total() + true.total()) if common else 0.0


def _runs(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


_Score = Callable[[str, str], float]


_VALIDATION = ("exact_match", "f1", "rougeL")


def _scores(rules: AnswerRules) -> dict[str, _Score]:
    tokenize = rouge_tokens if rules == SQUAD_RULES else unicode_words
    return {
        "exact_match": partial(exact_match_score, rules=rules),
        "f1": partial(f1_score, rules=rules),
        "precision": partial(precision_score, rules=rules),
        "rouge1": partial(rouge_n, n=1, tokenize=tokenize),
        "rouge2": partial(rouge_n, n=2, tokenize=tokenize),
        "rougeL": partial(rouge_l, tokenize=tokenize),
    }


def generation_metrics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, rules: AnswerRules = SQUAD_RULES
) -> dict[str, float]:
    """Means over all questions, in percent, each of the best score over the question's gold answers.

    >>> generation_metrics(["the Cat", "dog"], [["cat", "feline"], ["a puppy"]])
    {'exact_match': 50.0, 'f1': 50.0, 'rougeL': 33.33...}

    Args:
        predictions: one answer a question.
        references: the gold answers of each, at least one.
        rules: of the answers' language (`metrics.languages`); English ones are the default.

    Returns:
        exact_match and f1 on normalised answers (see `metrics.text`), and rougeL.

    Raises:
        ValueError: there is no question, or the two differ in length.
        DataError: a question has no gold answer.
    """
    scores = _scores(rules)
    return _means({name: scores[name] for name in _VALIDATION}, predictions, references)


def answer_metrics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, rules: AnswerRules = SQUAD_RULES
) -> dict[str, float]:
    """Those of :func:`generation_metrics`, and precision, rouge1, rouge2 (means too), bleu and bleu_effective, all in
    percent.

    Args, errors: as for :func:`generation_metrics`; ConfigError where sacrebleu is not installed.
    """
    tokenizer = bleu_tokenizer(rules.language)
    return {
        **_means(_scores(rules), predictions, references),
        "bleu": bleu(predictions, references, tokenizer=tokenizer),
        "bleu_effective": bleu(predictions, references, tokenizer=tokenizer, effective_order=True),
    }


@METRICS.register("bleu")
def bleu(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenizer: str = "13a",
    effective_order: bool = False,
) -> float:
    """BLEU of all answers together (Papineni et al. 2002), 0 to 100, by sacrebleu with its own settings.

    Args:
        predictions, references: as for :func:`generation_metrics`.
        tokenizer: sacrebleu's name of one, see :func:`bleu_tokenizer`.
        effective_order: False: runs of one to four tokens count, as in every published number, so that the score is 0
            where no answer has four tokens. True: runs up to the longest that there are.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    most = max(map(len, references))
    streams: Any = [
        [answers[i] if i < len(answers) else None for answers in references] for i in range(most)
    ]  # its types lack None
    scorer = _sacrebleu()(tokenize=tokenizer, effective_order=effective_order)
    return float(scorer.corpus_score(list(predictions), streams).score)


@METRICS.register("rouge1")
def rouge1(predictions: Sequence[str], references: Sequence[Sequence[str]], language: str = "en") -> float:
    """ROUGE-1 in percent, a mean as in :func:`answer_metrics`; ``language`` is that of the answers."""
    return _means({"": _scores(rules_for(language))["rouge1"]}, predictions, references)[""]


@METRICS.register("rouge2")
def rouge2(predictions: Sequence[str], references: Sequence[Sequence[str]], language: str = "en") -> float:
    """ROUGE-2, likewise."""
    return _means({"": _scores(rules_for(language))["rouge2"]}, predictions, references)[""]


for _metric in (bleu, rouge1, rouge2):
    setattr(_metric, "higher_is_better", True)  # noqa: B010 - a function's type has no such attribute


def bleu_tokenizer(language: str) -> str:
    """The name of sacrebleu's tokenizer for a language: "13a" where it has none of its own.

    Those of Japanese and Korean need extras (``pip install 'sacrebleu[ja]'``, ``[ko]``); without, and for languages
    without spaces, it is "char".

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    make = _sacrebleu()
    *wanted, last = _BLEU_TOKENIZERS.get(language, ("13a",))
    for name in wanted:
        try:
            make(tokenize=name)
        except RuntimeError:  # what it needs is not installed
            continue
        return name
    return last


def _sacrebleu() -> Any:
    return require("sacrebleu").metrics.BLEU


def word_statistics(texts: Sequence[str]) -> dict[str, float]:
    """How long answers are: mean, median, min and max of their words (runs without white space), and the share that
    is empty."""
    words = [len(text.split()) for text in texts]
    return {
        "mean": statistics.fmean(words),
        "median": float(statistics.median(words)),
        "min": float(min(words)),
        "max": float(max(words)),
        "empty": words.count(0) / len(words),
    }


def _means(
    measures: Mapping[str, _Score], predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    if not predictions:
        raise ValueError("predictions: needs at least one, got none")
    scores: dict[str, list[float]] = {name: [] for name in measures}
    for prediction, answers in zip(predictions, references, strict=True):
        for name, score in measures.items():
            scores[name].append(max_over_ground_truths(score, prediction, answers))
    return {name: 100 * sum(values) / len(values) for name, values in scores.items()}
