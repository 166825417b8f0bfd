"""Dense indexes: what they note of their models, half precision, two models, and several devices."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_folders import corpus_file
from readers_for_tests import encode_letters
from tiny_encoders import PASSAGES, TEXTS, encoder_folder, similarity_models

from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.dense import DenseRetriever, DenseSettings
from model_hub_rqa.retrieval.encoder import Encoder
from model_hub_rqa.retrieval.index_folder import build_index, open_index
from model_hub_rqa.retrieval.manifest import read_manifest
from model_hub_rqa.retrieval.search import SearchSettings, check_retriever


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return similarity_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return corpus_file(tmp_path, PASSAGES)


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
    letters = encode_letters(monkeypatch)
    monkeypatch.setattr(letters, "passages", lambda self, texts, batch_size: 1e5 * self.queries(texts))
    with pytest.raises(ConfigError, match="embeddings_dtype: must hold the vectors of letters, got float16"):
        build_index(corpus, tmp_path / "index", DenseSettings("letters", embeddings_dtype="float16"))


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
