"""Fields of a record of any form: the value, or a fault in words."""

from collections.abc import Mapping
from typing import Any

from model_hub_rqa.data.text_files import short

_KINDS = {str: "text", bool: "true or false", dict: "an object", list: "a list"}
_SHOWN = 3  # faults named of the items of one list; the rest are counted


def wrong_type(name: str, kind: type, value: Any) -> str:
    """The fault of a value of another type."""
    return f"{name} must be {_KINDS[kind]}, found {short(value)}"


def text_fault(name: str, value: Any) -> str | None:
    """Why a value is not text that says something, or None."""
    if not isinstance(value, str):
        return wrong_type(name, str, value)
    if not value or value.isspace():
        return f"{name} must not be blank, found {short(value)}"
    return _unstorable(name, value)


def filled_text(record: Mapping[str, Any], name: str, faults: list[str]) -> str | None:
    """A field that must hold text; None where it is at fault."""
    fault = text_fault(name, record[name]) if name in record else f"{name} is missing"
    if fault:
        faults.append(fault)
        return None
    return str(record[name])


def text_or_empty(record: Mapping[str, Any], name: str, faults: list[str]) -> str:
    """A field that may be missing, null or empty; whole numbers become text, as in exported tables."""
    value = record.get(name)
    if value is None:
        return ""
    if type(value) is int:
        return str(value)
    fault = _unstorable(name, value) if isinstance(value, str) else wrong_type(name, str, value)
    if fault:
        faults.append(fault)
        return ""
    return str(value)


def items_of(record: Mapping[str, Any], name: str, faults: list[str]) -> list[Any]:
    """A field that must hold a list where it is present; empty where it is missing, null or at fault."""
    value = record.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        hint = f": write [{short(value)}]" if isinstance(value, str) else ""
        faults.append(wrong_type(name, list, value) + hint)
        return []
    return value


def add_item_faults(found: list[str], faults: list[str]) -> None:
    """Adds the first faults of a list's items and counts the rest, so that a long list makes no endless line."""
    faults += found[:_SHOWN]
    if len(found) > _SHOWN:
        faults.append(f"and {len(found) - _SHOWN} more")


def _unstorable(name: str, value: str) -> str | None:
    # Half of a surrogate pair, as JSON's \\ud800 makes it, is no character and cannot be stored as UTF-8.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"{name} must be Unicode text, found a lone surrogate at character {error.start}"
    return None
