"""Several indexes fused into one ranking: by hand, against exact fractions, and through every command."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from readers_for_tests import encode_letters, fusion_folder, write_lines

from model_hub_rqa.cli import main
from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.retrieval.hybrid import HybridRetriever, convex, rrf
from model_hub_rqa.retrieval.index_folder import build_index
from model_hub_rqa.retrieval.search import SearchSettings, check_retriever, open_retriever
from model_hub_rqa.tasks.fid.settings import FusionKwargs

CORPUS = [
    {"_id": "a", "title": "cab", "text": "a bad cab faded"},
    {"_id": "b", "title": "", "text": "the dead beef"},
    {"_id": "c", "title": "", "text": "faded cab"},
    {"_id": "d", "title": "egg", "text": "dead egg head"},
]
PASSAGES = {name: Passage(name, f"text of {name}", position=place) for place, name in enumerate("abcdefgh")}


def ranking(text: str) -> list[Hit]:
    """Hits of ``"b:9 a:7"``: passages and scores."""
    return [Hit(PASSAGES[name], float(score)) for name, score in (word.split(":") for word in text.split())]


def shown(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    return [(hit.passage.id, hit.score) for hit in hits]


@pytest.mark.parametrize(
    ("rankings", "expected"),
    [
        (["b:9 a:7", "a:3 c:2"], {"a": 1 / 62 + 1 / 61, "b": 1 / 61, "c": 1 / 62}),
        (["c:1 a:0", "a:5 c:4"], {"a": 1 / 62 + 1 / 61, "c": 1 / 61 + 1 / 62}),  # equal: the corpus' order
        (["c:1", "b:1", "a:1"], {"a": 1 / 61, "b": 1 / 61, "c": 1 / 61}),
        (["b:2 b:1 a:0", ""], {"b": 1 / 61, "a": 1 / 63}),  # twice in one ranking: the first counts
        (["", "b:0"], {"b": 1 / 61}),
        (["", ""], {}),
    ],
)
def test_reciprocal_rank_fusion_by_hand(rankings: list[str], expected: dict[str, float]) -> None:
    """1 / (60 + rank), summed over the rankings that have the passage."""
    found = rrf([ranking(text) for text in rankings])
    assert shown(found) == [(name, pytest.approx(score, abs=1e-15)) for name, score in expected.items()]


@pytest.mark.parametrize(
    ("rankings", "weights", "expected"),
    [
        (["a:10 b:6 c:2", "c:1 a:0"], None, {"a": 0.5, "c": 0.5, "b": 0.25}),
        (["a:10 b:6 c:2", "c:1 a:0"], [3, 7], {"c": 0.7, "a": 0.3, "b": 0.15}),
        (["a:10 b:6 c:2", "c:1 a:0"], [0, 2], {"c": 1.0, "a": 0.0, "b": 0.0}),
        (["b:4 a:4", "d:-1"], [0.5, 0.5], {"a": 0.5, "b": 0.5, "d": 0.5}),  # equal scores count as the best
        (["", "b:-3 d:-5"], [0.2, 0.8], {"b": 0.8, "d": 0.0}),
        (["", ""], None, {}),
    ],
)
def test_convex_combination_by_hand(
    rankings: list[str], weights: list[float] | None, expected: dict[str, float]
) -> None:
    """Scores from 0 (the last hit) to 1 (the first), weighted; a passage that a ranking lacks gets 0 from it."""
    found = convex([ranking(text) for text in rankings], weights)
    assert shown(found) == [(name, pytest.approx(score, abs=1e-15)) for name, score in expected.items()]


RANKINGS = st.lists(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(-9, 9)), unique_by=lambda pair: pair[0], max_size=8),
    min_size=1,
    max_size=4,
)


def hits_of(pairs: Sequence[tuple[str, int]]) -> list[Hit]:
    return [Hit(PASSAGES[name], float(score)) for name, score in sorted(pairs, key=lambda pair: -pair[1])]


def exact(rankings: Sequence[Sequence[Hit]], share: Any) -> list[str]:
    """The fused order by whole fractions: ``share(hits, rank)`` of each hit, summed."""
    sums: dict[str, Fraction] = {}
    for hits in rankings:
        for rank, hit in enumerate(hits):
            sums[hit.passage.id] = sums.get(hit.passage.id, Fraction(0)) + share(hits, rank)
    return sorted(sums, key=lambda name: (-sums[name], name))


@given(RANKINGS)
def test_rank_fusion_orders_as_exact_fractions_do(pairs: list[list[tuple[str, int]]]) -> None:
    """Ties included, whatever the order of the retrievers; each passage is there once."""
    rankings = [hits_of(one) for one in pairs]
    found = [hit.passage.id for hit in rrf(rankings)]
    assert found == exact(rankings, lambda hits, rank: Fraction(1, 61 + rank))
    assert rrf(rankings[::-1]) == rrf(rankings)


@given(RANKINGS, st.integers(1, 5), st.integers(-7, 7))
def test_a_convex_combination_keeps_to_the_scale_of_no_retriever(
    pairs: list[list[tuple[str, int]]], factor: int, offset: int
) -> None:
    """Scores are those of exact fractions, and another unit or zero of a retriever's scores changes nothing."""

    def share(hits: Sequence[Hit], rank: int) -> Fraction:
        low, high = hits[-1].score, hits[0].score
        return Fraction(1) if low == high else Fraction(int(hits[rank].score - low), int(high - low))

    rankings = [hits_of(one) for one in pairs]
    found = convex(rankings)
    sums: dict[str, Fraction] = {}
    for hits in rankings:
        for rank, hit in enumerate(hits):
            sums[hit.passage.id] = sums.get(hit.passage.id, Fraction(0)) + share(hits, rank) / len(rankings)
    assert dict(shown(found)) == {name: pytest.approx(float(value), abs=1e-12) for name, value in sums.items()}
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    scaled = [[Hit(hit.passage, factor * hit.score + offset) for hit in hits] for hits in rankings]
    assert dict(shown(convex(scaled))) == pytest.approx(dict(shown(found)), abs=1e-12)


class Fixed:
    """Answers each query with its own ranking, and notes how many hits were asked for."""

    def __init__(self, rankings: dict[str, str]) -> None:
        self.rankings, self.asked = rankings, list[int]()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.asked.append(k)
        return [ranking(self.rankings[query])[:k] for query in queries]


def test_depth_and_k() -> None:
    """So many hits of each are fused, or k where that is more; queries that nothing is found for have no hits."""
    first, second = Fixed({"x": "a:3 b:2 c:1", "y": ""}), Fixed({"x": "c:9 d:8 b:7", "y": ""})
    hybrid = HybridRetriever({"one": first, "two": second}, depth=2)
    assert [hit.passage.id for hit in hybrid.search(["x", "y"], 1)[0]] == ["a"]
    assert [[hit.passage.id for hit in hits] for hits in hybrid.search(["y", "x"], 9)] == [[], ["c", "b", "a", "d"]]
    assert first.asked == second.asked == [2, 9]
    stages = hybrid.search_stages(["x"], 1)
    assert [(stage.name, len(stage.hits[0])) for stage in stages] == [("one", 2), ("two", 2), ("rrf", 1)]
    assert all(stage.seconds >= 0 for stage in stages)


@pytest.mark.parametrize(
    ("settings", "errors"),
    [
        ({"fusion": "sum"}, ["fusion: must be one of rrf, convex, got 'sum'"]),
        ({"weights": [1, 1]}, ["fusion_weights: needs fusion convex, got rrf"]),
        (
            {"fusion": "convex", "weights": [1, -1, 0], "depth": 0},
            [
                "fusion_depth: must be at least 1, got 0",
                "fusion_weights: must be as many as the indexes (2), got 3",
                "fusion_weights: must be finite numbers from 0 on, one of them above 0, got 1 -1 0",
            ],
        ),
        (
            {"fusion": "convex", "weights": [1e308, 1e308]},
            ["fusion_weights: must be finite numbers from 0 on, one of them above 0, got 1e+308 1e+308"],
        ),
        (
            {"fusion": "convex", "weights": [0, 0]},
            ["fusion_weights: must be finite numbers from 0 on, one of them above 0, got 0 0"],
        ),
    ],
)
def test_settings_of_the_fusion(settings: dict[str, Any], errors: list[str]) -> None:
    """All that are wrong are named."""
    with pytest.raises(ConfigError, match=r"^fusion") as raised:
        HybridRetriever({"one": Fixed({}), "two": Fixed({})}, **settings)
    assert list(raised.value.errors) == errors


def test_what_a_retriever_gives_is_checked() -> None:
    """A list for each query, and numbers as scores."""
    with pytest.raises(DataError, match="two: gives scores that are not finite"):
        HybridRetriever({"one": Fixed({"x": "a:1"}), "two": Fixed({"x": "a:nan"})}).search(["x"], 1)
    other = Passage("a", "another text", position=0)
    own: Any = type("Own", (), {"search": lambda self, queries, k: [[Hit(other, 1.0)]]})()
    for fusion in ("rrf", "convex"):
        hybrid = HybridRetriever({"one": Fixed({"x": "b:2 a:1"}), "two": own}, fusion=fusion)
        with pytest.raises(
            DataError, match=r"passage a: must be the same in every index, got .another text., not .text of a"
        ):
            hybrid.search(["x"], 1)
    short: Any = type("Short", (), {"search": lambda self, queries, k: []})()
    with pytest.raises(DataError, match="one: was asked 1 queries, gave 0 lists of passages"):
        HybridRetriever({"one": short, "two": Fixed({"x": ""})}).search(["x"], 1)


# ---- indexes ----


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BM25 and a dense index of CORPUS (whose model counts letters), queries and judgements."""
    encode_letters(monkeypatch)
    corpus = write_lines(tmp_path / "corpus.jsonl", CORPUS)
    build_index(corpus, tmp_path / "bm25", BM25Settings())
    build_index(corpus, tmp_path / "dense", DenseSettings("letters"))
    queries = [{"id": "q1", "question": "dead cab"}, {"id": "q2", "question": "egg", "answers": ["head"]}]
    write_lines(tmp_path / "queries.jsonl", queries)
    (tmp_path / "qrels.tsv").write_text("q1\tb\t1\nq2\td\t1\n")
    return tmp_path


def two(world: Path) -> list[str]:
    return ["--index", str(world / "bm25"), "--index", str(world / "dense")]


def retrieved(world: Path, *options: str, output: str = "out") -> list[list[tuple[str, float]]]:
    words = ["retrieve", *two(world), "--queries", str(world / "queries.jsonl"), "--output", str(world / output)]
    assert main([*words, *options]) == 0
    records = [json.loads(line) for line in (world / output / "ctxs.jsonl").read_text().splitlines()]
    return [[(ctx["id"], ctx["score"]) for ctx in record["ctxs"]] for record in records]


def test_positions_of_passages(world: Path) -> None:
    """A passage of an index knows its place in it, by which ties are broken; it does not count in comparisons."""
    (hits,) = open_retriever(SearchSettings((str(world / "bm25"),))).search(["egg, dead or faded"], 4)
    assert {hit.passage.id: hit.passage.position for hit in hits} == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert hits[0].passage == Passage("d", "dead egg head", "egg")


def test_retrieve_fuses_indexes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command gives what the rankings of both give by hand, in each fusion; the run has a name of its own."""
    singles = [
        open_retriever(SearchSettings((str(world / name),))).search(["dead cab", "egg"], 4)
        for name in ("bm25", "dense")
    ]
    by_rank = [shown(rrf(pair)) for pair in zip(*singles, strict=True)]
    assert by_rank != [shown(hits) for hits in singles[0]]
    assert retrieved(world, "--retriever", "hybrid", "--corpus", str(world / "corpus.jsonl")) == by_rank
    weighted = [shown(convex(pair, [0.3, 0.7])) for pair in zip(*singles, strict=True)]
    options = ["--fusion", "convex", "--weights", "0.3", "0.7", "--fusion-depth", "4", "--top-k", "3"]
    assert retrieved(world, *options, output="weighted") == [hits[:3] for hits in weighted]
    assert {line.split(" ")[5] for line in (world / "out/run.trec").read_text().splitlines()} == {"hybrid"}


def test_indexes_of_other_passages(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another corpus, and the same one in other pieces, are refused before any work, each with what differs."""
    build_index(world / "corpus.jsonl", world / "pieces", BM25Settings(), passage_words=2)
    other = write_lines(world / "other.jsonl", CORPUS[:3])
    build_index(other, world / "other", BM25Settings())
    folders = tuple(str(world / name) for name in ("dense", "bm25", "pieces", "other"))
    with pytest.raises(CheckpointError, match="has other passages than") as raised:
        check_retriever(SearchSettings(folders))
    pieces, other_error = raised.value.errors
    assert pieces.startswith(f"{folders[2]}: has other passages than {folders[0]} (n_passages ")
    assert pieces.endswith("passage_words 2, not None): index the same corpus alike")
    assert f"{folders[3]}: has other passages than {folders[0]} (corpus_sha256 " in other_error
    words = ["--queries", str(world / "queries.jsonl"), "--output", str(world / "out")]
    assert main(["retrieve", "--index", folders[1], "--index", folders[3], *words]) == 2
    assert "has other passages than" in capsys.readouterr().err
    assert not (world / "out").exists()


def test_every_error_of_the_options_at_once(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The options are named as they are typed, with the errors of each index."""
    (world / "dense/offsets.npy").unlink()
    words = ["retrieve", "--queries", str(world / "queries.jsonl"), "--output", str(world / "out")]
    assert main([*words, *two(world), "--index", str(world / "none"), "--weights", "1", "--fusion-depth", "0"]) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if line.strip()] == [
        "--fusion-weights: needs fusion convex, got rrf",
        "--fusion-depth: must be at least 1, got 0",
        "--fusion-weights: must be as many as the indexes (3), got 1",
        f"{world}/dense/offsets.npy: is missing",
        f"{world}/none: is not an index folder",
    ]
    one = ["--index", str(world / "bm25"), "--fusion", "rrf", "--retriever", "hybrid"]
    assert main([*words, *one]) == 2
    err = capsys.readouterr().err
    assert "--fusion: needs several indexes, got 1" in err
    assert "--retriever: hybrid needs several indexes, got 1" in err
    assert main([*words, *one[:2], *one[:2]]) == 2
    assert f"--index: names {world}/bm25 twice" in capsys.readouterr().err
    assert main(["index", "--corpus", "none", "--retriever", "hybrid", "--output", str(world / "out")]) == 2
    assert "--retriever: hybrid is no index: make one of each kind" in capsys.readouterr().err
    assert main([*words, *one[:2], "--retriever", "dense"]) == 2
    assert "is a bm25 index, dense was asked for" in capsys.readouterr().err


def test_the_embedding_model_is_for_the_dense_index(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not held against the other; without a dense index it is an error."""
    letters = encode_letters(monkeypatch)
    open_retriever(SearchSettings((str(world / "bm25"), str(world / "dense")), embedding_model="moved"))
    assert letters.named == ["moved"]
    build_index(world / "corpus.jsonl", world / "second", BM25Settings(b=0.1))
    with pytest.raises(CheckpointError, match="is a bm25 index, which has no embedding model, got 'moved'"):
        open_retriever(SearchSettings((str(world / "bm25"), str(world / "second")), embedding_model="moved"))


@pytest.mark.parametrize("fusion", [[], ["--fusion", "convex", "--weights", "0.9", "0.1"]])
def test_ask_and_evaluate_fuse_indexes(fusion: list[str], world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They read what retrieve finds; the arguments that evaluate keeps tell of both indexes."""
    reader = ["--checkpoint", str(fusion_folder(world / "reader")), *two(world)]
    expected = retrieved(world, *fusion)
    capsys.readouterr()
    assert main(["ask", "dead cab", *reader, "--json", *fusion]) == 0
    passages = json.loads(capsys.readouterr().out)["passages"]
    assert [(passage["id"], passage["retrieval_score"]) for passage in passages] == expected[0]
    write_lines(world / "data.jsonl", [{"id": "q2", "question": "egg", "answers": ["head"]}])
    data = ["--data", str(world / "data.jsonl"), "--output-dir", str(world / "results")]
    assert main(["evaluate", *reader, *data, *fusion]) == 0
    (line,) = (world / "results/predictions.jsonl").read_text().splitlines()
    assert [(passage["id"], passage["score"]) for passage in json.loads(line)["passages"]] == expected[1]
    manifests = json.loads((world / "results/all_args.json").read_text())["index_manifest"]
    assert [manifest["kind"] for manifest in manifests] == ["bm25", "dense"]


def test_evaluate_without_an_index(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What belongs to a search is then an error."""
    reader = ["--checkpoint", str(fusion_folder(world / "reader"))]
    data = ["--data", str(write_lines(world / "data.jsonl", [])), "--output-dir", str(world / "results")]
    assert main(["evaluate", *reader, *data, "--fusion", "rrf", "--weights", "1", "--top-k", "2"]) == 2
    err = capsys.readouterr().err
    for name in ("--fusion", "--fusion-weights", "--top-k"):
        assert f"{name}: needs --index" in err


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"index": ["a", "b"], "fusion": "sum"}, "fusion: must be one of rrf, convex, got 'sum'"),
        ({"index": ["a", "b"], "fusion_weights": [1, 2]}, "fusion_weights: needs fusion convex, got rrf"),
        ({"index": ["a"], "fusion_depth": 9}, "fusion_depth: needs several indexes, got 1"),
        ({"index": "a", "fusion": "rrf"}, "fusion: needs several indexes, got 1"),
        ({"fusion": "rrf"}, "fusion: needs index or embedding_model, got neither"),
        ({"index": ["a", 5]}, "index: must be a folder or a list of folders, got"),
        ({"index": ["a", ""]}, "index: must be a folder or a list of folders, got"),
        ({"index": ["a", "a"]}, "index: names a twice"),
        ({"index": 5}, "index: must be a list that is not empty or text that is not empty, got 5"),
        ({"index": ["a", "b"], "fusion": "convex", "fusion_weights": ["1", 2]}, "fusion_weights: must be a list of n"),
        ({"index": ["a", "b"], "fusion": "convex", "fusion_weights": "12"}, "fusion_weights: must be a list that is"),
        ({"index": ["a", "b"], "fusion_depth": "x"}, "fusion_depth: must be a whole number, got 'x'"),
    ],
)
def test_settings_of_training(settings: dict[str, Any], error: str) -> None:
    """Each is one error, at its field, before any index is opened."""
    with pytest.raises(ConfigError, match=r"^FusionKwargs\.") as raised:
        FusionKwargs(**settings)
    (line,) = raised.value.errors
    assert line.startswith(f"FusionKwargs.{error}")
