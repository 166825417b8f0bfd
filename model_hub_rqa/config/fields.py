"""How a field of the configuration is declared, and how a value found in YAML or JSON becomes its type.

A field is a dataclass field; ``option`` adds its help, its rule and its other names.
``read_value`` is the one function that turns a value into the field's type or says why it cannot.
"""

import copy
import dataclasses
import difflib
import math
import numbers
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

_COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
TrueOrFalse = typing.Literal[True, False]
"""A bool beside other types: HfArgumentParser refuses ``bool | str``."""
_EXPONENT = re.compile(r"([+-]?\d*\.?\d*)[eE]([+-]?)(\d+)")


class FieldError(NamedTuple):
    """A rule between fields that does not hold; it is reported at the first of ``fields``, the others take part.

    The first may be a path inside a field: ``fields.question``.
    """

    fields: tuple[str, ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """Bounds or choices of one field; a bound that is None does not apply. Text must not be empty unless ``empty``."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[str, ...] = ()
    empty: bool = False

    def holds(self, value: Any) -> bool:
        """Whether ``value``, already of the field's type, keeps the rule."""
        if self.choices and value not in self.choices:
            return False
        return all(_COMPARISONS[sign](value, bound) for sign, bound in self._bounds())

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return " and ".join(f"{sign} {bound}" for sign, bound in self._bounds())

    def _bounds(self) -> list[tuple[str, float]]:
        bounds = zip(_COMPARISONS, (self.ge, self.gt, self.le, self.lt), strict=True)
        return [(sign, bound) for sign, bound in bounds if bound is not None]


class Option(dataclasses.Field[Any]):
    """A dataclass field that knows its rule. transformers' HfArgumentParser hands all metadata to argparse, so that
    only what argparse takes is metadata: ``help``, and ``aliases`` as flags.
    """

    def __init__(self, field: "dataclasses.Field[Any]", rule: Rule, secret: bool) -> None:
        for name in dataclasses.Field.__slots__:
            setattr(self, name, getattr(field, name))
        self.rule, self.secret = rule, secret


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Iterable[str] = (),
    aliases: tuple[str, ...] = (),
    secret: bool = False,
    empty: bool = False,
) -> Any:
    """Declare a field of a kwargs dataclass.

    Args:
        default: the value where none is given; None means unset, and no default at all means required.
        help: what the field is, in one line.
        ge, gt, le, lt: bounds of a number.
        choices: the texts allowed.
        aliases: other names under which the field is taken.
        secret: never shown, neither in messages nor in ``repr``.
        empty: text may be empty.

    Returns:
        An `Option`.
    """
    rule = Rule(ge=ge, gt=gt, le=le, lt=lt, choices=tuple(choices), empty=empty)
    metadata: dict[str, Any] = {"help": help} | ({"aliases": [f"--{name}" for name in aliases]} if aliases else {})
    return Option(dataclasses.field(default=default, repr=not secret, metadata=metadata), rule, secret)


def rule_of(field: "dataclasses.Field[Any]") -> Rule:
    """The field's rule; that of an ordinary dataclass field has no bounds."""
    return field.rule if isinstance(field, Option) else Rule()


def is_secret(field: "dataclasses.Field[Any]") -> bool:
    """Whether the field's value must not be shown."""
    return isinstance(field, Option) and field.secret


def is_required(field: "dataclasses.Field[Any]") -> bool:
    """Whether the field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def names_of(field: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """The field's name and then its other names."""
    return (field.name, *(flag.removeprefix("--") for flag in field.metadata.get("aliases", ())))


def init_fields(kind: type) -> "Iterator[dataclasses.Field[Any]]":
    """The fields of a dataclass that its constructor takes."""
    return (field for field in dataclasses.fields(kind) if field.init)


def kinds_of(owner: type) -> dict[str, tuple[type, ...]]:
    """The types of every field of a dataclass, by name, as `kinds_of_hint` gives them."""
    return {name: kinds_of_hint(hint) for name, hint in typing.get_type_hints(owner).items()}


def kinds_of_hint(hint: Any) -> tuple[type, ...]:
    """The types that an annotation allows; ``X | None`` counts as X and ``list[str]`` as list."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = typing.get_args(hint) if union else (hint,)
    kinds = (bool if member == TrueOrFalse else member for member in members if member is not types.NoneType)
    return tuple(typing.get_origin(kind) or kind for kind in kinds)


def read_value(field: "dataclasses.Field[Any]", kinds: tuple[type, ...], value: Any) -> Any:
    """Turn a value into the type of its field and hold it to the field's rule. The value itself is not changed.

    Args:
        field: the dataclass field.
        kinds: its types, as ``kinds_of`` gives them; one that has no reader here takes any value.
        value: what was found; None is taken where the default is None, and means unset.

    Returns:
        The value in the field's type; a mapping is copied.

    Raises:
        ValueError: the error, without the field's name.
    """
    if value is None and field.default is None:
        return None
    rule = rule_of(field)
    if value is False and "no" in rule.choices:
        value = "no"  # which YAML 1.1 reads as false where it is not quoted
    shown: Callable[[Any], str] = show_kind if is_secret(field) else show
    if len(kinds) > 1 and bool in kinds and value in ("true", "false"):
        return value == "true"  # as a command line has it
    readers = [_read_any_str if kind is str and rule.empty else _READERS[kind] for kind in kinds if kind in _READERS]
    if len(readers) < len(kinds):
        return value
    errors = []
    for reader in readers:
        try:
            result = reader(value)
        except _WrongKindError as error:
            errors.append(error)
            continue
        if not rule.holds(result):
            raise ValueError(f"must be {rule}, got {shown(value)}{did_you_mean(result, rule.choices)}")
        return result
    wanted = " or ".join(error.wanted for error in errors)
    hint = next((error.hint for error in errors if error.hint), "")
    raise ValueError(f"must be {wanted}, got {shown(value)}{hint}")


class _WrongKindError(Exception):
    def __init__(self, wanted: str, hint: str = "") -> None:
        self.wanted, self.hint = wanted, hint


def _read_int(value: Any) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    # A cluster's JSON may carry 2 as 2.0.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise _WrongKindError("a whole number", _number_hint(value))


def _read_float(value: Any) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if math.isfinite(result):
            return result
        raise _WrongKindError("a finite number")
    raise _WrongKindError("a number", _number_hint(value))


def _read_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _WrongKindError("true or false")


def _read_str(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and value.strip():
        return value
    raise _WrongKindError("text that is not empty")


def _read_any_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _WrongKindError("text (it may be empty)")


def _read_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _WrongKindError("a mapping")
    for key, inner in value.items():
        # PyYAML's text for 1e-4 would reach transformers unseen, deep inside a mapping that nobody types.
        if isinstance(inner, str) and _EXPONENT.fullmatch(inner) and (hint := _number_hint(inner)):
            raise _WrongKindError(f"a mapping with a number at {key}", hint)
    copied = plain(value)
    assert isinstance(copied, dict)
    return copied


def _read_list(value: Any) -> list[Any]:
    if isinstance(value, Mapping | str) or not isinstance(value, list | tuple) or not value:
        raise _WrongKindError("a list that is not empty")
    copied = plain(list(value))
    assert isinstance(copied, list)
    return copied


_READERS: dict[type, Callable[[Any], Any]] = {
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
    str: _read_str,
    list: _read_list,
    dict: _read_dict,
    Mapping: _read_dict,
}


def plain(value: Any) -> Any:
    """A deep copy in which every mapping is a plain dict."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return copy.deepcopy(value)


def show(value: Any) -> str:
    """A value as a message shows it: as YAML writes null, true and false, short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def show_kind(value: Any) -> str:
    """What kind of thing a value is, for one that must not be shown."""
    return "null" if value is None else f"a value of type {type(value).__name__}"


def did_you_mean(name: Any, names: Iterable[str]) -> str:
    """``": did you mean learning_rate?"`` where one of ``names`` is close to ``name``, else nothing."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.7)
    return f": did you mean {close[0]}?" if close else ""


def near_miss(name: Any, names: Iterable[str]) -> bool:
    """Whether ``name`` is one of ``names`` but for a slip of the pen; ``data2`` beside ``data`` is another name."""
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.85)
    return bool(close) and str(name).rstrip("0123456789") != close[0].rstrip("0123456789")


def _number_hint(value: Any) -> str:
    if isinstance(value, Mapping) and "type" in value:
        return ": a search specification is resolved by resolve_search_specs"
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    if match := _EXPONENT.fullmatch(value.strip()):
        # YAML 1.1 wants a point in the mantissa and a sign in the exponent.
        mantissa, sign, exponent = match.groups()
        written = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign or '+'}{exponent}"
        return f": PyYAML reads it as text, write {written}"
    return f": write {value.strip()} without quotes"
