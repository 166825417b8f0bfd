"""Config, tokenizer and model from the settings."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from model_hub_rqa.config import ConfigKwargs, ModelKwargs, TokenizerKwargs
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models.build import (
    MODEL_MODES,
    auto_class,
    build_config_and_tokenizer,
    build_model,
    build_using_auto,
    check_vocabulary,
)

VOCABULARY = 30522  # tokens of all-MiniLM-L6-v2's tokenizer
SIZES: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
    },
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32},
    "t5": {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2},
}
TYPE_OF_MODE = {"causal-lm": "gpt2", "seq2seq-lm": "t5"}


def scratch(model_type: str = "bert", **overrides: Any) -> dict[str, Any]:
    """Settings of a small config made from scratch."""
    sizes = {"vocab_size": VOCABULARY, **SIZES[model_type]}
    return {"config_overrides": {"model_type": model_type, **sizes, **overrides}}


def save(folder: Path, model_type: str = "bert", mode: str = "question-answering", **overrides: Any) -> str:
    """A folder with a small model of random weights, and without a tokenizer."""
    attributes = scratch(model_type, **{"vocab_size": 50, **overrides})["config_overrides"]
    config = transformers.AutoConfig.for_model(**attributes)
    auto_class(mode).from_config(config).save_pretrained(folder)
    return str(folder)


def errors_of(call: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError, match=r"^[\w.]+: ") as caught:
        call(*args, **kwargs)
    return caught.value.errors


@pytest.fixture
def build_config(minilm: str) -> Callable[..., Any]:
    """Builds a config alone, as the tokenizer beside it has no error."""
    return lambda **kwargs: build_config_and_tokenizer(ConfigKwargs(**kwargs), {"tokenizer_name": minilm})[0]


# ---- all of it ----


@pytest.mark.parametrize("mode", MODEL_MODES)
def test_every_mode_is_built_from_a_config_and_from_weights(mode: str, minilm: str, tmp_path: Path) -> None:
    """Each mode gives the model class that transformers has for it, with random weights and with saved ones."""
    kwargs = scratch(TYPE_OF_MODE.get(mode, "bert")), {"pretrained_model_name_or_path": minilm}
    config, tokenizer, fresh = build_using_auto(*kwargs, mode, {}, use_pretrained_weights=False)
    expected = transformers.AutoModel if mode == "base" else getattr(transformers, MODEL_MODES[mode])
    assert type(fresh) is expected._model_mapping[type(config)]
    assert len(tokenizer) == VOCABULARY

    folder = str(tmp_path)
    fresh.save_pretrained(folder)
    named: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    tokenizer_kwargs = TokenizerKwargs(tokenizer_name=minilm)
    _, _, loaded = build_using_auto(named, tokenizer_kwargs, mode, ModelKwargs(**named))
    assert type(loaded) is type(fresh)
    weights = fresh.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_a_tokenizer_larger_than_the_embeddings_is_a_error(minilm: str) -> None:
    """Ids beyond the embeddings would fail in the middle of training; both numbers are named."""
    settings: Any = scratch(vocab_size=50), {"pretrained_model_name_or_path": minilm}, "question-answering", {}
    assert errors_of(build_using_auto, *settings, use_pretrained_weights=False) == (
        f"tokenizer_name: the tokenizer has {VOCABULARY} tokens, but the model has embeddings for 50 only",
    )


def test_a_tokenizer_smaller_than_the_embeddings_is_right(minilm: str) -> None:
    """Models come with embeddings padded to a round number."""
    config, tokenizer = build_config_and_tokenizer(
        scratch(vocab_size=VOCABULARY + 6), {"pretrained_model_name_or_path": minilm}
    )
    check_vocabulary(tokenizer, build_model(config, "base", {}, use_pretrained_weights=False))


def test_nothing_given_is_changed(minilm: str, tmp_path: Path) -> None:
    """Dicts and config are the caller's: they are copied where transformers would write into them."""
    folder = save(tmp_path)
    labels = {0: "no", 1: "yes", 2: "both"}
    config_kwargs = {"config_name": folder, "num_labels": 3, "config_overrides": {"id2label": labels}}
    tokenizer_kwargs = {"pretrained_model_name_or_path": minilm, "padding_side": "left"}
    model_kwargs = {"model_name": folder, "dtype": "bfloat16", "revision": "main"}
    before = copy.deepcopy((config_kwargs, tokenizer_kwargs, model_kwargs))
    config, _ = build_config_and_tokenizer(config_kwargs, tokenizer_kwargs)
    described = config.to_dict()
    assert config.id2label == labels
    assert config.id2label is not labels
    build_model(config, "question-answering", {**model_kwargs, "ignore_mismatched_sizes": True})
    build_model(config, "question-answering", model_kwargs, use_pretrained_weights=False)
    assert config.to_dict() == described
    assert (config_kwargs, tokenizer_kwargs, model_kwargs) == before


# ---- the config ----


def test_overrides_reach_a_loaded_config(build_config: Callable[..., Any], tmp_path: Path) -> None:
    """Any attribute of the config can be set; num_labels and the task's name are kept with it."""
    config = build_config(
        pretrained_model_name_or_path=save(tmp_path),
        num_labels=3,
        finetuning_task="qa",
        config_overrides={"hidden_dropout_prob": 0.0, "pad_token_id": 7},
    )
    assert (config.num_labels, config.finetuning_task) == (3, "qa")
    assert (config.hidden_dropout_prob, config.pad_token_id, config.hidden_size) == (0.0, 7, 8)
    assert json.loads(config.to_json_string())["finetuning_task"] == "qa"


def test_a_config_is_made_from_scratch(build_config: Callable[..., Any]) -> None:
    """model_type among the overrides makes a config without a name, and the rest are its attributes."""
    config = build_config(**scratch("t5"), num_labels=4)
    assert isinstance(config, transformers.T5Config)
    assert (config.d_model, config.num_labels) == (8, 4)


@pytest.mark.parametrize("from_scratch", [True, False])
def test_a_misspelt_override_is_a_error(from_scratch: bool, build_config: Callable[..., Any], tmp_path: Path) -> None:
    """transformers would keep it and read it nowhere; all of them are named, with the nearest right name."""
    wrong: dict[str, Any] = {"hiden_size": 3, "frobnicate": 1}
    kwargs: dict[str, Any] = scratch(**wrong)
    if not from_scratch:
        kwargs = {"pretrained_model_name_or_path": save(tmp_path), "config_overrides": wrong}
    assert errors_of(build_config, **kwargs) == (
        "config_overrides.hiden_size: BertConfig has no such attribute: did you mean hidden_size?",
        "config_overrides.frobnicate: BertConfig has no such attribute",
    )


def test_an_override_of_a_wrong_type_is_a_error(build_config: Callable[..., Any], tmp_path: Path) -> None:
    """The config's own checks are told with the override's name."""
    named = {"pretrained_model_name_or_path": save(tmp_path)}
    [error] = errors_of(build_config, **named, config_overrides={"hidden_size": "large"})
    assert error.startswith("config_overrides.hidden_size: Validation error for field 'hidden_size'")
    [error] = errors_of(build_config, **scratch(hidden_size="large"))
    assert error.startswith("config_overrides: Validation error for field 'hidden_size'")


def test_an_override_reaches_an_inner_config(build_config: Callable[..., Any], tmp_path: Path) -> None:
    """A mapping for a config within the config changes the named attributes only."""
    transformers.AutoConfig.for_model(
        "vision-text-dual-encoder",
        text_config=scratch()["config_overrides"],
        vision_config={"model_type": "clip_vision_model"},
    ).save_pretrained(tmp_path)
    named = {"pretrained_model_name_or_path": str(tmp_path)}
    config = build_config(**named, config_overrides={"text_config": {"hidden_dropout_prob": 0.0}})
    assert (config.text_config.hidden_dropout_prob, config.text_config.hidden_size) == (0.0, 8)
    assert errors_of(build_config, **named, config_overrides={"text_config": {"hiden_size": 1}}) == (
        "config_overrides.text_config.hiden_size: BertConfig has no such attribute: did you mean hidden_size?",
    )


def test_an_unknown_model_type_is_a_error(build_config: Callable[..., Any]) -> None:
    """The error has the nearest type, and not all four hundred."""
    assert errors_of(build_config, config_overrides={"model_type": "bertt"}) == (
        "config_overrides.model_type: must be a model type of transformers, got 'bertt': did you mean bert?",
    )


def test_a_config_that_is_not_json_is_a_error(build_config: Callable[..., Any], tmp_path: Path) -> None:
    """A damaged file is named, and the library's error is kept as the cause."""
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"^pretrained_model_name_or_path: .* is not a valid JSON file") as caught:
        build_config(pretrained_model_name_or_path=str(tmp_path))
    assert isinstance(caught.value.__cause__, OSError)


# ---- the tokenizer ----


def test_the_tokenizers_settings_are_passed_on(minilm: str) -> None:
    """Case, padding side and length are as asked for; without asking they are the saved ones."""
    config = scratch()
    settings = {"tokenizer_name": minilm, "padding_side": "left", "model_max_length": 99, "do_lower_case": False}
    _, tokenizer = build_config_and_tokenizer(config, settings)
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 99)
    assert tokenizer.tokenize("Paris paris") == ["[UNK]", "paris"]
    _, tokenizer = build_config_and_tokenizer(config, {"tokenizer_name": minilm})
    assert tokenizer.padding_side == "right"
    assert tokenizer.tokenize("Paris paris") == ["paris", "paris"]


def test_a_folder_without_a_tokenizer_is_a_error(tmp_path: Path) -> None:
    """A model saved without its tokenizer is named, with the files that were sought."""
    named = {"pretrained_model_name_or_path": save(tmp_path)}
    [error] = errors_of(build_config_and_tokenizer, named, named)
    assert error.startswith(f"pretrained_model_name_or_path: {str(tmp_path)!r} has none of tokenizer_config.json, ")


@pytest.mark.parametrize("kind", ["BertTokenizer", "T5Tokenizer", "GPT2Tokenizer", "MPNetTokenizer"])
def test_a_tokenizer_of_special_tokens_only_is_a_error(kind: str, tmp_path: Path) -> None:
    """transformers 5 silently makes one where the vocabulary's file is missing."""
    named = {"pretrained_model_name_or_path": save(tmp_path)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    assert errors_of(build_config_and_tokenizer, named, named) == (
        f"pretrained_model_name_or_path: {str(tmp_path)!r} has no vocabulary: the tokenizer has special tokens only",
    )


def test_a_tokenizer_of_bytes_needs_no_file(tmp_path: Path) -> None:
    """ByT5's vocabulary is the 256 bytes."""
    named = {"pretrained_model_name_or_path": save(tmp_path)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    assert build_config_and_tokenizer(named, named)[1].vocab_size == 256


def test_the_errors_of_config_and_tokenizer_come_at_once() -> None:
    """Both parts are tried, and an error that they share is named once."""
    offline = "is neither a folder nor in the hub's cache, and HF_HUB_OFFLINE is set"
    assert errors_of(build_config_and_tokenizer, ConfigKwargs(config_name="org/a"), {"tokenizer_name": "org/b"}) == (
        f"config_name: 'org/a' {offline}",
        f"tokenizer_name: 'org/b' {offline}",
    )
    named = {"pretrained_model_name_or_path": "org/a"}
    assert errors_of(build_config_and_tokenizer, named, named) == (f"pretrained_model_name_or_path: 'org/a' {offline}",)
    assert len(errors_of(build_config_and_tokenizer, {}, {})) == 1


# ---- the model ----


@pytest.mark.parametrize(
    ("asked", "pretrained", "built"),
    [
        ({}, True, torch.float32),
        ({"dtype": "auto"}, True, torch.bfloat16),
        ({"dtype": "float16"}, True, torch.float16),
        ({}, False, torch.float32),
        ({"dtype": "auto"}, False, torch.bfloat16),
        ({"dtype": "float16"}, False, torch.float16),
    ],
)
def test_weights_have_the_dtype_asked_for(
    asked: dict[str, str], pretrained: bool, built: torch.dtype, tmp_path: Path
) -> None:
    """float32 unless something else is asked for, whatever the checkpoint was saved in; auto keeps that."""
    folder = save(tmp_path, dtype="bfloat16")
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.dtype == torch.bfloat16
    model = build_model(config, "base", {"pretrained_model_name_or_path": folder, **asked}, pretrained)
    assert {parameter.dtype for parameter in model.parameters()} == {built}


@pytest.mark.parametrize("pretrained", [True, False])
def test_attention_is_the_one_asked_for(pretrained: bool, tmp_path: Path) -> None:
    """attn_implementation counts for loaded and for random weights; one that is not there is an error."""
    folder = save(tmp_path)
    config = transformers.AutoConfig.from_pretrained(folder)
    settings = ModelKwargs(model_name=folder, attn_implementation="eager")
    assert build_model(config, "base", settings, pretrained).config._attn_implementation == "eager"
    settings = ModelKwargs(model_name=folder, attn_implementation="none_such")
    [error] = errors_of(build_model, config, "base", settings, pretrained)
    assert 'attn_implementation="none_such"' in error


def test_a_mode_that_the_config_has_not_is_a_error(tmp_path: Path) -> None:
    """An unknown mode and one that this architecture lacks are told apart."""
    config = transformers.AutoConfig.for_model(**scratch()["config_overrides"])
    assert errors_of(build_model, config, "question-answer", {})[0].endswith(
        ", got 'question-answer': did you mean question-answering?"
    )
    [error] = errors_of(build_model, config, "seq2seq-lm", {}, use_pretrained_weights=False)
    assert error.startswith("model_mode: BertConfig as seq2seq-lm: Unrecognized configuration class")


def test_weights_that_do_not_fit_the_config_are_a_error(tmp_path: Path) -> None:
    """A head with another number of labels would otherwise be drawn anew, or fail as a bare RuntimeError."""
    folder = save(tmp_path, mode="sequence-classification")
    config = transformers.AutoConfig.from_pretrained(folder, num_labels=5)
    assert errors_of(build_model, config, "sequence-classification", {"model_name": folder}) == (
        f"model_name: {folder!r} as sequence-classification: the weights have other sizes than the config says",
    )


def test_damaged_or_missing_weights_are_a_error(tmp_path: Path) -> None:
    """A file cut short is named; so is a folder without weights, and no name at all."""
    folder = save(tmp_path)
    config = transformers.AutoConfig.from_pretrained(folder)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    [error] = errors_of(build_model, config, "base", {"model_name": folder})
    assert error.startswith(f"model_name: {folder!r} as base: ")
    weights.unlink()
    [error] = errors_of(build_model, config, "base", {"model_name": folder})
    assert error.startswith(f"model_name: {folder!r} has none of model.safetensors, ")
    [error] = errors_of(build_model, config, "base", ModelKwargs())
    assert error.startswith("pretrained_model_name_or_path: is required")


def test_a_full_disk_is_not_the_configurations_error(
    build_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An OSError for want of space is left as it is."""
    import errno

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = save(tmp_path)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        build_config(pretrained_model_name_or_path=folder)
