"""From the mapping of a configuration file to the dataclasses, with every error found in one error."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from model_hub_rqa.config.fields import (
    FieldError,
    init_fields,
    is_required,
    kinds_of,
    names_of,
    near_miss,
    read_value,
)
from model_hub_rqa.config.fields import show as show_value
from model_hub_rqa.config.interpolation import resolve_search_specs
from model_hub_rqa.config.kwargs import (
    NO_NAME,
    ConfigKwargs,
    DatasetKwargs,
    HubKwargs,
    Kwargs,
    LRSchedulerKwargs,
    ModelKwargs,
    OptimizerKwargs,
    TokenizerKwargs,
    TrainerKwargs,
    holding,
)
from model_hub_rqa.config.trainer_names import hint_for, known_elsewhere
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.utils import AttrDict

logger = logging.getLogger(__name__)

HYPERPARAMETERS = "hyperparameters"
ALL_KWARGS: tuple[type[Kwargs], ...] = (
    ConfigKwargs,
    TokenizerKwargs,
    ModelKwargs,
    OptimizerKwargs,
    LRSchedulerKwargs,
    DatasetKwargs,
    TrainerKwargs,
)


def parse_dict_to_dataclasses(
    dataclass_types: Sequence[type],
    args: Mapping[str, Any],
    as_dict: bool = False,
    *,
    section: str = HYPERPARAMETERS,
    known: Iterable[str] = (),
    strict: bool = False,
) -> list[Any]:
    """Fill dataclasses from one mapping: each takes the names that it knows, and several may take the same one.

    An int field takes 2.0 and a float field takes 2, as a cluster's JSON may turn one into the other; text is never
    taken for a number, nor a bool for anything but a bool. None means unset, where the field can be unset. A name that
    neither the types given, nor any type of this package, nor ``known`` has is an error where it is nearly one of
    theirs, and else warned about, once.

    Args:
        dataclass_types: what to fill: the types of this package, subclasses of theirs, or dataclasses of your own.
        args: the hyperparameters, or another section of the configuration. It is not changed, and the results share
            nothing with it.
        as_dict: give an `AttrDict` of what is set in place of each instance.
        section: where ``args`` stands in the configuration: the messages name ``section.field``.
        known: further names that are right.
        strict: whether every unknown name is an error.

    Returns:
        One instance, or dict, for each type, in their order.

    Raises:
        ConfigError: every error of every type.
    """
    config_path = f"{section}." if section else ""
    if not isinstance(args, Mapping):
        raise ConfigError(f"{section or 'args'}: must be a mapping, got {show_value(args)}")
    unknown = _unknown_names(dataclass_types, args, config_path, known)
    lines = [line for line, slip in unknown.values() if slip or strict]
    for name, (line, slip) in unknown.items():
        if not (slip or strict):
            warn_of_unknown(f"{config_path}{name}", line)
    filled = []
    for kind in dataclass_types:
        values, errors = _read(kind, args)
        filled.append((kind, values))
        between = holding(_errors(kind, values, args), {error.fields[0] for error in errors})
        for error in (*errors, *between):
            lines.append(f"{config_path}{_name_given(kind, error.fields[0], args)}: {error.text}")
    if lines:
        raise ConfigError(dict.fromkeys(lines))
    instances = [kind(**values) for kind, values in filled]
    return [_to_dict(instance) for instance in instances] if as_dict else instances


def default_parse_config_tokenizer_model_kwargs(
    hparams: Mapping[str, Any], *, section: str = HYPERPARAMETERS, known: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The keyword arguments that config, tokenizer and model are built with; search specifications are resolved first.

    Args:
        hparams: the hyperparameters.
        section: where they stand, for the messages.
        known: further names that are right.

    Returns:
        Plain dicts for the config, the tokenizer and the model, as ``build.build_using_auto`` takes them.

    Raises:
        ConfigError: every error.
    """
    resolved = resolve_search_specs(hparams, section=section)
    types = (ConfigKwargs, TokenizerKwargs, ModelKwargs)
    config, tokenizer, model = parse_dict_to_dataclasses(types, resolved, as_dict=True, section=section, known=known)
    return config, tokenizer, model


def default_parse_optimizer_lr_scheduler_kwargs(
    hparams: Mapping[str, Any], *, section: str = HYPERPARAMETERS, known: Iterable[str] = ()
) -> tuple[OptimizerKwargs, LRSchedulerKwargs]:
    """The settings of optimizer and schedule, as dataclass instances; search specifications are resolved first.

    Args:
        hparams: the hyperparameters.
        section: where they stand, for the messages.
        known: further names that are right.

    Returns:
        Instances, as `build_default_optimizer` and `build_default_lr_scheduler` take them.

    Raises:
        ConfigError: every error.
    """
    resolved = resolve_search_specs(hparams, section=section)
    types = (OptimizerKwargs, LRSchedulerKwargs)
    optimizer, scheduler = parse_dict_to_dataclasses(types, resolved, section=section, known=known)
    return optimizer, scheduler


def _read(kind: type, args: Mapping[str, Any]) -> tuple[dict[str, Any], list[FieldError]]:
    """The values that ``args`` has for the fields of ``kind``, and the errors of single fields."""
    values: dict[str, Any] = {}
    errors = []
    kinds = kinds_of(kind)
    for field in init_fields(kind):
        given = [name for name in names_of(field) if name in args]
        if not given:
            if is_required(field):
                errors.append(FieldError((field.name,), "is required"))
            continue
        if len(given) > 1:
            errors.append(FieldError((field.name,), f"is given twice, also as {', '.join(given[1:])}"))
            continue
        try:
            values[field.name] = read_value(field, kinds[field.name], args[given[0]])
        except ValueError as error:
            errors.append(FieldError((field.name,), str(error)))
    return values, errors


def _errors(kind: type, values: Mapping[str, Any], args: Mapping[str, Any]) -> Iterator[FieldError]:
    """The rules between fields that do not hold for ``values``, fields at error standing at their defaults."""
    if not issubclass(kind, Kwargs):
        return
    # An unchecked instance: the constructor would raise at the first type's errors, and this error is to have them all.
    instance = object.__new__(kind)
    for field in init_fields(kind):
        default = None if is_required(field) else field.default
        object.__setattr__(instance, field.name, values.get(field.name, default))
    yield from instance.errors()
    if isinstance(instance, ModelKwargs) and instance.name is None and args.get("use_pretrained_weights") is not False:
        yield FieldError(("pretrained_model_name_or_path", "model_name"), NO_NAME)


def _name_given(kind: type, name: str, args: Mapping[str, Any]) -> str:
    """The name under which ``args`` has a field, so that a message speaks of what the user wrote."""
    own, dot, inside = name.partition(".")
    field = next(field for field in init_fields(kind) if field.name == own)
    return next((alias for alias in names_of(field) if alias in args), own) + dot + inside


def _to_dict(instance: Any) -> AttrDict:
    """The fields that are set; of those of the hub also what model-hub always has: cache_dir and use_auth_token."""
    if isinstance(instance, Kwargs):
        found = instance.as_dict()
        if isinstance(instance, HubKwargs):
            token, trusted = found.pop("token", None), found.pop("trust_remote_code")
            found = {"cache_dir": None, **found, **({"token": token} if token else {"use_auth_token": False})}
            found |= {"trust_remote_code": True} if trusted else {}
        return AttrDict(found)
    return AttrDict({name: value for name, value in dataclasses.asdict(instance).items() if value is not None})


def _unknown_names(
    types: Sequence[type], args: Mapping[str, Any], config_path: str, known: Iterable[str]
) -> dict[str, tuple[str, bool]]:
    """A line for each unknown name, and whether it is a known one that was mistyped."""
    names = _names((*types, *ALL_KWARGS)) | set(known)
    if set(args) <= names:
        return {}
    names |= _names(_settings_of_tasks())
    unknown = [name for name in args if name not in names]
    return {
        name: (
            f"{config_path}{name} is not a known name{hint_for(name, sorted(names))}",
            known_elsewhere(name) is None and near_miss(name, names),
        )
        for name in unknown
    }


def _names(kinds: Iterable[type]) -> set[str]:
    return {name for kind in kinds for field in init_fields(kind) for name in names_of(field)}


def _settings_of_tasks() -> Iterator[type[Kwargs]]:
    """The package's settings of all tasks, which stand in the same sections; only now are the tasks imported."""
    from model_hub_rqa.registry import TASKS  # it imports the fields of this package itself

    TASKS.names()
    found = Kwargs.__subclasses__()
    for kind in found:
        found += kind.__subclasses__()
        if kind.__module__.startswith("model_hub_rqa.tasks."):
            yield kind


_unknown: ContextVar[dict[str, None] | None] = ContextVar("unknown", default=None)


@contextlib.contextmanager
def listing_unknown() -> Iterator[dict[str, None]]:
    """Collects the unknown keys that are warned of within the block, ``section.key`` each, once and in their order."""
    keys: dict[str, None] = {}
    token = _unknown.set(keys)
    try:
        yield keys
    finally:
        _unknown.reset(token)


def warn_of_unknown(key: str, line: str) -> None:
    """Warns of an unknown key, in a line that is logged once, and tells the innermost :func:`listing_unknown`."""
    keys = _unknown.get()
    if keys is not None:
        keys[key] = None
    _warn_once(line)


@functools.cache
def _warn_once(message: str) -> None:
    # The sections are parsed piece by piece, each time with the same mapping.
    logger.warning(message)
