"""What a model takes and gives: the columns of a batch, the loss, and the model inside its wrapper."""

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import RegisteredObject


def unwrapped(model: torch.nn.Module) -> Any:
    """The model inside DistributedDataParallel; any other model itself, whatever its parts are called."""
    while isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def forward_names(model: torch.nn.Module) -> frozenset[str] | None:
    """The names of the arguments of ``model.forward``; None where it takes any (``**kwargs`` and no name beside).

    DistributedDataParallel is looked through. A ``**kwargs`` after named arguments does not count: transformers' models
    have one for options, which are no columns.
    """
    parameters = inspect.signature(unwrapped(model).forward).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = frozenset(parameter.name for parameter in parameters if parameter.kind not in variable)
    any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return None if any_name and not names else names


def filter_kwargs(names: frozenset[str] | None, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of ``batch`` that a model takes whose `forward_names` are ``names``."""
    return {name: column for name, column in batch.items() if names is None or name in names}


def loss_of(output: Any) -> torch.Tensor | None:
    """The loss among a model's outputs, be they a mapping or an object; None where there is none."""
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return found if isinstance(found, torch.Tensor) else None


def check_loss(
    component: RegisteredObject, model: torch.nn.Module, batch: Any, autocast: contextlib.AbstractContextManager[Any]
) -> None:
    """Tries a model on a small training batch, so that what it lacks is an error before training begins.

    Args:
        component: what the hyperparameter ``model`` chose.
        model: what it built, on its device.
        batch: of two examples or more, so that a loss for each of them shows.
        autocast: what the forward pass runs in.

    Raises:
        ConfigError: it does not take such a batch, or gives no scalar loss.
    """
    try:
        with torch.no_grad(), autocast:
            loss = loss_of(model.eval()(**batch))
    except TypeError as error:
        columns = ", ".join(batch)
        text = f"{component.name} cannot be called with a training batch ({columns}): {error}"
        raise ConfigError(f"{component.path}: {text}") from error
    finally:
        model.train()
    if loss is None or loss.numel() != 1:
        got = "none" if loss is None else f"one of shape {tuple(loss.shape)}"
        text = f"{component.name} must give a loss (a scalar), since the trial has no compute_loss, got {got}"
        raise ConfigError(f"{component.path}: {text}")
