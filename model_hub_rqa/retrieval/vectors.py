"""Vectors on disk, and the search for the most similar ones: exact, whatever their number, or by an index of faiss."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.libraries import missing_libraries, require
from model_hub_rqa.retrieval.base import Report, top_k

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

FLAT = "Flat"  # faiss' name for comparing all vectors
MOST_ON_GPU = 2048  # hits of a query that an index of faiss finds there
DTYPES = ("float32", "float16")
_BLOCK = 65_536  # vectors searched at a time
_TRAINED_ON = 262_144  # vectors at most; faiss' clustering takes 256 for each centroid
_SPARE = 16  # rows that are looked for beyond those that are asked for, as rounding may hide the best
_SAMPLE = 200  # passages whose nearest are looked for to measure the recall


def exact_search(
    queries: "np.ndarray",
    embeddings: "np.ndarray",
    k: int,
    block: int = _BLOCK,
    *,
    similarity: str = "dot",
    device: str = "cpu",
) -> "tuple[np.ndarray, np.ndarray]":
    """The passages most similar to each query: scores and positions, both (n queries, min(k, n passages)).

    Args:
        queries: (n queries, dimension), float32.
        embeddings: (n passages, dimension), float32 or float16; read a block of rows at a time.
        k: how many; equal scores stand in the order of the passages.
        block: rows read at a time.
        similarity: as :func:`similarities` takes it.
        device: of torch, which compares; faiss compares on the CPU.
    """
    import numpy as np

    embeddings = np.asarray(embeddings)  # a map's own class takes its time
    found = np.empty((len(queries), 0), dtype=np.float32)
    positions = np.empty((len(queries), 0), dtype=np.int64)
    lost: np.ndarray = np.zeros(len(queries))
    least: np.ndarray = np.full(len(queries), -np.inf)
    for begin in range(0, len(embeddings), block):
        rows = embeddings[begin : begin + block]
        if device == "cpu":
            rows = _as_float32(rows)
        near, numbers = _nearest(queries, rows, min(k + _SPARE, len(rows)), similarity, device)
        found, positions = np.concatenate([found, near], axis=1), np.concatenate([positions, numbers + begin], axis=1)
        lost = np.maximum(lost, _lost(queries, rows, similarity))
        if found.shape[1] >= k:
            last = -np.partition(-found, k - 1, axis=1)[:, k - 1]
            least = last - 2 * (1e-5 * np.abs(last) if similarity == "manhattan" else lost)
        if near.shape[1] < len(rows):
            for query in np.flatnonzero(near[:, -1] >= least):  # rows that were not given may be as near
                scores = similarities(_as_float32(rows), queries[query], similarity)
                best = top_k(scores, near.shape[1])
                positions[query, -len(best) :] = best + begin
                found[query, -len(best) :] = -(scores[best] ** 2) if similarity == "euclidean" else scores[best]
        kept = max(k, int((found >= least[:, None]).sum(axis=1).max()))
        if kept < found.shape[1]:
            order = np.argsort(-found, axis=1)[:, :kept]
            found, positions = np.take_along_axis(found, order, 1), np.take_along_axis(positions, order, 1)
    size = (len(queries), min(k, len(embeddings)))
    scores, best = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.int64)
    for i, near in enumerate(found):
        ranked = _ranked(queries[i], embeddings, positions[i, near >= least[i]], similarity)
        scores[i], best[i] = (one[:k] for one in ranked)
    return scores, best


def similarities(rows: "np.ndarray", query: "np.ndarray", similarity: str) -> "np.ndarray":
    """How similar each of the rows (n, dimension) is to a query (dimension,): (n,), as sentence-transformers scores.

    "dot" is the inner product, and so is "cosine", of vectors of length 1; "euclidean" and "manhattan" are distances
    with a minus sign. Their last digits depend on the row alone, and not on its position or neighbours, as BLAS's do.
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


def _nearest(
    queries: "np.ndarray", rows: "np.ndarray", k: int, similarity: str, device: str
) -> "tuple[np.ndarray, np.ndarray]":
    """How near the ``k`` nearest rows are to each query, but for rounding, the nearest first: products, or distances
    with a minus sign, the Euclidean ones squared; and their positions."""
    faiss = require("faiss")
    if device == "cpu":
        found, positions = faiss.knn(queries, rows, k, metric=faiss_metric(similarity))
        return (found if similarity in ("cosine", "dot") else -found), positions
    import numpy as np
    import torch

    asked, given = (torch.from_numpy(np.array(one)).to(device).float() for one in (queries, rows))
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        if similarity == "manhattan":
            near = -torch.cdist(asked, given, p=1)
        else:
            near = asked @ given.T
            if similarity == "euclidean":
                near = 2 * near - asked.square().sum(1, keepdim=True) - given.square().sum(1)
    finally:
        torch.set_float32_matmul_precision(precision)
    best = near.topk(k)
    return best.values.cpu().numpy(), best.indices.cpu().numpy()


def _lost(queries: "np.ndarray", rows: "np.ndarray", similarity: str) -> "np.ndarray | float":
    """What rounding may change of the products, or of squared distances as they are made of products: a share of what
    the lengths allow. (n queries,)."""
    import numpy as np

    if similarity == "cosine":
        return 1e-5  # lengths are 1
    lengths = np.linalg.norm(queries, axis=1)
    longest = float(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float32).max()))
    share: np.ndarray = 1e-5 * (lengths**2 + longest**2 if similarity == "euclidean" else lengths * longest)
    return share


def _as_float32(rows: "np.ndarray") -> "np.ndarray":
    import numpy as np

    if rows.dtype == np.float16:  # torch is several times as fast as numpy there
        import torch

        widened: np.ndarray = torch.from_numpy(np.array(rows)).float().numpy()
        return widened
    return np.ascontiguousarray(rows, dtype=np.float32)


def faiss_metric(similarity: str) -> int:
    """faiss' name for a similarity."""
    faiss = require("faiss")
    metrics = {"euclidean": faiss.METRIC_L2, "manhattan": faiss.METRIC_L1}
    return int(metrics.get(similarity, faiss.METRIC_INNER_PRODUCT))


def faiss_errors(
    factory: str, search: str, dimension: int | None = None, similarity: str = "dot", *, n_passages: int | None = None
) -> list[str]:
    """A line for each error of an index_factory string and of the parameters of a search.

    Args:
        factory: the string.
        search: the parameters, such as "nprobe=16"; may be empty.
        dimension: of the vectors; None before it is known: then only what no dimension can mend is an error.
        similarity: by which they are compared.
        n_passages: vectors to train on; None before it is known.
    """
    if factory == FLAT:
        return [f"faiss_search: needs faiss_index, got {search!r} without"] if search else []
    if missing_libraries("faiss"):  # told by others
        return []
    faiss = require("faiss")
    if errors := _refused(factory, search, similarity):
        return errors
    try:
        index = faiss.index_factory(dimension or 768, factory, faiss_metric(similarity))
    except RuntimeError as error:
        if "could not parse" in str(error) or "stoi" in str(error):
            return [
                f"faiss_index: must be a string of faiss' index_factory, such as HNSW32, IVF100,Flat, got {factory!r}"
            ]
        if dimension is None:
            return []
        reason = str(error).rpartition("failed: ")[2].strip()
        return [f"faiss_index: does not fit vectors of {dimension} numbers ({reason}), got {factory!r}"]
    errors = []
    try:
        if search:
            faiss.ParameterSpace().set_index_parameters(index, search)
    except RuntimeError:
        errors.append(f"faiss_search: {factory} has no such parameters, got {search!r}")
    least = max(_training_vectors(index), 256 if "OPQ" in factory else 0)
    if n_passages is not None and n_passages < least:
        errors.append(f"faiss_index: {factory} is trained on {least:,} vectors or more, got {n_passages:,} passages")
    return errors


def _refused(factory: str, search: str, similarity: str) -> list[str]:
    """A line for each part of the two strings that faiss takes, and then ends the process, raises, or finds nothing."""
    errors = []
    if re.search(r"(?<!\d)0+(?!\d)|(HNSW|NSG)0*1(?!\d)", factory):
        errors.append(f"faiss_index: numbers must be at least 1, and 2 after HNSW or NSG, got {factory!r}")
    if "IDMap" in factory:
        errors.append(f"faiss_index: must not have IDMap, as passages are numbered by their row, got {factory!r}")
    if similarity == "manhattan" and (
        part := re.search(r"[A-Za-z]*Q\d*|Refine|RFlat|_HNSW|Residual|ZnLattice", factory)
    ):
        errors.append(f"faiss_index: must not have {part[0]} with manhattan, got {factory!r}")
    values = dict(part.split("=", 1) for part in search.split(",") if "=" in part)
    errors += [
        f"faiss_search: {name} must be at least 1, got {search!r}"
        for name, value in values.items()
        if name.endswith(("nprobe", "efSearch")) and re.fullmatch(r"\s*(-.*|0*(\.0*)?)\s*", value)
    ]
    return errors


def _training_vectors(index: Any) -> int:
    """The vectors that a faiss index has to be trained on at least."""
    faiss = require("faiss")
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    quantizer = getattr(index, "pq", None)
    return max(getattr(index, "nlist", 0), 0 if quantizer is None else quantizer.ksub)


def build_faiss(
    embeddings: "np.ndarray", path: Path, factory: str, search: str, similarity: str, report: Report
) -> dict[str, float]:
    """Writes a faiss index of vectors (n, dimension), and measures what it finds.

    Returns:
        ``faiss_recall@k``, k = 10 or all: of the k passages that are most similar to a passage, the share that the
        index finds, the mean over a sample of passages. A passage is among its own.

    Raises:
        ConfigError: faiss cannot train it, or not search it by this similarity.
    """
    import numpy as np

    faiss = require("faiss")
    n = len(embeddings)
    index = faiss.index_factory(embeddings.shape[1], factory, faiss_metric(similarity))
    try:
        if not index.is_trained:
            rows = np.unique(np.linspace(0, n - 1, min(n, _TRAINED_ON)).astype(np.int64))
            index.train(np.ascontiguousarray(embeddings[rows], dtype=np.float32))
        for begin in range(0, n, _BLOCK):
            index.add(np.ascontiguousarray(embeddings[begin : begin + _BLOCK], dtype=np.float32))
            report("indexing", min(begin + _BLOCK, n), n)
        index.search(np.ascontiguousarray(embeddings[:1], dtype=np.float32), 1)
    except RuntimeError as error:
        raise ConfigError(f"faiss_index: {factory} cannot be made of {n:,} vectors: {error}") from error
    faiss.write_index(index, str(path))
    index = open_faiss(path, search)
    k = min(10, n)
    sample = np.unique(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(np.int64))
    queries = np.ascontiguousarray(embeddings[sample], dtype=np.float32)
    least = exact_search(queries, embeddings, k, similarity=similarity)[0][:, -1]
    found = approximate_search(index, queries, embeddings, k, similarity)
    shares = [(scores >= last).sum() / k for (scores, _), last in zip(found, least, strict=True)]
    return {f"faiss_recall@{k}": float(np.mean(shares))}


def open_faiss(path: Path, search: str, device: str = "cpu") -> Any:
    """The faiss index of a file, with the parameters of its search; CheckpointError where there is none.

    On ``cuda`` it is copied to the GPU, where this faiss is built for one and has such an index there.
    """
    faiss = require("faiss")
    try:
        index = faiss.read_index(str(path))
        if search:
            faiss.ParameterSpace().set_index_parameters(index, search)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: cannot be read by faiss {faiss.__version__}: {error}") from error
    return _on_gpu(index, path, search, device) if device.startswith("cuda") else index


def _on_gpu(index: Any, path: Path, search: str, device: str) -> Any:
    faiss = require("faiss")
    reason = "this faiss has no GPU (faiss-cpu?)"
    if getattr(faiss, "get_num_gpus", int)():
        try:
            copy = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(device.partition(":")[2] or 0), index)
            if search:
                faiss.GpuParameterSpace().set_index_parameters(copy, search)
        except RuntimeError as error:
            reason = str(error).rpartition(": ")[2].strip()
        else:
            logger.info("%s: searched by faiss on %s", path, device)
            return copy
    logger.info("%s: searched by faiss on the CPU, as %s", path, reason)
    return index


def approximate_search(
    index: Any, queries: "np.ndarray", embeddings: "np.ndarray", k: int, similarity: str
) -> "Iterator[tuple[np.ndarray, np.ndarray]]":
    """For each query, scores and positions of what a faiss index finds: at most ``k`` each.

    The index chooses the passages; they are scored by their vectors, so that equal ones stand in their order.
    """
    import numpy as np

    embeddings = np.asarray(embeddings)
    for query, positions in zip(queries, index.search(queries, k)[1], strict=True):
        yield _ranked(query, embeddings, positions[positions >= 0], similarity)  # -1: faiss has found no more


def _ranked(
    query: "np.ndarray", embeddings: "np.ndarray", positions: "np.ndarray", similarity: str
) -> "tuple[np.ndarray, np.ndarray]":
    """Scores and positions of some passages, the best first, equal ones by position."""
    import numpy as np

    positions = np.sort(positions)
    scores = similarities(embeddings[positions].astype(np.float32, copy=False), query, similarity)
    order = np.argsort(-scores, kind="stable")
    return scores[order], positions[order]


def np_load(path: Path) -> "np.ndarray":
    """The array of a .npy file, mapped."""
    import numpy as np

    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def stored(vectors: "np.ndarray", dtype: str, source: str) -> "np.ndarray":
    """Vectors as they are kept on disk; ConfigError where the type cannot hold them."""
    import numpy as np

    with np.errstate(over="ignore"):
        kept = np.ascontiguousarray(vectors, dtype=dtype)
    if not np.isfinite(kept).all():
        raise ConfigError(
            f"embeddings_dtype: must hold the vectors of {source}, got {dtype}, whose largest is too small"
        )
    largest = np.abs(kept).max(axis=1)
    if dtype != "float32" and ((largest < np.finfo(dtype).tiny) & (vectors != 0).any(axis=1)).any():
        raise ConfigError(
            f"embeddings_dtype: must hold the vectors of {source}, got {dtype}, whose smallest is too large"
        )
    return kept


def file_of_vectors_errors(name: str) -> list[str]:
    """Why a file holds no vectors."""
    try:
        array = np_load(Path(name))
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [f"embeddings: must be a .npy file of vectors, got {name!r} ({reason})"]
    if getattr(array, "ndim", 0) != 2 or array.dtype.kind != "f" or 0 in array.shape:
        what = f"{array.dtype} of the shape {array.shape}" if hasattr(array, "dtype") else "several arrays"
        return [f"embeddings: must be floating-point numbers (passages, dimension), got {what} in {name}"]
    return []


def import_vectors(name: str, target: Path, similarity: str, dtype: str) -> None:
    """Copies a file of vectors, a block at a time; for cosine, to length 1.

    Raises:
        ConfigError: a number is not finite, or cosine has a row of zeros.
    """
    import numpy as np

    source = np_load(Path(name))
    copy = np.lib.format.open_memmap(target, mode="w+", dtype=dtype, shape=source.shape)
    for begin in range(0, len(source), _BLOCK):
        rows = np.asarray(source[begin : begin + _BLOCK], dtype=np.float32)
        if not np.isfinite(rows).all():
            row = begin + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise ConfigError(f"embeddings: must be finite, got another number in row {row} of {name}")
        if similarity == "cosine":
            rows = _normalised(rows, begin, name)
        copy[begin : begin + _BLOCK] = stored(rows, dtype, name)
    copy.flush()


def _normalised(rows: "np.ndarray", begin: int, name: str) -> "np.ndarray":
    """The rows of a file from ``begin`` on, to length 1."""
    import numpy as np

    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if lengths.min() <= 1e-12 or lengths.max() == np.inf:  # squares may leave the range of float32
        if not (largest := np.abs(rows).max(axis=1, keepdims=True)).all():
            row = begin + int(np.flatnonzero(largest == 0)[0])
            raise ConfigError(f"embeddings: must not be zero with cosine, got zeros in row {row} of {name}")
        rows = rows / largest
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    normalised: np.ndarray = rows / lengths
    return normalised
