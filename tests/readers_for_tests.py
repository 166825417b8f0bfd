"""A tiny Fusion-in-Decoder reader, a retriever of few passages, and a reader that repeats."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders
from tokenizers_for_tests import t5
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from model_hub_rqa.models.encoder_decoder import name_tokens
from model_hub_rqa.records import Answer, Hit, Passage, Question

CORPUS = [
    Passage("1", "the oil price rose in October", "oil"),
    Passage("2", "a river basin with a barrel", "river"),
    Passage("3", "the embargo began when members proclaimed it", "embargo"),
]


class Repeater:
    """Answers with the last word of the first passage."""

    n_context: int | None = None

    def read_passages(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        return [Answer(question.passages[0].text.split()[-1]) for question in questions]


class InOrder:
    """Finds the first passages of CORPUS whatever is asked."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(passage, float(-rank)) for rank, passage in enumerate(CORPUS[:k])] for _ in queries]


def sentence_piece() -> PreTrainedTokenizerFast:
    """The tests' T5 tokenizer, with a decoder that puts white space back."""
    backend = Tokenizer.from_str(t5().backend_tokenizer.to_str())
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<sep>", model_max_length=512
    )


def fusion_folder(folder: Path, **settings: Any) -> Path:
    """A model folder of a tiny T5 with random weights large enough that its attention is not even."""
    tokenizer = sentence_piece()
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
        **shape,
    )
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=2.0 if "EncDecAttention" in name else 0.3)
    name_tokens(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kept = {"max_encoder_seq_length": 32, "max_decoder_seq_length": 8, **settings}
    (folder / "reader.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder
