"""Dense retrieval with small models of sentence-transformers: similarity, pooling, prompts, and what an index notes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tiny_encoders import TEXTS, encoder_folder, reference_ranking
from tokenizers_for_tests import bert

from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.dense import DenseRetriever, DenseSettings
from model_hub_rqa.retrieval.encoder import SIMILARITIES, Encoder
from model_hub_rqa.retrieval.index_folder import build_index, open_index
from model_hub_rqa.retrieval.manifest import read_manifest
from model_hub_rqa.retrieval.search import SearchSettings, check_retriever
from model_hub_rqa.retrieval.vectors import approximate_search, build_faiss, exact_search, open_faiss, similarities

PASSAGES = [Passage(str(i), text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for each similarity, and one, ``none``, that names none."""
    folder = tmp_path_factory.mktemp("models")
    encoder_folder(folder / "none")
    for similarity in SIMILARITIES:
        encoder_folder(folder / similarity, similarity_fn_name=similarity)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """PASSAGES as a BEIR corpus."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": p.id, "text": p.text}) + "\n" for p in PASSAGES))
    return path


def ranking(settings: DenseSettings, query: str, k: int = 40) -> tuple[list[float], list[int]]:
    hits = DenseRetriever.build(PASSAGES, settings).search([query], k)[0]
    return [hit.score for hit in hits], [int(hit.passage.id) for hit in hits]


@pytest.mark.parametrize("name", ["none", *SIMILARITIES])
def test_the_similarity_is_the_models(models: Path, name: str) -> None:
    """Scores and ranking are those of sentence-transformers' own similarity: cosine where the model names none."""
    scores, order = ranking(DenseSettings(str(models / name)), "oil price")
    expected, positions = reference_ranking(str(models / name), "oil price", TEXTS)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert order == positions


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_similarity_that_is_set(models: Path, similarity: str) -> None:
    """It holds in place of the model's, for scores, ranking and normalisation."""
    settings = DenseSettings(str(models / "dot"), similarity=similarity)
    scores, order = ranking(settings, "river basin")
    expected, positions = reference_ranking(str(models / "dot"), "river basin", TEXTS, similarity)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert order == positions
    lengths = np.linalg.norm(Encoder(settings).passages(TEXTS), axis=1)
    assert (np.abs(lengths - 1).max() < 1e-5) == (similarity == "cosine")


def test_similarities_rank_these_texts_differently(models: Path) -> None:
    """What the tests above compare is not one order under four names."""
    orders = [ranking(DenseSettings(str(models / name)), "oil price")[1] for name in SIMILARITIES]
    assert len({tuple(order) for order in orders}) == len(SIMILARITIES)


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


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
def test_exact_search_by_each_similarity(similarity: str) -> None:
    """Far from the origin, with copies and over block borders, the ranking is that of sorting float64 scores, and
    copies stand in their order."""
    generator = np.random.default_rng(0)
    embeddings = (100 + generator.standard_normal((300, 47))).astype(np.float32)
    embeddings[generator.choice(300, 90, replace=False)] = embeddings[7]
    queries = (100 + generator.standard_normal((30, 47))).astype(np.float32)
    scores, positions = exact_search(queries, embeddings, 40, 100, similarity=similarity)
    difference = embeddings.astype(np.float64)[None] - queries.astype(np.float64)[:, None]
    expected = {
        "dot": queries.astype(np.float64) @ embeddings.astype(np.float64).T,
        "euclidean": -np.sqrt((difference**2).sum(axis=2)),
        "manhattan": -np.abs(difference).sum(axis=2),
    }[similarity]
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :40], rtol=1e-5)
    for values, places in zip(scores, positions, strict=True):
        assert list(zip(-values, places, strict=True)) == sorted(zip(-values, places, strict=True))


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_prompts_of_the_configuration(tmp_path: Path, name: str) -> None:
    """Whatever a configuration calls the prompt of passages, it stands before them; what is set wins."""
    prompts = {"query": "what is ", name: "river "}
    encoder = Encoder(DenseSettings(encoder_folder(tmp_path / "model", prompts=prompts)))
    plain = Encoder(DenseSettings(encoder_folder(tmp_path / "plain")))
    np.testing.assert_allclose(encoder.queries(["oil"]), plain.queries(["what is oil"]), atol=1e-6)
    np.testing.assert_allclose(encoder.passages(["oil"]), plain.queries(["river oil"]), atol=1e-6)
    unset = Encoder(DenseSettings(str(tmp_path / "model"), query_prompt="", passage_prompt="in "))
    np.testing.assert_allclose(unset.queries(["oil"]), plain.queries(["oil"]), atol=1e-6)
    np.testing.assert_allclose(unset.passages(["oil"]), plain.queries(["in oil"]), atol=1e-6)


def test_pooling_is_the_models_and_may_be_set(tmp_path: Path) -> None:
    """modules.json tells it; set to another model's, the vectors are that model's."""
    mean, cls = (encoder_folder(tmp_path / pooling, pooling=pooling) for pooling in ("mean", "cls"))
    vectors = {name: Encoder(DenseSettings(name)).passages(TEXTS) for name in (mean, cls)}
    assert np.abs(vectors[mean] - vectors[cls]).max() > 0.1
    np.testing.assert_array_equal(Encoder(DenseSettings(mean, pooling="cls")).passages(TEXTS), vectors[cls])


def test_errors_of_similarity_and_pooling(tmp_path: Path, models: Path) -> None:
    """Unknown names are told together before a model is loaded; a model without pooling has none to set."""
    errors = DenseSettings("none", similarity="cos", pooling="avg").errors()
    assert errors == [
        "similarity: must be one of cosine, dot, euclidean, manhattan, got 'cos'",
        "pooling: must be one of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken, got 'avg'",
    ]
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    static = StaticEmbedding(bert().backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static]).save(str(tmp_path / "static"))
    assert Encoder(DenseSettings(str(tmp_path / "static"))).dimension == 8
    with pytest.raises(ConfigError, match=r"pooling: .*static has no pooling to set, got 'cls'"):
        Encoder(DenseSettings(str(tmp_path / "static"), pooling="cls"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_tokenizer, r"tokenizer: must be SHA-256 \w{12} as in the index, got SHA-256 \w{12}"),
        (
            lambda folder: edit(folder / "1_Pooling/config.json", pooling_mode_cls_token=True),
            r'1 Pooling.pooling_mode: must be "mean" as in the index, got \["cls", "mean"\]',
        ),
        (
            lambda folder: edit(folder / "config_sentence_transformers.json", similarity_fn_name="euclidean"),
            "similarity: must be dot as in the index, got euclidean",
        ),
        (
            lambda folder: edit(folder / "config_sentence_transformers.json", prompts={"query": "q: "}),
            "query_prompt: must be '' as in the index, got 'q: '",
        ),
        (
            lambda folder: edit(folder / "config.json", hidden_act="relu"),
            '0 config.hidden_act: must be "gelu" as in the index, got "relu"',
        ),
    ],
    ids=["tokenizer", "pooling", "similarity", "prompt", "config"],
)
def test_an_index_of_another_model_is_refused(
    tmp_path: Path, models: Path, corpus: Path, change: Any, said: str
) -> None:
    """The weights are the same: what else the vectors depend on is compared, and the difference named alone."""
    build_index(corpus, tmp_path / "index", DenseSettings(str(models / "dot")))
    copy = Path(shutil.copytree(models / "dot", tmp_path / "copy"))
    assert open_index(tmp_path / "index", embedding_model=str(copy)).search(["oil"], 1)
    change(copy)
    with pytest.raises(CheckpointError, match=rf"index: .*/copy: {said}$") as raised:
        open_index(tmp_path / "index", embedding_model=str(copy))
    assert len(raised.value.errors) == 1


def test_a_model_that_cannot_read_as_much_as_the_index(tmp_path: Path, models: Path, corpus: Path) -> None:
    """The index and the model are named, for the length is not what the user set."""
    build_index(corpus, tmp_path / "index", DenseSettings(str(models / "dot"), max_seq_length=40))
    short = encoder_folder(tmp_path / "short", max_position_embeddings=32)
    with pytest.raises(ConfigError, match=r"index: .*/short: max_seq_length: must be at most 32, .* got 40$"):
        open_index(tmp_path / "index", embedding_model=short)


def test_an_embedding_model_that_is_not_there_is_named_before_work(
    tmp_path: Path, models: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all else that is wrong: the one that was given, or that of the index; an index of words has none."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    moved = Path(shutil.copytree(models / "dot", tmp_path / "moved"))
    build_index(corpus, tmp_path / "dense", DenseSettings(str(moved)))
    build_index(corpus, tmp_path / "words", BM25Settings())
    dense, words = str(tmp_path / "dense"), str(tmp_path / "words")
    shutil.rmtree(moved)
    cases = [
        (SearchSettings((dense,)), r"embedding_model: .*moved.* \(.*/dense was built with it: if it has moved, say wh"),
        (SearchSettings((dense,), embedding_model="no/model"), "embedding_model: 'no/model' is neither a folder nor"),
        (SearchSettings((words, dense), embedding_model="no/model"), "embedding_model: 'no/model' is neither a folder"),
        (SearchSettings((words,), embedding_model="no/model"), "words: is a bm25 index, which has no embedding model"),
    ]
    for settings, said in cases:
        with pytest.raises((CheckpointError, ConfigError), match=said) as raised:
            check_retriever(replace(settings, fusion_depth=0))
        assert len(raised.value.errors) == 2, raised.value.errors
    assert check_retriever(SearchSettings((words, dense), embedding_model=str(models / "dot")))


def test_the_passage_model_may_be_gone(tmp_path: Path, models: Path, corpus: Path) -> None:
    """A search needs the query model alone."""
    passages = Path(shutil.copytree(models / "dot", tmp_path / "passages"))
    build_index(corpus, tmp_path / "index", DenseSettings(str(passages), query_model=str(models / "dot")))
    shutil.rmtree(passages)
    assert check_retriever(SearchSettings((str(tmp_path / "index"),)))


def test_what_is_set_holds_when_the_index_is_opened(tmp_path: Path, models: Path, corpus: Path) -> None:
    """Similarity, pooling and prompts that were set stand in the manifest, and rank the same when it is opened."""
    settings = DenseSettings(
        str(models / "cosine"), similarity="manhattan", pooling="cls", query_prompt="who ", passage_prompt="in "
    )
    build_index(corpus, tmp_path / "index", settings, batch_size=len(PASSAGES))
    noted = read_manifest(tmp_path / "index")
    assert (noted.settings["similarity"], noted.settings["pooling"]) == ("manhattan", "cls")
    assert (noted.model["similarity"], noted.model["1 Pooling.pooling_mode"]) == ("manhattan", '"cls"')
    expected = DenseRetriever.build(PASSAGES, settings).search(["oil price"], 9)
    found = open_index(tmp_path / "index").search(["oil price"], 9)
    assert [hit.passage.id for hit in found[0]] == [hit.passage.id for hit in expected[0]]
    np.testing.assert_allclose([hit.score for hit in found[0]], [hit.score for hit in expected[0]], rtol=1e-5)


# ------------------------------------------------------------------------------------------- how vectors are kept


def search_ids(folder: Path, queries: list[str], k: int) -> list[list[str]]:
    return [[hit.passage.id for hit in hits] for hits in open_index(folder).search(queries, k)]


def test_vectors_in_half_precision(tmp_path: Path, models: Path, corpus: Path) -> None:
    """They take half the disk, and are scored in float32 by their rounded values."""
    name = str(models / "dot")
    build_index(corpus, tmp_path / "half", DenseSettings(name, embeddings_dtype="float16"))
    build_index(corpus, tmp_path / "full", DenseSettings(name))
    half, full = (np.load(tmp_path / kind / "embeddings.npy") for kind in ("half", "full"))
    assert (half.dtype, full.dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(half, full.astype(np.float16))
    hits = open_index(tmp_path / "half").search(["oil price"], 40)[0]
    query = Encoder(DenseSettings(name)).queries(["oil price"])[0]
    expected = half.astype(np.float64) @ query.astype(np.float64)
    np.testing.assert_allclose([hit.score for hit in hits], [expected[int(hit.passage.id)] for hit in hits], rtol=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_vectors_too_large_for_half_precision(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are an error, not infinities."""
    from readers_for_tests import encode_letters

    letters = encode_letters(monkeypatch)
    monkeypatch.setattr(letters, "passages", lambda self, texts, batch_size: 1e5 * self.queries(texts))
    with pytest.raises(ConfigError, match="embeddings_dtype: must hold the vectors of letters, got float16"):
        build_index(corpus, tmp_path / "index", DenseSettings("letters", embeddings_dtype="float16"))


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


# --------------------------------------------------------------------------------------------- other sources of vectors


def test_two_models(tmp_path: Path, models: Path, corpus: Path) -> None:
    """Passages are encoded by one model, queries by the other; the index opens with the second alone."""
    passages, queries = (
        encoder_folder(tmp_path / name, seed=seed, similarity_fn_name="dot") for seed, name in enumerate("pq")
    )
    manifest = build_index(corpus, tmp_path / "index", DenseSettings(passages, query_model=queries))
    vectors = Encoder(DenseSettings(passages)).passages(TEXTS)
    expected = vectors @ Encoder(DenseSettings(queries)).queries(["oil price"])[0]
    assert manifest.settings["query_model"] == queries
    assert manifest.model["weights"] != manifest.model["passages weights"]
    shutil.rmtree(passages)
    hits = open_index(tmp_path / "index").search(["oil price"], 40)[0]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], rtol=1e-4, atol=1e-4)
    assert int(hits[0].passage.id) == int(expected.argmax())
    with pytest.raises(CheckpointError, match="weights: must be SHA-256"):
        open_index(tmp_path / "index", embedding_model=str(models / "cosine"))


@pytest.mark.parametrize("name", ["DPRContextEncoder", "DPRQuestionEncoder"])
def test_checkpoints_of_dpr_itself(tmp_path: Path, name: str) -> None:
    """sentence-transformers does not encode text with them: that is an error of the name, with a way on."""
    config = transformers.DPRConfig(
        vocab_size=len(bert()), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    bert().save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^embedding_model: .* does not encode text: .* \(DPR is on the hub in the form"
    ):
        Encoder(DenseSettings(str(tmp_path)))


def test_two_models_that_do_not_fit(tmp_path: Path, models: Path, corpus: Path) -> None:
    """Another dimension and another similarity are told together."""
    wide = encoder_folder(tmp_path / "wide", dimension=32, similarity_fn_name="dot")
    with pytest.raises(ConfigError, match=r"^query_model: must give vectors of 16 numbers") as raised:
        build_index(corpus, tmp_path / "index", DenseSettings(str(models / "cosine"), query_model=wide))
    assert raised.value.errors[1] == "similarity: must be set, as embedding_model has cosine, got dot of query_model"
    build_index(
        corpus,
        tmp_path / "index",
        DenseSettings(str(models / "cosine"), query_model=str(models / "dot"), similarity="dot"),
    )


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


@pytest.mark.slow
def test_two_processes_encode(tmp_path: Path, models: Path, corpus: Path) -> None:
    """The vectors are those of one process, to the last bit; the pool is gone afterwards."""
    import multiprocessing

    name = str(models / "dot")
    build_index(corpus, tmp_path / "one", DenseSettings(name), batch_size=2)
    manifest = build_index(corpus, tmp_path / "two", DenseSettings(name, devices="cpu,cpu"), batch_size=2)
    assert manifest.settings["devices"] == ""
    assert (tmp_path / "one/embeddings.npy").read_bytes() == (tmp_path / "two/embeddings.npy").read_bytes()
    assert multiprocessing.active_children() == []


def test_devices_encode_in_processes_of_their_own(
    tmp_path: Path, models: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the list gets one, and those that cannot be started are named."""
    from sentence_transformers import SentenceTransformer

    asked: list[list[str]] = []

    def start(self: Any, target_devices: list[str]) -> None:
        asked.append(target_devices)
        raise ValueError("no such device")

    monkeypatch.setattr(SentenceTransformer, "start_multi_process_pool", start)
    with pytest.raises(ConfigError, match="devices: cannot encode on cpu, nowhere: no such device"):
        build_index(corpus, tmp_path / "index", DenseSettings(str(models / "dot"), devices="cpu, nowhere"))
    assert asked == [["cpu", "nowhere"]]


@pytest.mark.gpu
def test_a_gpu_encodes(tmp_path: Path, models: Path, corpus: Path) -> None:
    """The vectors are those of the CPU, but for rounding."""
    name = str(models / "dot")
    for device in ("cpu", "cuda:0"):
        build_index(corpus, tmp_path / device, DenseSettings(name, devices=device))
    np.testing.assert_allclose(
        np.load(tmp_path / "cpu/embeddings.npy"), np.load(tmp_path / "cuda:0/embeddings.npy"), rtol=1e-3, atol=1e-3
    )
