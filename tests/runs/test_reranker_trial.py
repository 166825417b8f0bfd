"""RerankerTrial from a configuration to a CrossEncoder, on a tiny encoder."""

import json
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
import tiny_retrieval
from sentence_transformers import CrossEncoder

from model_hub_rqa import cli
from model_hub_rqa.checkpoints import pretrained_folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    settings: dict[str, Any] = {"max_steps": 120, "eval_steps": 60, "num_hard_negatives": 2, "learning_rate": 3e-3}
    config = tiny_retrieval.config(folder, trial="Reranker", train=12, **settings)
    tiny_retrieval.write_lines(folder / "dev.jsonl", map(tiny_retrieval.record, range(12)))
    tiny_retrieval.run(folder, config)
    return folder


def test_it_learns(learned: Path) -> None:
    """Twelve questions by heart; chance is (1 + 1/2 + 1/3) / 3 = .61."""
    assert tiny.reports(learned / "run", "validation")[-1]["MRR@10"] > 0.9


def test_a_cross_encoder_ranks_as_the_validation(learned: Path) -> None:
    """The checkpoint, loaded by sentence-transformers alone."""
    model = CrossEncoder(str(learned / "run/checkpoints/checkpoint-120/pretrained"), device="cpu")
    assert model.num_labels == 1
    lines = [json.loads(line) for line in (learned / "run/rankings.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    for line in lines:
        pairs = [(line["question"], passage["text"]) for passage in line["passages"]]
        scores = model.predict(pairs).tolist()
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 3


def test_a_run_reranks_what_an_index_finds(learned: Path, tmp_path: Path) -> None:
    """``--rerank RUN`` takes its best checkpoint: the passages of the index stand in its order."""
    line = json.loads((learned / "run/rankings.jsonl").read_text().splitlines()[0])
    passages = [{"_id": str(number), "text": one["text"]} for number, one in enumerate(line["passages"])]
    tiny_retrieval.write_lines(tmp_path / "corpus.jsonl", passages)
    tiny_retrieval.write_lines(tmp_path / "queries.jsonl", [{"id": "q", "question": line["question"]}])
    index = str(tmp_path / "index")
    corpus = str(tmp_path / "corpus.jsonl")
    assert cli.main(["index", "--corpus", corpus, "--retriever", "bm25", "--output", index]) == 0
    words = ["retrieve", "--index", index, "--queries", str(tmp_path / "queries.jsonl"), "--output"]
    assert cli.main([*words, str(tmp_path / "out"), "--rerank", str(learned / "run")]) == 0
    found = json.loads((tmp_path / "out/ctxs.jsonl").read_text())["ctxs"]
    model = CrossEncoder(str(pretrained_folder(learned / "run")), device="cpu")
    scores = model.predict([(line["question"], one["text"]) for one in found]).tolist()
    assert [one["score"] for one in found] == pytest.approx(scores, abs=1e-5)
    assert len(found) > 1
    assert scores == sorted(scores, reverse=True)
    assert cli.main([*words, str(tmp_path / "none"), "--rerank", f"{learned / 'run'}@7"]) == 2


@pytest.mark.parametrize("loss", ["lambda", "margin_mse"])
def test_a_resumed_run_is_the_run_that_never_stopped(loss: str, tmp_path: Path) -> None:
    """To the last bit: weights, losses, metrics; with dropout, and negatives drawn in each epoch."""
    tiny_retrieval.encoder_folder(tmp_path / "model", hidden_dropout_prob=0.1)
    settings: dict[str, Any] = {"max_steps": 8, "save_steps": 3, "eval_steps": 4, "loss": loss}
    config = tiny_retrieval.config(tmp_path, trial="Reranker", num_hard_negatives=1, **settings)
    whole = tiny_retrieval.run(tmp_path, config, name="whole")
    resumed = tiny_retrieval.run(
        tmp_path, config, "--resume", str(tmp_path / "whole/checkpoints/checkpoint-3"), name="resumed"
    )
    assert resumed == whole
    assert tiny.equal(tiny.weights(tmp_path / "whole", 8), tiny.weights(tmp_path / "resumed", 8))
    losses = [[one["loss"] for one in tiny.reports(tmp_path / name, "training")] for name in ("whole", "resumed")]
    assert losses[0][3:] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "softmax"])
def test_two_ranks_train_as_one(loss: str, tmp_path: Path) -> None:
    config = tiny_retrieval.config(tmp_path, trial="Reranker", max_steps=4, loss=loss, num_hard_negatives=2)
    config["hyperparameters"]["adam_epsilon"] = 1e-4  # gradients of a head that starts at random are all but zero
    config["hyperparameters"]["group_by_length"] = False
    path = tiny_retrieval.write_config(tmp_path, config)
    for ranks in (1, 2):
        argv = [path, "--output-dir", str(tmp_path / f"{ranks}")]
        codes = forked.run_ranks(ranks, argv, tmp_path / f"logs-{ranks}")
        assert codes == [0] * ranks, (tmp_path / f"logs-{ranks}/0.log").read_text()
    assert tiny.equal(tiny.weights(tmp_path / "1", 4), tiny.weights(tmp_path / "2", 4), atol=2e-5)
    one, two = (tiny.reports(tmp_path / name, "validation")[-1] for name in ("1", "2"))
    assert one["nDCG@10"] == pytest.approx(two["nDCG@10"], abs=1e-6)


def test_test_mode(tmp_path: Path) -> None:
    """One batch of training, one of validation, a checkpoint."""
    tiny_retrieval.run(tmp_path, tiny_retrieval.config(tmp_path, trial="Reranker", num_hard_negatives=2), "--test")
    assert (tmp_path / "run/checkpoints/checkpoint-1/pretrained/config.json").is_file()


def test_questions_are_not_answered(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--checkpoint", str(learned / "run"), "--data", str(learned / "dev.jsonl")]
    assert cli.main([*words, "--output", str(tmp_path / "out.json")]) == 2
    assert "reranker: answers no questions: rqa retrieve --rerank" in capsys.readouterr().err
