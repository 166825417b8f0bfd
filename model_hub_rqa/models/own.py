"""A model of the user's own: ``model: {_target_: my_package.my_module.build_model, ...}`` among the hyperparameters."""

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from model_hub_rqa.config.fields import did_you_mean, plain, show
from model_hub_rqa.errors import ConfigError

TARGET = "_target_"
PLACE = "hyperparameters.model"
PROVIDED = ("config", "tokenizer")
"""What a builder gets beside its arguments where it has a parameter of that name."""


def find_builder(model: Any, provided: Mapping[str, bool]) -> Callable[..., Any]:
    """The function or class that ``_target_`` names, held to what it will be called with; nothing is built.

    Modules in the working directory are found as well.

    Args:
        model: the hyperparameter: a mapping of ``_target_``, ``module.name``, and arguments.
        provided: for each of `PROVIDED`, whether the trial has one.

    Raises:
        ConfigError: no such name, arguments that it does not take, or those that it misses.
    """
    target = model.get(TARGET) if isinstance(model, Mapping) else None
    if not isinstance(target, str) or "." not in target.strip("."):
        raise ConfigError(f"{PLACE}: must be a mapping with {TARGET}: module.name, got {show(model)}")
    builder = _import(target)
    if not callable(builder):
        raise ConfigError(
            f"{PLACE}.{TARGET}: must name a function or a class, got {target}, a {type(builder).__name__}"
        )
    parameters = inspect.signature(builder).parameters
    given = [name for name in model if name != TARGET]
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [name for name, parameter in parameters.items() if parameter.kind in _BY_NAME]
    faults = [
        f"{PLACE}.{name}: {target} takes no such argument{did_you_mean(name, names)} (it takes {', '.join(names)})"
        for name in given
        if name not in names and not takes_any
    ]
    for name in names:
        if name in given or parameters[name].default is not inspect.Parameter.empty:
            continue
        if name not in provided:
            faults.append(f"{PLACE}.{name}: {target} needs it, got none")
        elif not provided[name]:
            faults.append(
                f"{PLACE}: {target} asks for the {name}, and none is built: give pretrained_model_name_or_path"
            )
    if faults:
        raise ConfigError(faults)
    return builder


def build_own_model(model: Mapping[str, Any], builder: Callable[..., Any], **provided: Any) -> torch.nn.Module:
    """Calls the builder with its arguments and with what it asks for by name.

    Raises:
        ConfigError: it gives something else than a model.
    """
    parameters = inspect.signature(builder).parameters
    wanted = {name: part for name, part in provided.items() if name in parameters and part is not None}
    arguments = {name: plain(value) for name, value in model.items() if name != TARGET}
    built = builder(**{**wanted, **arguments})
    if not isinstance(built, torch.nn.Module):
        raise ConfigError(
            f"{PLACE}.{TARGET}: {model[TARGET]} must give a torch.nn.Module, got a {type(built).__name__}"
        )
    return built


def loss_of(output: Any) -> torch.Tensor | None:
    """The loss among a model's outputs, be they a mapping or an object; None where there is none."""
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return found if isinstance(found, torch.Tensor) else None


def check_loss(
    model: Mapping[str, Any], built: torch.nn.Module, batch: Any, autocast: contextlib.AbstractContextManager[Any]
) -> None:
    """Tries a model on a small training batch: what it lacks is to be said before training begins.

    Args:
        model: the hyperparameter.
        built: what its builder gave, on its device.
        batch: of two examples or more, so that a loss for each of them shows.
        autocast: what the forward pass runs in.

    Raises:
        ConfigError: it does not take such a batch, or gives no scalar loss.
    """
    try:
        with torch.no_grad(), autocast:
            loss = loss_of(built.eval()(**batch))
    except TypeError as error:
        columns = ", ".join(batch)
        text = f"{model[TARGET]} cannot be called with a training batch ({columns}): {error}"
        raise ConfigError(f"{PLACE}: {text}") from error
    finally:
        built.train()
    if loss is None or loss.numel() != 1:
        found = "none" if loss is None else f"one of shape {tuple(loss.shape)}"
        raise ConfigError(
            f"{PLACE}: {model[TARGET]} must give a loss (a scalar), since the trial has no compute_loss, got {found}"
        )


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _import(target: str) -> Any:
    """The longest part of a dotted name that is a module, and what the rest names in it."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    words = target.split(".")
    for cut in range(len(words) - 1, 0, -1):
        name = ".".join(words[:cut])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{name}.".startswith(f"{error.name}."):
                continue
            raise ConfigError(f"{PLACE}.{TARGET}: {name} cannot be imported: {error}") from error
        except Exception as error:  # whatever the user's module raises
            raise ConfigError(
                f"{PLACE}.{TARGET}: {name} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        for word in words[cut:]:
            if not hasattr(found, word):
                hint = did_you_mean(word, [known for known in dir(found) if not known.startswith("_")])
                raise ConfigError(f"{PLACE}.{TARGET}: {name} has no {'.'.join(words[cut:])}{hint}")
            found = getattr(found, word)
        return found
    raise ConfigError(f"{PLACE}.{TARGET}: there is no module {words[0]}, got {target}")
