"""Tiny XLNet and XLM readers with a beam-search head, and experiments that train them."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
from tokenizers_for_tests import bert, xlnet
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    XLMConfig,
    XLMForQuestionAnswering,
    XLNetConfig,
    XLNetForQuestionAnswering,
    XLNetTokenizer,
)

KINDS = ("xlnet", "xlm")
TRIAL = "model_hub_rqa.trials.qa_beam_search:QABeamSearchTrial"


@cache
def xlnet_tokenizer() -> XLNetTokenizer:
    """transformers' own, of the pieces of `tokenizers_for_tests.xlnet`: it offers no token types."""
    vocabulary = json.loads(xlnet().backend_tokenizer.to_str())["model"]["vocab"]
    special = ("<pad>", "<unk>", "<s>", "</s>", "<sep>", "<cls>", "<mask>", "<eop>", "<eod>")
    pieces = [(piece, score) for piece, score in vocabulary if piece not in special]
    return XLNetTokenizer([*((token, 0.0) for token in special), *pieces], unk_id=special.index("<unk>"))


def build(kind: str, **settings: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model ("xlnet" pads on the left and has CLS last, "xlm" the other way) and its tokenizer; dropout is off."""
    torch.manual_seed(0)
    if kind == "xlnet":
        tokenizer = xlnet_tokenizer()
        plain: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "n_layer": 2,
            "n_head": 2,
            "d_inner": 64,
            "dropout": 0.0,
            "pad_token_id": tokenizer.pad_token_id,
            "start_n_top": 4,
            "end_n_top": 3,
        }
        return XLNetForQuestionAnswering(XLNetConfig(**{**plain, **settings})), tokenizer
    tokenizer = copy.deepcopy(bert())
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    plain = {
        "vocab_size": len(tokenizer),
        "emb_dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "pad_index": tokenizer.pad_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 128,
        "start_n_top": 4,
        "end_n_top": 3,
    }
    return XLMForQuestionAnswering(XLMConfig(**{**plain, **settings})), tokenizer


def model_folder(folder: Path, kind: str, **settings: Any) -> Path:
    """What `build` gives, saved."""
    model, tokenizer = build(kind, **settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def experiment(folder: Path, kind: str = "xlnet", *, data: dict[str, Any] | None = None, **settings: Any) -> Path:
    """As `tiny.experiment`, for a beam-search head; ``data`` are changes of the data section."""
    model = folder / "model"
    if not model.exists():
        model_folder(model, kind)
    path = tiny.experiment(folder, **settings)
    config = json.loads(path.read_text(encoding="utf-8"))
    config["entrypoint"] = TRIAL
    config["data"].update(data or {})
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
