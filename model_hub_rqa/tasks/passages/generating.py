"""Generation by the settings that are given: of a checkpoint's own generation config, tokens are all that counts."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

TOKEN_SETTINGS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""What is used of a checkpoint's generation_config.json: where an answer begins and ends, and what it may not hold."""


def generate(model: Any, inputs: Mapping[str, Any], *, seed: Sequence[int] = (0,), **settings: Any) -> torch.Tensor:
    """``model.generate`` without the search and sampling settings that a checkpoint brings along.

    Args:
        model: a model of transformers that generates.
        inputs: what is generated from.
        seed: with ``do_sample``, what the draws depend on: the same numbers and inputs give the same tokens, and the
            generators of torch are left as they were.
        settings: of transformers' GenerationConfig; what is left out has its default: greedy, nothing forbidden.
    """
    own = model.generation_config
    kept = {name: value for name in TOKEN_SETTINGS if (value := getattr(own, name, None)) is not None}
    # generate() fills in what is not given from the model's own config
    model.generation_config = type(own)(**kept)
    try:
        with _seeded(seed, model.device) if settings.get("do_sample") else contextlib.nullcontext():
            tokens: torch.Tensor = model.generate(**inputs, **settings)
    finally:
        model.generation_config = own
    return tokens


@contextlib.contextmanager
def _seeded(seed: Sequence[int], device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.default_rng(list(seed)).integers(2**63)))
        yield
