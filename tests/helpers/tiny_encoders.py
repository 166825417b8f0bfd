"""Embedding models of sentence-transformers with a few thousand random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tiny import WORDS
from tokenizers_for_tests import bert
from transformers import BertConfig, BertModel

from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.encoder import SIMILARITIES

TEXTS = [" ".join(WORDS[i % 13 :: 1 + i % 5]) for i in range(40)]  # of 1 to 13 words
PASSAGES = [Passage(str(i), text) for i, text in enumerate(TEXTS)]


def encoder_folder(
    folder: Path,
    *,
    pooling: str = "mean",
    dimension: int = 16,
    seed: int = 0,
    tokenizer: Any = None,
    max_position_embeddings: int = 64,
    **config: Any,
) -> str:
    """A tiny BERT whose vectors have lengths far from 1 and from each other; dropout is off.

    Args:
        folder: where it goes.
        pooling: how the vectors of tokens become one.
        dimension: of the vectors.
        seed: of the weights.
        tokenizer: another than WordPiece of lower case.
        max_position_embeddings: tokens that it can read.
        **config: of config_sentence_transformers.json: similarity_fn_name, prompts ...
    """
    torch.manual_seed(seed)
    tokenizer = tokenizer or bert()
    model = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=dimension,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=max_position_embeddings,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )
    with torch.no_grad():
        model.encoder.layer[-1].output.LayerNorm.weight.normal_(std=3.0)
        model.encoder.layer[-1].output.LayerNorm.bias.normal_(std=1.0)
        model.embeddings.word_embeddings.weight.normal_(std=1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    (folder / "1_Pooling").mkdir()
    for name, content in (
        ("modules.json", listed),
        ("1_Pooling/config.json", {"word_embedding_dimension": dimension, f"pooling_mode_{_LONG[pooling]}": True}),
        ("sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False}),
        ("config_sentence_transformers.json", config),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


_LONG = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}


def similarity_models(folder: Path) -> Path:
    """Fills a folder with a model for each similarity, and one, ``none``, that names none."""
    encoder_folder(folder / "none")
    for similarity in SIMILARITIES:
        encoder_folder(folder / similarity, similarity_fn_name=similarity)
    return folder


def reference_ranking(folder: str, query: str, texts: list[str], similarity: str | None = None) -> Any:
    """Scores and positions, the best first, by sentence-transformers alone."""
    model = SentenceTransformer(folder, similarity_fn_name=similarity)
    scores = model.similarity(model.encode_query([query]), model.encode_document(texts))[0]
    order = torch.argsort(-scores, stable=True)
    return scores[order].numpy(), order.tolist()
