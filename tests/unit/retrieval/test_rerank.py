"""Reranking: by hand, against sentence-transformers used directly, and through every command; the stages' measures."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from readers_for_tests import encode_letters, fusion_folder, write_lines
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from model_hub_rqa.cli import main
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.retrieval.base import passage_text
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.retrieval.index_folder import build_index
from model_hub_rqa.retrieval.rerank import CrossEncoderReranker, RerankedRetriever
from model_hub_rqa.retrieval.search import SearchSettings, check_retriever, open_retriever
from model_hub_rqa.tasks.fid.settings import FusionKwargs

CORPUS = [
    {"_id": "a", "title": "oil", "text": "the oil price rose in October"},
    {"_id": "b", "title": "", "text": "a river basin with a barrel of oil"},
    {"_id": "c", "title": "", "text": "the embargo began when members proclaimed it and the oil price rose"},
    {"_id": "d", "title": "river", "text": "a river"},
    {"_id": "e", "title": "", "text": "oil"},
]


class InOrder:
    """Finds passages a, b, c ... with the scores 9, 8, 7 ... whatever is asked, and notes for how many."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, list[int]()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.asked.append(k)
        return [[Hit(Passage("abcdefgh"[i], "x"), 9.0 - i) for i in range(min(k, self.count))] for _ in queries]


class ByTable:
    """Scores passages by a table."""

    def __init__(self, table: dict[str, float]) -> None:
        self.table, self.asked = table, list[int]()

    def score(self, pairs: Sequence[tuple[str, Passage]]) -> list[float]:
        self.asked.append(len(pairs))
        return [self.table[passage.id] for _, passage in pairs]


@pytest.mark.parametrize(
    ("count", "depth", "k", "expected"),
    [
        (4, 100, 9, [("c", 3), ("a", 1), ("d", 1), ("b", -2)]),
        (4, 100, 2, [("c", 3), ("a", 1)]),
        (4, 2, 4, [("a", 1), ("b", -2), ("c", -2), ("d", -3)]),  # c and d had 7 and 6: shifted below b
        (4, 1, 3, [("a", 1), ("b", 1), ("c", 0)]),
        (4, 3, 1, [("c", 3)]),
        (0, 5, 5, []),
    ],
)
def test_reranking_by_hand(count: int, depth: int, k: int, expected: list[tuple[str, float]]) -> None:
    """The first ``depth`` in the order of their new scores, equal ones as they were; the others after them, as they
    were; so many are asked for that depth and k are met."""
    first, reranker = InOrder(count), ByTable({"a": 1, "b": -2, "c": 3, "d": 1})
    retriever = RerankedRetriever(first, reranker, depth=depth, name="first")
    (hits,) = retriever.search(["x"], k)
    assert [(hit.passage.id, hit.score) for hit in hits] == expected
    assert first.asked == [max(depth, k)]
    assert reranker.asked == ([min(depth, count)] if count else [])
    stages = retriever.search_stages(["x", "y"], k)
    assert [stage.name for stage in stages] == ["first", "rerank"]
    assert stages[-1].hits == [hits, hits]


@given(
    st.integers(0, 8),
    st.integers(1, 9),
    st.integers(1, 9),
    st.fixed_dictionaries({name: st.integers(-3, 3) for name in "abcdefgh"}),
)
def test_reranking_keeps_what_was_retrieved(count: int, depth: int, k: int, table: dict[str, int]) -> None:
    """Whatever the scores: the same passages, each once, with scores that do not rise, the reranked ones first."""
    (hits,) = RerankedRetriever(InOrder(count), ByTable({**table}), depth=depth).search(["x"], k)
    head = sorted("abcdefgh"[:count][:depth], key=lambda name: -table[name])
    assert [hit.passage.id for hit in hits] == [*head, *"abcdefgh"[:count][depth:]][:k]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_many_queries_are_scored_in_parts_and_reported() -> None:
    """Some 2,000 pairs at a time, with the number of queries done."""
    told, reranker = [], ByTable({"a": 1, "b": 2, "c": 3, "d": 1})
    retriever = RerankedRetriever(
        InOrder(4), reranker, depth=1000, report=lambda what, done, total: told.append((what, done, total))
    )
    assert len(retriever.search(["x"] * 5, 3)) == 5
    assert told == [("reranking", 2, 5), ("reranking", 4, 5), ("reranking", 5, 5)]
    assert reranker.asked == [8, 8, 4]


def test_what_a_reranker_gives_is_checked() -> None:
    """A finite number for each pair."""
    with pytest.raises(DataError, match="rerank: gives scores that are not finite"):
        RerankedRetriever(InOrder(1), ByTable({"a": math.nan})).search(["x"], 1)
    few: Any = type("Few", (), {"score": lambda self, pairs: [1.0]})()
    with pytest.raises(DataError, match="rerank: was asked 2 pairs, gave 1 scores"):
        RerankedRetriever(InOrder(2), few).search(["x"], 1)
    with pytest.raises(ConfigError, match="rerank_depth: must be at least 1, got 0"):
        RerankedRetriever(InOrder(2), few, depth=0)


# ---- cross-encoders ----


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cross-encoder."""
    return tiny.cross_encoder_folder(tmp_path_factory.mktemp("models") / "cross")


MEASURES = ("nDCG@3", "Recall@3", "MRR@3")
PASSAGES = [Passage(one["_id"], one["text"], one["title"]) for one in CORPUS]


def test_scores_are_those_of_sentence_transformers(model: Path) -> None:
    """Whatever the batch: the scores of each pair by itself, to float32's precision, without a draw of torch's."""
    direct = CrossEncoder(str(model))
    pairs = [(query, passage) for query in ("oil price", "the river?") for passage in PASSAGES]
    expected = [float(direct.predict((query, passage_text(passage)))) for query, passage in pairs]
    assert len(set(expected)) == len(pairs)
    before = torch.random.get_rng_state()
    for size in (1, 3, 32):
        assert CrossEncoderReranker(str(model), batch_size=size).score(pairs) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_folder_of_sentence_transformers(model: Path, tmp_path: Path) -> None:
    """A saved CrossEncoder is read with its own activation."""
    saved = CrossEncoder(str(model), activation_fn=torch.nn.Identity())
    saved.save_pretrained(str(tmp_path / "saved"))
    pairs = [("oil price", passage) for passage in PASSAGES]
    expected = saved.predict([(query, passage_text(passage)) for query, passage in pairs])
    assert CrossEncoderReranker(str(tmp_path / "saved")).score(pairs) == pytest.approx(expected.tolist(), abs=1e-6)
    assert min(expected) < 0  # without the sigmoid


def test_scores_near_one_are_told_apart(model: Path, tmp_path: Path) -> None:
    """In float32 the sigmoid of what is above 17 is 1."""
    raised = CrossEncoder(str(model))
    with torch.no_grad():
        raised.model.classifier.bias += 25
    raised.save_pretrained(str(tmp_path / "raised"))
    pairs = [("oil price", passage) for passage in PASSAGES]
    texts = [(query, passage_text(passage)) for query, passage in pairs]
    assert set(raised.predict(texts).tolist()) == {1.0}
    logits = raised.predict(texts, activation_fn=torch.nn.Identity()).tolist()
    scores = CrossEncoderReranker(str(tmp_path / "raised")).score(pairs)
    assert sorted(range(5), key=scores.__getitem__) == sorted(range(5), key=logits.__getitem__)
    assert len(set(scores)) == 5


def test_the_fingerprint_follows_weights_and_settings(model: Path, tmp_path: Path) -> None:
    """So that a cached retrieval is not that of another reranker."""
    other = tiny.cross_encoder_folder(tmp_path / "other", seed=1)
    prints = [CrossEncoderReranker(str(one)).fingerprint for one in (model, model, other)]
    prints.append(CrossEncoderReranker(str(model), max_seq_length=8).fingerprint)
    cased = shutil.copytree(model, tmp_path / "cased")
    tokenizer = json.loads((cased / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None
    (cased / "tokenizer.json").write_text(json.dumps(tokenizer))
    prints.append(CrossEncoderReranker(str(cased)).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    names: list[Any] = [RerankedRetriever(InOrder(1), CrossEncoderReranker(str(model)), depth=5) for _ in range(2)]
    assert names[0].fingerprint != names[1].fingerprint  # of a retriever that does not say what it depends on


def test_weights_that_a_checkpoint_lacks(model: Path, tmp_path: Path) -> None:
    """They are the same each time, and torch's own draws are left alone."""
    folder = shutil.copytree(model, tmp_path / "less")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    found = []
    for seed in (1, 2):
        before = torch.manual_seed(seed).get_state()
        found.append(CrossEncoderReranker(str(folder)).score([("oil", PASSAGES[0])]))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert found[0] == found[1] != CrossEncoderReranker(str(model)).score([("oil", PASSAGES[0])])


def test_models_that_are_no_cross_encoders(tmp_path: Path, minilm: str) -> None:
    """Of an embedding model or an extractive reader, sentence-transformers would make one with weights at random."""
    qa = tiny.model_folder(tmp_path / "qa")
    several = tiny.cross_encoder_folder(tmp_path / "several", num_labels=3)
    for name, error in (
        (
            str(qa),
            f"model: must be a cross-encoder, with weights that score a pair, got BertForQuestionAnswering in '{qa}",
        ),
        (minilm, "model: must be a cross-encoder, with weights that score a pair, got BertModel in "),
        (str(several), "model: must give one score for a pair, got 3 of "),
        ("nobody/nothing", "model: 'nobody/nothing' is neither a folder nor in the hub's cache"),
        (f"{qa}/none", f"model: '{qa}/none' is not a folder that exists"),
        (str(tmp_path), f"model: {tmp_path}: is neither a run's folder"),
    ):
        with pytest.raises(ConfigError, match=r"^model: ") as raised:
            CrossEncoderReranker(name)
        assert raised.value.errors[0].startswith(error)
    with pytest.raises(
        ConfigError, match=r"^batch_size: must be at least 1, got 0\nmax_seq_length: must be at least 1"
    ):
        CrossEncoderReranker(str(several), batch_size=0, max_seq_length=0)
    with pytest.raises(ConfigError, match="max_seq_length: must be at most 128, the longest input, got 129"):
        CrossEncoderReranker(str(tiny.cross_encoder_folder(tmp_path / "short")), max_seq_length=129)


# ---- commands and training ----


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two indexes of CORPUS, queries and judgments."""
    encode_letters(monkeypatch)
    corpus = write_lines(tmp_path / "corpus.jsonl", CORPUS)
    build_index(corpus, tmp_path / "bm25", BM25Settings())
    build_index(corpus, tmp_path / "dense", DenseSettings("letters"))
    write_lines(tmp_path / "queries.jsonl", [{"id": "q1", "question": "oil price"}, {"id": "q2", "question": "river"}])
    (tmp_path / "qrels.tsv").write_text("q1\tc\t1\nq2\td\t1\n")
    return tmp_path


def searched(world: Path, *names: str, output: str = "out", qrels: bool = True) -> list[str]:
    words = ["retrieve", "--queries", str(world / "queries.jsonl"), "--output", str(world / output)]
    words += ["--qrels", str(world / "qrels.tsv")] if qrels else []
    return [*words, *(word for name in names for word in ("--index", str(world / name)))]


def found(world: Path, output: str = "out") -> list[list[tuple[str, float]]]:
    records = [json.loads(line) for line in (world / output / "ctxs.jsonl").read_text().splitlines()]
    return [[(ctx["id"], ctx["score"]) for ctx in record["ctxs"]] for record in records]


def test_retrieve_reports_each_stage(world: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Measures and milliseconds of each index, of the fusion and of the reranking, as JSON and as a table; those of an
    index are what it has alone, and those of the last stage are the command's."""
    alone = {}
    for name in ("bm25", "dense"):
        assert main([*searched(world, name, output=name + "-out"), "--top-k", "3"]) == 0
        scores = json.loads(capsys.readouterr().out)
        alone[name] = {key: scores[key] for key in MEASURES}
        (only,) = scores["stages"]
        assert only == {"stage": str(world / name), **alone[name], "ms_per_query": only["ms_per_query"]}
    words = [*searched(world, "bm25", "dense"), "--top-k", "3", "--rerank", str(model), "--rerank-depth", "4"]
    assert main(words) == 0
    captured = capsys.readouterr()
    scores = json.loads(captured.out)
    stages = scores["stages"]
    assert [stage["stage"] for stage in stages] == [str(world / "bm25"), str(world / "dense"), "rrf", "rerank"]
    for stage, expected in zip(stages, [*alone.values(), None, scores], strict=True):
        assert stage["ms_per_query"] > 0
        if expected is not None:
            assert [stage[key] for key in MEASURES] == [expected[key] for key in MEASURES]
    table = [line.split() for line in captured.err.splitlines()]
    assert ["stage", *MEASURES, "ms", "a", "query"] in table
    shown = next(line for line in table if line[:1] == ["rerank"])
    assert shown[1:4] == [f"{scores[key]:.4f}" for key in MEASURES]
    assert {line.split(" ")[5] for line in (world / "out/run.trec").read_text().splitlines()} == {"rerank"}


def test_retrieve_with_a_cross_encoder(world: Path, model: Path) -> None:
    """The hits are those of the index in the order of the model's scores, used directly."""
    assert main([*searched(world, "bm25", qrels=False), "--rerank", str(model)]) == 0
    assert main([*searched(world, "bm25", qrels=False, output="plain")]) == 0
    direct, texts = CrossEncoder(str(model)), {one.id: passage_text(one) for one in PASSAGES}
    for query, hits, plain in zip(("oil price", "river"), found(world), found(world, "plain"), strict=True):
        scores = {name: float(direct.predict((query, texts[name]))) for name, _ in plain}
        assert [name for name, _ in hits] == sorted(scores, key=lambda name: -scores[name])
        assert dict(hits) == pytest.approx(scores, abs=1e-6)
    assert found(world) != found(world, "plain")


OWN = """
from model_hub_rqa import RERANKERS

@RERANKERS.register("shortest")
class Shortest:
    def __init__(self, factor: float = -1.0):
        self.factor = factor

    def score(self, pairs):
        return [self.factor * len(passage.text) for query, passage in pairs]

def nothing():
    return 5
"""


def test_a_registered_reranker(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its module or, in a configuration, by its name and with arguments, which are checked."""
    monkeypatch.chdir(world)
    (world / "own_reranker.py").write_text(OWN)
    assert main([*searched(world, "bm25", qrels=False), "--rerank", "own_reranker:Shortest"]) == 0
    by_length = sorted(PASSAGES, key=lambda passage: len(passage.text))
    assert [[name for name, _ in hits] for hits in found(world)] == [list("eabc"), list("db")]
    assert [one.id for one in by_length] == list("edabc")
    index = (str(world / "bm25"),)
    longest = open_retriever(SearchSettings(index, rerank={"name": "shortest", "args": {"factor": 2}}))
    assert longest.search(["oil"], 1)[0][0].score == 2 * len(by_length[-1].text)
    for rerank, error in (
        ({"name": "shortest", "args": {"faktor": 2}}, "rerank.args.faktor: shortest has no such argument"),
        ({"name": "longest"}, "rerank: must be a registered reranker (cross-encoder, shortest) or package.module:obj"),
        ({"name": "cross-encoder", "args": {"model": "x/y", "batch_size": 0}}, "rerank.args: batch_size: must be at l"),
    ):
        with pytest.raises(ConfigError, match=r"^rerank") as raised:
            check_retriever(SearchSettings(index, rerank=rerank))
        assert raised.value.errors[0].startswith(error)
    assert main([*searched(world, "bm25", output="other"), "--rerank", "own_reranker:nothing"]) == 2
    assert "--rerank: own_reranker:nothing must make an object with a method score, got 5" in capsys.readouterr().err


def test_errors_of_the_options(world: Path, minilm: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They come with the others, before anything is written."""
    words = [*searched(world, "bm25", "none", qrels=False), "--top-k", "0"]
    assert main([*words, "--rerank", minilm, "--rerank-depth", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "--top-k: must be at least 1, got 0",
        "--rerank-depth: must be at least 1, got 0",
        f"{world}/none: is not an index folder",
    ]
    assert lines[3].startswith("--rerank: must be a cross-encoder, with weights that score a pair, got BertModel in ")
    assert main([*searched(world, "bm25", qrels=False), "--rerank-depth", "5"]) == 2
    assert capsys.readouterr().err.splitlines() == ["--rerank-depth: needs rerank"]
    assert not (world / "out").exists()


def test_ask_and_evaluate_rerank(world: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They read what retrieve finds."""
    options = ["--rerank", str(model), "--rerank-depth", "3"]
    assert main([*searched(world, "bm25", qrels=False), *options]) == 0
    reader = ["--checkpoint", str(fusion_folder(world / "reader")), "--index", str(world / "bm25"), *options]
    capsys.readouterr()
    assert main(["ask", "oil price", *reader, "--json"]) == 0
    passages = json.loads(capsys.readouterr().out)["passages"]
    assert {one["id"]: one["retrieval_score"] for one in passages} == pytest.approx(dict(found(world)[0]), abs=1e-6)
    assert [one["id"] for one in passages] == [name for name, _ in found(world)[0]]
    data = write_lines(world / "data.jsonl", [{"id": "q2", "question": "river", "answers": ["basin"]}])
    assert main(["evaluate", *reader, "--data", str(data), "--output-dir", str(world / "results")]) == 0
    (line,) = (world / "results/predictions.jsonl").read_text().splitlines()
    assert [one["id"] for one in json.loads(line)["passages"]] == [name for name, _ in found(world)[1]]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"rerank": "m"}, "rerank: needs index or embedding_model, got neither"),
        ({"rerank_depth": 5, "index": "a"}, "rerank_depth: needs rerank"),
        ({"rerank": 5, "index": "a"}, "rerank: must be a mapping or text that is not empty, got 5"),
        ({"rerank": "m", "rerank_depth": 0, "index": "a"}, "rerank_depth: must be >= 1, got 0"),
    ],
)
def test_settings_of_training(settings: dict[str, Any], error: str) -> None:
    """Each is one error, at its field."""
    with pytest.raises(ConfigError, match=r"^FusionKwargs\.") as raised:
        FusionKwargs(**settings)
    assert raised.value.errors == (f"FusionKwargs.{error}",)
