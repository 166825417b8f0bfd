"""Comparing a predicted answer with a true one: exact match and token F1 (Rajpurkar et al. 2016, arXiv:1606.05250).

Both compare *normalised* answers: lowercased, without ASCII punctuation, without the articles a, an and the, white
space collapsed. That is English; `metrics.languages` has the rules of other languages. The standard library only, so
that importing it costs nothing.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from model_hub_rqa.errors import DataError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lowercase, drop ASCII punctuation, drop the articles a, an and the, collapse white space: in this order.

    The order matters: ``"A.N."`` loses its dots first, so what is left of it is an article, and goes too.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


@dataclass(frozen=True)
class AnswerRules:
    """How answers of a language are compared.

    Attributes:
        language: a code of ISO 639-1.
        name: whose rules they are, in a few words.
        normalize: from an answer to what exact match compares.
        tokens: from a normalised answer to what F1 counts.
    """

    language: str
    name: str
    normalize: Callable[[str], str]
    tokens: Callable[[str], list[str]] = str.split

    def tokenize(self, text: str) -> list[str]:
        """The tokens of an answer as it was written."""
        return self.tokens(self.normalize(text))


SQUAD_RULES = AnswerRules("en", "SQuAD", normalize_answer)


def exact_match_score(prediction: str, reference: str, *, rules: AnswerRules = SQUAD_RULES) -> float:
    """1.0 if both normalise to the same string (so also if both normalise to nothing), else 0.0."""
    return float(rules.normalize(prediction) == rules.normalize(reference))


def f1_score(prediction: str, reference: str, *, version_2: bool = False, rules: AnswerRules = SQUAD_RULES) -> float:
    """The harmonic mean of precision and recall over the normalised tokens, each counted as often as it occurs.

    Args:
        prediction: the predicted answer.
        reference: one gold answer.
        version_2: what an answer that normalises to nothing is worth. SQuAD v1.1 shares no token with it: 0.0. SQuAD
            v2.0 reads it as "no answer": 1.0 if both answers are that, 0.0 if only one is.
        rules: of the answers' language.

    Returns:
        A fraction from 0.0 to 1.0.
    """
    return token_f1(rules.tokenize(prediction), rules.tokenize(reference), version_2=version_2)


def token_f1(prediction: Sequence[str], reference: Sequence[str], *, version_2: bool = False) -> float:
    """``f1_score`` of answers that are normalised and split into tokens already."""
    if version_2 and not (prediction and reference):
        return float(not prediction and not reference)
    shared = sum((Counter(prediction) & Counter(reference)).values())
    if shared == 0:
        return 0.0
    precision = shared / len(prediction)
    recall = shared / len(reference)
    return 2 * precision * recall / (precision + recall)


def precision_score(prediction: str, reference: str, *, rules: AnswerRules = SQUAD_RULES) -> float:
    """The share of the prediction's normalised tokens that the reference has, each as often; 0.0 where it has none."""
    tokens, true = rules.tokenize(prediction), rules.tokenize(reference)
    return sum((Counter(tokens) & Counter(true)).values()) / len(tokens) if tokens else 0.0


def max_over_ground_truths(score: Callable[[str, str], float], prediction: str, references: Iterable[str]) -> float:
    """The best ``score(prediction, reference)`` over the gold answers: one of them is enough.

    Where the one gold answer is "", the question has none: 1.0 for saying nothing, else 0.0, as in SQuAD v2.0.

    Raises:
        DataError: there are no gold answers.
    """
    references = list(references)
    if references == [""]:
        return float(not normalize_answer(prediction))
    scores = [score(prediction, reference) for reference in references]
    if not scores:
        raise DataError(f"references: needs at least one gold answer to compare {prediction!r} with, got none")
    return max(scores)
