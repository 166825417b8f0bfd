"""Where a run's model comes from: transformers by name, a builder of the user's own, an earlier run's weights."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_model

from model_hub_rqa.checkpoints import pretrained_folder
from model_hub_rqa.config import ConfigKwargs, ModelKwargs, TokenizerKwargs, parse_dict_to_dataclasses
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.models.hub import SHARED_NAME
from model_hub_rqa.registry import RegisteredObject

FIELD = "hyperparameters.init_checkpoint"
WEIGHTS = "model.safetensors"
_SHOWN = 10  # names of one kind in a message
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
        component: what that hyperparameter names; None where it is unset or has errors.

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


def save_weights(model: torch.nn.Module, folder: Path, **options: Any) -> None:
    """Writes a model's ``save_pretrained`` folder; of a model without that method, its weights as model.safetensors.

    ``options`` are of ``save_pretrained``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "save_pretrained"):
        saved: Any = model
        saved.save_pretrained(folder, **options)
    else:
        save_model(model, str(folder / WEIGHTS))
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.glob("*.safetensors"):  # which safetensors writes for the owner alone, whatever the umask says
        path.chmod(mode)


def load_weights(model: torch.nn.Module, folder: Path, field: str = FIELD) -> None:
    """Puts the weights of a folder of `save_weights` into a model, which has to have the same, by name and shape.

    Args:
        model: receives them.
        folder: where they are.
        field: of the configuration that named the folder, for the errors.

    Raises:
        ConfigError: which weights are missing in the folder, unknown to the model, or of another shape.
    """
    if isinstance(model, transformers.PreTrainedModel):
        # transformers reads shards, tied weights and older names; its own words about what does not fit are lost
        kind: Any = type(model)
        loaded, told = kind.from_pretrained(
            folder, config=model.config, dtype=model.dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
        missing, unexpected = sorted(told["missing_keys"]), sorted(told["unexpected_keys"])
        differing = sorted(map(tuple, told["mismatched_keys"]))
        shapes = [f"{name} {_shape(there)} there, {_shape(here)} here" for name, there, here in differing]
        state = loaded.state_dict()
    else:
        if not (folder / WEIGHTS).is_file():
            raise ConfigError(f"{field}: {folder} has no {WEIGHTS}")
        found, own = _saved_state(model, folder), model.state_dict()
        same = _shared(own)  # of tensors that are one, a file holds one
        missing = [name for name in own if name not in found and not same[name] & found.keys()]
        unexpected = [name for name in found if name not in own]
        both = [name for name in found if name in own and found[name].shape != own[name].shape]
        shapes = [f"{name} {_shape(found[name].shape)} there, {_shape(own[name].shape)} here" for name in both]
        state = {name: found.get(name, own[name]) for name in own}
    errors = [
        f"{field}: {folder} does not fit the model: {len(names)} weights {kind}: {_listed(names)}"
        for kind, names in (
            ("of the model are not in it", missing),
            ("in it are not the model's", unexpected),
            ("have another shape", shapes),
        )
        if names
    ]
    if errors:
        raise ConfigError(errors)
    model.load_state_dict(state)


def _saved_state(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Weights by the names that the model has for them: sentence-transformers keeps each of its parts by itself."""
    if (folder / "modules.json").is_file() and hasattr(model, "save_pretrained"):
        state: dict[str, torch.Tensor] = type(model)(str(folder), device="cpu").state_dict()
        return state
    return load_file(folder / WEIGHTS)


def _shared(state: dict[str, torch.Tensor]) -> dict[str, set[str]]:
    """For each name the names of the same tensor."""
    by_pointer: dict[int, set[str]] = {}
    for name, tensor in state.items():
        by_pointer.setdefault(tensor.data_ptr(), set()).add(name)
    return {name: by_pointer[tensor.data_ptr()] for name, tensor in state.items()}


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
