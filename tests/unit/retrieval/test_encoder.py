"""Embedding models: similarity, pooling and prompts, against sentence-transformers."""

from pathlib import Path

import numpy as np
import pytest
import transformers
from tiny_encoders import PASSAGES, TEXTS, encoder_folder, reference_ranking, similarity_models
from tokenizers_for_tests import bert

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.retrieval.dense import DenseRetriever, DenseSettings
from model_hub_rqa.retrieval.encoder import SIMILARITIES, Encoder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return similarity_models(tmp_path_factory.mktemp("models"))


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
