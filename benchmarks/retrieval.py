"""Retrieval: indexing and searching by BM25 and by a dense model."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.timing import Row, faster, interleaved


def _scifact(count: int | None) -> tuple[list[Any], list[str]]:
    from model_hub_rqa.records import Passage

    folder = data.real_data() / "beir/scifact"
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    corpus = [Passage(one["_id"], one["text"], one["title"]) for one in map(json.loads, lines)]
    queries = [json.loads(line)["text"] for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    return corpus, queries[:100]


def bm25(repeats: int, *, documents: int | None = None) -> list[Row]:
    """SciFact: the index, and a hundred queries; rank_bm25 gets the texts lower-cased and split at white space."""
    from rank_bm25 import BM25Okapi

    from model_hub_rqa.retrieval.base import passage_text
    from model_hub_rqa.retrieval.bm25 import BM25Retriever, BM25Settings

    corpus, queries = _scifact(documents)
    tokens = [passage_text(passage).lower().split() for passage in corpus]
    mine, theirs = BM25Retriever.build(corpus, BM25Settings()), BM25Okapi(tokens)
    indexing = interleaved(
        {"ours": lambda: BM25Retriever.build(corpus, BM25Settings()), "peer": lambda: BM25Okapi(tokens)}, repeats
    )
    searching = interleaved(
        {
            "ours": lambda: mine.search(queries, 100),
            "peer": lambda: [theirs.get_scores(query.lower().split()).argsort()[:-101:-1] for query in queries],
        },
        repeats,
    )
    what = "BM25 index of SciFact, tokenising included / rank_bm25's, tokens given"
    return [
        faster(what, indexing["ours"], indexing["peer"]),
        faster("BM25 search, 100 queries / rank_bm25", searching["ours"], searching["peer"]),
    ]


def engines(repeats: int, *, passages: int = 200_000, queries: int = 200) -> list[Row]:
    """BM25's engines through us and used directly, each side in a process of its own: from a corpus file to an index on
    disk, and a hundred hits for each query from it. Times are processor seconds, memory is beyond what imports take."""
    folder = Path(tempfile.mkdtemp())
    _made_passages(passages, queries, folder)
    found = {}
    for case in ("tantivy", "tantivy directly", "bm25s", "bm25s directly"):
        command = [sys.executable, "-m", "benchmarks.retrieval", case, str(folder), str(repeats)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=data.ROOT)
        found[case] = json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(folder)
    rows = []
    for engine, peer in (("tantivy", "tantivy directly"), ("bm25s", "bm25s directly"), ("tantivy", "bm25s directly")):
        ours, theirs = found[engine], found[peer]
        for name, unit in (("index", "s"), ("memory", "MiB"), ("disk", "MiB"), ("queries", "a second")):
            fewer = name != "queries"
            what = f"BM25 of {passages:,} made passages, {engine} / {peer}: {name}{' (times as much)' if fewer else ''}"
            rows.append(Row(what, ours[name] / theirs[name], f"{ours[name]:.3g} {unit}", f"{theirs[name]:.3g} {unit}"))
    return rows


def _made_passages(passages: int, queries: int, folder: Path) -> None:
    """Passages of 20 to 180 of 300,000 words, as frequent as Zipf has it; queries are the first eight of one."""
    import numpy as np

    rng, syllables = (
        np.random.default_rng(0),
        [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an")],
    )
    names = random.Random(0)
    words = ["".join(names.choices(syllables, k=names.randint(1, 4))) + "d" for _ in range(300_000)]
    shares = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    asked = []
    with (folder / "corpus.jsonl").open("w") as file:
        for number, length in enumerate(rng.integers(20, 181, size=passages)):
            text = [words[i] for i in np.searchsorted(shares, rng.random(length) * shares[-1])]
            file.write(json.dumps({"_id": str(number), "title": "", "text": " ".join(text)}) + "\n")
            if number < queries:
                asked.append(" ".join(text[:8]))
    (folder / "queries.json").write_text(json.dumps(asked))


Search = Callable[[list[str]], object]


def _through_us(engine: str, folder: Path, index: Path) -> Search:
    from model_hub_rqa.retrieval.bm25 import BM25Settings
    from model_hub_rqa.retrieval.index_folder import build_index, open_index

    build_index(folder / "corpus.jsonl", index, BM25Settings(engine))
    opened = open_index(index)
    for name in ("passages.jsonl", "offsets.npy"):  # the peers keep no texts
        (index / name).unlink()
    return lambda queries: opened.search(queries, 100)


def _tantivy_directly(folder: Path, index: Path) -> Search:
    import tantivy

    schema = tantivy.SchemaBuilder()
    schema.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    schema.add_text_field("text", tokenizer_name="en_stem", index_option="freq")
    index.mkdir()
    made = tantivy.Index(schema.build(), path=str(index))
    writer = made.writer(heap_size=256_000_000, num_threads=1)
    with (folder / "corpus.jsonl").open() as file:
        for record in map(json.loads, file):
            writer.add_document(tantivy.Document(id=record["_id"], text=record["text"]))
    writer.commit()
    writer.wait_merging_threads()
    made.reload()
    searcher = made.searcher()

    def search(queries: list[str]) -> None:
        for query in queries:
            hits = searcher.search(made.parse_query(query, ["text"]), 100, count=False).hits
            assert [searcher.doc(address)["id"][0] for _, address in hits]

    return search


def _bm25s_directly(folder: Path, index: Path) -> Search:
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    with (folder / "corpus.jsonl").open() as file:
        texts = [json.loads(line)["text"] for line in file]
    model = bm25s.BM25(method="lucene", k1=1.2, b=0.75, backend="numpy")
    model.index(bm25s.tokenize(texts, stopwords=None, stemmer=stemmer, show_progress=False), show_progress=False)
    model.save(index, show_progress=False)
    opened = bm25s.BM25.load(index, mmap=True, backend="numpy", show_progress=False)

    def search(queries: list[str]) -> object:
        tokens = bm25s.tokenize(queries, stopwords=None, stemmer=stemmer, return_ids=False, show_progress=False)
        return opened.retrieve(tokens, k=100, show_progress=False)

    return search


def _measured(case: str, folder: Path, repeats: int) -> dict[str, float]:
    import bm25s  # noqa: F401 - so that importing them is not counted
    import Stemmer  # noqa: F401
    import tantivy  # noqa: F401

    from model_hub_rqa.progress import peak_memory_mib
    from model_hub_rqa.retrieval import bm25, index_folder  # noqa: F401

    index, queries = folder / case.replace(" ", "-"), json.loads((folder / "queries.json").read_text())
    before, begun = peak_memory_mib(), time.process_time()
    if case == "tantivy directly":
        search = _tantivy_directly(folder, index)
    elif case == "bm25s directly":
        search = _bm25s_directly(folder, index)
    else:
        search = _through_us(case, folder, index)
    seconds = time.process_time() - begun
    memory = peak_memory_mib() - before
    search(queries)
    begun = time.process_time()
    for _ in range(repeats):
        search(queries)
    rate = repeats * len(queries) / (time.process_time() - begun)
    disk = sum(path.stat().st_size for path in index.rglob("*") if path.is_file()) / 2**20
    return {"index": seconds, "memory": memory, "disk": disk, "queries": rate}


def dense(repeats: int, *, documents: int = 512) -> list[Row]:
    """MiniLM over documents of SciFact, to disk."""
    from sentence_transformers import SentenceTransformer

    from model_hub_rqa.retrieval.base import PassageStore, passage_text, write_passages
    from model_hub_rqa.retrieval.dense import DenseSettings, write_embeddings
    from model_hub_rqa.retrieval.encoder import Encoder

    corpus, _ = _scifact(documents)
    texts = [passage_text(passage) for passage in corpus]
    model = SentenceTransformer(data.minilm(), device="cpu")
    encoder = Encoder(DenseSettings(embedding_model=data.minilm()))

    def run_ours() -> None:
        folder = Path(tempfile.mkdtemp())
        write_passages(corpus, folder)
        write_embeddings(PassageStore(folder), encoder, folder, "key", batch_size=32)
        shutil.rmtree(folder)

    cases = {"ours": run_ours, "peer": lambda: model.encode(texts, show_progress_bar=False)}
    times = interleaved(cases, repeats)
    what = f"dense encoding of {documents} documents / sentence-transformers' encode"
    return [faster(what, times["ours"], times["peer"])]


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
