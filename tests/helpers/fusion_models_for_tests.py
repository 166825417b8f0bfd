"""Small models of every encoder-decoder family, with batches of passages and labels for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers_for_tests import bert
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BlenderbotSmallConfig,
    BlenderbotSmallForConditionalGeneration,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    MvpConfig,
    MvpForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from model_hub_rqa.tasks.fid.model import enable_fusion
from model_hub_rqa.tasks.fid.task import name_tokens

VOCABULARY = 60
T5_SHAPE: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
BART_SHAPE: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}
GEMMA_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "max_position_embeddings": 64,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 64,  # of the decoder; it sees all passages
}


def bert_shape(hidden_size: int) -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def encoder_decoder(encoder_size: int = 32, decoder_size: int = 16) -> EncoderDecoderModel:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(bert_shape(encoder_size), bert_shape(decoder_size))
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
    model = EncoderDecoderModel(config)
    name_tokens(model, bert())
    return model


def t5gemma2() -> Any:
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"intermediate_size": 16, "image_size": 8, "patch_size": 4}
    tokens = {"image_token_index": 3, "eoi_token_index": 4}
    encoder = {"text_config": GEMMA_SHAPE, "vision_config": vision, "mm_tokens_per_image": 4, **tokens}
    return T5Gemma2ForConditionalGeneration(T5Gemma2Config(encoder=encoder, decoder=GEMMA_SHAPE, **tokens))


SCALED: dict[str, Any] = {
    **BART_SHAPE,
    "vocab_size": VOCABULARY,
    "scale_embedding": True,
    "forced_eos_token_id": None,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "t5": lambda: T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **T5_SHAPE)),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(vocab_size=VOCABULARY, **T5_SHAPE)),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(vocab_size=VOCABULARY, forced_eos_token_id=None, **BART_SHAPE)
    ),
    "mbart": lambda: MBartForConditionalGeneration(
        MBartConfig(vocab_size=VOCABULARY, forced_eos_token_id=None, decoder_start_token_id=2, **BART_SHAPE)
    ),
    "encoder-decoder": encoder_decoder,
    # These scale embeddings, and most of them only where they look them up themselves.
    "pegasus": lambda: PegasusForConditionalGeneration(
        PegasusConfig(**SCALED, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    ),
    "marian": lambda: MarianMTModel(MarianConfig(**SCALED, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)),
    "blenderbot-small": lambda: BlenderbotSmallForConditionalGeneration(BlenderbotSmallConfig(**SCALED)),
    "mvp": lambda: MvpForConditionalGeneration(MvpConfig(**SCALED)),
    "t5gemma": lambda: T5GemmaForConditionalGeneration(
        T5GemmaConfig(encoder=GEMMA_SHAPE, decoder=GEMMA_SHAPE, vocab_size=VOCABULARY)
    ),
    "t5gemma2": t5gemma2,
}
LENGTHS, COUNTS = [7, 3, 12, 5, 9, 4], [2, 4]


def build(name: str, chunk_size: int = 32) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[name]().double().eval()  # so that rounding is out of the comparison
    # Freshly drawn weights are so small that attention would be even: then nothing about it could be tested.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2 and parameter.requires_grad:  # Marian's sinusoids are no weights
                parameter.normal_(std=0.3)
    enable_fusion(model, chunk_size)
    return model


def batch_of(lengths: list[int] = LENGTHS, counts: list[int] = COUNTS) -> dict[str, torch.Tensor]:
    ids = np.random.default_rng(1).integers(5, VOCABULARY, sum(lengths))
    return {
        "passage_ids": torch.from_numpy(ids),
        "passage_lengths": torch.tensor(lengths),
        "passage_counts": torch.tensor(counts),
    }


def labels_of(rows: int = 2) -> torch.Tensor:
    labels = torch.from_numpy(np.random.default_rng(2).integers(5, VOCABULARY, (rows, 6)))
    labels[0, 4:] = -100
    return labels
