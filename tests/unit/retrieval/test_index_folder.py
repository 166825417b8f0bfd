"""Index folders: the same search as in memory, errors, and builds that were interrupted."""

import errno
import fcntl
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from index_folders import PASSAGES, corpus_file, flip, refusals
from readers_for_tests import LetterEncoder, encode_letters

import model_hub_rqa
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.retrieval import dense, shards
from model_hub_rqa.retrieval.bm25 import BM25Retriever, BM25Settings
from model_hub_rqa.retrieval.dense import DenseRetriever, DenseSettings
from model_hub_rqa.retrieval.index_folder import build_index, check_index, open_index


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> type[LetterEncoder]:
    """The stand-in model in place of sentence-transformers'."""
    encoder = encode_letters(monkeypatch)
    monkeypatch.setattr(dense, "_SECONDS_BETWEEN_SAVES", 0.0)
    return encoder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """PASSAGES as a BEIR corpus."""
    return corpus_file(tmp_path)


def test_bm25_folder_gives_the_same_search(tmp_path: Path, corpus: Path) -> None:
    """An index opened from its folder, moved and without its corpus file, ranks as the one in memory."""
    built = build_index(corpus, tmp_path / "index", BM25Settings(b=0.3))
    (tmp_path / "index").rename(tmp_path / "moved")
    corpus.unlink()
    opened = open_index(tmp_path / "moved", retriever="bm25")
    assert opened.manifest == built
    assert (built.n_documents, built.n_passages, built.n_skipped) == (5, 5, 0)
    queries = ["cat mat", "red", ""]
    assert opened.search(queries, 9) == BM25Retriever.build(PASSAGES, BM25Settings(b=0.3)).search(queries, 9)


def test_dense_folder_gives_the_same_search(tmp_path: Path, corpus: Path, letters: type[LetterEncoder]) -> None:
    """The same for a dense index, whose vectors were written in the order of lengths."""
    build_index(corpus, tmp_path / "index", DenseSettings("letters"))
    names = {path.name for path in (tmp_path / "index").iterdir()}
    assert names == {"embeddings.npy", "manifest.json", "offsets.npy", "passages.jsonl"}
    opened = open_index(tmp_path / "index", embedding_model="elsewhere", corpus=corpus)
    expected = DenseRetriever.build(PASSAGES, DenseSettings("letters"))
    assert opened.search(["cat", "dog"], 9) == expected.search(["cat", "dog"], 9)


@pytest.mark.parametrize(
    ("settings", "libraries"),
    [
        (BM25Settings(), {"tantivy", "bm25s", "PyStemmer", "regex", "numpy"}),
        (DenseSettings("letters"), {"sentence-transformers", "transformers", "torch", "numpy"}),
    ],
    ids=["bm25", "dense"],
)
def test_an_index_records_the_versions_it_was_built_with(
    settings: Any, libraries: set[str], tmp_path: Path, corpus: Path, letters: type[LetterEncoder]
) -> None:
    """This package's and those of its kind's libraries, as they are installed."""
    build_index(corpus, tmp_path / "index", settings)
    versions = json.loads((tmp_path / "index/manifest.json").read_text())["versions"]
    assert versions.pop("model-hub-rqa") == model_hub_rqa.__version__
    versions.pop("faiss-cpu", None)  # faiss has other packages as well
    assert versions == {name: version(name) for name in libraries}


def test_split_documents(tmp_path: Path, corpus: Path) -> None:
    """Passages of a split corpus are found by themselves, and know their document."""
    settings = BM25Settings(language="none", stopwords="english")
    manifest = build_index(corpus, tmp_path / "index", settings, passage_words=3, passage_stride=2)
    opened = open_index(tmp_path / "index")
    found = [(hit.passage.id, hit.passage.text) for hit in opened.search(["mat"], 3)[0]]
    assert found == [("1#2", "the mat"), ("3#0", "the mat is"), ("4#2", "the mat")]
    assert manifest.document_id("a#b#12") == "a#b"
    assert manifest.unknown_documents(["1", "9", "1#0"], opened.passages) == {"9", "1#0"}


def test_everything_that_differs_is_listed(tmp_path: Path, corpus: Path, letters: type[LetterEncoder]) -> None:
    """Damage, another corpus and another model are told together."""
    folder, other = tmp_path / "index", tmp_path / "other.jsonl"
    build_index(corpus, folder, DenseSettings("letters"))
    flip(folder / "embeddings.npy")
    (folder / "offsets.npy").unlink()
    other.write_text('{"text": "x"}\n')
    letters.weights = "weights of another"
    errors = refusals(lambda: open_index(folder, embedding_model="stranger", corpus=other))
    assert errors[:2] == [
        f"{folder}/embeddings.npy: damaged, its SHA-256 is not the one in manifest.json",
        f"{folder}/offsets.npy: is missing",
    ]
    assert errors[2].startswith(f"{folder}: is the index of another corpus: {corpus} (5 documents, ")
    assert f"{other} has 1 documents" in errors[2]
    assert errors[3] == (
        f"{folder}: stranger: weights: must be SHA-256 weights of o as in the index, got SHA-256 weights of a"
    )
    assert len(errors) == 4


def test_the_kind_must_fit_and_the_length_is_the_indexs(
    tmp_path: Path, corpus: Path, letters: type[LetterEncoder]
) -> None:
    """An index of the other kind is refused; a model named anew reads texts to the length of the index."""
    folder = tmp_path / "index"
    build_index(corpus, folder, DenseSettings("letters", max_seq_length=16))
    assert open_index(folder).search(["cat"], 1)
    named: Any = open_index(folder, embedding_model="letters")
    assert named.retriever.encoder.settings.max_seq_length == 16
    assert refusals(lambda: check_index(folder, retriever="bm25"))[0].endswith("is a dense index, bm25 was asked for")
    build_index(corpus, tmp_path / "bm25", BM25Settings())
    assert len(refusals(lambda: open_index(tmp_path / "bm25", retriever="dense", embedding_model="letters"))) == 2


def test_errors_leave_nothing(tmp_path: Path, corpus: Path) -> None:
    """Options are checked together before the corpus is read; where the corpus has errors, no folder is left."""
    with pytest.raises(ConfigError, match=r"^k1: ") as raised:
        build_index("none.jsonl", tmp_path, BM25Settings(k1=-1), passage_words=0, batch_size=0)
    named = [line.split(":")[0] for line in raised.value.errors]
    assert named == ["k1", "passage_words", "output", "batch_size", "none.jsonl"]
    corpus.write_text('{"text": "cat"}\n{"text": ""}\n')
    output = tmp_path / "deep/index"
    with pytest.raises(DataError, match="line 2: text must not be blank"):
        build_index(corpus, output, BM25Settings())
    assert list(output.parent.iterdir()) == []
    manifest = build_index(corpus, output, BM25Settings(), on_bad_record="skip")
    assert (manifest.n_documents, manifest.n_skipped) == (1, 1)
    open_index(output, corpus=corpus)


class Killed(BaseException):
    """As good as a kill: nothing catches it."""


def killed_build(folder: Path) -> Path:
    """A dense index of 100 documents in folder/index, interrupted after 48; returns the corpus."""
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": "abcdefgh"[: 1 + i % 8] * (1 + i % 5)}) + "\n" for i in range(100)))

    def report(what: str, done: int, total: int) -> None:
        if what == "encoding" and done >= 33:
            raise Killed(what)

    with pytest.raises(Killed, match=r"^encoding$"):
        build_index(path, folder / "index", DenseSettings("letters"), batch_size=2, report=report)
    return path


def test_interrupted_dense_index_goes_on(tmp_path: Path, letters: type[LetterEncoder]) -> None:
    """A second call encodes only what the first had not, and gives what one call would have given."""
    path = killed_build(tmp_path)
    assert letters.encoded == json.loads((tmp_path / "index.partial/progress.json").read_text())["done"] == 48
    hint = refusals(lambda: open_index(tmp_path / "index.partial"))[0]
    assert hint.endswith("run the same rqa index again to finish it")
    build_index(path, tmp_path / "index", DenseSettings("letters"), batch_size=2)
    assert letters.encoded == 100
    assert not (tmp_path / "index.partial").exists()
    build_index(path, tmp_path / "whole", DenseSettings("letters"), batch_size=2)
    for name in ("embeddings.npy", "passages.jsonl", "offsets.npy"):
        assert (tmp_path / "index" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("change", ["corpus", "weights", "settings", "kind"])
def test_what_was_begun_otherwise_is_begun_anew(tmp_path: Path, letters: type[LetterEncoder], change: str) -> None:
    """Vectors of another corpus, model or setting are not taken over, and leave no file behind."""
    path = killed_build(tmp_path)
    settings: BM25Settings | DenseSettings = DenseSettings(
        "letters", passage_prompt="x" if change == "settings" else None
    )
    if change == "corpus":
        path.write_text(path.read_text() + '{"text": "one more"}\n')
    elif change == "weights":
        letters.weights = "weights of another"
    elif change == "kind":
        settings = BM25Settings()
    letters.encoded = 0
    manifest = build_index(path, tmp_path / "index", settings, batch_size=2)
    assert letters.encoded == (0 if change == "kind" else manifest.n_passages)
    assert ("embeddings.npy" in manifest.sha256) == (change != "kind")


def test_one_process_builds_at_a_time(tmp_path: Path, corpus: Path) -> None:
    """A second process is refused while the first builds the same folder."""

    def report(what: str, done: int, total: int) -> None:
        with pytest.raises(ConfigError, match="another process is building"):
            build_index(corpus, tmp_path / "index", BM25Settings())

    build_index(corpus, tmp_path / "index", BM25Settings(), report=report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "index"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF], ids=errno.errorcode.get)
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As NFS may be: an index is built there all the same, and one line says that its folder is not locked."""

    def refuse(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    build_index(corpus, tmp_path / "index", BM25Settings())
    assert [hits[0].passage.id for hits in open_index(tmp_path / "index").search(["red"], 1)] == ["3"]
    with shards._one_at_a_time(tmp_path / "index.shards"):
        assert (tmp_path / "index.shards.lock").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "index"]
    end = f"is not locked ({os.strerror(number)}): see to it that no other process builds it at the same time"
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/index.partial: {end}",
        f"{tmp_path}/index.shards: {end}",
    ]
