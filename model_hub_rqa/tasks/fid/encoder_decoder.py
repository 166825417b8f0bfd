"""An encoder-decoder out of a pretrained encoder, whose weights start both halves (Rothe et al., arXiv:1907.12461)."""

from collections.abc import Mapping
from typing import Any

import torch

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.tasks.fid.model import decoder_start_token_id

_TOKENS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")


def encoder_decoder_config(encoder: Any, tokenizer: Any) -> Any:
    """The config of an EncoderDecoderModel whose halves both have the shape of ``encoder``.

    The decoder starts from the tokenizer's CLS (or BOS) token and ends with its EOS (or SEP).

    Raises:
        ConfigError: the model has a decoder already, no class of it can decode with cross-attention, or the tokenizer
            lacks one of the tokens.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, EncoderDecoderConfig

    first, last = tokenizer.cls_token_id, tokenizer.eos_token_id
    tokens = {
        "decoder_start_token_id": tokenizer.bos_token_id if first is None else first,
        "eos_token_id": tokenizer.sep_token_id if last is None else last,
        "pad_token_id": tokenizer.pad_token_id,
    }
    faults = [f"the tokenizer has no {name.removesuffix('_id')}" for name, token in tokens.items() if token is None]
    if encoder.is_encoder_decoder:
        faults.append(f"must be an encoder, got a {encoder.model_type}: give it as pretrained_model_name_or_path")
    elif not (
        hasattr(encoder, "add_cross_attention")
        and type(encoder) in MODEL_FOR_CAUSAL_LM_MAPPING
        and type(encoder) in MODEL_FOR_MASKED_LM_MAPPING  # so its attention looks both ways
    ):
        faults.append(f"must be of a kind that encodes and decodes (bert, roberta ...), got a {encoder.model_type}")
    if faults:
        raise ConfigError(f"hyperparameters.encoder_decoder_from: {fault}" for fault in faults)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, encoder)
    for name, token in tokens.items():
        setattr(config, name, token)
    return config


def build_encoder_decoder(
    config: Any, model_kwargs: Mapping[str, Any], use_pretrained_weights: bool
) -> torch.nn.Module:
    """The EncoderDecoderModel of a config that `encoder_decoder_config` made.

    Args:
        config: the config.
        model_kwargs: what ``from_pretrained`` takes to load the encoder, which starts both halves.
        use_pretrained_weights: False starts from random weights.

    Raises:
        ConfigError: the weights cannot be loaded.
    """
    from transformers import EncoderDecoderModel

    if not use_pretrained_weights:
        return EncoderDecoderModel(config)
    settings = dict(model_kwargs)
    name = settings.pop("pretrained_model_name_or_path")
    halves = {f"{half}_{key}": value for half in ("encoder", "decoder") for key, value in settings.items()}
    try:
        model = EncoderDecoderModel.from_encoder_decoder_pretrained(name, name, **halves)
    except (OSError, ValueError) as error:
        raise ConfigError(f"hyperparameters.encoder_decoder_from: {name!r} cannot be loaded: {error}") from error
    for token in _TOKENS:
        setattr(model.config, token, getattr(config, token))
    return model


def name_tokens(model: Any, tokenizer: Any) -> None:
    """Names start, end and padding in the model's generation config where missing, so that a loaded copy can write, and
    the start in its config, so that a loaded copy can be trained by transformers alone."""
    config, end = model.config, tokenizer.eos_token_id
    known = {
        "decoder_start_token_id": decoder_start_token_id(config),
        "eos_token_id": tokenizer.sep_token_id if end is None else end,
        "pad_token_id": tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id,
    }
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = known["decoder_start_token_id"]
    for name, token in known.items():
        if getattr(model.generation_config, name, None) is None:
            setattr(model.generation_config, name, token)
