"""Command-line flags of a trial's settings: one for each field of the dataclasses that the trial reads.

transformers' HfArgumentParser makes the flags, from dataclasses derived from ours: it cannot take ours as they are, as
several of them share fields (``revision``, ``token``), some fields are of types of which it makes no value (mappings),
and it fills in defaults, while here what is not given has to stay unset. Its conventions hold: ``--learning_rate`` and
``--learning-rate``, ``--bf16`` and ``--bf16 false``, ``--no_...`` for what is true by default, several words for a
list.
"""

import argparse
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from model_hub_rqa.config import (
    CallbackKwargs,
    ConfigKwargs,
    DatasetKwargs,
    LRSchedulerKwargs,
    ModelKwargs,
    OptimizerKwargs,
    TokenizerKwargs,
    TrainerKwargs,
)
from model_hub_rqa.config.fields import init_fields, is_required, is_secret, kinds_of, names_of, rule_of, show
from model_hub_rqa.config.trainer_names import hint_for, known_elsewhere, replaced_by_flag
from model_hub_rqa.errors import ConfigError

HYPERPARAMETERS = (
    *(TrainerKwargs, OptimizerKwargs, LRSchedulerKwargs),
    *(ConfigKwargs, TokenizerKwargs, ModelKwargs),
)
DATA = (DatasetKwargs, CallbackKwargs)
NO = "no_"
_METAVARS: dict[Any, str] = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT", Any: "TEXT"}


class Flag(NamedTuple):
    """What a flag sets: a field of a dataclass, in a section of the configuration."""

    section: str
    field: "dataclasses.Field[Any]"
    kind: type


def flags_of(task_kwargs: type | None, reserved: Iterable[str] = ()) -> dict[str, Flag]:
    """The flags of a trial by name, in the order of its dataclasses; a field that several share is one flag.

    A field of the data section that the hyperparameters have too gets ``data_`` before its name.

    Args:
        task_kwargs: the dataclass of the trial's own settings.
        reserved: names that are options of the command; fields of such names have no flag.
    """
    found: dict[str, Flag] = {}
    own = () if task_kwargs is None else (task_kwargs,)
    sections = {"hyperparameters": HYPERPARAMETERS, "data": (*DATA, *own)}
    for section, kind in ((section, kind) for section, kinds in sections.items() for kind in kinds):
        for field in init_fields(kind):
            name = field.name
            if section == "data" and name in found and found[name].section != section:
                name = f"data_{name}"
            if name not in found and name not in reserved:
                found[name] = Flag(section, field, kind)
    return found


def parse_flags(
    argv: Sequence[str], task_kwargs: type | None, add_arguments: Callable[[Any], None], *, prog: str
) -> tuple[argparse.Namespace, dict[str, dict[str, Any]]]:
    """Parse a command line with the flags of a trial.

    Numbers and JSON are read; whether a value is allowed is the trial's to say, with all its other errors.

    Args:
        argv: the arguments; ``--help`` prints the flags in groups, one a dataclass, and exits.
        task_kwargs: the dataclass of the trial's own settings.
        add_arguments: adds the command's own options to a parser.
        prog: the command's name.

    Returns:
        The command's own options, and the flags that were given: by section, name and value.

    Raises:
        ConfigError: unknown flags, with the nearest ones, or a flag without its value.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(message)

    own = argparse.ArgumentParser(add_help=False)
    add_arguments(own)
    taken = [*vars(own.parse_args([])), "help"]
    flags = flags_of(task_kwargs, taken)
    kinds = dict.fromkeys(flag.kind for flag in flags.values())
    groups = [_group(kind, {n: flag for n, flag in flags.items() if flag.kind is kind}) for kind in kinds]
    made: Any = groups
    parser: Any = Parser(
        made,
        prog=prog,
        usage="%(prog)s [CONFIG] [--trial MODULE:CLASS] [options] [flags of the trial's settings]",
        allow_abbrev=False,
        formatter_class=argparse.HelpFormatter,
    )
    add_arguments(parser)
    args, rest = parser.parse_known_args(argv)
    _refuse(rest, [*(f"--{name}" for name in flags), *(f"--{name.replace('_', '-')}" for name in taken)])
    given: dict[str, dict[str, Any]] = {}
    options = vars(args)
    for name in [name for name in options if name not in taken]:
        value = options.pop(name)
        if name not in flags:  # the complement of one that is true by default
            name, value = name.removeprefix(NO), not value
        given.setdefault(flags[name].section, {})[flags[name].field.name] = value
    return args, given


def merge(
    config: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]], task_kwargs: type | None
) -> dict[str, Any]:
    """A configuration with the values of flags in place of its own; it is not changed.

    A task's setting that the hyperparameters have is set there, since those go before the data section.
    """
    merged = {**config}
    for section, values in given.items():
        merged[section] = {**(merged.get(section) or {})}
        fields = {flag.field.name: flag.field for flag in flags_of(task_kwargs).values() if flag.section == section}
        for name, value in values.items():
            for alias in names_of(fields[name])[1:]:
                merged[section].pop(alias, None)
            other = replaced_by_flag(name, value)
            if other is not None and other not in values:
                for alias in names_of(fields[other]):
                    merged[section].pop(alias, None)
            merged[section][name] = value
    task = {field.name for field in init_fields(task_kwargs)} if task_kwargs is not None else set()
    for name in task & set(given.get("data", ())) & set(merged.get("hyperparameters") or {}):
        merged["hyperparameters"] = {**merged["hyperparameters"], name: merged["data"][name]}
    return merged


def _group(kind: type, flags: Mapping[str, Flag]) -> type:
    """A dataclass of nothing but flags, which HfArgumentParser turns into a group."""
    fields: list[Any] = []
    for name, flag in flags.items():
        annotation, metavar = _type_of(flag)
        metadata = {"help": _help(flag), "metavar": metavar, "default": argparse.SUPPRESS}
        aliases = [f"--{alias}" for alias in names_of(flag.field)[1:] if name == flag.field.name]
        fields.append((name, annotation, _suppressed({**metadata, "aliases": aliases} if aliases else metadata)))
        if annotation is bool and flag.field.default is True:
            fields.append((f"{NO}{name}", bool, _suppressed({**metadata, "help": f"the same as --{name} false"})))
    summary = (kind.__doc__ or "").strip().partition("\n")[0].rstrip(".").replace("``", "")
    title = f"{kind.__name__} ({next(iter(flags.values())).section}): {summary}"
    return dataclasses.make_dataclass(kind.__name__, fields, kw_only=True, namespace={"_argument_group_name": title})


def _suppressed(metadata: dict[str, Any]) -> Any:
    return dataclasses.field(default=argparse.SUPPRESS, metadata=metadata)


def _type_of(flag: Flag) -> tuple[Any, str]:
    """The annotation that makes HfArgumentParser read a flag as its field's types say, and what its help shows."""
    kinds = kinds_of(flag.kind)[flag.field.name]
    if kinds in ((bool,), (str,)):
        return kinds[0], _METAVARS[kinds[0]]
    hints = typing.get_type_hints(flag.kind)[flag.field.name]
    for hint in (hints, *typing.get_args(hints)):
        if kinds == (list,) and typing.get_origin(hint) is list:
            (inner,) = typing.get_args(hint)
            return types.GenericAlias(list, functools.partial(_read, (inner,))), _METAVARS.get(inner, "JSON")
    names = {_METAVARS.get(kind, "JSON") for kind in kinds}
    return functools.partial(_read, kinds), "|".join(sorted(names, reverse=True))


def _read(kinds: tuple[Any, ...], text: str) -> Any:
    """The value that a word means for a field of these types; text where it means none, for the rules to refuse."""
    if bool in kinds and text in ("true", "false"):
        return text == "true"
    if text[:1] in ("{", "[") and not set(kinds) <= {int, float, bool, str}:
        try:
            return json.loads(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be JSON ({error}), got {show(text)}") from error
    if {int, float} & set(kinds):
        for number in (int, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


def _help(flag: Flag) -> str:
    field = flag.field
    parts = [field.metadata.get("help", "")]
    if rule := str(rule_of(field)):
        parts.append(rule)
    if is_required(field):
        parts.append("required")
    elif field.default is not dataclasses.MISSING and field.default is not None and not is_secret(field):
        parts.append(
            f"default: {show(field.default) if not isinstance(field.default, str) else field.default or '(empty)'}"
        )
    return "; ".join(filter(None, parts)).replace("%", "%%")


def _refuse(rest: Sequence[str], known: Iterable[str]) -> None:
    """Raises ConfigError where words are left over."""
    if not rest:
        return
    names = sorted(known)
    words = [word.partition("=")[0] for word in rest if word.startswith("--") or "=" in word]
    flags = [word for word in words if word.startswith("--") or known_elsewhere(word)]
    raise ConfigError(
        [f"{flag}: is not an option of this trial{hint_for(flag, names)}" for flag in flags]
        or f"too many words: {' '.join(rest)}"
    )
