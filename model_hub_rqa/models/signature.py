"""Which columns of a batch a model takes, and the model inside its wrapper."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch


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


def taken_by(names: frozenset[str] | None, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of ``batch`` that a model takes whose `forward_names` are ``names``."""
    return {name: column for name, column in batch.items() if names is None or name in names}
