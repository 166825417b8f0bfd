"""rqa index and rqa retrieve: outputs, measures, judgments, options and errors."""

import argparse
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import ir_measures
import pytest
from index_folders import PASSAGES, corpus_file, flip

from model_hub_rqa.commands import retrieval as commands
from model_hub_rqa.errors import CheckpointError, RqaError
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.index_folder import build_index, check_index, open_index
from model_hub_rqa.retrieval.words import VERSION, language_error


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """PASSAGES as a BEIR corpus."""
    return corpus_file(tmp_path)


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
    assert retrieve(world) == 0
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
    assert retrieve(world, "--measures", "R@5 R@6 AP", "--top-k", "5") == 2
    assert capsys.readouterr().out.splitlines() == [
        "--measures: must count at most the --top-k 5 documents, got 'R@6'",
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
