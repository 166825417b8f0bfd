"""Weights to start from: those of an earlier run's checkpoint, or of a folder that save_pretrained wrote."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_model

from model_hub_rqa.errors import ConfigError

FIELD = "hyperparameters.init_checkpoint"
WEIGHTS = "model.safetensors"
_SHOWN = 10  # names of one kind in a message


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
        shapes = [f"{name} {_shape(there)} there, {_shape(here)} here" for name, there, here in _sorted(told)]
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


def _sorted(told: Any) -> list[tuple[str, Any, Any]]:
    return sorted(tuple(entry) for entry in told["mismatched_keys"])


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
