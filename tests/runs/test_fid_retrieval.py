"""FiDTrial over a frozen retriever: what is read in training and in validation, and what a validation then says."""

from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_fusion import WORDS, memorised, run, trial_of, write_lines

from model_hub_rqa.cli import main
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.rerank import CrossEncoderReranker

DOCUMENTS = [{"_id": f"d{i}", "title": "", "text": f"the {word} number {i}"} for i, word in enumerate(WORDS)]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A tiny T5 from scratch on eight questions."""
    return memorised(tmp_path)


def records(*, with_passages: bool = True) -> list[dict[str, Any]]:
    """One question a document, which is its only passage, and gold."""
    found = []
    for i, document in enumerate(DOCUMENTS):
        record = {"id": f"q{i}", "question": f"which number {WORDS[i]}?", "answers": [f"number {i}"]}
        ctxs = [{"id": "mine", "title": "", "text": document["text"], "isgold": True}]
        found.append(record | {"ctxs": ctxs} if with_passages else record)
    return found


@pytest.fixture
def settings(config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny T5 on these questions, with an index of the documents beside."""
    path = write_lines(tmp_path / "own.jsonl", records())
    corpus = write_lines(tmp_path / "corpus.jsonl", DOCUMENTS)
    assert main(["index", "--corpus", corpus, "--retriever", "bm25", "--output", str(tmp_path / "index")]) == 0
    config["data"] |= {"train_file": path, "validation_file": path}
    return config


def texts(trial: Any, split: str) -> list[list[str]]:
    return [[passage["text"] for passage in row] for row in trial.read[split]["passages"]]


def test_an_index_makes_validation_end_to_end(settings: dict[str, Any], tmp_path: Path) -> None:
    """Training reads the records' own passages; a validation what BM25 finds, and says how good that was."""
    settings["data"] |= {"index": str(tmp_path / "index"), "n_context": 3}
    trial = trial_of(settings)
    assert texts(trial, "train") == [[document["text"]] for document in DOCUMENTS]
    assert [len(row) for row in texts(trial, "validation")] == [3] * 8
    assert [row[0] for row in texts(trial, "validation")] == [document["text"] for document in DOCUMENTS]
    assert all(passage["score"] > 0 for passage in trial.read["validation"][0]["passages"][:1])
    (report,) = run(settings, tmp_path)
    assert report["document_recall"] == report["document_recall@1"] == report["ndcg"] == 1.0
    assert report["document_accuracy"] == pytest.approx(1 / 3)
    assert report["compared_by_id"] == 0  # the records' passages are all called "mine"
    assert report["exact_match"] >= 0


def test_several_indexes_are_fused(settings: dict[str, Any], tmp_path: Path, minilm: str) -> None:
    """A list of indexes: a validation reads their fusion, and other weights are another retrieval."""
    command = ["index", "--corpus", str(tmp_path / "corpus.jsonl"), "--retriever", "dense", "--embedding-model", minilm]
    assert main([*command, "--output", str(tmp_path / "dense")]) == 0
    indexes = [str(tmp_path / "index"), str(tmp_path / "dense")]

    def read(**data: Any) -> list[list[str]]:
        settings["data"] |= {"fusion": None, "fusion_weights": None, "n_context": 8, **data}
        rows = trial_of(settings).read["validation"]["passages"]
        assert [passage["score"] for passage in rows[0]] == sorted((one["score"] for one in rows[0]), reverse=True)
        return [[passage["id"] for passage in row] for row in rows]

    words, vectors = (read(index=indexes, fusion="convex", fusion_weights=weights) for weights in ([1, 0], [0, 1]))
    assert words != vectors == read(index=indexes[1])
    assert [row[0] for row in words] == [row[0] for row in read(index=indexes[0])]
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read(index=[*indexes, str(tmp_path)])


@pytest.mark.parametrize("indexed", [True, False])
def test_hits_are_reranked(indexed: bool, settings: dict[str, Any], tmp_path: Path, minilm: str) -> None:
    """What a validation reads is in the order of the cross-encoder, whose scores it has; another one is another
    retrieval. It is looked for before any data is read."""
    models = [str(tiny.cross_encoder_folder(tmp_path / f"cross{seed}", seed=seed)) for seed in (0, 1)]
    settings["data"] |= {"n_context": 8, "embedding_max_num_to_retrieve": 8}
    if indexed:
        settings["data"]["index"] = str(tmp_path / "index")
    else:
        settings["data"] |= {"embedding_model": minilm, "corpus_file": str(tmp_path / "corpus.jsonl")}
    plain = trial_of(settings).read["validation"]["passages"]
    read = []
    for name in models:
        settings["data"]["rerank"] = name
        read.append(trial_of(settings).read["validation"]["passages"])
        scores = CrossEncoderReranker(name)
        for question, row in zip(records(), read[-1], strict=True):
            pairs = [(question["question"], Passage(one["id"], one["text"], one["title"])) for one in row]
            assert [one["score"] for one in row] == pytest.approx(scores.score(pairs), abs=1e-5)
            assert [one["score"] for one in row] == sorted((one["score"] for one in row), reverse=True)
    ids = [[[one["id"] for one in row] for row in rows] for rows in (plain, *read)]
    assert ids[0] != ids[1] != ids[2]
    settings["data"] |= {"rerank": minilm, "train_file": "none.jsonl"}
    with pytest.raises(ConfigError, match=r"data\.rerank: must be a cross-encoder, .* got BertModel"):
        trial_of(settings)


def test_queries_of_dialogues(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template and a rewriter decide what is retrieved, and another one is another retrieval."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "to_oil.py").write_text("def rewrite(questions):\n    return ['oil' for question in questions]\n")
    rows = records()
    for row, word in zip(rows, [*WORDS[1:], WORDS[0]], strict=True):
        row["question"] = "number?"  # which each document has
        row["chat_history"] = [{"role": "user", "text": "x"}, {"role": "assistant", "text": word}]
    settings["data"] |= {
        "validation_file": write_lines(tmp_path / "dialogues.jsonl", rows),
        "index": str(tmp_path / "index"),
        "n_context": 1,
    }
    read = []
    for change in ({"query_template": "{question} {last_answer}"}, {"query_rewriter": "to_oil:rewrite"}, {}):
        settings["data"] |= {"query_template": None, "query_rewriter": None, **change}
        read.append([row[0] for row in texts(trial_of(settings), "validation")])
    documents = [document["text"] for document in DOCUMENTS]
    assert read[0] == [*documents[1:], documents[0]]
    assert read[1] == [documents[1]] * 8
    assert read[2] == [documents[0]] * 8
    settings["data"] |= {"query_rewriter": "to_oil:none", "train_file": "none.jsonl"}
    with pytest.raises(ConfigError, match=r"data\.query_rewriter: to_oil has no none"):
        trial_of(settings)


def test_retrieval_metrics_follow_what_was_found(settings: dict[str, Any], tmp_path: Path) -> None:
    """A question about another document than its gold one finds the wrong one first; ids tell, not texts."""
    rows = records()
    for i, row in enumerate(rows):
        row["ctxs"][0] |= {"id": f"d{i}"}
    rows[0]["question"] = f"which {WORDS[1]}?"
    settings["data"] |= {
        "validation_file": write_lines(tmp_path / "wrong.jsonl", rows),
        "index": str(tmp_path / "index"),
        "n_context": 1,
    }
    (report,) = run(settings, tmp_path)
    assert report["document_recall"] == pytest.approx(7 / 8)
    assert report["compared_by_id"] == 1


@pytest.mark.parametrize("corpus", [True, False])
def test_an_embedding_model_retrieves_for_training_too(
    corpus: bool, settings: dict[str, Any], tmp_path: Path, minilm: str
) -> None:
    """From the corpus, or from all records' passages: the gold passage is kept in training, beside others."""
    settings["data"] |= {"embedding_model": minilm, "embedding_max_num_to_retrieve": 2}
    if corpus:
        settings["data"]["corpus_file"] = str(tmp_path / "corpus.jsonl")
    trial = trial_of(settings)
    for row, document in zip(texts(trial, "train"), DOCUMENTS, strict=True):
        assert len(row) == 3
        assert row.count(document["text"]) == 1
    assert [len(row) for row in texts(trial, "validation")] == [2] * 8
    indexes = list((tmp_path / "cache/model_hub_rqa/indexes").glob("dense-*"))
    assert len(indexes) == 1
    made = (indexes[0] / "manifest.json").stat().st_mtime_ns
    assert texts(trial_of(settings), "train") == texts(trial, "train")
    assert (indexes[0] / "manifest.json").stat().st_mtime_ns == made  # found again


def test_records_without_passages_where_a_corpus_is_given(
    settings: dict[str, Any], tmp_path: Path, minilm: str
) -> None:
    """Everything that is read is then retrieved."""
    path = write_lines(tmp_path / "bare.jsonl", records(with_passages=False))
    settings["data"] |= {
        "train_file": path,
        "validation_file": path,
        "embedding_model": minilm,
        "corpus_file": str(tmp_path / "corpus.jsonl"),
    }
    assert [len(row) for row in texts(trial_of(settings), "train")] == [3] * 8


def test_a_changed_corpus_is_indexed_anew(settings: dict[str, Any], tmp_path: Path, minilm: str) -> None:
    """The cached index of what the file held before is not used."""
    settings["data"] |= {"embedding_model": minilm, "corpus_file": str(tmp_path / "corpus.jsonl")}
    trial_of(settings)
    write_lines(tmp_path / "corpus.jsonl", [{**document, "text": document["text"] + " new"} for document in DOCUMENTS])
    assert all(text.endswith("new") for row in texts(trial_of(settings), "validation") for text in row)


def test_an_index_that_does_not_fit_is_refused(settings: dict[str, Any], tmp_path: Path, minilm: str) -> None:
    """A BM25 index with an embedding model; a folder that is no index; nothing is trained."""
    settings["data"] |= {"index": str(tmp_path / "index"), "embedding_model": minilm}
    with pytest.raises(CheckpointError, match="is a bm25 index, dense was asked for"):
        trial_of(settings)
    settings["data"] |= {"index": str(tmp_path), "embedding_model": ""}
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        trial_of(settings)
