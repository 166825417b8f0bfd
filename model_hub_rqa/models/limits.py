"""How much text a model takes: asked of its tables of positions and token types, and not of its name."""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models import build

UNLIMITED = 10**9  # where neither a table nor the config sets a limit

_POSITIONS = re.compile(r"position|^wpe$")  # the last part of a module's name
_OTHER_POSITIONS = re.compile(r"relative|distance|^[xyhw]_")  # between two tokens, and on a page


@dataclass(frozen=True)
class Limits:
    """What a model takes.

    Attributes:
        encoder: tokens of an input; of an encoder-decoder, those of its encoder.
        decoder: tokens that the decoder takes; the same where there is one stack.
        token_types: rows of the token-type table; None where there is none.
    """

    encoder: int = UNLIMITED
    decoder: int = UNLIMITED
    token_types: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens that every part takes: a question-answering head has the whole input in the decoder as well."""
        return min(self.encoder, self.decoder)

    def as_dict(self) -> dict[str, int | None]:
        """The limits for JSON; None where there is none."""
        found = {"encoder": self.encoder, "decoder": self.decoder, "token_types": self.token_types}
        return {name: None if value == UNLIMITED else value for name, value in found.items()}


def read_limits(config: Any, model_mode: str | type, *, trust_remote_code: bool = False) -> Limits:
    """The limits of the model that a config stands for; no weights are loaded.

    The model is built on torch's meta device, where tensors have a shape and no values: 0.3 seconds at most for any
    model with a question-answering head, 80 billion weights or not. A config that no such model can be built for is
    asked itself.

    Args:
        config: of the model, or None.
        model_mode: as `build.build_model` takes it.
        trust_remote_code: whether the model's code may come with its config.
    """
    if config is None:
        return Limits()
    auto: Any = build.auto_class(model_mode) if isinstance(model_mode, str) else model_mode
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = auto.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    except Exception:  # whatever is wrong with the config is said where the model itself is built
        encoder, decoder = (_stated(getattr(config, half, config)) for half in ("encoder", "decoder"))
        return Limits(encoder, decoder, getattr(config, "type_vocab_size", None) or None)
    return model_limits(model)


def model_limits(model: torch.nn.Module) -> Limits:
    """The limits of a model of transformers, or of another that has its tables under the usual names."""
    config = getattr(model, "config", None)
    types = [len(weight) for name, _, weight in _tables(model) if name.endswith("token_type_embeddings")]
    halves: tuple[Any, Any] = (model, model)
    if getattr(config, "is_encoder_decoder", False):
        halves = _half(model, "encoder"), _half(model, "decoder")
    encoder, decoder = (_longest_input(half, config) for half in halves)
    return Limits(encoder, decoder, min(types, default=None))


def _half(model: Any, name: str) -> Any:
    try:
        half = getattr(model, f"get_{name}")()
    except (AttributeError, NotImplementedError):  # of a model without halves, or that does not say where they are
        half = None
    return model if half is None else half


def _longest_input(model: torch.nn.Module, whole: Any) -> int:
    limits = [_stated(getattr(model, "config", whole))]
    for name, module, weight in _tables(model):
        last = name.rpartition(".")[2]
        if _POSITIONS.search(last) and not _OTHER_POSITIONS.search(last):
            # OPT's and BART's kind skips `offset` rows; RoBERTa's counts positions from behind the padding's own row
            first = getattr(module, "offset", None)
            padding = getattr(module, "padding_idx", None)
            if not isinstance(first, int):
                first = 0 if padding is None else padding + 1
            limits.append(len(weight) - first)
    limits += [len(ids.flatten()) for name, ids in model.named_buffers() if name.endswith("position_ids")]
    return min(limits)


def _tables(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, torch.Tensor]]:
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() == 2:
            yield name, module, weight


def _stated(config: Any) -> int:
    """What a config says for models without a table of positions: rotary ones, and MPT's biases."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "max_seq_len"):
        size = getattr(text, name, None)
        if isinstance(size, int) and not isinstance(size, bool) and size > 0:
            return size
    return UNLIMITED


def check_lengths(given: Mapping[str, Any], limits: Mapping[str, int], folder: Path) -> None:
    """Holds lengths that were given for reading to what the model takes; those of training were held to it then.

    Raises:
        ConfigError: with every length beyond its limit.
    """
    errors = [
        f"{name}: must be at most {limit:,}, the longest that {folder} takes, got {given[name]:,}"
        for name, limit in limits.items()
        if (given.get(name) or 0) > limit
    ]
    if errors:
        raise ConfigError(errors)
