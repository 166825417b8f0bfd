"""Search among vectors: the most similar ones, exactly, whatever their number."""

from typing import TYPE_CHECKING

from model_hub_rqa.libraries import require
from model_hub_rqa.retrieval.base import top_k

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 65_536  # vectors searched at a time


def exact_search(
    queries: "np.ndarray", embeddings: "np.ndarray", k: int, block: int = _BLOCK, *, similarity: str = "dot"
) -> "tuple[np.ndarray, np.ndarray]":
    """The passages most similar to each query: scores and positions, both (n queries, min(k, n passages)).

    Args:
        queries: (n queries, dimension), float32.
        embeddings: (n passages, dimension), float32; read a block of rows at a time.
        k: how many; equal scores stand in the order of the passages.
        block: rows read at a time.
        similarity: as :func:`similarities` takes it.
    """
    import numpy as np

    scores = np.empty((len(queries), 0), dtype=np.float32)
    positions = np.empty((len(queries), 0), dtype=np.int64)
    for begin in range(0, len(embeddings), block):
        rows = np.ascontiguousarray(embeddings[begin : begin + block], dtype=np.float32)
        found, places = _block_search(queries, rows, k, similarity)
        scores = np.concatenate([scores, found], axis=1)
        positions = np.concatenate([positions, places + begin], axis=1)
        order = np.lexsort((positions, -scores))[:, :k]
        scores, positions = np.take_along_axis(scores, order, 1), np.take_along_axis(positions, order, 1)
    return scores, positions


def similarities(rows: "np.ndarray", query: "np.ndarray", similarity: str) -> "np.ndarray":
    """How similar each of the rows (n, dimension) is to a query (dimension,): (n,), as sentence-transformers scores.

    "dot" is the inner product, and so is "cosine", of vectors of length 1; "euclidean" and "manhattan" are distances
    with a minus sign. Their last digits depend on the row alone, and not on its place or neighbours, as BLAS's do.
    """
    import numpy as np

    scores: np.ndarray
    difference = rows if similarity in ("cosine", "dot") else rows - query
    if similarity == "euclidean":
        scores = -np.sqrt(np.einsum("ij,ij->i", difference, difference))
    elif similarity == "manhattan":
        scores = -np.abs(difference).sum(axis=1)
    else:
        scores = np.einsum("ij,j->i", rows, query)
    return scores


def _block_search(
    queries: "np.ndarray", block: "np.ndarray", k: int, similarity: str
) -> "tuple[np.ndarray, np.ndarray]":
    import numpy as np

    faiss = require("faiss")
    asked = min(k + 1, len(block))
    found, places = faiss.knn(queries, block, asked, metric=faiss_metric(similarity))
    scores = np.empty_like(found)
    # faiss subtracts products from squared norms: what is lost there is a share of the norms
    lost = 1e-5 * float(np.einsum("ij,ij->i", block, block).max()) if similarity == "euclidean" else 0.0
    for number, query in enumerate(queries):
        # faiss does not say which of several equal scores it keeps: where the last place is shared, we choose
        if asked > k and np.isclose(found[number, k - 1], found[number, k], rtol=1e-5, atol=lost):
            places[number] = top_k(similarities(block, query, similarity), asked)
        scores[number] = similarities(block[places[number]], query, similarity)
    return scores[:, :k], places[:, :k]


def faiss_metric(similarity: str) -> int:
    """faiss' name for a similarity."""
    faiss = require("faiss")
    metrics = {"euclidean": faiss.METRIC_L2, "manhattan": faiss.METRIC_L1}
    return int(metrics.get(similarity, faiss.METRIC_INNER_PRODUCT))
