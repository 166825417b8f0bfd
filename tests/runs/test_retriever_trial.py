"""RetrieverTrial from a configuration to an index, on a tiny encoder."""

import json
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import tiny
import tiny_retrieval
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as st
from transformers import get_linear_schedule_with_warmup

from model_hub_rqa import cli
from model_hub_rqa.data.batching import TrainBatchSampler

ROOT = Path(__file__).parents[2]
MEASURES = ("nDCG@10", "MRR@10", "Recall@1", "Recall@5", "Recall@20")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    tiny_retrieval.run(folder, tiny_retrieval.config(folder, max_steps=20))
    return folder


def pretrained(folder: Path, steps: int) -> str:
    return str(folder / f"run/checkpoints/checkpoint-{steps}/pretrained")


def test_a_plain_loop_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Six steps of torch's AdamW and sentence-transformers' loss, on the texts of the same batches."""
    config = tiny_retrieval.config(tmp_path, max_steps=6, weight_decay=0.0, group_by_length=False)
    records = [tiny_retrieval.record(number, negatives=1) for number in range(32)]
    for number, one in enumerate(records):  # no text comes twice, which sentence-transformers would not notice
        for passage in (*one["positive_ctxs"], *one["hard_negative_ctxs"]):
            passage["text"] += f" {number}"
    tiny_retrieval.write_lines(tmp_path / "train.jsonl", records)
    tiny_retrieval.run(tmp_path, config)
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    loss = st.MultipleNegativesRankingLoss(model, 20.0, model.similarity)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 6)
    sampler = TrainBatchSampler([1] * 32, 8, group=1, seed=42, group_by_length=False)
    model.train()
    for batch in [*sampler, *sampler][:6]:
        rows = [records[number] for number in batch]
        texts = [[row["question"] for row in rows]]
        texts += [[row[name][0]["text"] for row in rows] for name in ("positive_ctxs", "hard_negative_ctxs")]
        loss([dict(model.preprocess(column)) for column in texts], None).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    first, found = (
        SentenceTransformer(name).state_dict() for name in (str(tmp_path / "model"), pretrained(tmp_path, 6))
    )
    assert tiny.equal(found, model.state_dict(), atol=1e-6)
    assert not tiny.equal(found, first, atol=1e-4)


def test_it_learns(learned: Path) -> None:
    reports = tiny.reports(learned / "run", "validation")
    assert set(MEASURES) <= set(reports[-1])
    untrained = tiny_retrieval.run(learned, tiny_retrieval.config(learned, max_steps=0), name="untrained")
    assert reports[-1]["nDCG@10"] > untrained["nDCG@10"] + 0.1


def test_an_index_of_the_checkpoint_ranks_as_the_validation(
    learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """rqa index and rqa retrieve, given the run's name, give the rankings and the measures of the validation."""
    rankings = [json.loads(line) for line in (learned / "run/rankings.jsonl").read_text().splitlines()]
    dev = [json.loads(line) for line in (learned / "dev.jsonl").read_text().splitlines()]
    every = [
        passage["text"] for row in dev for name in ("positive_ctxs", "hard_negative_ctxs") for passage in row[name]
    ]
    texts = {text: f"p{number}" for number, text in enumerate(dict.fromkeys(every))}
    corpus = tiny_retrieval.write_lines(
        tmp_path / "corpus.jsonl", ({"_id": id_, "text": text} for text, id_ in texts.items())
    )
    queries = tiny_retrieval.write_lines(
        tmp_path / "queries.jsonl", ({"_id": one["id"], "text": one["question"]} for one in dev)
    )
    lines = [f"{one['id']}\t{texts[one['positive_ctxs'][0]['text']]}\t1\n" for one in dev]
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    index = ["index", "--retriever", "dense", "--corpus", corpus, "--embedding-model", f"{learned / 'run'}@last"]
    assert cli.main([*index, "--output", str(tmp_path / "index")]) == 0
    words = ["retrieve", "--index", str(tmp_path / "index"), "--queries", queries, "--top-k", "20"]
    capsys.readouterr()
    assert cli.main([*words, "--qrels", str(tmp_path / "qrels.tsv"), "--output", str(tmp_path / "found")]) == 0
    scores = json.loads(capsys.readouterr().out)
    last = tiny.reports(learned / "run", "validation")[-1]
    assert scores["nDCG@10"] == pytest.approx(last["nDCG@10"], abs=1e-6)
    assert scores["MRR@10"] == pytest.approx(last["MRR@10"], abs=1e-6)
    for line, ranking in zip((tmp_path / "found/ctxs.jsonl").read_text().splitlines(), rankings, strict=True):
        found = [(ctx["text"], ctx["score"]) for ctx in json.loads(line)["ctxs"]]
        assert [text for text, _ in found] == [passage["text"] for passage in ranking["passages"]]
        assert [score for _, score in found] == pytest.approx(
            [passage["score"] for passage in ranking["passages"]], abs=1e-5
        )


def test_a_damaged_checkpoint_makes_no_index(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["index", "--retriever", "dense", "--corpus", str(tmp_path / "none.jsonl")]
    words += ["--embedding-model", str(learned / "run") + "@7", "--output", str(tmp_path / "index")]
    assert cli.main(words) == 2
    assert "run@7: holds no checkpoint of that step" in capsys.readouterr().err


def test_a_corpus_is_ranked_as_well(tmp_path: Path) -> None:
    """Its passages come to those of the questions, each text once."""
    config = tiny_retrieval.config(tmp_path, max_steps=0)
    before = tiny_retrieval.run(tmp_path, config)
    extra = [{"_id": str(n), "text": tiny_retrieval.passage(*two)["text"]} for n, two in enumerate(PAIRS)]
    config["data"]["corpus_file"] = tiny_retrieval.write_lines(tmp_path / "corpus.jsonl", extra)
    after = tiny_retrieval.run(tmp_path, config, name="corpus")
    assert after["MRR@10"] < before["MRR@10"]
    seen = {
        passage["text"]
        for line in (tmp_path / "corpus/rankings.jsonl").read_text().splitlines()
        for passage in json.loads(line)["passages"]
    }
    assert seen <= {one["text"] for one in extra}


PAIRS = [(one, other) for one in tiny_retrieval.WORDS for other in tiny_retrieval.WORDS if one != other]


def test_several_validation_sets_rank_the_same_passages(tmp_path: Path) -> None:
    """A set's questions are ranked among the passages of all; their mean is that of the sets."""
    config = tiny_retrieval.config(tmp_path, max_steps=0, validation=12)
    whole = tiny_retrieval.run(tmp_path, config)
    lines = (tmp_path / "dev.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "one.jsonl").write_text("".join(lines[:6]))
    (tmp_path / "two.jsonl").write_text("".join(lines[6:]))
    del config["data"]["validation_file"]
    config["data"]["validation"] = [
        {"name": name, "validation_file": str(tmp_path / f"{name}.jsonl")} for name in ("one", "two")
    ]
    sets = tiny_retrieval.run(tmp_path, config, name="sets")
    assert sets["nDCG@10"] == pytest.approx(whole["nDCG@10"])
    assert sets["one/nDCG@10"] != sets["two/nDCG@10"]


@pytest.mark.parametrize("loss", ["multiple_negatives", "cached_multiple_negatives"])
def test_a_resumed_run_is_the_run_that_never_stopped(loss: str, tmp_path: Path) -> None:
    """To the last bit: weights, losses, metrics; with dropout, and negatives drawn in each epoch."""
    tiny_retrieval.encoder_folder(tmp_path / "model", hidden_dropout_prob=0.1)
    settings = {"max_steps": 10, "save_steps": 3, "eval_steps": 5, "loss": loss, "mini_batch_size": 3}
    config = tiny_retrieval.config(tmp_path, **settings)
    whole = tiny_retrieval.run(tmp_path, config, name="whole")
    (tmp_path / "part").mkdir()
    source = tmp_path / "whole/checkpoints/checkpoint-6"
    resumed = tiny_retrieval.run(tmp_path, config, "--resume", str(source), name="resumed")
    assert resumed == whole
    assert tiny.equal(tiny.weights(tmp_path / "whole", 10), tiny.weights(tmp_path / "resumed", 10))
    losses = [[one["loss"] for one in tiny.reports(tmp_path / name, "training")] for name in ("whole", "resumed")]
    assert losses[0][6:] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["multiple_negatives", "cached_multiple_negatives", "kl"])
def test_two_ranks_train_as_one(loss: str, tmp_path: Path) -> None:
    """The passages of both ranks are negatives, texts that come twice among them; each rank encodes a share."""
    config = tiny_retrieval.config(tmp_path, max_steps=4, loss=loss, num_hard_negatives=2, mini_batch_size=3)
    config["hyperparameters"]["group_by_length"] = False
    path = tiny_retrieval.write_config(tmp_path, config)
    for ranks in (1, 2):
        argv = [path, "--output-dir", str(tmp_path / f"{ranks}")]
        codes = forked.run_ranks(ranks, argv, tmp_path / f"logs-{ranks}")
        assert codes == [0] * ranks, (tmp_path / f"logs-{ranks}/0.log").read_text()
    assert tiny.equal(tiny.weights(tmp_path / "1", 4), tiny.weights(tmp_path / "2", 4), atol=2e-5)
    one, two = (tiny.reports(tmp_path / name, "validation")[-1] for name in ("1", "2"))
    assert {name: one[name] for name in MEASURES} == pytest.approx({name: two[name] for name in MEASURES}, abs=1e-6)


def test_an_earlier_runs_weights(learned: Path) -> None:
    """init_checkpoint takes a run, without a model's name beside it."""
    config = tiny_retrieval.config(learned, max_steps=0, init_checkpoint=str(learned / "run"))
    del config["hyperparameters"]["pretrained_model_name_or_path"]
    report = tiny_retrieval.run(learned, config, name="again")
    assert report["nDCG@10"] == pytest.approx(tiny.reports(learned / "run", "validation")[-1]["nDCG@10"])


def test_prompts_travel_with_the_checkpoint(tmp_path: Path) -> None:
    """Those of the settings; a run that starts from it reads them there."""
    config = tiny_retrieval.config(tmp_path, max_steps=1)
    config["data"] |= {"query_prompt": "oil: ", "passage_prompt": "river: "}
    before = tiny_retrieval.run(tmp_path, config)
    model = SentenceTransformer(pretrained(tmp_path, 1))
    assert (model.prompts["query"], model.prompts["document"]) == ("oil: ", "river: ")
    config = tiny_retrieval.config(tmp_path, max_steps=0, pretrained_model_name_or_path=pretrained(tmp_path, 1))
    assert tiny_retrieval.run(tmp_path, config, name="again") == before | {"steps": 0, "batches": 0, "epochs": 0}


def test_test_mode(tmp_path: Path) -> None:
    """One batch of training, one of validation, a checkpoint."""
    tiny_retrieval.run(tmp_path, tiny_retrieval.config(tmp_path), "--test")
    assert (tmp_path / "run/checkpoints/checkpoint-1/pretrained/modules.json").is_file()


@pytest.mark.slow
def test_determineds_local_test_mode(tmp_path: Path) -> None:
    """det experiment create CONFIG . --local --test passes."""
    det = Path(sys.executable).with_name("det")
    path = tiny_retrieval.write_config(tmp_path, tiny_retrieval.config(tmp_path))
    command = [str(det), "experiment", "create", path, ".", "--local", "--test"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_questions_are_not_answered(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--checkpoint", str(learned / "run"), "--data", str(learned / "dev.jsonl")]
    assert cli.main([*words, "--output", str(tmp_path / "out.json")]) == 2
    assert "retriever: answers no questions: rqa index --embedding-model makes" in capsys.readouterr().err
