"""Search specifications, ``${...}`` by the rules of OmegaConf, and ``???`` for what must be given.

Only texts with ``${`` and texts that are ``???`` go through OmegaConf, which is imported when there is one: every other
value stays as it was read, a number a number and a date a date. A cluster's master knows nothing of this and hands the
configuration over as it is written; `Experiment.load` resolves it, with what the search chose in place of the search
specifications.
"""

import math
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from model_hub_rqa.config.fields import did_you_mean, plain, show
from model_hub_rqa.errors import ConfigError

SPECIFICATIONS = {
    "const": ("val",),
    "int": ("minval", "maxval"),
    "double": ("minval", "maxval"),
    "log": ("minval", "maxval", "base"),
    "categorical": ("vals",),
}
COUNTED = ("int", "double", "log")


def resolve_search_specs(hparams: Mapping[str, Any], *, section: str = "hyperparameters") -> dict[str, Any]:
    """Put one fixed value in place of every search specification, at any depth of nested mappings.

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
    errors: list[str] = []
    resolved = {name: _stand_in(value, f"{section}.{name}", errors) for name, value in hparams.items()}
    if errors:
        raise ConfigError(errors)
    return resolved


def is_spec(value: Any) -> bool:
    """Whether a value is a search specification: a mapping whose ``type`` is one of the five."""
    return isinstance(value, Mapping) and isinstance(value.get("type"), str) and value["type"] in SPECIFICATIONS


def _stand_in(value: Any, config_path: str, errors: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return plain(value)
    if not is_spec(value):
        return {name: _stand_in(inner, f"{config_path}.{name}", errors) for name, inner in value.items()}
    kind = value["type"]
    found = [f"{config_path}: {error}" for error in _errors(kind, value)]
    errors += found
    return None if found else plain(_value(kind, value))


def _errors(kind: str, spec: Mapping[str, Any]) -> list[str]:
    """What is wrong with a specification: its keys first, then their values, then how they go together."""
    keys = SPECIFICATIONS[kind]
    allowed = ("type", *keys, "count") if kind in COUNTED else ("type", *keys)
    errors = [f"a search specification of type {kind} needs {key}" for key in keys if key not in spec]
    errors += [f"a search specification of type {kind} has no {key}" for key in spec if key not in allowed]
    if errors or kind == "const":
        return errors
    if kind == "categorical":
        vals = spec["vals"]
        return [] if isinstance(vals, list | tuple) and vals else [f"vals must be a list of values, got {show(vals)}"]
    wanted = "a whole number" if kind == "int" else "a finite number"
    errors = [f"{key} must be {wanted}, got {show(spec[key])}" for key in keys if not _is_number(spec[key], kind)]
    if errors:
        return errors
    if spec["minval"] > spec["maxval"]:
        errors.append(f"minval must be <= maxval ({show(spec['maxval'])}), got {show(spec['minval'])}")
    if kind == "log" and spec["base"] <= 0:
        errors.append(f"base must be > 0, got {show(spec['base'])}")
    elif kind == "log" and not errors and _log_value(spec) is None:
        errors.append(f"base to the exponents is beyond a float, got {show(dict(spec))}")
    return errors


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


SECTIONS = ("hyperparameters", "data")
MISSING = "???"
_OPEN = re.compile(r"(\\*)\$\{")
_REFERENCE = re.compile(r"(?<![\w.])(\.*)((?:\w[\w-]*)(?:\.[\w-]+)*)")  # a path, after dots where it is relative
_NOWHERE = ", but there is no "
SECRETS = ("token", "use_auth_token")

Path = tuple[Any, ...]


def interpolate_all(config: Mapping[str, Any], written: Any) -> dict[str, Any]:
    """`interpolate`, and a check of the texts within search specifications.

    Args:
        config: free of search specifications.
        written: its hyperparameters with them.

    Raises:
        ConfigError: as `interpolate`.
    """
    if not _has_spec(written):
        return interpolate(config)
    try:  # texts within specifications are resolved under a second key, where the specifications still stand
        resolved = interpolate({**config, "": written})
    except ConfigError as error:
        lines = [f"hyperparameters{line}" if line.startswith(".") else line for line in error.errors]
        raise ConfigError(dict.fromkeys(lines)) from error
    del resolved[""]
    return resolved


def _has_spec(value: Any) -> bool:
    return isinstance(value, Mapping) and (is_spec(value) or any(map(_has_spec, value.values())))


def interpolate(config: Mapping[str, Any], sections: Iterable[str] | None = None) -> dict[str, Any]:
    r"""Put its value in place of every reference: ``${data.size}``, ``${.beside}``, ``${oc.select:key,default}``.

    A text that is one reference takes the value with its type; a reference within a text is written into it. ``\${``
    is the text ``${``, and ``$`` without a brace is nothing special.

    Args:
        config: the configuration, free of search specifications.
        sections: the top-level keys to resolve; None means all.

    Returns:
        A copy; the keys that are not resolved are as they were.

    Raises:
        ConfigError: every reference that leads nowhere, and every ``???``, by their paths.
    """
    copied = plain(config)
    names = [name for name in copied if sections is None or name in sections]
    if not any(_is_special(text) for _, text in _texts(copied)):
        return dict(copied)
    from omegaconf import OmegaConf
    from omegaconf import errors as omegaconf_errors

    errors: dict[Path, str] = {}
    for path, text in _texts(copied):
        try:
            OmegaConf.create({"text": text})
        except omegaconf_errors.OmegaConfBaseException:
            error = rf"must close each ${{ that it opens (\${{ is the text ${{), got {show(text)}"
            errors[path] = error if path[0] in names else ""
            _put(copied, path, None)
    try:
        tree = OmegaConf.create(copied, flags={"allow_objects": True})
    except omegaconf_errors.OmegaConfBaseException as error:  # a key that is null or a date, say
        raise ConfigError(f"the configuration: {_first_line(error)}") from error
    resolved = dict(copied)
    for name in names:
        resolved[name] = _resolve(tree, copied[name], (name,), errors)
    lines = [f"{_dotted(path)}: {error}{_hint(error, copied)}" for path, error in errors.items() if error]
    if lines:
        raise ConfigError(lines)
    return resolved


def referenced_names(config: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The names directly under each of the two sections that some reference in the configuration names."""
    found: dict[str, set[str]] = {section: set() for section in SECTIONS}
    for path, text in _texts(plain(config)):
        if "${" not in text:
            continue
        for dots, name in _REFERENCE.findall(text.replace("[", ".").replace("]", "")):
            target = [*path[: len(path) - len(dots)], *name.split(".")] if dots else name.split(".")
            if len(target) > 1 and target[0] in found:
                found[target[0]].add(target[1])
    return {section: frozenset(names) for section, names in found.items()}


def _resolve(container: Any, value: Any, path: Path, errors: dict[Path, str]) -> Any:
    """``value``, which stands at the end of ``path`` in OmegaConf's ``container``, with its references resolved."""
    key = path[-1]
    if isinstance(value, Mapping):
        return {name: _resolve(container[key], inner, (*path, name), errors) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(container[key], inner, (*path, number), errors) for number, inner in enumerate(value)]
    if not isinstance(value, str) or not _is_special(value):
        return value
    from omegaconf import OmegaConf
    from omegaconf import errors as omegaconf_errors

    try:
        found = container[key]
        return (
            OmegaConf.to_container(found, resolve=True, throw_on_missing=True) if OmegaConf.is_config(found) else found
        )
    except (omegaconf_errors.InterpolationToMissingValueError, omegaconf_errors.MissingMandatoryValue):
        what = "must be given: it" if value == MISSING else f"got {show(value)}, and what that refers to"
        errors[path] = f"{what} is left open ({MISSING})"
    except omegaconf_errors.InterpolationKeyError as error:
        # its message quotes the name, and after a relative one the whole name
        name = re.findall(r"'([^']*)'", _first_line(error))[-1]
        errors[path] = f"got {show(value)}{_NOWHERE}{name}"
    except (omegaconf_errors.OmegaConfBaseException, RecursionError) as error:
        errors[path] = f"got {show(value)}: {_first_line(error)}"
    return None


def _hint(error: str, config: Mapping[str, Any]) -> str:
    _, nowhere, name = error.partition(_NOWHERE)
    return did_you_mean(name, _paths(config)) if nowhere else ""


def _is_special(text: str) -> bool:
    return "${" in text or text == MISSING


def _texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in mappings and lists, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(inner, (*path, key))


def _paths(value: Any, path: Path = ()) -> Iterator[str]:
    if path:
        yield _dotted(path)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))


def _put(value: Any, path: Path, leaf: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = leaf


def escape(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape(inner) for inner in value]
    return _OPEN.sub(lambda match: f"{match[1] * 2}\\${{", value) if isinstance(value, str) else value


def _dotted(path: Path) -> str:
    return ".".join(str(key) for key in path)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip()
