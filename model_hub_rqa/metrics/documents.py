"""Whether what was retrieved is what the answer was written from, passage by passage and by their texts.

A record's gold documents and a corpus' passages seldom share ids, and are often cut differently; so documents are
compared by their words. The measures are those of LocalRQA (Yu et al. 2024, arXiv:2403.00982), whose stricter
comparison wants equal texts, which no passage cut otherwise can reach.
"""

from collections import Counter
from collections.abc import Sequence

from model_hub_rqa.metrics.ranking import ranking_metrics_by_query
from model_hub_rqa.metrics.text import SQUAD_RULES, AnswerRules

LIKELY = 0.7  # of the gold document's words: LocalRQA's threshold for "likely the same"


def document_metrics(
    retrieved: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], *, rules: AnswerRules = SQUAD_RULES
) -> dict[str, float]:
    """How well retrieval found the gold documents.

    Args:
        retrieved: the texts of the passages found for each question, the best first.
        gold: the texts of each question's gold documents. Questions without any play no part.
        rules: how texts are normalised and split into words (`metrics.languages`).

    Returns:
        Fractions from 0 to 1. document_accuracy: the share of all retrieved passages that are gold;
        document_recall: the share of the questions whose gold documents are all among them; document_recall@1: the
        same for the first passage alone; likely_document_accuracy and likely_document_recall: the same where a
        passage counts that covers more than 70 % of a gold document's words; ndcg: the mean over the questions, over
        all ranks, each gold document counting once. Nothing where no question has a gold document.

    Raises:
        ValueError: the two differ in length.
        ConfigError: ir_measures, which computes ndcg, is not installed.
    """
    found = [Judged(*pair, rules) for pair in zip(retrieved, gold, strict=True) if pair[1]]
    if not found:
        return {}
    passages = sum(len(one.same) for one in found) or 1
    return {
        "document_accuracy": sum(sum(map(any, one.same)) for one in found) / passages,
        "document_recall": sum(_all_found(one.same) for one in found) / len(found),
        "document_recall@1": sum(_all_found(one.same[:1]) for one in found) / len(found),
        "likely_document_accuracy": sum(sum(map(any, one.likely)) for one in found) / passages,
        "likely_document_recall": sum(_all_found(one.likely) for one in found) / len(found),
        "ndcg": _ndcg(found),
    }


def same_document(passage: str, gold: str, rules: AnswerRules = SQUAD_RULES) -> bool:
    """Whether one of the texts, normalised as answers are, holds the other, word by word; empty ones never do."""
    first, second = (f" {rules.normalize(text)} " for text in (passage, gold))  # spaces: whole words only
    return bool(first.strip() and second.strip()) and (first in second or second in first)


def cover(passage: str, gold: str, rules: AnswerRules = SQUAD_RULES) -> float:
    """The share of the gold document's words, each as often as it occurs, that the passage has: 0 to 1."""
    words, wanted = (Counter(rules.tokenize(text)) for text in (passage, gold))
    return (words & wanted).total() / wanted.total() if wanted else 0.0


class Judged:
    """The passages of one question against its gold documents.

    Attributes:
        same: [passages][gold documents], see :func:`same_document`.
        likely: the same, also where the cover is above LIKELY.
        n_gold: how many gold documents there are.
    """

    def __init__(self, retrieved: Sequence[str], gold: Sequence[str], rules: AnswerRules = SQUAD_RULES) -> None:
        self.n_gold = len(gold)
        self.same = [[same_document(passage, document, rules) for document in gold] for passage in retrieved]
        self.likely = [
            [is_same or cover(passage, document, rules) > LIKELY for is_same, document in zip(same, gold, strict=True)]
            for same, passage in zip(self.same, retrieved, strict=True)
        ]

    def ranking(self) -> list[str]:
        """A name for each passage: that of the first gold document which it is and no passage before it was."""
        taken: set[int] = set()
        names = []
        for rank, same in enumerate(self.same):
            new = next((number for number, is_same in enumerate(same) if is_same and number not in taken), None)
            names.append(f"other {rank}" if new is None else f"gold {new}")
            taken |= set() if new is None else {new}
        return names


def _ndcg(found: Sequence[Judged]) -> float:
    measure = f"nDCG@{max(1, *(len(one.same) for one in found))}"
    run = {str(number): one.ranking() for number, one in enumerate(found)}
    qrels = {str(number): {f"gold {i}": 1 for i in range(one.n_gold)} for number, one in enumerate(found)}
    values = ranking_metrics_by_query(run, qrels, [measure])
    return sum(value[measure] for value in values.values()) / len(values)


def _all_found(matches: Sequence[Sequence[bool]]) -> bool:
    return bool(matches) and all(any(column) for column in zip(*matches, strict=True))
