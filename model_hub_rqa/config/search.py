"""Search specifications that were not resolved, and the one value that each stands for.

A cluster resolves them before a trial starts; Determined's local test mode hands them over as they are written.
"""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from model_hub_rqa.config.fields import plain, show
from model_hub_rqa.errors import ConfigError

_KEYS = {
    "const": ("val",),
    "int": ("minval", "maxval"),
    "double": ("minval", "maxval"),
    "log": ("minval", "maxval", "base"),
    "categorical": ("vals",),
}
_COUNTED = ("int", "double", "log")


def resolve_search_specs(hparams: Mapping[str, Any], *, section: str = "hyperparameters") -> dict[str, Any]:
    """Put one fixed value in the place of every search specification, at any depth of nested mappings.

    ========================  ==========================================================
    specification             value
    ========================  ==========================================================
    const                     ``val``
    int                       the midpoint of ``minval`` and ``maxval``, rounded down
    double                    the midpoint
    log                       ``base`` to the midpoint (``minval`` and ``maxval`` are exponents)
    categorical               the first of ``vals``
    ========================  ==========================================================

    A mapping is a specification where its ``type`` is one of these five; any other is taken as it is, ``type`` or not.

    Args:
        hparams: the hyperparameters. They are not changed, and the result shares nothing with them.
        section: where they stand in the configuration, for the messages.

    Returns:
        The hyperparameters, free of specifications.

    Raises:
        ConfigError: every specification that is malformed.
    """
    faults: list[str] = []
    resolved = {name: _resolve(value, f"{section}.{name}", faults) for name, value in hparams.items()}
    if faults:
        raise ConfigError(faults)
    return resolved


def is_spec(value: Any) -> bool:
    """Whether a value is a search specification: a mapping whose ``type`` is one of the five."""
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and value["type"] in _KEYS


def _resolve(value: Any, place: str, faults: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return plain(value)
    if not is_spec(value):
        return {name: _resolve(inner, f"{place}.{name}", faults) for name, inner in value.items()}
    kind = value["type"]
    found = [f"{place}: {fault}" for fault in _faults(kind, value)]
    faults += found
    return None if found else plain(_value(kind, value))


def _faults(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """What is wrong with a specification: its keys first, then their values, then how they go together."""
    keys = _KEYS[kind]
    allowed = ("type", *keys, "count") if kind in _COUNTED else ("type", *keys)
    faults = [f"a search specification of type {kind} needs {key}" for key in keys if key not in spec]
    faults += [f"a search specification of type {kind} has no {key}" for key in spec if key not in allowed]
    if faults or kind == "const":
        return faults
    if kind == "categorical":
        vals = spec["vals"]
        return [] if isinstance(vals, list | tuple) and vals else [f"vals must be a list of values, got {show(vals)}"]
    wanted = "a whole number" if kind == "int" else "a finite number"
    faults = [f"{key} must be {wanted}, got {show(spec[key])}" for key in keys if not _is_number(spec[key], kind)]
    if faults:
        return faults
    if spec["minval"] > spec["maxval"]:
        faults.append(f"minval must be <= maxval ({show(spec['maxval'])}), got {show(spec['minval'])}")
    if kind == "log" and spec["base"] <= 0:
        faults.append(f"base must be > 0, got {show(spec['base'])}")
    elif kind == "log" and not faults and _log_value(spec) is None:
        faults.append(f"base to the exponents is beyond a float, got {show(dict(spec))}")
    return faults


def _is_number(value: Any, kind: str) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return kind != "int" or float(value).is_integer()


def _value(kind: str, spec: Mapping[str, Any]) -> Any:
    if kind == "const":
        return spec["val"]
    if kind == "categorical":
        return spec["vals"][0]
    if kind == "int":
        return (int(spec["minval"]) + int(spec["maxval"])) // 2
    return _log_value(spec) if kind == "log" else _midpoint(spec)


def _midpoint(spec: Mapping[str, Any]) -> float:
    # Halved before it is added: the sum of two large floats would overflow.
    return float(spec["minval"]) / 2 + float(spec["maxval"]) / 2


def _log_value(spec: Mapping[str, Any]) -> float | None:
    try:
        value = float(spec["base"]) ** _midpoint(spec)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None
