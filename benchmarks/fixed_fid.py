"""The peer in Fusion-in-Decoder: fixed padding, as Izacard and Grave 2020 (arXiv:2007.01282) describe it, written anew.

Every passage is padded to the longest length allowed, the states of a question's passages, padding included, are
concatenated, and answers are padded to the longest answer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput


def batch_of(
    trial: Any, features: Sequence[Any], max_seq_length: int, answer_length: int, passages: int
) -> dict[str, torch.Tensor]:
    """The batch of our own collator, padded: input_ids and attention_mask [B, passages * max_seq_length], labels."""
    ragged = trial.collator(features)
    ids = torch.zeros(len(features) * passages, max_seq_length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(ragged["passage_ids"].split(ragged["passage_lengths"].tolist())):
        ids[row, : len(one)], mask[row, : len(one)] = one, 1
    labels = torch.full((len(features), answer_length), -100)
    answers = ragged["answer_ids"][:, :answer_length]
    labels[:, : answers.shape[1]] = answers
    shape = (len(features), passages * max_seq_length)
    return {"input_ids": ids.view(shape), "attention_mask": mask.view(shape), "labels": labels}


def _encoded(model: Any, batch: dict[str, torch.Tensor], max_seq_length: int) -> BaseModelOutput:
    ids, mask = (batch[name].view(-1, max_seq_length) for name in ("input_ids", "attention_mask"))
    states = model.encoder(input_ids=ids, attention_mask=mask)[0]
    return BaseModelOutput(last_hidden_state=states.view(len(batch["input_ids"]), -1, states.shape[-1]))


def loss_of(model: Any, batch: dict[str, torch.Tensor], max_seq_length: int) -> torch.Tensor:
    """The training loss."""
    model.config.decoder_start_token_id = model.config.pad_token_id
    encoded = _encoded(model, batch, max_seq_length)
    loss: torch.Tensor = model(
        encoder_outputs=encoded, attention_mask=batch["attention_mask"], labels=batch["labels"], use_cache=False
    ).loss
    return loss


def generate(model: Any, batch: dict[str, torch.Tensor], max_seq_length: int, new_tokens: int) -> torch.Tensor:
    """So many tokens, greedily."""
    with torch.no_grad():
        encoded = _encoded(model, batch, max_seq_length)
        written: torch.Tensor = model.generate(
            encoder_outputs=encoded,
            attention_mask=batch["attention_mask"],
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )
    return written
