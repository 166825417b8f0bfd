"""Where a run's model comes from: transformers by name, a builder of the user's own, an earlier run's weights."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from model_hub_rqa.checkpoints import pretrained_folder
from model_hub_rqa.config import ConfigKwargs, ModelKwargs, TokenizerKwargs, parse_dict_to_dataclasses
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.models.hub import SHARED_NAME
from model_hub_rqa.models.initial_weights import FIELD
from model_hub_rqa.registry import RegisteredObject

_NAMES = {"config": ConfigKwargs.OWN_NAME, "tokenizer": TokenizerKwargs.OWN_NAME, "model": ModelKwargs.OWN_NAME}
_KWARGS = {"config": ConfigKwargs, "tokenizer": TokenizerKwargs, "model": ModelKwargs}


class InitSource(NamedTuple):
    """Where a run's first weights come from.

    Attributes:
        hparams: the hyperparameters; the names of an init_checkpoint's config and tokenizer stand in for missing ones.
        parts: which of config, tokenizer and model transformers' Auto classes build.
        pretrained: whether these load pretrained weights.
        folder: the verified folder of init_checkpoint's weights, or None.
    """

    hparams: Mapping[str, Any]
    parts: frozenset[str]
    pretrained: bool
    folder: Path | None


def read_init_source(
    hparams: Mapping[str, Any], default_parts: Collection[str], component: RegisteredObject | None = None
) -> InitSource:
    """Reads the hyperparameters ``init_checkpoint`` and ``use_pretrained_weights``; loads nothing.

    Args:
        hparams: free of search specifications.
        default_parts: which parts the trial has by default. With a hyperparameter ``model``, config and tokenizer are
            built where a name is given for them.
        component: what that hyperparameter chose; None where it chose nothing, or what it chose has errors.

    Raises:
        ConfigError: the model's factory needs a part that is not built, or the checkpoint is not whole.
    """
    errors: list[str] = []
    checkpoint = hparams.get("init_checkpoint")
    folder, given = None, dict(hparams)
    if isinstance(checkpoint, str):  # other types are told with the other fields
        try:
            folder = pretrained_folder(Path(checkpoint))
        except CheckpointError as error:
            errors += [f"{FIELD}: {line}" for line in error.errors]
        else:
            given["use_pretrained_weights"] = False
            if (folder / "config.json").is_file() and not any(
                given.get(name) for name in (SHARED_NAME, *_NAMES.values())
            ):
                given[SHARED_NAME] = str(folder)
    parts = frozenset(default_parts)
    if hparams.get("model") is not None:
        named = {part for part, name in _NAMES.items() if given.get(name) or given.get(SHARED_NAME)}
        overrides = given.get("config_overrides")
        if isinstance(overrides, Mapping) and "model_type" in overrides:
            named.add("config")
        takes_kwargs = component is not None and component.takes("model_kwargs")
        parts &= (named | {"model"}) if takes_kwargs else (named - {"model"})
        errors += [
            f"{component.path}: {component.name} asks for the {part}, and none is built: give {SHARED_NAME}"
            for part in ("config", "tokenizer")
            if component is not None and component.takes(part, required=True) and part not in parts
        ]
    if errors:
        raise ConfigError(errors)
    return InitSource(given, parts, given.get("use_pretrained_weights") is not False, folder)


def parse_parts(
    hparams: Mapping[str, Any], parts: Collection[str], *, known: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The keyword arguments that config, tokenizer and model are built with; none for what is not among ``parts``.

    Raises:
        ConfigError: every error of those that are.
    """
    read = [part for part in _KWARGS if part in parts]
    kinds = [_KWARGS[part] for part in read]
    found = dict(zip(read, parse_dict_to_dataclasses(kinds, hparams, as_dict=True, known=known), strict=True))
    config, tokenizer, model = (found.get(part, {}) for part in _KWARGS)
    return config, tokenizer, model
