"""Dense search: vectors imported from a file, indexed and searched through us, and by faiss used directly."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import data
from benchmarks.timing import Row, interleaved

if TYPE_CHECKING:
    import numpy as np

DIMENSION, TOP_K, BATCH = 384, 100, 64
CASES = {  # what we are asked for: faiss_index, faiss_search, embeddings_dtype; and the peer's index_factory string
    "exact": ("Flat", "", "float32", "Flat"),
    "exact, float16": ("Flat", "", "float16", "SQfp16"),
    "HNSW32": ("HNSW32", "efSearch=128", "float32", "HNSW32"),
    "IVF512,Flat": ("IVF512,Flat", "nprobe=16", "float32", "IVF512,Flat"),
    "SQ8": ("SQ8", "", "float32", "SQ8"),
    "PQ48": ("PQ48", "", "float32", "PQ48"),
}
_SHORT = {"HNSW32": "HNSW4", "IVF512,Flat": "IVF4,Flat", "PQ48": "PQ4x4"}  # for a few hundred vectors


def dense_search(repeats: int, *, passages: int = 200_000, queries: int = 256) -> list[Row]:
    """The top 100 of made vectors, in batches of 64 queries with all threads of the machine.

    Indexing (processor seconds) and its memory (beyond imports) are measured in processes of their own; queries a
    second in turns in one process, the median. No model takes part. ``with passages``: our hits bring the passages'
    texts.
    """
    folder = Path(tempfile.mkdtemp())
    _make(passages, queries, folder)
    rows = []
    for case in CASES:
        ours, peer = (_run(step, case, folder) for step in ("ours", "peer"))
        searched = _run("search", case, folder, str(repeats))
        what = f"dense, {passages:,} vectors of {DIMENSION}, {case} / faiss directly"
        for name, unit in (("index", "s"), ("memory", "MiB"), ("disk", "MiB")):
            ratio = ours[name] / max(peer[name], 1e-9)
            shown = (f"{one[name]:.3g} {unit}" for one in (ours, peer))
            rows.append(Row(f"{what}: {name} (times as much)", ratio, *shown))
        peers = searched["peer"]
        for name in ("queries", "queries with passages"):
            shown = (f"{one:.3g} a second" for one in (searched[name], peers))
            rows.append(Row(f"{what}: {name}", searched[name] / peers, *shown))
        recalls = searched["recall"], searched["peer recall"]
        rows.append(Row(f"{what}: recall@{TOP_K}", recalls[0] / recalls[1], *(f"{one:.3f}" for one in recalls)))
        shutil.rmtree(folder / "ours")
        (folder / "peer.faiss").unlink()
    shutil.rmtree(folder)
    return rows


def _make(passages: int, queries: int, folder: Path) -> None:
    """Unit vectors whose principal components, in random directions, have variances of 1/1, 1/2, 1/3 ... so that
    neighbours are as hard to find as among texts: of vectors that are random in all directions, no vector is near."""
    import numpy as np

    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.standard_normal((DIMENSION, DIMENSION)))[0].astype(np.float32)
    deviations = (1 / np.sqrt(np.arange(1, DIMENSION + 1))).astype(np.float32)
    for name, n in (("passages", passages), ("queries", queries)):
        rows = (generator.standard_normal((n, DIMENSION), dtype=np.float32) * deviations) @ directions
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.save(folder / f"{name}.npy", rows)
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(passages):
            file.write(
                json.dumps({"_id": str(number), "text": f"passage {number} " + "of a hundred words " * 24}) + "\n"
            )


def _run(step: str, case: str, folder: Path, *more: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.dense_search", step, case, str(folder), *more]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=data.ROOT)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


class _Queries:
    """Stands for an embedding model: a query's text is the number of its vector."""

    similarity, device, identity, dimension = "cosine", "cpu", {"similarity": "cosine"}, DIMENSION

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def queries(self, texts: list[str]) -> "np.ndarray":
        import numpy as np

        vectors: np.ndarray = np.load(Path(self.settings.embedding_model) / "queries.npy", mmap_mode="r")
        return np.array(vectors[[int(text) for text in texts]])


def _factories(case: str, folder: Path) -> tuple[str, str, str, str]:
    import numpy as np

    factory, search, dtype, peer = CASES[case]
    few = len(np.load(folder / "passages.npy", mmap_mode="r")) < 10_000
    small = _SHORT.get(case, factory) if few else factory
    return small, "" if few else search, dtype, small if peer == factory else peer


def _indexed(step: str, case: str, folder: Path) -> dict[str, float]:
    """Processor seconds, MiB beyond imports and MiB on disk of an index; ours has the passages beside, not counted."""
    import faiss
    import numpy as np

    from model_hub_rqa.progress import peak_memory_mib
    from model_hub_rqa.retrieval import dense
    from model_hub_rqa.retrieval.index_folder import build_index

    factory, search, dtype, peer = _factories(case, folder)
    settings = dense.DenseSettings(
        query_model=str(folder),
        embeddings=str(folder / "passages.npy"),
        embeddings_dtype=dtype,
        faiss_index=factory,
        faiss_search=search,
    )
    if step == "ours":
        import sentence_transformers  # noqa: F401 - so that importing it is not counted

        vars(dense)["Encoder"] = _Queries
    before, begun = peak_memory_mib(), time.process_time()
    if step == "ours":
        build_index(folder / "corpus.jsonl", folder / "ours", settings)
    else:
        vectors = np.load(folder / "passages.npy")
        index = faiss.index_factory(DIMENSION, peer, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(folder / "peer.faiss"))
    seconds, memory = time.process_time() - begun, peak_memory_mib() - before
    files = (
        [folder / "peer.faiss"]
        if step == "peer"
        else [*folder.glob("ours/embeddings.npy"), *folder.glob("ours/*.faiss")]
    )
    return {"index": seconds, "memory": memory, "disk": sum(path.stat().st_size for path in files) / 2**20}


def _searched(case: str, folder: Path, repeats: int) -> dict[str, float]:
    """Queries a second of both, in turns, and the share of the best that each finds."""
    import faiss
    import numpy as np

    from model_hub_rqa.retrieval import dense
    from model_hub_rqa.retrieval.index_folder import open_index
    from model_hub_rqa.retrieval.vectors import open_faiss

    vars(dense)["Encoder"] = _Queries
    queries = np.load(folder / "queries.npy")
    opened, index = open_index(folder / "ours"), open_faiss(folder / "peer.faiss", _factories(case, folder)[1])
    retriever: Any = opened.retriever
    texts = [str(number) for number in range(len(queries))]

    def in_batches(search: Callable[[int], list[Any]]) -> Callable[[], list[Any]]:
        return lambda: [one for begin in range(0, len(queries), BATCH) for one in search(begin)]

    sides = {
        "queries": in_batches(lambda begin: list(retriever.search_vectors(queries[begin : begin + BATCH], TOP_K))),
        "queries with passages": in_batches(lambda begin: opened.search(texts[begin : begin + BATCH], TOP_K)),
        "peer": in_batches(lambda begin: list(index.search(queries[begin : begin + BATCH], TOP_K)[1])),
    }
    times = interleaved(sides, repeats)
    best = faiss.knn(queries, np.load(folder / "passages.npy"), TOP_K, metric=faiss.METRIC_INNER_PRODUCT)[1]
    found = {"recall": [places for _, places in sides["queries"]()], "peer recall": sides["peer"]()}
    shares = {
        name: float(np.mean([np.isin(one, two).sum() / len(two) for one, two in zip(places, best, strict=True)]))
        for name, places in found.items()
    }
    return {**{name: len(queries) / timing.median for name, timing in times.items()}, **shares}


if __name__ == "__main__":
    step, case, place, *turns = sys.argv[1:]
    folder = Path(place)
    print(json.dumps(_searched(case, folder, int(turns[0])) if step == "search" else _indexed(step, case, folder)))
