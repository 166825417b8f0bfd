"""FiDTrial from a configuration to predictions, on tiny models of random weights."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from readers_for_tests import sentence_piece
from tiny_fusion import WORDS, memorised, records, run, trial_of, write_config, write_lines
from tokenizers_for_tests import bert
from transformers import AutoModelForSeq2SeqLM, BertConfig, BertModel
from watching import watch

from model_hub_rqa import train
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.tasks.fid.features import FusionCollator
from model_hub_rqa.tasks.fid.model import enable_fusion, fusion_generate


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A tiny T5 from scratch on eight questions."""
    return memorised(tmp_path)


def test_learns_and_writes_predictions(config: dict[str, Any], tmp_path: Path) -> None:
    """A tiny T5 learns eight questions by heart; predictions hold what was asked, read, said and true."""
    config["hyperparameters"] |= {"max_steps": 120, "learning_rate": 1e-2}
    config["data"] |= {"n_context": 2}
    (report,) = run(config, tmp_path)
    assert report["exact_match"] == report["f1"] == 100
    lines = (tmp_path / "run/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    expected = records(8)
    assert [line["id"] for line in found] == [f"q{i}" for i in range(8)]
    for line, record in zip(found, expected, strict=True):
        assert set(line) == {"id", "question", "prediction", "references", "passages"}
        assert line["question"] == record["question"]
        assert line["prediction"] in line["references"]
        assert line["references"] == record["answers"]
        assert [(p["title"], p["text"]) for p in line["passages"]] == [
            (c["title"], c["text"]) for c in record["ctxs"][:2]
        ]


def test_the_checkpoint_writes_the_same_answers(config: dict[str, Any], tmp_path: Path) -> None:
    """The plain folder of the checkpoint, loaded by its Auto class alone, generates what the validation reported."""
    config["hyperparameters"] |= {"max_steps": 40, "learning_rate": 1e-2}
    run(config, tmp_path)
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("checkpoint-40")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(checkpoint / "pretrained").eval()
    trial = trial_of(config)
    builder = trial.task.feature_builder(training=False)
    batch = FusionCollator(builder)([trial.datasets["validation"][i] for i in range(8)])
    enable_fusion(model)
    written = fusion_generate(model, batch, max_new_tokens=8)
    texts = [text.strip() for text in sentence_piece().batch_decode(written, skip_special_tokens=True)]
    lines = (tmp_path / "run/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert texts == [json.loads(line)["prediction"] for line in lines]


@pytest.mark.parametrize(
    ("hyperparameters", "seen"),
    [
        ({}, {"layer_calls": 4, "steps": 4, "batches": 4, "dtypes": {torch.float32}, "num_beams": [1, 1]}),
        ({"gradient_checkpointing": True}, {"layer_calls": 8}),
        ({"bf16": True}, {"dtypes": {torch.bfloat16}}),
        ({"gradient_accumulation_steps": 2}, {"steps": 4, "batches": 8}),
        ({"num_beams": 3}, {"num_beams": [3, 3]}),
    ],
    ids=lambda values: next(iter(values), "default"),
)
def test_settings_of_training(
    hyperparameters: dict[str, Any],
    seen: dict[str, Any],
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each takes effect, with every metric finite; data settings may stand among the hyperparameters."""
    watched = watch(monkeypatch)
    config["hyperparameters"] |= hyperparameters
    (report,) = run(config, tmp_path)
    assert {name: getattr(watched, name) for name in seen} == seen
    assert watched.trial.model.is_gradient_checkpointing == ("gradient_checkpointing" in hyperparameters)
    assert {"exact_match", "f1", "rougeL", "loss"} <= set(report)
    assert all(torch.tensor(report[name]).isfinite() for name in ("exact_match", "f1", "rougeL", "loss"))


def test_chunks_do_not_change_training(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss after some steps is the same however many passages are encoded at a time, but for rounding."""
    watched, losses, most = watch(monkeypatch), [], []
    for chunk_size in (1, 2, 32):
        folder = tmp_path / str(chunk_size)
        folder.mkdir()
        config["hyperparameters"] |= {"encoder_chunk_size": chunk_size}
        watched.encoder_rows.clear()
        losses.append(run(config, folder)[0]["loss"])
        most.append(max(watched.encoder_rows))
    assert most[:2] == [1, 2]
    assert most[2] > 2
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-4)


def test_dialogue_records_in_the_chat_prompt(config: dict[str, Any], tmp_path: Path) -> None:
    """LocalRQA's form trains as well, with its hard negatives among the gold documents, in training only."""
    rows = []
    for i in range(8):
        documents = [{"page_content": f"it is called {word}", "metadata": {"title": "T"}} for word in WORDS]
        history = ["What is it?", "It is oil."] if i % 2 else []
        row = {"question": f"{i}?", "chat_history": history, "gold_answer": WORDS[i], "gold_docs": documents[i : i + 1]}
        rows.append(
            row | {"hard_neg_docs": [document for document in documents if WORDS[i] not in document["page_content"]]}
        )
    data = write_lines(tmp_path / "dialogue.jsonl", rows)
    config["data"] |= {"train_file": data, "validation_file": data, "prompt_template": "chat", "num_hard_negatives": 2}
    trial = trial_of(config)
    assert {len(passages) for passages in trial.read["train"]["passages"][:]} == {3}
    assert {len(passages) for passages in trial.read["validation"]["passages"][:]} == {1}
    places = [[passage["gold"] for passage in passages].index(True) for passages in trial.read["train"]["passages"]]
    assert len(set(places)) > 1
    assert run(config, tmp_path)


@pytest.mark.parametrize("section", ["hyperparameters", "data"])
def test_an_encoder_is_made_a_reader(section: str, config: dict[str, Any], tmp_path: Path) -> None:
    """encoder_decoder_from makes an EncoderDecoderModel of an encoder's folder, and names config and tokenizer too."""
    tokenizer = bert()
    encoder = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(encoder).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    hyperparameters = config["hyperparameters"]
    for name in ("tokenizer_name", "config_overrides", "use_pretrained_weights"):
        del hyperparameters[name]
    config[section]["encoder_decoder_from"] = str(tmp_path / "bert")
    (report,) = run(config, tmp_path)
    assert report["loss"] > 0
    (folder,) = (tmp_path / "run/checkpoints").glob("*/pretrained")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert type(model).__name__ == "EncoderDecoderModel"
    assert model.generation_config.decoder_start_token_id == tokenizer.cls_token_id


@pytest.mark.parametrize(
    ("section", "change", "error"),
    [
        ("data", {"embedding_model": "./nowhere"}, "embedding_model: no such folder, got './nowhere'"),
        ("data", {"corpus_file": "corpus.jsonl"}, "data.corpus_file: needs embedding_model, got none"),
        ("data", {"corpus_file": "c.jsonl", "index": "i"}, "data.corpus_file: is ignored beside index"),
        ("data", {"prompt_template": "{question}"}, r"data.prompt_template: must have \{context\}"),
        ("data", {"n_context": 0}, "data.n_context: must be >= 1, got 0"),
        ("hyperparameters", {"num_beams": 0}, "data.num_beams: must be >= 1, got 0"),
        (
            "hyperparameters",
            {"pretrained_model_name_or_path": "./one", "encoder_decoder_from": "./other"},
            r"pretrained_model_name_or_path: must be left out beside encoder_decoder_from \(./other\)",
        ),
    ],
)
def test_bad_settings(section: str, change: dict[str, Any], error: str, config: dict[str, Any]) -> None:
    """What is wrong with a setting is said in its name, before a model is built."""
    config[section] |= change
    with pytest.raises(ConfigError, match=error):
        trial_of(config)


def test_a_config_may_name_several_end_tokens(config: dict[str, Any], tmp_path: Path) -> None:
    """The tokenizer's is one of them; training, generation and the checkpoint take the list as it is."""
    config["hyperparameters"]["config_overrides"]["eos_token_id"] = [2, 1]
    config["hyperparameters"]["max_steps"] = 1
    run(config, tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run/checkpoints/checkpoint-1/pretrained")
    assert model.config.eos_token_id == [2, 1]


@pytest.mark.parametrize(
    ("overrides", "errors"),
    [
        (
            {"model_type": "t5", "eos_token_id": 77},
            ["config_overrides: eos_token_id must be 2, the tokenizer's, got 77"],
        ),
        (
            {"model_type": "t5", "eos_token_id": [77, 1]},
            ["config_overrides: eos_token_id must be 2, the tokenizer's, got [77, 1]"],
        ),
        (
            {
                "model_type": "led",
                "eos_token_id": 2,
                "max_encoder_position_embeddings": 24,
                "max_decoder_position_embeddings": 12,
            },
            [
                "data.max_encoder_seq_length: must be at most 24, the longest that this model takes, got 32",
                "data.max_decoder_seq_length: must be at most 12, the longest that this model takes, got 16",
            ],
        ),
        (
            {"model_type": "bart", "eos_token_id": 2, "max_position_embeddings": 12},
            [
                "data.max_encoder_seq_length: must be at most 12, the longest that this model takes, got 32",
                "data.max_decoder_seq_length: must be at most 12, the longest that this model takes, got 16",
            ],
        ),
        ({"model_type": "bert"}, ["must name an encoder-decoder, got a bert"]),
        ({"model_type": "fsmt"}, ["must name a model with one vocabulary, got a fsmt, whose answers have their own"]),
        (
            {"model_type": "marian", "share_encoder_decoder_embeddings": False},
            ["must name a model with one vocabulary, got a marian, whose answers have their own"],
        ),
    ],
)
def test_settings_that_do_not_fit_the_model(overrides: Any, errors: list[str], config: dict[str, Any]) -> None:
    """A wrong end token, lengths beyond the model's positions, a model without a decoder."""
    config["hyperparameters"]["config_overrides"] = overrides
    with pytest.raises(ConfigError, match=re.escape(errors[0])) as error:
        trial_of(config)
    assert len(error.value.errors) == len(errors)
    for line, expected in zip(error.value.errors, errors, strict=True):
        assert expected in line


def test_bad_records_end_with_exit_code_2(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All errors of both files are printed, and nothing was trained."""
    broken = records(2)
    broken[0]["ctxs"], broken[1]["answers"] = [], "oil"
    path = write_lines(tmp_path / "broken.jsonl", broken)
    config["data"] |= {"train_file": path}
    assert train.main([write_config(config, tmp_path), "--output-dir", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert f"{path}: record q0 (line 1): ctxs must hold at least one passage, got []" in printed
    assert f"{path}: record q1 (line 2): answers must be a list, got 'oil': write ['oil']" in printed
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.slow
def test_two_ranks_train_and_score_as_one(config: dict[str, Any], tmp_path: Path) -> None:
    """The same steps on one and two ranks end in the same metrics and the same predictions."""
    found = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        config["hyperparameters"] |= {"max_steps": 20, "learning_rate": 1e-2, "per_device_eval_batch_size": 3}
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        script = ["-m", "model_hub_rqa.train", write_config(config, folder), "--output-dir", str(folder / "run")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([*launcher, *script], check=True, env=environment, capture_output=True)
        reports = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        predictions = (folder / "run/predictions.jsonl").read_text(encoding="utf-8")
        found.append(([report for report in reports if report["kind"] == "validation"][-1], predictions))
    (one, first), (two, second) = found
    for name in ("exact_match", "f1", "rougeL"):
        assert one[name] == two[name]
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-3)
    assert first == second
