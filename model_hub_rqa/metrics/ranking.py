"""Ranking quality by the published measures, through ir_measures (MacAvaney, Macdonald and Ounis 2022).

nDCG@k: the gain of a document is its relevance, discounted by log2(rank + 1), over that of the best possible ranking
(Järvelin and Kekäläinen 2002, as trec_eval computes it). Recall@k: the share of the relevant documents among the
first k. MRR@k: 1 / rank of the first relevant document, 0 if none is among the first k. P@k: relevant documents among
the first k, over k. A document is relevant from 1 on.
"""

import re
from collections.abc import Mapping, Sequence

from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.libraries import require

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
            equal scores by document id. Queries without judgements play no part.
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
