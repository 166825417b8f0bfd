"""Index folders and the commands around them: the same search, refusals, restarts, outputs and errors."""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from readers_for_tests import LetterEncoder, encode_letters

import model_hub_rqa
from model_hub_rqa import checkpoints
from model_hub_rqa.commands import retrieval as commands
from model_hub_rqa.errors import CheckpointError, ConfigError, DataError, RqaError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval import dense, manifest
from model_hub_rqa.retrieval.bm25 import BM25Retriever, BM25Settings
from model_hub_rqa.retrieval.dense import DenseRetriever, DenseSettings
from model_hub_rqa.retrieval.index_folder import build_index, check_index, open_index
from model_hub_rqa.retrieval.manifest import Manifest
from model_hub_rqa.retrieval.words import VERSION, language_error

PASSAGES = [
    Passage("1", "a cat sat on the mat", "Cats"),
    Passage("2", "dogs chase cats", ""),
    Passage("3", "the mat is red", "Mats"),
    Passage("4", "a cat sat on the mat", "Cats"),
    Passage("5", "…", ""),
]


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> type[LetterEncoder]:
    """The stand-in model in place of sentence-transformers'."""
    encoder = encode_letters(monkeypatch)
    monkeypatch.setattr(dense, "_SECONDS_BETWEEN_SAVES", 0.0)
    return encoder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """PASSAGES as a BEIR corpus."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"_id": p.id, "title": p.title, "text": p.text}) + "\n" for p in PASSAGES))
    return path


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


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refusals(step: Callable[[], Any]) -> list[str]:
    with pytest.raises(CheckpointError, match=r"^/.*: ") as raised:
        step()
    return list(raised.value.errors)


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


@pytest.mark.parametrize("name", ["passages.jsonl", "offsets.npy", "data.csc.index.npy", "params.index.json"])
def test_one_flipped_bit_is_noticed(tmp_path: Path, corpus: Path, name: str) -> None:
    """Damage of any file is named before anything is loaded."""
    build_index(corpus, tmp_path / "index", BM25Settings("bm25s"))
    flip(tmp_path / "index" / name)
    errors = refusals(lambda: open_index(tmp_path / "index"))
    assert errors == [f"{tmp_path}/index/{name}: damaged, its SHA-256 is not the one in manifest.json"]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the index files that are hashed."""
    names: list[str] = []

    def file_sum(path: Path) -> str:
        names.append(path.name)
        return checkpoints.file_sum(path)

    monkeypatch.setattr(manifest, "file_sum", file_sum)
    return names


def file_names(manifest: Manifest) -> list[str]:
    return sorted(Path(name).name for name in manifest.sha256)


def test_an_index_is_verified_once(tmp_path: Path, corpus: Path, hashed: list[str]) -> None:
    """The second time no file is hashed; of changed sizes and times, those files alone, and all in a copy."""
    folder = tmp_path / "index"
    built = build_index(corpus, folder, BM25Settings())
    hashed.clear()
    first = open_index(folder).search(["cat mat"], 9)
    assert sorted(hashed) == file_names(built)
    hashed.clear()
    assert open_index(folder).search(["cat mat"], 9) == first
    check_index(folder)
    assert hashed == []
    os.utime(folder / "offsets.npy", (0, 0))
    open_index(folder)
    assert hashed == ["offsets.npy"]
    open_index(folder)
    assert hashed == ["offsets.npy"]
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy)  # without their times
    open_index(tmp_path / "copy")
    assert sorted(hashed[1:]) == file_names(built)


def test_damage_after_a_verification(tmp_path: Path, corpus: Path, hashed: list[str]) -> None:
    """Of the same size, with another time: it is noticed each time, until the file is whole again."""
    folder = tmp_path / "index"
    build_index(corpus, folder, BM25Settings())
    open_index(folder)
    size = (folder / "passages.jsonl").stat().st_size
    flip(folder / "passages.jsonl")
    assert (folder / "passages.jsonl").stat().st_size == size
    for _ in range(2):
        hashed.clear()
        assert refusals(lambda: open_index(folder)) == [
            f"{folder}/passages.jsonl: damaged, its SHA-256 is not the one in manifest.json"
        ]
        assert hashed == ["passages.jsonl"]
    flip(folder / "passages.jsonl")
    open_index(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"files": 1}', '{"of": "another index", "files": {}}'])
def test_a_record_of_another_index_counts_for_nothing(
    tmp_path: Path, corpus: Path, hashed: list[str], content: str
) -> None:
    """Damaged or left by another index in this folder, every file is hashed."""
    folder = tmp_path / "index"
    built = build_index(corpus, folder, BM25Settings())
    open_index(folder)
    path = folder / "verified.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({**noted, "of": "another"}) if "another" in content else content)
    hashed.clear()
    open_index(folder)
    assert sorted(hashed) == file_names(built)
    assert json.loads(path.read_text()) == noted


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, corpus: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index in a read-only folder opens, and is hashed each time."""
    folder = tmp_path / "index"
    built = build_index(corpus, folder, BM25Settings())

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    for _ in range(2):
        hashed.clear()
        assert open_index(folder).search(["cat"], 1)
        assert sorted(hashed) == file_names(built)
    assert not (folder / "verified.json").exists()


def test_manifests_that_cannot_be_used(tmp_path: Path, corpus: Path) -> None:
    """No folder, no manifest, a changed one and one of another format are each told apart."""
    folder = tmp_path / "index"
    path = folder / "manifest.json"
    build_index(corpus, folder, BM25Settings())
    content = path.read_text()
    path.write_text(content.replace('"english"', '"german"'))
    assert "damaged, its content does not have the SHA-256 that it names" in refusals(lambda: open_index(folder))[0]
    path.write_text(content.replace('"format_version": 2', '"format_version": 1'))
    assert "has the format 1, this version reads 2" in refusals(lambda: open_index(folder))[0]
    for damaged in (content[:-9], "[]", "{}"):
        path.write_text(damaged)
        assert "is not the manifest of an index, or damaged" in refusals(lambda: open_index(folder))[0]
    path.unlink()
    assert refusals(lambda: open_index(folder)) == [f"{folder}: incomplete, manifest.json (written last) is missing"]
    assert refusals(lambda: open_index(tmp_path / "none")) == [f"{tmp_path}/none: is not an index folder"]
    (tmp_path / "none.partial").mkdir()
    (line,) = refusals(lambda: open_index(tmp_path / "none"))
    assert line.endswith("none: is not an index folder; run the same rqa index again to finish none.partial")


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


def rqa(*argv: str) -> int:
    """Runs the commands as ``rqa`` does, but with the errors on stdout."""
    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers())
    args = parser.parse_args(argv)
    try:
        args.command(args)
    except RqaError as error:
        print(error)
        return error.exit_code
    return 0


@pytest.fixture
def world(tmp_path: Path, corpus: Path) -> Path:
    """A folder with an index, queries and judgements."""
    build_index(corpus, tmp_path / "index", BM25Settings())
    queries = [
        {"id": "q1", "question": "cat mat", "answers": ["Tom"], "target": "Tom"},
        {"id": "q 2", "question": "red"},
        {"id": "q3", "question": "unjudged", "gold_answer": "Ann"},
    ]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t4\t1\nq 2\t3\t2\n")
    return tmp_path


def retrieve(world: Path, *more: str, qrels: bool = True) -> int:
    paths = ("--index", f"{world}/index", "--queries", f"{world}/queries.jsonl", "--output", f"{world}/out")
    return rqa("retrieve", *paths, *(("--qrels", f"{world}/qrels.tsv") if qrels else ()), *more)


def run_lines(world: Path) -> list[list[str]]:
    return [line.split(" ") for line in (world / "out/run.trec").read_text().splitlines()]


def test_retrieve_writes_ctxs_and_a_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both files hold the ranking; FiD records keep what the file says of the answers; the measures go to stdout."""
    assert retrieve(world, "--top-k", "3", "--corpus", f"{world}/corpus.jsonl") == 0
    out, err = capsys.readouterr()
    ndcg = pytest.approx((1 / math.log2(3) + 1) / 2)
    measures = {"nDCG@3": ndcg, "Recall@3": 1, "MRR@3": 0.75}
    counts = {"n_queries": 2, "n_unknown_documents": 0, "n_unknown_queries": 0}
    scores = json.loads(out)
    (stage,) = scores.pop("stages")
    assert scores == measures | counts | {"has_answer@1": 0, "has_answer@3": 0, "n_with_answers": 2}
    assert stage == {"stage": f"{world}/index", **measures, "ms_per_query": stage["ms_per_query"]}
    assert "1 of 3 queries have no judgments" in err
    records = [json.loads(line) for line in (world / "out/ctxs.jsonl").read_text().splitlines()]
    assert list(records[0]) == list(records[2]) == ["id", "question", "target", "answers", "ctxs"]
    assert list(records[1]) == ["id", "question", "ctxs"]
    assert (records[0]["target"], records[0]["answers"], records[2]["answers"]) == ("Tom", ["Tom"], ["Ann"])
    assert [ctx["id"] for ctx in records[0]["ctxs"]] == ["1", "4", "3"]
    hit = open_index(world / "index").search(["cat mat"], 1)[0][0]
    assert records[0]["ctxs"][0] == {"id": "1", "title": "Cats", "text": "a cat sat on the mat", "score": hit.score}
    assert run_lines(world)[0] == ["q1", "Q0", "1", "1", repr(hit.score), "bm25"]
    assert [line[0] for line in run_lines(world)[3:]] == ["q%202"]
    assert records[2]["ctxs"] == []


def test_evaluators_of_the_run_agree(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What ir_measures makes of run.trec by its scores is what was printed, though scores are tied."""
    (world / "qrels.tsv").write_text("q1\t4\t1\nq1\t5\t1\nq3\t3\t1\n")
    assert retrieve(world) == 0
    printed = json.loads(capsys.readouterr().out)
    run = list(ir_measures.read_trec_run(str(world / "out/run.trec")))
    theirs = [ir_measures.parse_measure(name) for name in ("nDCG@10", "R@100", "RR@10")]
    found = ir_measures.calc_aggregate(theirs, {"q1": {"4": 1, "5": 1}, "q3": {"3": 1}}, run)
    assert [printed[name] for name in ("nDCG@10", "Recall@100", "MRR@10")] == pytest.approx([found[m] for m in theirs])


def test_judgements_of_a_split_index(world: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With passages, the run ranks documents, each once, by its best passage; ctxs keep the passages."""
    shutil.rmtree(world / "index")
    build_index(corpus, world / "index", BM25Settings(), passage_words=2)
    assert retrieve(world, "--top-k", "200") == 0
    assert json.loads(capsys.readouterr().out)["Recall@100"] == 1
    run = {line[2]: float(line[4]) for line in run_lines(world) if line[0] == "q1"}
    assert sorted(run) == ["1", "2", "3", "4"]
    ctxs = json.loads((world / "out/ctxs.jsonl").read_text().splitlines()[0])["ctxs"]
    assert run["1"] == max(ctx["score"] for ctx in ctxs if ctx["id"].startswith("1#")) > run["2"]
    assert len(ctxs) > 5


def test_every_error_of_retrieve_at_once(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors of the options, the queries, the judgements and the index come together, and nothing is written."""
    (world / "queries.jsonl").write_text('{"id": "q1", "question": "cat"}\n{"id": "q1", "question": "dog"}\n')
    (world / "qrels.tsv").write_text("q1\t1\tx\n")
    flip(world / "index/passages.jsonl")
    assert retrieve(world, "--top-k", "0") == 2
    assert capsys.readouterr().out.splitlines() == [
        "--top-k: must be at least 1, got 0",
        f"{world}/index/passages.jsonl: damaged, its SHA-256 is not the one in manifest.json",
        f"{world}/queries.jsonl: record q1 (line 2): duplicate id, first at line 1",
        f"{world}/qrels.tsv: line 1: score must be a whole number, got 'x'",
    ]
    assert not (world / "out").exists()


def test_judgments_of_unknown_documents_and_queries(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are counted and told. Unknown documents are not retrieved; queries that are not asked do not count."""
    (world / "qrels.tsv").write_text("q1\t1\t1\nq1\t9\t1\nq9\t1\t1\nq9\t2\t1\nq8\t1\t1\n")
    assert retrieve(world, "--measures", "R@5") == 0
    out, err = capsys.readouterr()
    counts = {"n_queries": 1, "n_unknown_documents": 1, "n_unknown_queries": 2}
    assert json.loads(out).items() >= ({"R@5": 1 / 2} | counts).items()
    assert "1 of 2 judged documents are not in the index: they count as not retrieved" in err
    assert "2 of 3 judged queries are not asked: they do not count" in err


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("q1\t9\t1\nq1\t8\t1\nq9\t1\t1\n", "no judged document is in the index: judges '9' ..., it has '1' ..."),
        ("q9\t1\t1\n", "no judged query is asked: judges 'q9' ..., asked are 'q1' ..."),
    ],
)
def test_judgments_of_something_else(lines: str, error: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no judged document, or no judged query, is known, nothing is retrieved."""
    (world / "qrels.tsv").write_text(lines)
    assert retrieve(world) == 2
    assert capsys.readouterr().out.splitlines() == [f"{world}/qrels.tsv: {error}"]
    assert not (world / "out").exists()


def test_measures_are_chosen(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any of ir_measures', in the order given; those of our own names stay."""
    assert retrieve(world, "--measures", "RR@10 Success@1, P(rel=2)@1 Recall@5,MRR@10") == 0
    scores = json.loads(capsys.readouterr().out)
    assert list(scores)[:5] == ["RR@10", "Success@1", "P(rel=2)@1", "Recall@5", "MRR@10"]
    assert list(scores.values())[:5] == [0.75, 0.5, 0.5, 1, 0.75]


def test_errors_of_measures(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each unknown one, and one that counts more than is retrieved, before any work; they need judgments."""
    assert retrieve(world, "--measures", "nDGC@10 AP NDCG@x", qrels=False) == 2
    known = "must be a measure of ir_measures such as nDCG@10, R@100, RR@10, AP@100 or Success@5"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"--measures: {known}, got 'nDGC@10' (measure not found: nDGC)"
    assert lines[1].startswith(f"--measures: {known}, got 'NDCG@x' (")
    assert lines[2:] == ["--measures: needs --qrels"]
    assert retrieve(world, "--measures", "R@50 R@51 AP", "--top-k", "50") == 2
    assert capsys.readouterr().out.splitlines() == [
        "--measures: must count at most the --top-k 50 documents, got 'R@51'",
    ]
    assert not (world / "out").exists()
    assert retrieve(world, "--measures", " ,") == 2
    assert capsys.readouterr().out.splitlines() == ["--measures: must name at least one measure"]


@pytest.mark.parametrize("passage_words", [None, 2])
def test_identical_ids_are_ignored(
    passage_words: int | None, world: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document with the id of the query is dropped, all its passages, and as many are retrieved as without it."""
    shutil.rmtree(world / "index")
    build_index(corpus, world / "index", BM25Settings(), passage_words=passage_words)
    queries = [{"_id": "1", "text": "cat sat mat"}, {"_id": "x", "text": "cat sat mat"}]
    (world / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (world / "qrels.tsv").write_text("1\t4\t1\nx\t1\t1\n")

    def documents(*options: str) -> dict[str, list[str]]:
        assert retrieve(world, "--top-k", "3", *options) == 0
        lines = (world / "out/ctxs.jsonl").read_text().splitlines()
        shutil.rmtree(world / "out")
        records = map(json.loads, lines)
        return {one["id"]: [ctx["id"].partition("#")[0] for ctx in one["ctxs"]] for one in records}

    before = documents()
    printed = json.loads(capsys.readouterr().out)
    assert "1" in before["1"]
    assert before["1"] == before["x"]
    after = documents("--ignore-identical-ids")
    out, err = capsys.readouterr()
    assert "1" not in after["1"]
    assert len(after["1"]) == 3
    assert after["x"] == before["x"]
    assert (printed["MRR@3"], json.loads(out)["MRR@3"]) == (3 / 4, 1)
    assert "1 queries retrieved the document with their own id: it was dropped" in err


def test_identical_ids_need_ids(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers that stand in for ids are not the corpus's."""
    (world / "queries.jsonl").write_text('{"question": "cat"}\n')
    assert retrieve(world, "--ignore-identical-ids", qrels=False) == 2
    assert capsys.readouterr().out == f"{world}/queries.jsonl: questions must have ids\n"
    assert retrieve(world, qrels=False) == 0


def test_outputs(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without judgements and answers stdout stays empty; an empty folder is filled, one that holds anything is left
    alone."""
    (world / "queries.jsonl").write_text('{"question": "cat"}\n{"question": "dog"}\n{"question": "mat"}\n')
    (world / "out").mkdir()
    assert retrieve(world, "--top-k", "1", qrels=False) == 0
    out, err = capsys.readouterr()
    assert (out, "3 questions in" in err) == ("", True)
    assert retrieve(world) == 2
    assert rqa("index", "--corpus", f"{world}/corpus.jsonl", "--retriever", "bm25", "--output", f"{world}/out") == 2
    assert capsys.readouterr().out.count("exists and is not an empty folder") == 2


def test_answers_are_searched_for_in_the_passages(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Judgements or not; of the questions with answers, one finds its answer first, one second, one not at all."""
    queries = [
        {"id": "first", "question": "red", "answers": ["sits", "is RED"]},
        {"id": "second", "question": "cats dogs", "gold_answer": "on the mat"},
        {"id": "nowhere", "question": "red", "answers": ["reds"]},
        {"id": "impossible", "question": "red", "is_impossible": True, "answers": []},
        {"id": "none", "question": "red"},
    ]
    (world / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    assert retrieve(world, "--top-k", "3", qrels=False) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores == {"has_answer@1": 1 / 3, "has_answer@3": 2 / 3, "n_with_answers": 3}


def test_the_working_directory_is_no_output(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output appears whole under its name, which cannot be done to the folder that one stands in."""
    monkeypatch.chdir(tmp_path)
    assert rqa("index", "--corpus", str(corpus), "--retriever", "bm25", "--output", ".") == 2
    assert "output: must name a new folder, got the working directory" in capsys.readouterr().out


def test_index_command(tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what the index holds, and passes its options on; those of the other retriever are refused."""
    command = ("index", "--corpus", str(corpus), "--output", f"{tmp_path}/index")
    options = ("--k1", "0.9", "--b", "0.4", "--stopwords", "", "--passage-words", "3", "--passage-stride", "2")
    assert rqa(*command, "--retriever", "bm25", "--embedding-model", "m", "--batch-size", "8", "--k1", "-1") == 2
    assert rqa(*command, "--retriever", "bm25", "--engine", "tantivy", "--b", "0.4", "--language", "hindu") == 2
    assert rqa(*command, "--retriever", "dense", "--language", "english") == 2
    assert capsys.readouterr().out.splitlines() == [
        "--embedding-model: is ignored with --retriever bm25",
        "--batch-size: is ignored with --retriever bm25",
        "--k1: must be a number from 0 on, got -1.0",
        "--b: is fixed at 0.75 in tantivy, got 0.4: set engine to bm25s",
        f"--language: {language_error('hindu')}",
        "--language: is ignored with --retriever dense",
        "--embedding-model: must be given for a dense index",
    ]
    assert rqa(*command, "--retriever", "bm25", *options) == 0
    manifest = check_index(tmp_path / "index", corpus=corpus)
    assert (
        json.loads(capsys.readouterr().out).items()
        >= {"kind": "bm25", "n_documents": 5, "n_passages": manifest.n_passages}.items()
    )
    version = {"words_version": VERSION}
    bm25s = {"engine": "bm25s", "language": "english", "stopwords": "", "k1": 0.9, "b": 0.4}
    assert manifest.settings == bm25s | version
    assert (manifest.passage_words, manifest.passage_stride) == (3, 2)
    command = ("index", "--corpus", str(corpus), "--retriever", "bm25", "--output")
    assert rqa(*command, f"{tmp_path}/hindi", "--engine", "bm25s", "--language", "hindi", "--stopwords", "german") == 0
    hindi = {"engine": "bm25s", "language": "hindi", "stopwords": "german", "k1": 1.2, "b": 0.75}
    assert check_index(tmp_path / "hindi").settings == hindi | version
    assert (
        rqa(*command, f"{tmp_path}/old", "--stemmer", "porter", "--stopwords", "english") == 0
    )  # as version 0.1 has it
    old = {"engine": "tantivy", "language": "porter", "stopwords": "english", "k1": None, "b": None}
    assert check_index(tmp_path / "old").settings == old | version


OWN_RETRIEVER = """
from dataclasses import dataclass
from model_hub_rqa.records import Hit
from model_hub_rqa.retrieval.base import RetrieverSettings, Written

@dataclass(frozen=True)
class LastLetters(RetrieverSettings):
    kind = "own_retriever:LastLetters"
    b: float = 0.5

    def write(self, passages, folder, *, batch_size, report):
        (folder / "letters").write_text("".join(passage.text[-1] for passage in passages))
        return Written(self)

    def opener(self, folder, model, embedding_model):
        return (lambda passages: Search(passages, (folder / "letters").read_text(), self.b)), []

class Search:
    def __init__(self, passages, letters, score):
        self.passages, self.letters, self.score = passages, letters, score

    def search(self, queries, k):
        found = [[i for i, letter in enumerate(self.letters) if letter == query[-1]] for query in queries]
        return [[Hit(self.passages[i], self.score) for i in ranks[:k]] for ranks in found]

class Other:
    pass
"""


def test_a_retriever_by_its_module(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class in the working directory is indexed, opened and searched by the commands; nothing else is imported."""
    monkeypatch.chdir(world)
    (world / "own_retriever.py").write_text(OWN_RETRIEVER)
    command = ("index", "--corpus", "corpus.jsonl", "--output", "own")
    for name, said in (
        ("bm52", "--retriever: must be a registered retriever (bm25, dense) or package.module:object, got 'bm52': did"),
        ("own_retriever:Other", "--retriever: must name a class that derives from model_hub_rqa.retrieval.base:Retri"),
    ):
        assert rqa(*command, "--retriever", name) == 2
        assert said in capsys.readouterr().out
    assert rqa(*command, "--retriever", "own_retriever:LastLetters", "--k1", "2") == 2
    assert "--k1: is ignored with --retriever own_retriever:LastLetters" in capsys.readouterr().out
    assert rqa(*command, "--retriever", "own_retriever:LastLetters", "--b", "2") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "own_retriever:LastLetters"
    shutil.rmtree(world / "index")
    (world / "own").rename(world / "index")
    assert retrieve(world, qrels=False) == 0
    records = [json.loads(line) for line in (world / "out/ctxs.jsonl").read_text().splitlines()]
    last = {p.id: p.text[-1] for p in PASSAGES}
    for record in records:
        assert [ctx["id"] for ctx in record["ctxs"]] == [i for i in last if last[i] == record["question"][-1]]
        assert {ctx["score"] for ctx in record["ctxs"]} <= {2.0}
    assert all(record["ctxs"] for record in records)
    with pytest.raises(CheckpointError, match="which has no embedding model, got 'm'"):
        open_index(world / "index", embedding_model="m")
    (world / "own_retriever.py").unlink()
    monkeypatch.delitem(sys.modules, "own_retriever")
    with pytest.raises(CheckpointError, match="there is no module own_retriever, got own_retriever:LastLetters"):
        open_index(world / "index")


def test_add_commands_imports_nothing_heavy() -> None:
    """The parser of ``rqa --help`` is built without a library that takes long to import."""
    code = (
        "import argparse, sys; from model_hub_rqa.commands import retrieval as r;"
        "r.add_commands(argparse.ArgumentParser().add_subparsers());"
        "print([m for m in ('numpy', 'torch', 'bm25s', 'faiss', 'pyarrow', 'ir_measures') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
