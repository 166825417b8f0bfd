"""Hard negatives: passages that an index ranks high for a question, and that do not answer it.

A candidate that scores nearly as high as the positive is likely an answer as well: it is dropped above a share of the
positive's score (Moreira et al. 2024, arXiv:2407.15831, "TopK-PercPos").
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from model_hub_rqa.errors import DataError
from model_hub_rqa.metrics.documents import answer_rank, covers, ids_agree, same_id
from model_hub_rqa.metrics.text import SQUAD_RULES, AnswerRules
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.retrieval.base import Report, Retriever, no_report

_AT_ONCE = 256  # questions that are searched for together


@dataclass(frozen=True)
class MiningSettings:
    """Which candidates become negatives.

    Attributes:
        top_k: candidates of a question, the first hits.
        skip: of these, so many at the top are passed over.
        negatives: so many of a question are kept, the highest first.
        margin: the share of the positive's score that a negative may have; None for any score.
        keep_answers: whether a passage may be a negative that has an answer in its text.
    """

    top_k: int = 100
    skip: int = 0
    negatives: int = 8
    margin: float | None = None
    keep_answers: bool = False

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        errors = [
            f"{name}: must be at least {least}, got {value}"
            for name, value, least in (("skip", self.skip, 0), ("negatives", self.negatives, 1))
            if value < least
        ]
        if self.skip >= self.top_k > 0:
            errors.append(f"skip: must be below top_k ({self.top_k}), got {self.skip}")
        if self.margin is not None and not 0 < self.margin <= 1:
            errors.append(f"margin: must be above 0 and at most 1, got {self.margin}")
        return errors


@dataclass(frozen=True)
class Asked:
    """A question with its positives, and its answers where they are known."""

    id: str
    question: str
    positives: tuple[Passage, ...]
    answers: tuple[str, ...] = ()


def mine(
    questions: Sequence[Asked],
    retriever: Retriever,
    settings: MiningSettings,
    *,
    rules: AnswerRules = SQUAD_RULES,
    report: Report = no_report,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Finds the negatives of each question.

    A candidate is a positive, and no negative, if it has the text of one, or its id where ids are of one list (see
    `document_metrics`), or more than 70 % of its words.

    Args:
        questions: with at least one positive each.
        retriever: searches the index, which may be any.
        settings: which candidates are kept.
        rules: how texts are split into words.
        report: told of the progress.

    Returns:
        Records of DPR's training form, of the questions that have a negative, in their order: id, question, answers,
        positive_ctxs, hard_negative_ctxs; passages that were retrieved have their score. And counts: of questions,
        mined ones (with a negative) and those of positive_not_retrieved; of negatives; and of candidates dropped as
        positive, has_answer, above_margin and same_text.

    Raises:
        DataError: no question has a negative.
    """
    rules = replace(rules, normalize=functools.lru_cache(4096)(rules.normalize))  # texts are compared several times
    found: list[list[Hit]] = []
    for begin in range(0, len(questions), _AT_ONCE):
        found += retriever.search([one.question for one in questions[begin : begin + _AT_ONCE]], settings.top_k)
        report("mining", len(found), len(questions))
    by_id = ids_agree(
        (([hit.passage for hit in hits], one.positives) for one, hits in zip(questions, found, strict=True)), rules
    )
    names = ("positive", "has_answer", "above_margin", "same_text", "positive_not_retrieved", "negatives")
    counts = Counter(dict.fromkeys(names, 0))
    records = []
    for one, hits in zip(questions, found, strict=True):
        gold = [any(_is_positive(hit.passage, positive, by_id, rules) for positive in one.positives) for hit in hits]
        negatives = _negatives(one, hits, gold, settings, counts)
        if negatives:
            records.append(_record(one, hits, negatives))
    result = {"questions": len(questions), "mined": len(records), **counts}
    if not records:
        told = "dropped: " + ", ".join(f"{name} {counts[name]:,}" for name in names[:-1])
        told = told if any(found) else "no passage was retrieved"
        raise DataError(f"no negative remains for any of {len(questions):,} questions ({told})")
    return records, result


def _is_positive(passage: Passage, positive: Passage, by_id: bool, rules: AnswerRules) -> bool:
    if (by_id and positive.id and same_id(passage, positive)) or _words(passage) == _words(positive):
        return True
    return covers(passage, positive, rules)


def _words(passage: Passage) -> list[str]:
    return f"{passage.title} {passage.text}".split()


def _negatives(
    one: Asked, hits: Sequence[Hit], gold: Sequence[bool], settings: MiningSettings, counts: Counter[str]
) -> list[Hit]:
    """The negatives of a question, the highest first; adds to the counts what was dropped."""
    positives = [hit.score for hit, is_gold in zip(hits, gold, strict=True) if is_gold]
    counts["positive"] += len(positives)
    counts["positive_not_retrieved"] += not positives
    if not positives and settings.margin is not None:  # it is below all candidates
        counts["above_margin"] += len(hits)
        return []
    kept: list[Hit] = []
    seen: set[str] = set()
    for hit, is_gold in list(zip(hits, gold, strict=True))[settings.skip :]:
        if is_gold:
            continue
        text = " ".join(_words(hit.passage))
        if settings.margin is not None and hit.score > _highest(min(positives), settings.margin):
            counts["above_margin"] += 1
        elif not settings.keep_answers and answer_rank([hit.passage.text], one.answers):
            counts["has_answer"] += 1
        elif text in seen:
            counts["same_text"] += 1
        elif len(kept) < settings.negatives:
            seen.add(text)
            kept.append(hit)
    counts["negatives"] += len(kept)
    return kept


def _highest(positive: float, margin: float) -> float:
    """The score that a negative may have: below the positive's, also where that is negative."""
    return positive - (1 - margin) * abs(positive)


def _record(one: Asked, hits: Sequence[Hit], negatives: Sequence[Hit]) -> dict[str, Any]:
    scores = {" ".join(_words(hit.passage)): hit.score for hit in reversed(hits)}
    positives = [Hit(positive, scores.get(" ".join(_words(positive)), float("nan"))) for positive in one.positives]
    return {
        "id": one.id,
        "question": one.question,
        **({"answers": list(one.answers)} if one.answers else {}),
        "positive_ctxs": [_ctx(hit) for hit in positives],
        "hard_negative_ctxs": [_ctx(hit) for hit in negatives],
    }


def _ctx(hit: Hit) -> dict[str, Any]:
    passage = {"id": hit.passage.id, "title": hit.passage.title, "text": hit.passage.text}
    return passage if hit.score != hit.score else {**passage, "score": float(hit.score)}
