"""Where a run's model comes from: transformers by name, a builder of the user's own, an earlier run's weights."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from model_hub_rqa.checkpoints import pretrained_folder
from model_hub_rqa.config import ConfigKwargs, ModelKwargs, TokenizerKwargs, parse_dict_to_dataclasses
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.models.hub import SHARED_NAME
from model_hub_rqa.models.initial_weights import PLACE
from model_hub_rqa.models.own import find_builder
from model_hub_rqa.registry import is_component

_NAMES = {"config": ConfigKwargs.OWN_NAME, "tokenizer": TokenizerKwargs.OWN_NAME, "model": ModelKwargs.OWN_NAME}
_KWARGS = {"config": ConfigKwargs, "tokenizer": TokenizerKwargs, "model": ModelKwargs}


class FirstModel(NamedTuple):
    """Where a run's first weights come from.

    Attributes:
        hparams: the hyperparameters; the names of an init_checkpoint's config and tokenizer stand in for missing ones.
        parts: which of config, tokenizer and model transformers' Auto classes build.
        pretrained: whether these load pretrained weights.
        builder: of the hyperparameter ``model``, or None.
        folder: the verified folder of init_checkpoint's weights, or None.
    """

    hparams: Mapping[str, Any]
    parts: frozenset[str]
    pretrained: bool
    builder: Callable[..., Any] | None
    folder: Path | None


def read_first_model(hparams: Mapping[str, Any], default_parts: Collection[str]) -> FirstModel:
    """Reads the hyperparameters ``model``, ``init_checkpoint`` and ``use_pretrained_weights``; loads nothing.

    Args:
        hparams: free of search specifications.
        default_parts: which parts the trial has by default.

    Raises:
        ConfigError: the builder cannot be called so, or the checkpoint is not whole.
    """
    faults: list[str] = []
    model, checkpoint = hparams.get("model"), hparams.get("init_checkpoint")
    if is_component(model):
        model = None
    folder, builder, given = None, None, dict(hparams)
    if isinstance(checkpoint, str):  # other types are told with the other fields
        try:
            folder = pretrained_folder(Path(checkpoint))
        except CheckpointError as error:
            faults += [f"{PLACE}: {line}" for line in error.problems]
        else:
            given["use_pretrained_weights"] = False
            if (folder / "config.json").is_file() and not any(
                given.get(name) for name in (SHARED_NAME, *_NAMES.values())
            ):
                given[SHARED_NAME] = str(folder)
    parts = frozenset(default_parts)
    if model is not None:
        named = {part for part, name in _NAMES.items() if given.get(name) or given.get(SHARED_NAME)}
        overrides = given.get("config_overrides")
        if isinstance(overrides, Mapping) and "model_type" in overrides:
            named.add("config")
        parts &= named - {"model"}
        try:
            builder = find_builder(model, {part: part in parts for part in ("config", "tokenizer")})
        except ConfigError as error:
            faults += error.problems
    if faults:
        raise ConfigError(faults)
    return FirstModel(given, parts, given.get("use_pretrained_weights") is not False, builder, folder)


def parse_parts(
    hparams: Mapping[str, Any], parts: Collection[str], *, known: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The keyword arguments that config, tokenizer and model are built with; none for what is not among ``parts``.

    Raises:
        ConfigError: every fault of those that are.
    """
    read = [part for part in _KWARGS if part in parts]
    kinds = [_KWARGS[part] for part in read]
    found = dict(zip(read, parse_dict_to_dataclasses(kinds, hparams, as_dict=True, known=known), strict=True))
    config, tokenizer, model = (found.get(part, {}) for part in _KWARGS)
    return config, tokenizer, model
