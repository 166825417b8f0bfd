"""Hybrid retrieval: the rankings of several retrievers over the same passages, fused into one.

Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual
rank learning methods") reads the ranks alone: a passage has the score ``sum of 1 / (60 + rank)`` over the rankings that
have it, ranks counted from 1. A convex combination reads the scores (Bruch, Gai and Ingber 2023, "An analysis of fusion
functions for hybrid retrieval", arXiv:2210.11934): each ranking's scores are scaled so that its best passage has 1 and
its last one 0, and a passage has their weighted sum; a ranking without the passage adds 0.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from model_hub_rqa.data.text_files import short
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.retrieval.base import Retriever, Stage, check_k, fingerprint_of, timed

FUSIONS = ("rrf", "convex")
FUSION_DEPTH = 100
RRF_K = 60  # of Cormack et al.: how little the first ranks stand out


class HybridRetriever:
    """Fuses the rankings of several retrievers over the same passages.

    Args:
        retrievers: by the names that their stages get.
        fusion: "rrf" or "convex".
        weights: with "convex", a weight from 0 on for each retriever; they are scaled to sum up to 1. None for equal
            ones.
        depth: hits of each retriever that are fused; ``k`` where that is more.

    Attributes:
        retrievers: as they were given.
        fingerprint: says all that a search depends on.

    Raises:
        ConfigError: as :func:`fusion_errors` says.
    """

    def __init__(
        self,
        retrievers: Mapping[str, Retriever],
        *,
        fusion: str = "rrf",
        weights: Sequence[float] | None = None,
        depth: int = FUSION_DEPTH,
    ) -> None:
        errors = fusion_errors(len(retrievers), fusion, weights, depth)
        if errors:
            raise ConfigError(errors)
        self.retrievers = dict(retrievers)
        self.fusion = fusion
        self.weights = None if weights is None else tuple(weights)
        self.depth = depth

    @property
    def fingerprint(self) -> str:
        return repr((self.fusion, self.weights, self.depth, [*map(fingerprint_of, self.retrievers.values())]))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As :class:`~model_hub_rqa.retrieval.base.Retriever` says; only passages that a retriever found are in it."""
        return self.search_stages(queries, k)[-1].hits

    def search_stages(self, queries: Sequence[str], k: int) -> list[Stage]:
        """The search of each retriever, ``max(k, depth)`` hits, and their fusion, ``k`` hits.

        Raises:
            ConfigError: ``k`` is below 1.
            DataError: a retriever gave a list too few or too many, or a score that is not finite; or an id is of other
                texts in two retrievers.
        """
        check_k(k)
        depth = max(k, self.depth)
        stages = [timed(name, partial(one.search, queries, depth)) for name, one in self.retrievers.items()]
        for stage in stages:
            _check_hits(stage, len(queries))
        fuse = rrf if self.fusion == "rrf" else partial(convex, weights=self.weights)
        rankings = zip(*(stage.hits for stage in stages), strict=True)
        return [*stages, timed(self.fusion, lambda: [fuse(ranking)[:k] for ranking in rankings])]


def rrf(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Reciprocal rank fusion of the rankings of one query: each passage once, the best first.

    Args:
        rankings: hits of each retriever, the best first. Where one has a passage twice, the first counts.

    Returns:
        Hits with the fused scores; equal ones in the order of the corpus.
    """
    return _fused(rankings, [[1 / (RRF_K + rank) for rank in range(1, len(hits) + 1)] for hits in rankings])


def convex(rankings: Sequence[Sequence[Hit]], weights: Sequence[float] | None = None) -> list[Hit]:
    """A convex combination of the scaled scores of the rankings of one query: each passage once, the best first.

    A ranking of equal scores has 1 for each of its passages.

    Args:
        rankings: as for :func:`rrf`.
        weights: of the rankings, from 0 on, one above 0; None for equal ones.

    Returns:
        Hits with the fused scores, 0 to 1; equal ones in the order of the corpus.
    """
    weights = [1.0] * len(rankings) if weights is None else weights
    total = math.fsum(weights)
    shares = [
        [weight / total * share for share in _min_max([hit.score for hit in hits])]
        for weight, hits in zip(weights, rankings, strict=True)
    ]
    return _fused(rankings, shares)


def fusion_errors(n_retrievers: int, fusion: str, weights: Sequence[float] | None, depth: int) -> list[str]:
    """Why rankings cannot be fused so: a line for each setting that breaks a rule."""
    errors = []
    if fusion not in FUSIONS:
        errors.append(f"fusion: must be one of {', '.join(FUSIONS)}, got {fusion!r}")
    elif weights is not None and fusion != "convex":
        errors.append(f"fusion_weights: needs fusion convex, got {fusion}")
    if depth < 1:
        errors.append(f"fusion_depth: must be at least 1, got {depth}")
    if weights is None:
        return errors
    if len(weights) != n_retrievers:
        errors.append(f"fusion_weights: must be as many as the indexes ({n_retrievers}), got {len(weights)}")
    if not all(0 <= weight < math.inf for weight in weights) or not 0 < sum(weights) < math.inf:
        shown = " ".join(map(str, weights))
        errors.append(f"fusion_weights: must be finite numbers from 0 on, one of them above 0, got {shown}")
    return errors


def _min_max(scores: Sequence[float]) -> list[float]:
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]


def _fused(rankings: Sequence[Sequence[Hit]], shares: Sequence[Sequence[float]]) -> list[Hit]:
    """The passages of all rankings by the sum of their shares; DataError where an id is of two texts."""
    passages: dict[str, Passage] = {}
    parts: dict[str, list[float]] = {}
    for hits, values in zip(rankings, shares, strict=True):
        seen: set[str] = set()
        for hit, value in zip(hits, values, strict=True):
            id_ = hit.passage.id
            if id_ not in seen:
                seen.add(id_)
                if (known := passages.setdefault(id_, hit.passage)) != hit.passage:
                    texts = f"got {short(hit.passage.text)}, not {short(known.text)}"
                    raise DataError(f"passage {id_}: must be the same in every index, {texts}")
                parts.setdefault(id_, []).append(value)
    # fsum: the same whatever the order of the rankings, so that ties are ties
    found = [Hit(passage, math.fsum(parts[id_])) for id_, passage in passages.items()]
    return sorted(found, key=lambda hit: (-hit.score, hit.passage.position))


def _check_hits(stage: Stage, n_queries: int) -> None:
    if len(stage.hits) != n_queries:
        raise DataError(f"{stage.name}: was asked {n_queries} queries, gave {len(stage.hits)} lists of passages")
    if not all(math.isfinite(hit.score) for hits in stage.hits for hit in hits):
        raise DataError(f"{stage.name}: gives scores that are not finite")
