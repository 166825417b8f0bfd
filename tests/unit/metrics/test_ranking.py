"""Rankings, those that retrievers make and the measures of them: by hand, against plain formulas, on published data."""

import json
import math
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_folders import PASSAGES, ids

from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.metrics.ranking import MEASURES, measures_within, ranking_metrics, ranking_metrics_by_query
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval import dense
from model_hub_rqa.retrieval.base import PassageStore, top_k, write_passages
from model_hub_rqa.retrieval.dense import DenseRetriever, DenseSettings
from model_hub_rqa.retrieval.encoder import Encoder, weights_sum
from model_hub_rqa.retrieval.index_folder import build_index, open_index
from model_hub_rqa.retrieval.vectors import exact_search

ELEVENTH = [f"x{i}" for i in range(10)] + ["a"]
HUNDREDTH = [f"x{i}" for i in range(99)] + ["a", "b"]

# ranking, relevances, nDCG@10, Recall@100, MRR@10
CASES = [
    (["a"], {"a": 1}, 1, 1, 1),
    (["b", "a", "c"], {"a": 1}, 1 / math.log2(3), 1, 1 / 2),
    (["b", "c", "a"], {"a": 1, "d": 1}, (1 / 2) / (1 + 1 / math.log2(3)), 1 / 2, 1 / 3),
    # graded: gains 1 at rank 1 and 2 at rank 3, of 2 at rank 1 and 1 at rank 2
    (["a", "c", "b"], {"a": 1, "b": 2, "c": 0}, (1 + 2 / 2) / (2 + 1 / math.log2(3)), 1, 1),
    (ELEVENTH, {"a": 1}, 0, 1, 0),
    (HUNDREDTH, {"a": 1, "b": 1}, 0, 1 / 2, 0),
    (["b", "c"], {"a": 1}, 0, 0, 0),
    ([], {"a": 1}, 0, 0, 0),
    (["a"], {"a": 0}, 0, 0, 0),
    (["a", "b"], {"a": -1, "b": 1}, 1 / math.log2(3), 1, 1 / 2),
]


@pytest.mark.parametrize(("ranking", "relevance", "ndcg", "recall", "mrr"), CASES)
def test_measures_of_one_query(
    ranking: list[str], relevance: dict[str, int], ndcg: float, recall: float, mrr: float
) -> None:
    """Each measure has the value that its formula gives by hand."""
    scores = ranking_metrics({"q": ranking}, {"q": relevance})
    assert scores == pytest.approx({"nDCG@10": ndcg, "Recall@100": recall, "MRR@10": mrr})
    assert list(scores) == list(MEASURES)


def test_queries_without_hits_count_as_zero() -> None:
    """A judged query that the run lacks, or ranks nothing for, lowers the mean; an unjudged one plays no part."""
    qrels = {"found": {"a": 1}, "nothing": {"a": 1}, "missing": {"a": 1}}
    run = {"found": ["a"], "nothing": [], "unjudged": ["b"]}
    assert ranking_metrics(run, qrels) == pytest.approx(dict.fromkeys(MEASURES, 1 / 3))
    assert list(ranking_metrics_by_query(run, qrels)) == ["found", "nothing", "missing"]


def test_other_cutoffs_and_precision() -> None:
    """Cutoffs are free, and P@k divides by k whatever was ranked."""
    scores = ranking_metrics({"q": ["a", "b"]}, {"q": {"b": 1}}, ["P@5", "MRR@1", "Recall@2"])
    assert scores == {"P@5": 0.2, "MRR@1": 0.0, "Recall@2": 1.0}


def test_errors() -> None:
    """Unknown measures are named together; a document ranked twice, or no judgements, are refused."""
    unknown = [
        "nDGC@10",
        "Recall@0",
        "R@1.5",
        "nDCG@True",
        "nDCG(x=1)@5",
        "RR@-3",
        "P(rel=0)@5",
        "R@10@5",
        "",
        "import os",
    ]
    with pytest.raises(ConfigError, match=r"^measures: must be a measure of ir_measures such as nDCG@10") as raised:
        ranking_metrics({}, {"q": {"a": 1}}, ["nDCG@10", *unknown])
    assert [line.partition(", got ")[2].partition(" (")[0] for line in raised.value.errors] == list(map(repr, unknown))
    with pytest.raises(ConfigError, match="measures: must name at least one measure"):
        ranking_metrics({}, {"q": {"a": 1}}, [])
    with pytest.raises(DataError, match="query 'q' has a document more than once"):
        ranking_metrics({"q": ["a", "a"]}, {"q": {"a": 1}})
    with pytest.raises(DataError, match="no query is judged"):
        ranking_metrics({"q": ["a"]}, {})


def test_a_measure_that_needs_another_library_is_an_error() -> None:
    """ir_measures knows it; what computes it is not installed."""
    with pytest.raises(ConfigError, match=r"got 'alpha_nDCG@10' \(Unsupported measures .* pyndeval"):
        ranking_metrics({}, {"q": {"a": 1}}, ["alpha_nDCG@10"])


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        # relevant are b (1) at rank 2, c (2) at rank 3 and e (1), which is not ranked; d (0) is at rank 5
        ("AP@100", (1 / 2 + 2 / 3) / 3),
        ("AP@2", (1 / 2) / 3),
        ("Success@1", 0),
        ("Success@2", 1),
        ("R@2", 1 / 3),
        ("RR@10", 1 / 2),
        ("P(rel=2)@5", 1 / 5),
        ("Rprec", 2 / 3),
        ("Bpref", 2 / 3),
        ("Judged@5", 3 / 5),
        ("nDCG", (1 / math.log2(3) + 2 / 2) / (2 + 1 / math.log2(3) + 1 / 2)),
        ("nDCG(gains={1:0,2:5})@10", 1 / 2),
        ("NumRet", 5),
    ],
)
def test_any_measure_of_ir_measures(measure: str, expected: float) -> None:
    """By hand, beside another measure and one that comes twice under two names."""
    run, qrels = {"q": ["a", "b", "c", "f", "d"]}, {"q": {"b": 1, "c": 2, "d": 0, "e": 1}}
    scores = ranking_metrics(run, qrels, ["MRR@10", measure, "RR@10"])
    assert list(scores) == list(dict.fromkeys(["MRR@10", measure, "RR@10"]))
    assert scores[measure] == pytest.approx(expected)
    assert scores["MRR@10"] == scores["RR@10"] == 1 / 2


def test_counts_are_summed() -> None:
    """As ir_measures sums them, where others are means."""
    run, qrels = {"q": ["a", "b"], "r": ["a"]}, {"q": {"a": 1}, "r": {"b": 1}}
    assert ranking_metrics(run, qrels, ["NumRet", "RR"]) == {"NumRet": 3, "RR": 1 / 2}


@pytest.mark.parametrize(
    ("retrieved", "measures"),
    [
        (1, ["nDCG@1", "Recall@1", "MRR@1"]),
        (5, ["nDCG@5", "Recall@5", "MRR@5"]),
        (50, ["nDCG@10", "Recall@50", "MRR@10"]),
        (100, list(MEASURES)),
        (1000, list(MEASURES)),
    ],
)
def test_measures_carry_the_k_that_was_retrieved(retrieved: int, measures: list[str]) -> None:
    """No measure claims more documents than there are."""
    assert measures_within(retrieved) == measures


def reference(ranking: list[str], relevance: dict[str, int], k: int) -> tuple[float, float, float]:
    """nDCG@k, Recall@k and MRR@k written out plainly."""
    gains = [max(relevance.get(document, 0), 0) for document in ranking[:k]]
    best = sorted((max(value, 0) for value in relevance.values()), reverse=True)[:k]
    dcg, ideal = (sum(gain / math.log2(rank + 2) for rank, gain in enumerate(row)) for row in (gains, best))
    n_relevant = sum(value > 0 for value in relevance.values())
    first = next((rank for rank, gain in enumerate(gains, 1) if gain), 0)
    return (
        dcg / ideal if ideal else 0.0,
        sum(gain > 0 for gain in gains) / n_relevant if n_relevant else 0.0,
        1 / first if first else 0.0,
    )


DOCUMENTS = st.sampled_from("abcdefghij")


@given(
    st.dictionaries(
        st.sampled_from("pqr"),
        st.tuples(st.lists(DOCUMENTS, unique=True), st.dictionaries(DOCUMENTS, st.integers(-1, 3), min_size=1)),
        min_size=1,
    ),
    st.integers(1, 12),
)
def test_parity_with_plain_formulas(queries: dict[str, tuple[list[str], dict[str, int]]], k: int) -> None:
    """Any run and judgements give what the formulas written out plainly give, and lie between 0 and 1."""
    run = {query: ranking for query, (ranking, _) in queries.items()}
    qrels = {query: relevance for query, (_, relevance) in queries.items()}
    names = [f"nDCG@{k}", f"Recall@{k}", f"MRR@{k}"]
    for query, values in ranking_metrics_by_query(run, qrels, names).items():
        assert tuple(values.values()) == pytest.approx(reference(run[query], qrels[query], k))
        assert all(0 <= value <= 1 + 1e-12 for value in values.values())


# --------------------------------------------------------------------------------------------------------- retrievers


@pytest.mark.parametrize(
    ("scores", "k", "expected"),
    [
        ([1, 3, 2], 2, [1, 2]),
        ([1, 3, 2], 3, [1, 2, 0]),
        ([1, 3, 2], 9, [1, 2, 0]),
        ([0, 0, 0, 0], 2, [0, 1]),
        ([1, 2, 1, 2, 1], 3, [1, 3, 0]),
        ([-1, -2], 1, [0]),
    ],
)
def test_top_k_by_hand(scores: list[float], k: int, expected: list[int]) -> None:
    """The best come first, equal ones in their order, and all where k is larger."""
    assert top_k(np.array(scores, dtype=np.float32), k).tolist() == expected


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 45))
def test_top_k_is_the_beginning_of_a_stable_sort(scores: list[int], k: int) -> None:
    """Whatever the ties, the k best are the first k of all, sorted with ties in their order."""
    assert top_k(np.array(scores), k).tolist() == sorted(range(len(scores)), key=lambda i: -scores[i])[:k]


def test_passages_on_disk(tmp_path: Path) -> None:
    """The store gives every passage back, by position, by slice and in order."""
    passages = [*PASSAGES, Passage("é", "x\u2028\n🙂", '"')]
    assert write_passages(passages, tmp_path) == len(passages)
    store = PassageStore(tmp_path)
    assert list(store) == passages
    assert (store[-1], store[1:3], len(store)) == (passages[-1], passages[1:3], len(passages))
    with pytest.raises(IndexError, match="out of "):
        store[len(passages)]


def brute_force(queries: np.ndarray, embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.astype(np.float64) @ embeddings.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 60), st.integers(1, 70), st.integers(1, 30))
def test_exact_search_equals_brute_force(seed: int, n_queries: int, n: int, k: int, block: int) -> None:
    """Scores and order are those of sorting all inner products, ties and block borders included."""
    generator = np.random.default_rng(seed)
    embeddings = generator.integers(-1, 2, (n, 4)).astype(np.float32)  # whole numbers: many exact ties
    queries = generator.integers(-1, 2, (n_queries, 4)).astype(np.float32)
    scores, positions = exact_search(queries, embeddings, k, block)
    expected_scores, expected_positions = brute_force(queries, embeddings, k)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_array_equal(scores, expected_scores)


def test_exact_search_of_real_numbers() -> None:
    """On vectors without ties it equals brute force to the precision of float32."""
    generator = np.random.default_rng(0)
    embeddings = generator.standard_normal((3000, 64)).astype(np.float32)
    queries = generator.standard_normal((25, 64)).astype(np.float32)
    scores, positions = exact_search(queries, embeddings, 120, 1000)
    expected_scores, expected_positions = brute_force(queries, embeddings, 120)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_equal_passages_of_real_numbers_stand_in_their_order() -> None:
    """Copies have the same score to the last digit wherever they stand, so blocks and cuts keep the corpus's order."""
    generator = np.random.default_rng(1)
    embeddings = generator.standard_normal((300, 48)).astype(np.float32)
    copies = generator.choice(300, 90, replace=False).reshape(3, 30)
    embeddings[copies] = generator.standard_normal((3, 1, 48)).astype(np.float32) * 2
    queries = generator.standard_normal((120, 48)).astype(np.float32)
    for k in (10, 40):
        scores, positions = exact_search(queries, embeddings, k, 100)
        for values, places in zip(scores, positions, strict=True):
            assert list(zip(-values, places, strict=True)) == sorted(zip(-values, places, strict=True))
            for group in copies:
                met = [place for place in places.tolist() if place in group]
                assert met == sorted(group.tolist())[: len(met)]


def test_a_text_length_beyond_the_models_positions(minilm: str) -> None:
    """It is refused when the model is loaded, and not when the first long text comes."""
    with pytest.raises(ConfigError, match=r"max_seq_length: must be at most 512, the longest input of .*, got 1000"):
        Encoder(DenseSettings(minilm, max_seq_length=1000))
    assert Encoder(DenseSettings(minilm, max_seq_length=512)).settings.max_seq_length == 512


def test_dense_rankings_by_hand() -> None:
    """Passages are ranked by the inner product, equal ones in the order of the corpus; k may exceed it."""

    class TwoLetters:
        dimension = 2
        similarity = "dot"
        device = "cpu"

        def queries(self, texts: Sequence[str]) -> np.ndarray:
            return np.array([[text.count("a"), text.count("b")] for text in texts], dtype=np.float32)

    texts, encoder = ["ab", "a", "b", "a"], TwoLetters()
    passages = [Passage(str(i), text) for i, text in enumerate(texts, 1)]
    retriever = DenseRetriever(passages, encoder.queries(texts), encoder)  # type: ignore[arg-type]  # a stand-in
    first, second = retriever.search(["a", "bb"], 9)
    assert [(hit.passage.id, hit.score) for hit in first] == [("1", 1), ("2", 1), ("4", 1), ("3", 0)]
    assert [(hit.passage.id, hit.score) for hit in second] == [("1", 2), ("3", 2), ("2", 0), ("4", 0)]
    assert retriever.search([], 3) == []
    with pytest.raises(ConfigError, match="k: must be at least 1"):
        retriever.search(["a"], 0)
    with pytest.raises(CheckpointError, match=r"must have the shape \(4, 2\), got \(3, 2\)"):
        DenseRetriever(passages, np.zeros((3, 2), np.float32), encoder)  # type: ignore[arg-type]  # a stand-in


def test_minilm_ranks_by_meaning(minilm: str) -> None:
    """A real model: vectors have length 1, and a paraphrase without a shared word is found."""
    passages = [Passage("1", "The physician treats illness."), Passage("2", "A guitar has six strings.")]
    retriever = DenseRetriever.build(passages, DenseSettings(minilm))
    assert ids(retriever.search(["doctors cure diseases"], 1)[0]) == ["1"]
    np.testing.assert_allclose(np.linalg.norm(retriever.embeddings, axis=1), 1, rtol=1e-5)
    prompted = DenseRetriever.build(passages, DenseSettings(minilm, query_prompt="query: ", passage_prompt="passage: "))
    assert np.abs(prompted.embeddings - retriever.embeddings).max() > 1e-3
    assert retriever.encoder.settings.max_seq_length == 256


def test_errors_of_dense_settings(tmp_path: Path, minilm: str) -> None:
    """A missing model is named, whether a folder, an empty one or none at all."""
    assert DenseSettings().errors() == ["embedding_model: must be given for a dense index"]
    errors = DenseSettings(f"{tmp_path}/none", max_seq_length=0).errors()
    assert [error.split(":")[0] for error in errors] == ["embedding_model", "max_seq_length"]
    with pytest.raises(ConfigError, match="embedding_model: cannot load"):
        Encoder(DenseSettings(str(tmp_path)))


def test_weights_sum_tells_models_apart(tmp_path: Path, minilm: str) -> None:
    """A copy of a model has the same sum, one changed weight another."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(minilm)
    before = weights_sum(model)
    assert Encoder(DenseSettings(minilm)).identity["weights"] == before
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    assert weights_sum(model) != before


def build_dense(corpus: Path, output: Path, model: str, killer: Any) -> None:
    def report(what: str, done: int, total: int) -> None:
        if killer is not None and what == "encoding" and done >= 32:
            killer.set()
            multiprocessing.Event().wait()  # until killed

    dense._SECONDS_BETWEEN_SAVES = 0.0
    build_index(corpus, output, DenseSettings(model), batch_size=4, report=report)


@pytest.mark.slow
def test_killed_process_is_gone_on_from(tmp_path: Path, rqa_data: Path, minilm: str) -> None:
    """After kill -9 in the middle of encoding, the same call finishes the index, and its vectors are whole."""
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join((rqa_data / "rqa/faire_docs.jsonl").read_bytes().split(b"\n")[:64]))
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    process = context.Process(target=build_dense, args=(path, tmp_path / "index", minilm, reached))
    process.start()
    assert reached.wait(300)
    process.kill()
    process.join()
    done = json.loads((tmp_path / "index.partial/progress.json").read_text())["done"]
    assert 32 <= done < 64
    build_dense(path, tmp_path / "index", minilm, None)
    opened = open_index(tmp_path / "index")
    expected = DenseRetriever.build(list(opened.passages), DenseSettings(minilm))
    assert isinstance(opened.retriever, DenseRetriever)
    np.testing.assert_allclose(opened.retriever.embeddings, expected.embeddings, atol=1e-5)
