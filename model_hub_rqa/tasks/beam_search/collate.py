"""Batches for an extractive reader with a beam-search head (see `models.beam_search`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model_hub_rqa.tasks.extractive.features import ExtractiveCollator


class BeamSearchCollator(ExtractiveCollator):
    """Batches of `ExtractiveCollator` for a beam-search head; training features need the builder's ``places``.

    Adds ``p_mask`` float32 [B, T], 0 for what may be an answer (the context, and the CLS token for "no answer") and 1
    elsewhere, and in training ``is_impossible`` float32 [B], 1 for a window without the answer. A batch is at least as
    long as the beam is wide, since the head takes the best of all tokens.

    Whether there are token types is the model's to say, and not the tokenizer's: XLNet was pretrained with them, though
    its tokenizer does not offer them in transformers 5, and XLM would look them up among the words.
    """

    def __init__(self, tokenizer: Any, config: Any, pad_to_multiple_of: int = 1, max_length: int | None = None) -> None:
        super().__init__(tokenizer, pad_to_multiple_of, max(config.start_n_top, config.end_n_top), max_length)
        self.token_types = config.model_type == "xlnet"

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        batch = super().__call__(features)
        width = batch["input_ids"].shape[1]
        first = _column(features, "context_position")
        if "context_length" in features[0]:
            length = _column(features, "context_length")
        else:
            length = np.array([len(feature["offset_starts"]) for feature in features])
        place = np.arange(width)
        context = (place >= first[:, None]) & (place < (first + length)[:, None])
        allowed = torch.from_numpy(context | (place == batch["cls_index"].numpy()[:, None]))
        batch["p_mask"] = (~allowed).float()  # the model multiplies by it
        if "start_positions" in batch:
            batch["is_impossible"] = (batch["start_positions"] == batch["cls_index"]).float()  # as its loss wants
        return batch


def _column(features: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([int(feature[name]) for feature in features])
