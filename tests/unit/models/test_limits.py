"""How much a model takes is known before its weights, checked, reported, and kept to by every reader."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_beams
import torch
import transformers
from qa_models import POSITIONS, tiny_config
from tokenizers import processors
from tokenizers_for_tests import bert, xlnet

from model_hub_rqa import train
from model_hub_rqa.checkpoints import READER, pretrained_folder
from model_hub_rqa.cli import main
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models.limits import UNLIMITED, Limits, read_limits
from model_hub_rqa.readers import ExtractiveReader, FusionReader, GenerationReader
from model_hub_rqa.tasks.causal_lm.features import GenerationCollator
from model_hub_rqa.tasks.fid.features import pad_labels

QA = "question-answering"
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def set_tokenizer(tokenizer: Any, **attributes: Any) -> None:
    """Sets attributes in the tokenizer and in what it saves."""
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    tokenizer.init_kwargs |= attributes


def folder_of(kind: str, folder: Path, padding_side: str = "right", **settings: Any) -> Path:
    """A tiny question-answering model of a kind, saved, with a tokenizer that pads on a side."""
    tokenizer = copy.deepcopy(xlnet() if kind == "xlnet" else bert())
    set_tokenizer(tokenizer, padding_side=padding_side, model_input_names=[*INPUTS])
    config = tiny_config(kind, tokenizer)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    transformers.AutoModelForQuestionAnswering.from_config(config, dtype="float32").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def changed(path: Path, **data: Any) -> Path:
    """The experiment with other entries in its data section; None leaves one out."""
    config = json.loads(path.read_text())
    config["data"] |= data
    path.write_text(json.dumps({**config, "data": {k: v for k, v in config["data"].items() if v is not None}}))
    return path


def validate(config: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, dict[str, Any]]:
    """The exit code, what is said to the user, and what goes to stdout."""
    code = main(["validate", str(config)])
    out, err = capsys.readouterr()
    return code, err, json.loads(out) if out else {}


# ---- what a model takes ----


@pytest.mark.parametrize(
    ("config", "mode", "expected"),
    [
        (transformers.BertConfig(), QA, (512, 512, 2)),
        (transformers.RobertaConfig(max_position_embeddings=514, type_vocab_size=1), QA, (512, 512, 1)),
        (transformers.RobertaConfig(pad_token_id=5), QA, (506, 506, 2)),
        (transformers.GPT2Config(n_positions=64), QA, (64, 64, None)),
        (transformers.LlamaConfig(num_hidden_layers=2), "causal-lm", (2048, 2048, None)),
        (transformers.OPTConfig(max_position_embeddings=40), "causal-lm", (40, 40, None)),
        (transformers.MptConfig(n_layers=1, max_seq_len=70), "causal-lm", (70, 70, None)),
        (transformers.T5Config(), "seq2seq-lm", (UNLIMITED, UNLIMITED, None)),
        (transformers.BartConfig(max_position_embeddings=64), "seq2seq-lm", (64, 64, None)),
        (transformers.LEDConfig(), "seq2seq-lm", (16384, 1024, None)),
        (transformers.PegasusConfig(max_position_embeddings=80), "seq2seq-lm", (80, 80, None)),
        (transformers.ProphetNetConfig(max_position_embeddings=50, pad_token_id=0), "seq2seq-lm", (49, 49, None)),
        (None, QA, (UNLIMITED, UNLIMITED, None)),
    ],
)  # fmt: skip
def test_limits_by_hand(config: Any, mode: str, expected: tuple[int, int, int | None]) -> None:
    """Rows of the tables, less those before the first position; what the config states where there is no table."""
    before = torch.get_rng_state()
    assert read_limits(config, mode) == Limits(*expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_of_eighty_billion_weights_takes_no_memory() -> None:
    """It is built of shapes alone."""
    config = transformers.LlamaConfig(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80)
    assert read_limits(config, "causal-lm").tokens == 2048


def test_a_config_without_such_a_model_is_asked_itself() -> None:
    """A model of one's own may come with any config: CLIP's text model has no question-answering head."""
    config = transformers.CLIPTextConfig(max_position_embeddings=77)
    assert read_limits(config, QA) == Limits(77, 77, None)


# ---- rqa validate ----


def test_validate_reports_the_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the sizes of the data."""
    code, _, said = validate(tiny.experiment(tmp_path), capsys)
    assert code == 0
    assert said["limits"] == {"encoder": 128, "decoder": 128, "token_types": 2}


@pytest.mark.parametrize("kind", ["ibert", "data2vec-text", "roberta-prelayernorm", "xmod", "luke", "led"])
def test_a_window_beyond_the_positions_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name of the field, with the model's own number; at that number it is valid."""
    folder_of(kind, tmp_path / "model")
    config = changed(tiny.experiment(tmp_path), max_seq_length=POSITIONS + 1)
    code, said, _ = validate(config, capsys)
    limit = {"led": POSITIONS - 8}.get(kind, POSITIONS - 1)  # LED's decoder; the padding's row of the others
    assert code == 2
    assert f"data.max_seq_length: must be at most {limit}, the longest input of this model and tokenizer" in said
    code, _, report = validate(changed(config, max_seq_length=limit), capsys)
    assert (code, report["valid"]) == (0, True)


def test_token_types_beyond_the_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a RoBERTa would fail on an index in the middle of training."""
    folder_of("roberta", tmp_path / "model", type_vocab_size=1)
    code, said, _ = validate(tiny.experiment(tmp_path), capsys)
    assert code == 2
    assert "tokenizer_name: token types must be below 1, as many as the model has (type_vocab_size), got 1" in said


@pytest.mark.parametrize("how", ["no input", "no types"])
def test_a_bert_without_token_types_is_warned_of(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the tokenizer names none among its inputs, and where its template gives question and context the same."""
    tiny.model_folder(tmp_path / "model")
    tokenizer = copy.deepcopy(bert())
    if how == "no types":
        set_tokenizer(tokenizer, model_input_names=[*INPUTS])
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        assert validate(tiny.experiment(tmp_path), capsys)[0] == 0
    assert "the model has 2 token types, but the tokenizer gives question and context the same one" in caplog.text


def test_bert_with_its_token_types_is_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is XLNet's head, which compares types and has no table of them."""
    with caplog.at_level(logging.WARNING):
        folder_of("bert", tmp_path / "bert/model")
        assert validate(tiny.experiment(tmp_path / "bert"), capsys)[0] == 0
        assert validate(tiny_beams.experiment(tmp_path / "xlnet"), capsys)[0] == 0
    assert "token types" not in caplog.text


# ---- which stands first, from training to a checkpoint and its reader ----


@pytest.mark.parametrize(("kind", "first"), [("llama", True), ("bert", True), ("xlnet", False)])
def test_a_checkpoint_says_what_stands_first(kind: str, first: bool, tmp_path: Path) -> None:
    """The model decides, whatever the tokenizer's side; one of version 0.1 says nothing and went by that side."""
    folder_of(kind, tmp_path / "model", padding_side="left")
    config = tiny.experiment(tmp_path, train=8, validation=4, max_steps=1)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    folder = pretrained_folder(tmp_path / "run")
    kept = json.loads((folder / READER).read_text())
    assert kept["question_first"] is first
    assert ExtractiveReader.from_pretrained(folder).settings.question_first is first
    (folder / READER).write_text(json.dumps({k: v for k, v in kept.items() if k != "question_first"}))
    plain = tmp_path / "plain"
    folder.rename(plain)
    assert ExtractiveReader.from_pretrained(plain).settings.question_first is False
    (plain / READER).unlink()  # as transformers alone would save it
    settings = ExtractiveReader.from_pretrained(plain).settings
    assert settings.question_first is first
    assert settings.max_seq_length == {"llama": POSITIONS, "bert": POSITIONS, "xlnet": 384}[kind]


def test_a_causal_checkpoint_of_version_0_1_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is read as it was trained, which is blind to the question."""
    for kind in ("llama", "bert"):
        folder = folder_of(kind, tmp_path / kind, padding_side="left")
        (folder / READER).write_text(json.dumps({"max_seq_length": 64, "doc_stride": 16}))
        ExtractiveReader.from_pretrained(folder)
    assert caplog.text.count("was trained by version 0.1 with the context before the question") == 1


def test_a_context_before_the_question_is_refused_of_a_causal_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where somebody asks for it."""
    folder_of("llama", tmp_path / "model")
    code, said, _ = validate(changed(tiny.experiment(tmp_path), question_first=False), capsys)
    assert code == 2
    assert "data.question_first: must be true for a llama, whose tokens see what is before them alone" in said
    assert validate(changed(tiny.experiment(tmp_path / "bert"), question_first=False), capsys)[0] == 0


def test_a_reader_keeps_to_its_models_longest_input(tmp_path: Path) -> None:
    """Also where predict, ask or evaluate give another length."""
    folder = folder_of("ibert", tmp_path / "model")
    assert ExtractiveReader.from_pretrained(folder, max_seq_length=95, doc_stride=8).settings.max_seq_length == 95
    with pytest.raises(ConfigError, match=r"max_seq_length: must be at most 95, the longest input of .*, got 96"):
        ExtractiveReader.from_pretrained(folder, max_seq_length=96, doc_stride=8)


@pytest.mark.parametrize(
    ("reader", "auto", "config", "given", "said"),
    [
        (
            FusionReader,
            transformers.AutoModelForSeq2SeqLM,
            tiny_config("led", bert()),
            {"max_encoder_seq_length": POSITIONS + 1, "max_new_tokens": POSITIONS - 7},
            ["max_encoder_seq_length: must be at most 96", "max_new_tokens: must be at most 88"],
        ),
        (
            GenerationReader,
            transformers.AutoModelForCausalLM,
            tiny_config("gpt2", bert()),
            {"max_length": POSITIONS - 63},
            ["max_length: must be at most 32 with max_new_tokens (64)"],
        ),
    ],
)
def test_readers_that_generate_keep_to_the_longest_input(
    reader: Any, auto: Any, config: Any, given: dict[str, int], said: list[str], tmp_path: Path
) -> None:
    """Of the encoder, of the decoder, of a causal model; one token less is taken."""
    auto.from_config(config).save_pretrained(tmp_path)
    bert().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the longest that") as raised:
        reader.from_pretrained(tmp_path, **given)
    for line, expected in zip(raised.value.errors, said, strict=True):
        assert line.startswith(f"{expected}, the longest that {tmp_path} takes, got ")
    reader.from_pretrained(tmp_path, **{name: value - 1 for name, value in given.items()})


@pytest.mark.parametrize(("limit", "width"), [(None, 16), (12, 12), (9, 10)])
def test_no_batch_is_padded_beyond_the_longest_input(limit: int | None, width: int) -> None:
    """A multiple of 8 tokens, for a GPU, may be more than a decoder has positions; a row is never cut."""
    assert pad_labels([np.arange(10), np.arange(3)], 8, limit).shape == (2, width)
    feature = {"input_ids": [5] * 6, "answer_ids": [6] * 4, "example_index": 0, "predict_with_generate": True}
    assert GenerationCollator(bert(), 8, limit)([feature])["input_ids"].shape == (1, width)
