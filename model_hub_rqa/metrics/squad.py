"""Scores of a whole set of predicted answers, equal to those of the official SQuAD v1.1 and v2.0 evaluators.

Predictions are ``{question id: answer}`` and references ``{question id: [gold answers]}``; in v2.0 no gold answers
means unanswerable, and the right prediction is then ``""``. Sources: Rajpurkar et al. 2016 (arXiv:1606.05250) and 2018
(arXiv:1806.03822), and the numbers that the official evaluators print.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from numbers import Real
from typing import Any

from model_hub_rqa.errors import DataError
from model_hub_rqa.metrics.text import SQUAD_RULES, AnswerRules, token_f1


def squad_v1(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], *, rules: AnswerRules = SQUAD_RULES
) -> dict[str, float]:
    """Exact match and F1 as the official v1.1 evaluator computes them.

    Args:
        predictions: the answer by question id. A missing one counts as wrong; unknown ids are ignored.
        references: at least one gold answer by question id.
        rules: of the answers' language (`metrics.languages`); the official evaluator's are the default.

    Returns:
        ``exact_match`` and ``f1``, both in percent (0.0 to 100.0).

    Raises:
        DataError: there are no references, a question has none, or an answer is not a string; all errors at once.
    """
    exact, f1 = question_scores(predictions, references, rules=rules)
    return {"exact_match": _percent(exact.values()), "f1": _percent(f1.values())}


def squad_v2(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    no_answer_probabilities: Mapping[str, float] | None = None,
    no_answer_threshold: float = 1.0,
    *,
    rules: AnswerRules = SQUAD_RULES,
) -> dict[str, float | int]:
    """Exact match and F1 as the official v2.0 evaluator computes them, with its names in its order.

    Args:
        predictions: the answer by question id, ``""`` for "no answer". A missing one counts as wrong, also where the
            question is unanswerable; unknown ids are ignored.
        references: the gold answers by question id. Those that normalise to nothing are dropped; a question left with
            none is unanswerable.
        no_answer_probabilities: the probability that there is no answer, for every id that has a prediction.
            Any numbers do whose order says so; the best thresholds are in their unit.
        no_answer_threshold: a prediction whose no-answer probability is above it counts as ``""``.
        rules: of the answers' language (`metrics.languages`); the official evaluator's are the default.

    Returns:
        ``exact``, ``f1`` (percent) and ``total`` (questions); the same as ``HasAns_*`` over the answerable and
        ``NoAns_*`` over the unanswerable questions, where there are such; with probabilities also ``best_exact``,
        ``best_exact_thresh``, ``best_f1`` and ``best_f1_thresh``: what the best threshold would give, and that
        threshold. As in the official evaluator the search goes one question at a time, so among equal probabilities
        it may stop between two that no threshold can part.

    Raises:
        DataError: there are no references, an answer is not a string, or a prediction has no usable probability; all
            errors of a kind at once.
    """
    exact, f1 = question_scores(predictions, references, version_2=True, rules=rules)
    answerable = {key: any(map(rules.normalize, answers)) for key, answers in references.items()}
    if no_answer_probabilities is None:
        return _summary_v2(exact, f1, answerable)

    answered = [key for key in references if key in predictions]
    _check_probabilities(no_answer_probabilities, answered)
    refused = {key for key in answered if no_answer_probabilities[key] > no_answer_threshold}
    scores = _summary_v2(_refuse(exact, refused, answerable), _refuse(f1, refused, answerable), answerable)
    for name, values in (("exact", exact), ("f1", f1)):
        best, threshold = _best_threshold(values, predictions, no_answer_probabilities, answerable)
        scores[f"best_{name}"] = best
        scores[f"best_{name}_thresh"] = threshold
    return scores


def question_scores(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    version_2: bool = False,
    rules: AnswerRules = SQUAD_RULES,
) -> tuple[dict[str, float], dict[str, float]]:
    """Exact match and F1 of every question: what the official numbers are means of.

    Args:
        predictions: as for ``squad_v1`` and ``squad_v2``.
        references: as for ``squad_v1`` and ``squad_v2``.
        version_2: whether the rules of v2.0 hold.
        rules: of the answers' language.

    Returns:
        Two dicts by question id in the order of ``references``, of fractions from 0.0 to 1.0.

    Raises:
        DataError: as for ``squad_v1`` and ``squad_v2``.
    """
    _check(predictions, references, need_answers=not version_2)
    exact, f1 = {}, {}
    # Gold answers repeat, within a question most of all: normalising each once is most of the speed.
    normalize = cache(rules.normalize)
    tokens = cache(rules.tokens)
    for key, answers in references.items():
        if key not in predictions:
            exact[key] = f1[key] = 0.0
            continue
        golds = dict.fromkeys(map(normalize, answers))  # a set that keeps the order
        if version_2:
            golds.pop("", None)
            golds = golds or {"": None}
        guess = normalize(predictions[key])
        exact[key] = float(guess in golds)
        f1[key] = max(token_f1(tokens(guess), tokens(gold), version_2=version_2) for gold in golds)
    return exact, f1


def missing_ids(predictions: Mapping[str, Any], references: Mapping[str, Any]) -> list[str]:
    """The question ids that have no prediction, in the order of ``references``."""
    return [key for key in references if key not in predictions]


def references_from_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """References from rows of a SQuAD table, ``{"id": ..., "answers": {"text": [...]}}``; other columns are ignored.

    Raises:
        DataError: a row lacks one of the two, has the wrong type, or repeats an id with other answers; all at once.
    """
    references: dict[str, list[str]] = {}
    errors = []
    for number, row in enumerate(rows):
        try:
            key, answers = row["id"], row["answers"]["text"]
        except (KeyError, TypeError, IndexError):
            errors.append(f"row {number}: needs id and answers.text, got {_short(row)}")
            continue
        if not isinstance(key, str) or isinstance(answers, str) or not isinstance(answers, Collection):
            errors.append(f"row {number}: id must be a string and answers.text a list, got {_short((key, answers))}")
            continue
        answers = list(answers)
        if references.setdefault(key, answers) != answers:
            errors.append(f"row {number}: id {key!r} was seen before with other answers, got {_short(answers)}")
    if errors:
        raise DataError(errors)
    return references


def _check(predictions: Mapping[str, Any], references: Mapping[str, Any], *, need_answers: bool) -> None:
    """Raise every error of the input at once."""
    if not references:
        raise DataError("references: need at least one question, got none")
    errors = []
    for key, answers in references.items():
        if isinstance(answers, str) or not isinstance(answers, Collection):
            errors.append(f"references: {key}: must be a list of strings, got {_short(answers)}")
        elif any(not isinstance(answer, str) for answer in answers):
            errors.append(f"references: {key}: every answer must be a string, got {_short(list(answers))}")
        elif need_answers and not len(answers):
            errors.append(f"references: {key}: needs at least one answer in SQuAD v1.1, got none")
        if key in predictions and not isinstance(predictions[key], str):
            errors.append(f"predictions: {key}: must be a string, got {_short(predictions[key])}")
    if errors:
        raise DataError(errors)


def _check_probabilities(probabilities: Mapping[str, Any], answered: Iterable[str]) -> None:
    """Raise for every answered question that has no number that can be ordered."""
    errors = []
    for key in answered:
        value = probabilities.get(key)
        if not isinstance(value, Real) or value != value:
            found = "none" if key not in probabilities else _short(value)
            errors.append(f"no_answer_probabilities: {key}: must be a number for every prediction, got {found}")
    if errors:
        raise DataError(errors)


def _refuse(scores: Mapping[str, float], refused: set[str], answerable: Mapping[str, bool]) -> dict[str, float]:
    """The scores if the answers to ``refused`` had been ``""``."""
    return {key: float(not answerable[key]) if key in refused else score for key, score in scores.items()}


def _summary_v2(
    exact: Mapping[str, float], f1: Mapping[str, float], answerable: Mapping[str, bool]
) -> dict[str, float | int]:
    """Percentages over all questions, the answerable ones and the unanswerable ones."""
    groups = {
        "": list(exact),
        "HasAns_": [key for key in exact if answerable[key]],
        "NoAns_": [key for key in exact if not answerable[key]],
    }
    summary: dict[str, float | int] = {}
    for prefix, keys in groups.items():
        if keys:
            summary[f"{prefix}exact"] = _percent([exact[key] for key in keys])
            summary[f"{prefix}f1"] = _percent([f1[key] for key in keys])
            summary[f"{prefix}total"] = len(keys)
    return summary


def _best_threshold(
    scores: Mapping[str, float],
    predictions: Mapping[str, str],
    probabilities: Mapping[str, float],
    answerable: Mapping[str, bool],
) -> tuple[float, float]:
    """The best percentage that refusing every answer above one threshold can give, and the lowest such threshold.

    Starts from refusing everything and accepts one answer after another, by rising no-answer probability (stable, so
    equal ones in the order of ``probabilities``): an answer to an answerable question adds its score, one to an
    unanswerable question takes away the point that refusing had earned. As in the official evaluator an answer is here
    what is not ``""`` as written, so "the" is one, though it scores like ``""``.
    """
    counted = [key for key in probabilities if key in scores and key in predictions]
    current = best = float(sum(not answerable[key] for key in counted))
    threshold = 0.0
    for key in sorted(counted, key=lambda key: probabilities[key]):
        if answerable[key]:
            current += scores[key]
        elif predictions[key]:
            current -= 1
        if current > best:
            best, threshold = current, float(probabilities[key])
    return 100.0 * best / len(scores), threshold


def _percent(scores: Iterable[float]) -> float:
    values = list(scores)
    return 100.0 * sum(values) / len(values)


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
