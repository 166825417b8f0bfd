"""Vectors: exact search by each similarity, indexes of faiss, and vectors from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_folders import corpus_file
from tiny_encoders import PASSAGES, TEXTS, similarity_models

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.retrieval.encoder import Encoder
from model_hub_rqa.retrieval.index_folder import build_index, open_index
from model_hub_rqa.retrieval.vectors import (
    approximate_search,
    build_faiss,
    exact_search,
    faiss_errors,
    import_vectors,
    open_faiss,
    similarities,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return similarity_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return corpus_file(tmp_path, PASSAGES)


@pytest.mark.parametrize(
    ("similarity", "expected"),
    [
        ("cosine", [11.0, -4.0, 0.0]),
        ("dot", [11.0, -4.0, 0.0]),
        ("euclidean", [-(8**0.5), -((25 + 9) ** 0.5), -(5**0.5)]),
        ("manhattan", [-4.0, -8.0, -3.0]),
    ],
)
def test_similarities_by_hand(similarity: str, expected: list[float]) -> None:
    """Inner products and negative distances of three rows to (1, 2)."""
    rows = np.array([[3, 4], [-4, 0], [0, 0]], dtype=np.float32)
    rows[1] = [-4, 5] if similarity in ("euclidean", "manhattan") else [-4, 0]
    found = similarities(rows, np.array([1, 2], dtype=np.float32), similarity)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"], ids=["faiss", "torch"])
@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_exact_search_by_each_similarity(similarity: str, device: str) -> None:
    """Far from the origin, with copies and over block borders, the ranking is that of sorting float64 scores, and
    copies stand in their order."""
    generator = np.random.default_rng(0)
    embeddings = (100 + generator.standard_normal((300, 47))).astype(np.float32)
    embeddings[generator.choice(300, 90, replace=False)] = embeddings[7]
    queries = (100 + generator.standard_normal((30, 47))).astype(np.float32)
    scores, positions = exact_search(queries, embeddings, 40, 100, similarity=similarity, device=device)
    difference = embeddings.astype(np.float64)[None] - queries.astype(np.float64)[:, None]
    expected = {
        "dot": queries.astype(np.float64) @ embeddings.astype(np.float64).T,
        "euclidean": -np.sqrt((difference**2).sum(axis=2)),
        "manhattan": -np.abs(difference).sum(axis=2),
    }[similarity]
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :40], rtol=1e-5)
    for values, places in zip(scores, positions, strict=True):
        assert list(zip(-values, places, strict=True)) == sorted(zip(-values, places, strict=True))


def search_ids(folder: Path, queries: list[str], k: int) -> list[list[str]]:
    return [[hit.passage.id for hit in hits] for hits in open_index(folder).search(queries, k)]


FACTORIES = ["HNSW32", "IVF4,Flat", "PQ4x4", "SQ8", "PCA8,SQ8"]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("name", ["dot", "euclidean"])
def test_indexes_of_faiss(tmp_path: Path, models: Path, corpus: Path, factory: str, name: str) -> None:
    """Each finds most of what the exact search does, by the same scores; all of it where k is the corpus or more."""
    settings = DenseSettings(str(models / name))
    build_index(corpus, tmp_path / "flat", settings)
    search = "nprobe=2" if factory.startswith("IVF") else ""
    approximate = DenseSettings(str(models / name), faiss_index=factory, faiss_search=search)
    measured = build_index(corpus, tmp_path / "index", approximate).measured
    assert list(measured) == ["faiss_recall@10"]
    assert 0.4 < measured["faiss_recall@10"] <= 1
    exact, opened = open_index(tmp_path / "flat"), open_index(tmp_path / "index")
    scores = {hit.passage.id: hit.score for hit in exact.search(["oil price"], 40)[0]}
    hits = opened.search(["oil price"], 10)[0]
    assert 4 <= len(hits) <= 10
    assert [hit.score for hit in hits] == [scores[hit.passage.id] for hit in hits]
    order = [(-hit.score, int(hit.passage.id)) for hit in hits]
    assert order == sorted(order)
    for k in (40, 999):
        assert opened.search(["oil price"], k) == exact.search(["oil price"], k)


def test_the_recall_that_is_measured(tmp_path: Path) -> None:
    """By hand: of four lists, one that is searched lacks what lies in the others; all together lack nothing."""
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float32)
    generator = np.random.default_rng(0)
    near = generator.standard_normal((6, 2)).astype(np.float32) / 100
    vectors = np.concatenate([100 * corner + near for corner in corners])  # six near each corner
    found = {
        probes: build_faiss(
            vectors, tmp_path / "index", "IVF4,Flat", f"nprobe={probes}", "euclidean", lambda *args: None
        )
        for probes in (1, 4)
    }
    assert found == {1: {"faiss_recall@10": pytest.approx(6 / 10)}, 4: {"faiss_recall@10": 1.0}}


def test_fewer_than_k_are_found(tmp_path: Path) -> None:
    """Where faiss fills up with -1, there are fewer hits, and none of another passage."""
    vectors = np.eye(8, dtype=np.float32) * 10
    build_faiss(vectors, tmp_path / "index", "IVF4,Flat", "", "euclidean", lambda *args: None)
    index = open_faiss(tmp_path / "index", "nprobe=1")
    assert (index.search(vectors[:1], 6)[1] == -1).any()
    ((scores, positions),) = approximate_search(index, vectors[:1], vectors, 6, "euclidean")
    assert len(scores) == len(positions) < 6
    assert positions[0] == 0
    assert scores[0] == 0
    assert (positions >= 0).all()


@pytest.mark.parametrize(
    ("factory", "search", "said"),
    [
        (
            "HNWS32",
            "",
            "faiss_index: must be a string of faiss' index_factory, such as HNSW32, IVF100,Flat, got 'HNWS32'",
        ),
        ("", "", "faiss_index: must be a string of faiss' index_factory, such as HNSW32, IVF100,Flat, got ''"),
        ("HNSW32", "nprobe=3", "faiss_search: HNSW32 has no such parameters, got 'nprobe=3'"),
        ("Flat", "nprobe=3", "faiss_search: needs faiss_index, got 'nprobe=3' without"),
        ("HNSW0", "", "faiss_index: numbers must be at least 1, and 2 after HNSW or NSG, got 'HNSW0'"),
        ("HNSW1", "", "faiss_index: numbers must be at least 1, and 2 after HNSW or NSG, got 'HNSW1'"),
        ("IVF0,Flat", "", "faiss_index: numbers must be at least 1, and 2 after HNSW or NSG, got 'IVF0,Flat'"),
        (
            "IDMap,Flat",
            "",
            "faiss_index: must not have IDMap, as passages are numbered by their row, got 'IDMap,Flat'",
        ),
        ("HNSW8", "efSearch=0", "faiss_search: efSearch must be at least 1, got 'efSearch=0'"),
        ("IVF4,Flat", "nprobe=-1", "faiss_search: nprobe must be at least 1, got 'nprobe=-1'"),
    ],
)
def test_strings_that_faiss_does_not_read(factory: str, search: str, said: str, tmp_path: Path) -> None:
    """They are told before a corpus or a model is read."""
    settings = DenseSettings(f"{tmp_path}/none", faiss_index=factory, faiss_search=search)
    with pytest.raises(ConfigError, match=r"^embedding_model: ") as raised:
        build_index(tmp_path / "none.jsonl", tmp_path / "index", settings)
    assert said in raised.value.errors


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("PQ7", r"faiss_index: does not fit vectors of 16 numbers \(.* should be a multiple .*\), got 'PQ7'"),
        ("IVF50,Flat", "faiss_index: IVF50,Flat is trained on 50 vectors or more, got 40 passages"),
        ("OPQ4,PQ4x4", "faiss_index: OPQ4,PQ4x4 is trained on 256 vectors or more, got 40 passages"),
        ("PQ4", "faiss_index: PQ4 is trained on 256 vectors or more, got 40 passages"),
    ],
)
def test_indexes_that_do_not_fit(tmp_path: Path, models: Path, corpus: Path, factory: str, said: str) -> None:
    """The vectors' dimension and their number are compared before any is encoded."""
    with pytest.raises(ConfigError, match=f"^{said}$"):
        build_index(
            corpus,
            tmp_path / "index",
            DenseSettings(str(models / "dot"), faiss_index=factory),
            report=lambda what, done, total: pytest.fail("encodes") if what == "encoding" else None,
        )
    assert not (tmp_path / "index.partial").exists()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_vectors_from_a_file(tmp_path: Path, models: Path, corpus: Path, similarity: str) -> None:
    """The index is that of the model that made them; for cosine they are brought to length 1."""
    name = str(models / similarity)
    build_index(corpus, tmp_path / "encoded", DenseSettings(name))
    raw = Encoder(DenseSettings(name, similarity="dot")).passages(TEXTS)
    np.save(tmp_path / "vectors.npy", raw.astype(np.float64))
    settings = DenseSettings(query_model=name, embeddings=f"{tmp_path}/vectors.npy")
    build_index(corpus, tmp_path / "index", settings)
    np.testing.assert_allclose(
        np.load(tmp_path / "index/embeddings.npy"), np.load(tmp_path / "encoded/embeddings.npy"), rtol=1e-3, atol=1e-5
    )
    (tmp_path / "vectors.npy").unlink()
    assert search_ids(tmp_path / "index", ["oil price"], 5) == search_ids(tmp_path / "encoded", ["oil price"], 5)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((39, 16)), "embeddings: must have 40 rows, one for each passage, got 39 in .*"),
        (np.zeros((40, 8)), "embeddings: must have 16 columns, the dimension of .*, got 8"),
        (np.full((40, 16), np.nan), "embeddings: must be finite, got another number in row 0 of .*"),
        (
            np.zeros((40, 16), int),
            r"embeddings: must be floating-point numbers .*, got int64 of the shape \(40, 16\) in .*",
        ),
        (np.zeros(16), r"embeddings: must be floating-point numbers .*, got float64 of the shape \(16,\) in .*"),
        (np.array([None]), "embeddings: must be a .npy file of vectors, got .*"),
        (None, "embeddings: must be a .npy file of vectors, got .*No such file.*"),
    ],
    ids=["rows", "columns", "nan", "integers", "one dimension", "pickle", "missing"],
)
def test_files_that_are_not_the_corpus_vectors(
    tmp_path: Path, models: Path, corpus: Path, array: Any, said: str
) -> None:
    """Each is told with what it has, and leaves nothing."""
    if array is not None:
        np.save(tmp_path / "vectors.npy", array, allow_pickle=True)
    settings = DenseSettings(str(models / "dot"), embeddings=f"{tmp_path}/vectors.npy")
    with pytest.raises(ConfigError, match=f"^{said}$"):
        build_index(corpus, tmp_path / "index", settings)
    assert not (tmp_path / "index.partial").exists()


def ranked(queries: np.ndarray, embeddings: np.ndarray, k: int, similarity: str) -> list[list[int]]:
    """All scores of all passages, sorted; equal ones in their order."""
    scores = [similarities(embeddings, query, similarity) for query in queries]
    return [np.lexsort((np.arange(len(embeddings)), -row))[:k].tolist() for row in scores]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"], ids=["faiss", "torch"])
@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("k", [1, 7, 40, 299])
def test_ties_of_long_vectors(similarity: str, k: int, device: str) -> None:
    """Where products almost cancel out, what rounding does is larger than the scores: copies still stand in their
    order, and the best are all there, whatever blocks they are in."""
    generator = np.random.default_rng(3)
    queries = (1e3 * generator.standard_normal((20, 129))).astype(np.float32)
    embeddings = (1e3 * generator.standard_normal((300, 129))).astype(np.float32)
    normals = np.linalg.qr(queries.T.astype(np.float64))[0]
    embeddings = (embeddings - embeddings @ normals @ normals.T).astype(np.float32)  # at right angles to the queries
    embeddings[100:] = embeddings[generator.integers(0, 100, 200)]
    assert np.abs(queries @ embeddings.T).max() < 10 < 1e-5 * np.linalg.norm(queries[0]) * np.linalg.norm(embeddings[0])
    scores, positions = exact_search(queries, embeddings, k, 100, similarity=similarity, device=device)
    assert positions.tolist() == ranked(queries, embeddings, k, similarity)
    for query, values, places in zip(queries, scores, positions, strict=True):
        np.testing.assert_array_equal(values, similarities(embeddings[places], query, similarity))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_torch_searches_as_faiss_does(dtype: Any) -> None:
    """Scores and order, to the last digit, whatever precision the process has set for its products."""
    import torch

    generator = np.random.default_rng(5)
    embeddings = generator.standard_normal((700, 96)).astype(dtype)
    queries = generator.standard_normal((9, 96)).astype(np.float32)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = [exact_search(queries, embeddings, 30, 128, device=device) for device in ("cpu", "cpu:0")]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("device", "n_gpus", "error", "said"),
    [
        ("cuda:1", 2, None, "index.faiss: searched by faiss on cuda:1"),
        ("cuda", 1, None, "index.faiss: searched by faiss on cuda"),
        ("cuda:0", 1, "Error in f at f.cpp:3: not implemented on GPU", "on the CPU, as not implemented on GPU"),
        ("cuda:0", 0, None, "index.faiss: searched by faiss on the CPU, as this faiss has no GPU (faiss-cpu?)"),
        ("cpu", 2, None, None),
    ],
    ids=["second", "first", "not there", "no gpu", "cpu"],
)
def test_where_faiss_searches(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    n_gpus: int,
    error: str | None,
    said: str | None,
) -> None:
    """On the model's GPU, with the parameters of the search, where this faiss can; else on the CPU, which is told."""
    import faiss

    moved, given = list[int](), list[str]()

    def copy(resources: object, number: int, index: Any) -> Any:
        moved.append(number)
        if error is not None:
            raise RuntimeError(error)
        return "on the GPU"

    class Parameters:
        def set_index_parameters(self, index: Any, text: str) -> None:
            given.append(f"{index}: {text}")

    fakes = {"get_num_gpus": lambda: n_gpus, "StandardGpuResources": object, "index_cpu_to_gpu": copy}
    for name, fake in {**fakes, "GpuParameterSpace": Parameters}.items():
        monkeypatch.setattr(faiss, name, fake, raising=False)
    index = faiss.index_factory(4, "IVF2,Flat")
    index.train(np.eye(4, dtype=np.float32))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    with caplog.at_level("INFO", "model_hub_rqa"):
        opened = open_faiss(tmp_path / "index.faiss", "nprobe=2", device)
    on_gpu = said is not None and said.endswith(device)
    assert (opened == "on the GPU") == on_gpu
    assert given == (["on the GPU: nprobe=2"] if on_gpu else [])
    assert on_gpu or opened.nprobe == 2
    assert moved == ([int(device[5:] or 0)] if on_gpu or error else [])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (said is not None)
    assert all(line.endswith(said) for line in lines if said)


@pytest.mark.parametrize(
    ("device", "k", "by_index"), [("cuda:0", 2048, True), ("cuda:0", 2049, False), ("cpu", 2049, True)]
)
def test_more_hits_than_a_gpu_finds(monkeypatch: pytest.MonkeyPatch, device: str, k: int, by_index: bool) -> None:
    """All vectors are compared then, on the same device."""
    from types import SimpleNamespace

    from model_hub_rqa.retrieval import dense

    asked = list[Any]()
    monkeypatch.setattr(dense, "approximate_search", lambda *args: asked.append("index") or [])
    monkeypatch.setattr(dense, "exact_search", lambda *args, device, **more: asked.append(device) or ([], []))
    vectors, encoder = np.zeros((3000, 2), np.float32), SimpleNamespace(dimension=2, similarity="dot", device=device)
    retriever = dense.DenseRetriever([PASSAGES[0]] * 3000, vectors, encoder, "an index")  # type: ignore[arg-type]
    list(retriever.search_vectors(vectors[:1], k))
    assert asked == ["index" if by_index else device]


@pytest.mark.parametrize(
    ("factory", "part"),
    [("SQ8", "SQ8"), ("IVF4,PQ4x4", "PQ4"), ("IVF4,Flat,RFlat", "RFlat"), ("IVF4_HNSW8,Flat", "_HNSW")],
)
def test_indexes_that_do_not_know_manhattan(factory: str, part: str) -> None:
    """faiss makes them, and refuses to search them or ends the process."""
    said = [f"faiss_index: must not have {part} with manhattan, got {factory!r}"]
    assert faiss_errors(factory, "", 16, "manhattan") == said
    assert faiss_errors(factory, "", 16, "euclidean") == faiss_errors("IVF10,Flat", "nprobe=10", 16, "manhattan") == []


def test_an_index_that_faiss_cannot_make(tmp_path: Path) -> None:
    """It is told with what faiss says, when it is made."""
    vectors = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    with pytest.raises(ConfigError, match=r"faiss_index: PCA99,Flat cannot be made of 600 vectors: .*"):
        build_faiss(vectors, tmp_path / "index", "PCA99,Flat", "", "euclidean", lambda *args: None)
    assert not (tmp_path / "index").exists()


def test_very_long_and_very_short_rows_are_normalised(tmp_path: Path) -> None:
    """Where their squares leave the range of float32 as well; ordinary rows beside them keep their direction."""
    rows = np.array([[3e30, 4e30], [3e-30, -4e-30], [0, 1e-42], [3, 4]], dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    import_vectors(str(tmp_path / "rows.npy"), tmp_path / "copy.npy", "cosine", "float32")
    expected = [[0.6, 0.8], [0.6, -0.8], [0, 1], [0.6, 0.8]]
    np.testing.assert_allclose(np.load(tmp_path / "copy.npy"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "similarity", "dtype", "said"),
    [
        ([[1, 2], [0, 0]], "cosine", "float32", "embeddings: must not be zero with cosine, got zeros in row 1 of .*"),
        ([[1, 2], [1e-7, 0]], "dot", "float16", "embeddings_dtype: must hold .*, got float16, whose smallest is too l"),
        ([[1, 2], [1e5, 0]], "dot", "float16", "embeddings_dtype: must hold .*, got float16, whose largest is too sm"),
        ([[1, 2], [0, np.inf]], "dot", "float32", "embeddings: must be finite, got another number in row 1 of .*"),
    ],
    ids=["zeros", "small", "large", "infinite"],
)
def test_rows_that_cannot_be_kept(tmp_path: Path, rows: Any, similarity: str, dtype: str, said: str) -> None:
    np.save(tmp_path / "rows.npy", np.array(rows, dtype=np.float32))
    with pytest.raises(ConfigError, match=f"^{said}"):
        import_vectors(str(tmp_path / "rows.npy"), tmp_path / "copy.npy", similarity, dtype)
    np.save(tmp_path / "rows.npy", np.array([rows[0], [0.5, 0]], dtype=np.float32))
    import_vectors(str(tmp_path / "rows.npy"), tmp_path / "copy.npy", similarity, dtype)
    assert np.load(tmp_path / "copy.npy").dtype == dtype
