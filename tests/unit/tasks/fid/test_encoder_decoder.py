"""An encoder-decoder made of an encoder, and the tokens that any decoder starts and ends with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fusion_models_for_tests import batch_of, bert_shape, labels_of
from tokenizers_for_tests import bert, t5
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    MBartConfig,
    T5Config,
)

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models.limits import read_limits
from model_hub_rqa.tasks.fid.model import decoder_start_token_id, enable_fusion, fusion_generate
from model_hub_rqa.tasks.fid.task import (
    build_encoder_decoder,
    encoder_decoder_config,
    name_tokens,
)


def test_the_start_token_has_fallbacks() -> None:
    """A config from scratch may name no start: BOS, or padding as in T5, takes its place; with none, it is an error."""
    assert decoder_start_token_id(BartConfig()) == 2
    assert decoder_start_token_id(MBartConfig()) == 0
    assert decoder_start_token_id(T5Config()) == 0
    with pytest.raises(ConfigError, match="decoder_start_token_id must be set"):
        decoder_start_token_id(EncoderDecoderConfig.from_encoder_decoder_configs(bert_shape(16), bert_shape(16)))


def test_an_encoder_starts_both_halves(minilm: str, tmp_path: Path) -> None:
    """MiniLM becomes an encoder-decoder that fuses, writes, and is loaded back by its name tokens and weights."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    config = encoder_decoder_config(AutoConfig.from_pretrained(minilm), tokenizer)
    assert (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (101, 102, 0)
    kwargs = {"pretrained_model_name_or_path": minilm, "dtype": "float32", "revision": "main"}
    model: Any = build_encoder_decoder(config, kwargs, True)
    name_tokens(model, tokenizer)
    enable_fusion(model.eval())
    words = {name: weights for name, weights in model.named_parameters() if "word_embeddings" in name}
    assert len(words) == 2
    torch.testing.assert_close(*words.values())
    limits = read_limits(config, "seq2seq-lm")
    assert (limits.encoder, limits.decoder) == (512, 512)
    batch = batch_of()
    assert model(**batch, labels=labels_of()).loss.isfinite()
    written = fusion_generate(model, batch, num_beams=2, max_new_tokens=4)
    assert written[:, 0].tolist() == [tokenizer.cls_token_id] * 2
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert loaded.generation_config.decoder_start_token_id == tokenizer.cls_token_id
    assert loaded.generation_config.eos_token_id == tokenizer.sep_token_id


def test_random_weights_need_no_name() -> None:
    """use_pretrained_weights: false makes the model of its config alone."""
    config = encoder_decoder_config(bert_shape(16), bert())
    assert isinstance(build_encoder_decoder(config, {}, False), EncoderDecoderModel)


@pytest.mark.parametrize(
    ("config", "tokenizer", "error"),
    [
        (T5Config(), bert(), "must be an encoder, got a t5"),
        (GPT2Config(), bert(), "must be of a kind that encodes and decodes .*, got a gpt2"),  # it looks backwards only
        (AutoConfig.for_model("distilbert"), bert(), "must be of a kind that encodes and decodes .*, got a distilbert"),
        (bert_shape(16), t5(), "the tokenizer has no decoder_start_token"),
    ],
)
def test_what_makes_no_encoder_decoder(config: Any, tokenizer: Any, error: str) -> None:
    """A model with a decoder, one that cannot decode, and a tokenizer without start are refused in words."""
    with pytest.raises(ConfigError, match=f"hyperparameters.encoder_decoder_from: {error}"):
        encoder_decoder_config(config, tokenizer)
