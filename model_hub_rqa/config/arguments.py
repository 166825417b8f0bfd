"""Arguments that a configuration gives to a function or a class by name, read by the types of its signature."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from model_hub_rqa.config.fields import did_you_mean, show
from model_hub_rqa.config.parsing import parse_dict_to_dataclasses
from model_hub_rqa.errors import ConfigError


def call_with(make: Callable[..., Any], arguments: Any, place: str) -> Any:
    """Calls ``make(**arguments)`` with arguments that were found in a configuration.

    Args:
        make: a class or function whose parameters have names; those annotated as int, float, bool or str are held to
            it as the fields of `Kwargs` are. A ValueError that it raises is the user's fault.
        arguments: a mapping.
        place: where they stand in the configuration, for the messages.

    Raises:
        ConfigError: all faults: names that ``make`` does not take, missing ones, and values of another type.
    """
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{place}: must be a mapping, got {show(arguments)}")
    taken = _signature(make)
    names = [field.name for field in dataclasses.fields(taken)]
    faults = [
        f"{place}.{name}: is not an argument of {make.__name__}, which takes {', '.join(names) or 'none'}"
        f"{did_you_mean(name, names)}"
        for name in arguments
        if name not in names
    ]
    nulls = {name for name in names if arguments.get(name, ...) is None and _may_be_none(taken, name)}
    values = {name: value for name, value in arguments.items() if name in names and name not in nulls}
    try:
        (read,) = parse_dict_to_dataclasses((taken,), values, section=place)
    except ConfigError as error:
        faults += error.problems
    if faults:
        raise ConfigError(faults)
    try:
        return make(**dict.fromkeys(nulls), **{name: getattr(read, name) for name in values})
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _may_be_none(taken: type, name: str) -> bool:
    return types.NoneType in typing.get_args(typing.get_type_hints(taken)[name])


def _signature(make: Callable[..., Any]) -> type:
    """A dataclass with a field for each named parameter; all have defaults but those that must be given."""
    hints = typing.get_type_hints(getattr(make, "__init__") if isinstance(make, type) else make)  # noqa: B009 - mypy
    fields: list[Any] = []
    for name, parameter in inspect.signature(make).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint = hints.get(name, Any)
        # what is not given is left to the function's own default, of which this one only says that it is there
        given = parameter.default is not parameter.empty
        fields.append((name, hint, dataclasses.field(default=...)) if given else (name, hint))
    return dataclasses.make_dataclass("Arguments", fields, kw_only=True)
