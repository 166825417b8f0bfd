"""A tiny config of every kind of model that transformers can answer questions with."""

from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES

POSITIONS = 96  # rows of the position tables, or what the config states

_MIXES = "mixes padding into the tokens itself, on either side"
CANNOT = {
    "canine": f"{_MIXES}: shortens the text by a convolution over characters",
    "convbert": f"{_MIXES}: convolves over the text without a mask",
    "fnet": f"{_MIXES}: a Fourier transform over the text, without a mask",
    "funnel": f"{_MIXES}: pools pairs of tokens",
    "layoutlmv2": "needs the image of a page, and detectron2",
    "lxmert": "needs the features of an image",
    "nystromformer": f"{_MIXES}: its landmarks are means over the whole width",
    "reformer": "trains on windows of the product of axial_pos_shape alone, and hashes tokens at random",
    "yoso": "hashes tokens at random",
}
"""The kinds whose answers cannot be made independent of a batch, or that read more than text, with the reason."""

KINDS = sorted(set(MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES) - set(CANNOT))

_SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "true_hidden_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "intra_bottleneck_size", "entity_emb_size", "dim"), 32),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "hidden_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "num_key_value_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("intermediate_size", "d_ff", "d_inner", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len"), POSITIONS),
    **dict.fromkeys(("d_kv", "head_dim", "d_head", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "num_experts_per_tok"), 2),
    "max_decoder_position_embeddings": POSITIONS - 8,
}
_OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gptj": {"rotary_dim": 4},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "led": {"attention_window": 8},
    "lilt": {"hidden_size": 48},
    "longformer": {"attention_window": 8},
    "luke": {"entity_vocab_size": 8},
    "markuplm": {"max_depth": 2, "xpath_unit_hidden_size": 8},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "roformer": {"embedding_size": 32},
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX"},
}


def tiny_config(kind: str, tokenizer: Any) -> Any:
    """A config of some ten thousand weights, without dropout, for the tokenizer's vocabulary."""
    plain = CONFIG_MAPPING[kind]
    defaults = plain().to_dict()
    known = {*defaults, *getattr(plain, "attribute_map", {})}
    values = {name: size for name, size in _SIZES.items() if name in known}
    values |= {name: 0.0 for name, value in defaults.items() if "drop" in name and isinstance(value, float)}
    values |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return plain(**{**values, **_OWN.get(kind, {})})
