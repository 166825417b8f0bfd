"""Tiny readers, retrievers of few passages, and a folder with an index of them and questions to ask."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_records import write_lines
from tokenizers import Tokenizer, decoders
from tokenizers_for_tests import t5
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from model_hub_rqa.records import Answer, Hit, Passage, Question
from model_hub_rqa.retrieval import dense, index_folder
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.tasks.fid.task import name_tokens

CORPUS = [
    Passage("1", "the oil price rose in October", "oil"),
    Passage("2", "a river basin with a barrel", "river"),
    Passage("3", "the embargo began when members proclaimed it", "embargo"),
]
CTXS = [{"id": passage.id, "title": passage.title, "text": passage.text} for passage in CORPUS]
QUESTIONS = [
    {"id": "a", "question": "when?", "answers": ["October", "in October"], "gold_id": "1", "ctxs": CTXS},
    {"id": "b", "question": "what?", "answers": ["a barrel of oil"], "gold_id": "2", "ctxs": CTXS[1:]},
    {"id": "c", "question": "who?", "answers": ["members"], "ctxs": CTXS[2:]},
]
SHAPE: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "dropout_rate": 0.0}


class Repeater:
    """Answers with the last word of the first passage."""

    n_context: int | None = None
    needs_passages = True

    def answer_questions(self, questions: Sequence[Question], *, scores: bool = False) -> list[Answer]:
        return [Answer(question.passages[0].text.split()[-1]) for question in questions]


class InOrder:
    """Finds the first passages of CORPUS whatever is asked."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(passage, float(-rank)) for rank, passage in enumerate(CORPUS[:k])] for _ in queries]


class LetterEncoder:
    """Stands in for a model: a text becomes the counts of its letters a to h, to length 1. Counts what it encodes."""

    encoded = 0
    named: list[str]  # the models that it stood in for
    weights = "weights of one"
    dimension = 8
    similarity = "cosine"
    device = "cpu"

    def __init__(self, settings: DenseSettings) -> None:
        self.settings = replace(settings, max_seq_length=settings.max_seq_length or 256)
        self.identity = {"weights": type(self).weights, "passage_prompt": str(settings.passage_prompt)}
        self.named.append(settings.embedding_model)

    def queries(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        counts = np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], dtype=np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)

    def passages(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        type(self).encoded += len(texts)
        return self.queries(texts)


def encode_letters(monkeypatch: pytest.MonkeyPatch) -> type[LetterEncoder]:
    """Puts a LetterEncoder in place of sentence-transformers' models."""
    encoder = type("Letters", (LetterEncoder,), {"named": []})
    monkeypatch.setattr(dense, "model_name_error", lambda name: None)
    monkeypatch.setattr(dense, "Encoder", encoder)
    return encoder


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
    config = T5Config(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
        **SHAPE,
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


def sharded_copy(folder: Path, copy: Path, auto_class: Any) -> Path:
    """A model folder whose weights lie in several files, with an index of them."""
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").unlink()
    auto_class.from_pretrained(folder).save_pretrained(copy, max_shard_size="8KB")
    assert len(list(copy.glob("model-*-of-*.safetensors"))) > 1
    assert (copy / "model.safetensors.index.json").is_file()
    return copy


def world_folder(folder: Path) -> Path:
    """Fills a folder with QUESTIONS, a BM25 index of CORPUS, a Fusion-in-Decoder and an extractive reader."""
    write_lines(folder / "questions.jsonl", QUESTIONS)
    shared = "oil river embargo when what who it"  # so that each of the questions matches each of the passages
    write_lines(
        folder / "corpus.jsonl",
        [{"_id": ctx["id"], "title": f"{ctx['title']} {shared}", "text": ctx["text"]} for ctx in CTXS],
    )
    index_folder.build_index(folder / "corpus.jsonl", folder / "index", BM25Settings())
    fusion_folder(folder / "fusion")
    tiny.model_folder(folder / "extractive")
    return folder
