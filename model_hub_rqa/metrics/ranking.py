"""Ranking quality by ir_measures (MacAvaney, Macdonald and Ounis 2022, arXiv:2111.13466), and Kendall's tau.

Measures are named as in ir_measures (https://ir-measur.es): ``nDCG@10``, ``R@100``, ``RR@10``, ``AP@100``, ``P@5``,
``Success@5``, ``P(rel=2)@5``. Recall is another name of R, and MRR of RR.

nDCG@k: the gain of a document is its relevance, discounted by log2(rank + 1), over that of the best possible ranking
(Järvelin and Kekäläinen 2002, as trec_eval computes it). R@k: the share of the relevant documents among the first k.
RR@k: 1 / rank of the first relevant document, 0 if none is among the first k. P@k: relevant documents among the first
k, over k. AP@k: the mean of P at the rank of each relevant document, 0 for those that are not among the first k.
Success@k: 1 if a relevant document is among the first k. A document is relevant from 1 on.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.libraries import require

MEASURES = ("nDCG@10", "Recall@100", "MRR@10")


def measures_within(retrieved: int) -> list[str]:
    """MEASURES with the k that ``retrieved`` documents a query allow.

    >>> measures_within(50)
    ['nDCG@10', 'Recall@50', 'MRR@10']
    """
    pairs = (measure.split("@") for measure in MEASURES)
    return [f"{name}@{min(int(k), retrieved)}" for name, k in pairs]


def split_measures(text: str) -> list[str]:
    """The names in a text, with blanks or commas between.

    >>> split_measures("nDCG@10, P(rel=2)@5 nDCG(gains={0: 0, 1: 5})@10")
    ['nDCG@10', 'P(rel=2)@5', 'nDCG(gains={0: 0, 1: 5})@10']
    """
    return [name for name in re.split(r"[\s,]+(?![^(]*\))", text) if name]


def measure_errors(measures: Sequence[str]) -> list[str]:
    """What is wrong with the names of measures.

    Raises:
        ConfigError: ir_measures is not installed.
    """
    errors = [] if measures else ["measures: must name at least one measure"]
    for name in measures:
        try:
            # Whether what computes it is installed shows only when it is used.
            require("ir_measures").calc_aggregate([_parse_measure(name)], {"q": {"d": 1}}, {"q": {"d": 1.0}})
        except ConfigError:
            raise
        except Exception as error:  # ir_measures has many kinds
            known = "a measure of ir_measures such as nDCG@10, R@100, RR@10, AP@100 or Success@5"
            errors.append(f"measures: must be {known}, got {name!r} ({' '.join(str(error).split())})")
    return errors


def measures_beyond(measures: Sequence[str], retrieved: int) -> list[str]:
    """Those that count more documents than were retrieved.

    >>> measures_beyond(["nDCG@10", "R@100", "AP"], 50)
    ['R@100']
    """
    return [name for name in measures if _parse_measure(name).params.get("cutoff", 0) > retrieved]


def _parse_measure(name: str) -> Any:
    measure = require("ir_measures").parse_measure(name)
    measure.validate_params()
    cutoff = measure.params.get("cutoff", 1)
    if type(cutoff) is not int or not 1 <= cutoff < 10**9:  # trec_eval aborts the process
        raise ValueError("the number behind @ must be from 1 to 999999999")
    return measure


def ranking_metrics(
    run: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = MEASURES,
) -> dict[str, float]:
    """Means over all judged queries (sums of NumRet and the like); arguments and errors as those of
    :func:`ranking_metrics_by_query`."""
    by_query = ranking_metrics_by_query(run, qrels, measures)
    scores = {}
    for name in measures:
        aggregate = _parse_measure(name).aggregator()
        for values in by_query.values():
            if name in values:
                aggregate.add(values[name])
        scores[name] = float(aggregate.result())
    return scores


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
        measures: names as in ir_measures.

    Returns:
        By query id, in the order of ``qrels``: by measure, in most a fraction from 0 to 1. A few are not defined for
        every query (Accuracy), and lack it.

    Raises:
        ConfigError: an unknown measure, or ir_measures is not installed.
        DataError: there is no judged query, or the run ranks a document twice for a query.
    """
    if errors := measure_errors(measures):
        raise ConfigError(errors)
    if not qrels:
        raise DataError("qrels: no query is judged")
    twice = [query for query in qrels if len(set(run.get(query, ()))) != len(run.get(query, ()))]
    if twice:
        raise DataError([f"run: query {query!r} has a document more than once" for query in twice])
    # Ranks as scores: the providers of ir_measures break ties in different ways.
    scored = {
        query: {document: -float(rank) for rank, document in enumerate(run[query])} for query in qrels if run.get(query)
    }
    judged = {query: dict(documents) for query, documents in qrels.items()}
    parsed = {name: _parse_measure(name) for name in measures}
    computed: dict[str, dict[Any, float]] = {query: {} for query in qrels}
    for metric in require("ir_measures").iter_calc(list(set(parsed.values())), judged, scored):
        computed[metric.query_id][metric.measure] = float(metric.value)
    return {
        query: {name: values[measure] for name, measure in parsed.items() if measure in values}
        for query, values in computed.items()
    }


def kendall_tau(ranks: Sequence[float] | np.ndarray, truth: Sequence[float] | np.ndarray) -> float:
    """Kendall's tau-a (Kendall 1938): pairs in the right order minus those in the wrong one, over all pairs.

    Args:
        ranks, truth: the rank of each item, or anything that rises with it, [n]. A tied pair counts as neither.

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
