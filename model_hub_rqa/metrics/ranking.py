"""Ranking quality through ir_measures (MacAvaney, Macdonald and Ounis 2022); gold documents; Kendall's tau.

nDCG@k: the gain of a document is its relevance, discounted by log2(rank + 1), over that of the best possible ranking
(Järvelin and Kekäläinen 2002, as trec_eval computes it). Recall@k: the share of the relevant documents among the
first k. MRR@k: 1 / rank of the first relevant document, 0 if none is among the first k. P@k: relevant documents among
the first k, over k. A document is relevant from 1 on.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.libraries import require
from model_hub_rqa.metrics.text import SQUAD_RULES, AnswerRules

MEASURES = ("nDCG@10", "Recall@100", "MRR@10")
_OURS_TO_THEIRS = {"nDCG": "nDCG", "Recall": "R", "MRR": "RR", "P": "P"}
_MEASURE = re.compile(rf"({'|'.join(_OURS_TO_THEIRS)})@([1-9][0-9]{{0,8}})")


def measures_within(retrieved: int) -> list[str]:
    """MEASURES with the k that ``retrieved`` documents a query allow.

    >>> measures_within(50)
    ['nDCG@10', 'Recall@50', 'MRR@10']
    """
    pairs = (measure.split("@") for measure in MEASURES)
    return [f"{name}@{min(int(k), retrieved)}" for name, k in pairs]


def ranking_metrics(
    run: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = MEASURES,
) -> dict[str, float]:
    """Means over all judged queries; arguments and errors as those of :func:`ranking_metrics_by_query`."""
    by_query = ranking_metrics_by_query(run, qrels, measures)
    return {name: sum(values[name] for values in by_query.values()) / len(by_query) for name in measures}


def ranking_metrics_by_query(
    run: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = MEASURES,
) -> dict[str, dict[str, float]]:
    """The measures of every judged query.

    Args:
        run: document ids by query id, the best first. The order counts, there are no scores: trec_eval would order
            equal scores by document id. Queries without judgements are ignored.
        qrels: relevance by document id, by query id. A query that the run lacks, or ranks nothing for, counts as 0.
        measures: nDCG@k, Recall@k, MRR@k or P@k.

    Returns:
        By query id, in the order of ``qrels``: by measure, a fraction from 0 to 1.

    Raises:
        ConfigError: an unknown measure, or ir_measures is not installed.
        DataError: there is no judged query, or the run ranks a document twice for a query.
    """
    names = [(name, _MEASURE.fullmatch(name)) for name in measures]
    unknown = [f"measure {name!r}: must be as nDCG@10, Recall@100, MRR@10 or P@5" for name, match in names if not match]
    if unknown:
        raise ConfigError(unknown)
    if not qrels:
        raise DataError("qrels: no query is judged")
    twice = [query for query in qrels if len(set(run.get(query, ()))) != len(run.get(query, ()))]
    if twice:
        raise DataError([f"run: query {query!r} has a document more than once" for query in twice])
    ir_measures = require("ir_measures")
    theirs = {
        ir_measures.parse_measure(f"{_OURS_TO_THEIRS[match[1]]}@{match[2]}"): name for name, match in names if match
    }
    # Ranks as scores: the providers of ir_measures break ties in different ways.
    scored = {
        query: {document: -float(rank) for rank, document in enumerate(run[query])} for query in qrels if run.get(query)
    }
    result = {query: dict.fromkeys(measures, 0.0) for query in qrels}
    judged = {query: dict(documents) for query, documents in qrels.items()}
    for metric in ir_measures.iter_calc(list(theirs), judged, scored):
        result[metric.query_id][theirs[metric.measure]] = float(metric.value)
    return result


def kendall_tau(ranks: Sequence[float] | np.ndarray, truth: Sequence[float] | np.ndarray) -> float:
    """Kendall's tau-a (Kendall 1938): pairs in the right order minus those in the wrong one, over all pairs.

    Args:
        ranks, truth: the place of each item, or anything that rises with it, [n]. A tied pair counts as neither.

    Returns:
        From -1 (reversed) to 1 (the same order); 1 for fewer than two items. 0 is what chance gives.

    >>> kendall_tau([0, 2, 1], [0, 1, 2])  # one pair of three is wrong
    0.3333333333333333
    """
    first, second = np.triu_indices(len(truth), 1)
    if not len(first):
        return 1.0
    one, other = np.asarray(ranks, np.float64), np.asarray(truth, np.float64)
    return float(np.mean(np.sign(one[first] - one[second]) * np.sign(other[first] - other[second])))


LIKELY = 0.7  # of the gold document's words: LocalRQA's threshold for "likely the same"


def document_metrics(
    retrieved: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], *, rules: AnswerRules = SQUAD_RULES
) -> dict[str, float]:
    """How well retrieval found the gold documents.

    Args:
        retrieved: the texts of the passages found for each question, the best first.
        gold: the texts of each question's gold documents. Questions without any are ignored.
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
