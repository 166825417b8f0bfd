"""Dense retrieval with small models of sentence-transformers: similarity, pooling, prompts, and what an index notes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import TEXTS, encoder_folder, reference_ranking
from tokenizers_for_tests import bert

from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.dense import DenseRetriever, DenseSettings
from model_hub_rqa.retrieval.encoder import SIMILARITIES, Encoder
from model_hub_rqa.retrieval.index_folder import build_index, open_index
from model_hub_rqa.retrieval.manifest import read_manifest
from model_hub_rqa.retrieval.vectors import exact_search, similarities

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
