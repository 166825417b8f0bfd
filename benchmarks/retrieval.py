"""Retrieval: indexing and searching by BM25 and by a dense model."""

import json
import shutil
import tempfile
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
