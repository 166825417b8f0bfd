"""The Fusion-in-Decoder quickstart: its data is made by its generator, honest, and learned from scratch."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from model_hub_rqa.cli import main
from model_hub_rqa.data.formats.fid import read_fusion

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples/fid_quickstart"
MADE = ("corpus.jsonl", "train.jsonl", "validation.jsonl", "qrels.tsv")
SPLITS = ("train", "validation")


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def data() -> dict[str, list[dict[str, Any]]]:
    return {split: records(QUICKSTART / f"{split}.jsonl") for split in SPLITS}


def passages(rows: list[dict[str, Any]]) -> set[str]:
    return {f"{ctx['title']}: {ctx['text']}" for row in rows for ctx in row["ctxs"]}


def gold(row: dict[str, Any]) -> dict[str, Any]:
    (found,) = [ctx for ctx in row["ctxs"] if ctx["id"] == row["gold_id"]]
    return found


def test_the_committed_files_are_the_generators(tmp_path: Path) -> None:
    """Byte for byte, data and model folder alike."""
    subprocess.run([sys.executable, str(QUICKSTART / "generate.py"), "--output-dir", str(tmp_path)], check=True)
    model = ["--data", str(tmp_path), "--output-dir", str(tmp_path / "model")]
    subprocess.run([sys.executable, str(QUICKSTART / "build_model.py"), *model], check=True)
    for name in (*MADE, "model/tokenizer.json"):
        assert (QUICKSTART / name).read_bytes() == (tmp_path / name).read_bytes(), name
    ours, made = (json.loads((folder / "model/config.json").read_text()) for folder in (QUICKSTART, tmp_path))
    version = {"transformers_version": None}
    assert ours | version == made | version


def test_what_validation_asks_is_unknown_to_training(data: dict[str, list[dict[str, Any]]]) -> None:
    """No question of validation, and no passage about a thing that it asks about, is in training."""
    train, validation = (data[split] for split in SPLITS)
    assert not {row["question"] for row in train} & {row["question"] for row in validation}
    told = passages(train)
    assert not told & passages([{**row, "ctxs": [gold(row)]} for row in validation])
    pattern = re.compile(r"\b[Tt]he (\w+ \w+) of the (\w+)\b")
    things = {pattern.search(row["question"]).groups() for row in validation}  # type: ignore[union-attr]
    assert len(things) == 150
    assert len({pattern.search(row["question"]).groups() for row in train}) > 1500  # type: ignore[union-attr]
    for passage in told:
        assert not any(f"The {place}: " in passage and f" {thing} " in passage for thing, place in things), passage


def test_words_of_validation_are_known_to_training(data: dict[str, list[dict[str, Any]]]) -> None:
    """What is new are their combinations."""
    words = {
        split: set(re.findall(r"\w+", " ".join([*(row["question"] for row in data[split]), *passages(data[split])])))
        for split in SPLITS
    }
    assert words["validation"] <= words["train"]


@pytest.mark.parametrize("split", SPLITS)
def test_gold_passages_give_nothing_away(split: str, data: dict[str, list[dict[str, Any]]]) -> None:
    """They stand at every place alike and in every phrasing alike, and no answer is much more frequent than another."""
    rows = [row for row in data[split] if len(row["ctxs"]) > 1]  # in training, some have the gold passage alone
    places = [row["ctxs"].index(gold(row)) for row in rows]
    assert {len(row["ctxs"]) for row in rows} == {4}
    assert all(0.2 < places.count(place) / len(rows) < 0.3 for place in range(4))
    answers = [row["answers"][0] for row in rows]
    assert max(map(answers.count, set(answers))) / len(rows) < 0.05
    assert all(answer in gold(row)["text"] for answer, row in zip(answers, rows, strict=True))
    first_words = [[ctx["text"].split()[0] for ctx in row["ctxs"]] for row in rows]  # tell the phrasing
    odd = sum(words.count(words[place]) == 1 for words, place in zip(first_words, places, strict=True)) / len(rows)
    assert odd < 0.32  # by chance it is (2/3)^3


@pytest.mark.parametrize("split", SPLITS)
def test_records_pass_the_reader(split: str) -> None:
    """Every record is valid, with one gold passage."""
    read = read_fusion(QUICKSTART / f"{split}.jsonl")
    assert read.n_skipped == 0
    assert all(sum(passage["gold"] for passage in row["passages"]) == 1 for row in read.rows)


def test_the_tokenizer_knows_every_word(data: dict[str, list[dict[str, Any]]]) -> None:
    """Prompts and answers have no unknown token, and fit the configuration's lengths and vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "model")
    config = AutoConfig.from_pretrained(QUICKSTART / "model")
    assert config.vocab_size == len(tokenizer)
    assert (config.pad_token_id, config.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    for row in data["validation"]:
        for ctx in row["ctxs"]:
            prompt = f"question: {row['question']} title: {ctx['title']} context: {ctx['text']}"
            ids = tokenizer(prompt).input_ids
            assert tokenizer.unk_token_id not in ids
            assert len(ids) <= 64
        assert len(tokenizer(row["answers"][0]).input_ids) == 3


def test_bm25_finds_the_passages(
    data: dict[str, list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """rqa index and rqa retrieve find, for each validation question, the passages of its record."""
    corpus, queries = QUICKSTART / "corpus.jsonl", QUICKSTART / "validation.jsonl"
    index = ["--retriever", "bm25", "--stopwords", "english", "--output", str(tmp_path / "i")]
    assert main(["index", "--corpus", str(corpus), *index]) == 0
    capsys.readouterr()
    command = ["retrieve", "--index", str(tmp_path / "i"), "--queries", str(queries), "--top-k", "4"]
    assert main([*command, "--qrels", str(QUICKSTART / "qrels.tsv"), "--output", str(tmp_path / "r")]) == 0
    assert json.loads(capsys.readouterr().out)["Recall@4"] >= 0.99
    for found, row in zip(records(tmp_path / "r/ctxs.jsonl"), data["validation"], strict=True):
        assert found["question"] == row["question"]
        assert {ctx["id"] for ctx in found["ctxs"]} == {ctx["id"] for ctx in row["ctxs"]}


@pytest.mark.slow
def test_a_small_reader_learns_to_read_from_scratch(tmp_path: Path) -> None:
    """The shipped configuration answers unseen questions, and cannot where passages belong to other questions."""
    command = ["-m", "model_hub_rqa.cli", "train", "experiment_configs/fid_quickstart.yaml"]
    run = [sys.executable, *command, "--output-dir", str(tmp_path / "run")]
    subprocess.run(run, cwd=ROOT, check=True, timeout=1800)
    report = [sys.executable, str(QUICKSTART / "report.py"), str(tmp_path / "run")]
    done = subprocess.run(report, cwd=ROOT, check=True, timeout=300, capture_output=True, text=True)
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores["exact_match"] >= 80
    assert scores["shuffled_passages"] < 30
    assert scores["random_passage"] < 40
