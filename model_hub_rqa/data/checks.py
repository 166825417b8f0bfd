"""Checks of records in every format: a field gives its value or an error, and a file counts its bad records."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from model_hub_rqa.data.text_files import Location, Unreadable, short, where
from model_hub_rqa.errors import ConfigError, DataError

QUESTION_IDS = ("id", "_id", "qid", "question_id", "query_id")
DOCUMENT_IDS = ("_id", "id")
_ID_LIKE = re.compile(r"(u|uu|gu|row|record|example|ex|sample|item|instance|entry|key)?(id|idx)")
_QUESTION_ID_LIKE = re.compile(r"(q|qa|query|question|turn)(uu|u)?(id|idx|key)")
_DOCUMENT_ID_LIKE = re.compile(r"(p|doc|document|passage|psg|chunk|paragraph|text|page|article)(uu|u)?(id|idx|key)")
_KINDS = {str: "text", bool: "true or false", dict: "an object", list: "a list"}
_SHOWN = 3  # errors named of the items of one list; the rest are counted


def wrong_type(name: str, kind: type, value: Any) -> str:
    """The error of a value of another type."""
    return f"{name} must be {_KINDS[kind]}, got {short(value)}"


def text_error(name: str, value: Any) -> str | None:
    """Why a value is not text that says something, or None."""
    if not isinstance(value, str):
        return wrong_type(name, str, value)
    if isinstance(value, Unreadable):
        return str(value)
    if not value or value.isspace():
        return f"{name} must not be blank, got {short(value)}"
    return None if value.isascii() else _unstorable(name, value)


def filled_text(record: Mapping[str, Any], name: str, errors: list[str]) -> str | None:
    """A field that must hold text; None where it is at error."""
    error = text_error(name, record[name]) if name in record else f"{name} is missing"
    if error:
        errors.append(error)
        return None
    return str(record[name])


def text_or_empty(record: Mapping[str, Any], name: str, errors: list[str], *, numbers: bool = False) -> str:
    """A field that may be missing, null or empty.

    Args:
        record: the record.
        name: the field's.
        errors: receives what is wrong with it.
        numbers: whether whole numbers become text, as in exported tables.
    """
    value = record.get(name)
    if value is None:
        return ""
    if numbers and type(value) is int:
        return str(value)
    if isinstance(value, Unreadable):
        error: str | None = str(value)
    else:
        error = _unstorable(name, value) if isinstance(value, str) else wrong_type(name, str, value)
    if error:
        errors.append(error)
        return ""
    return str(value)


def items_of(record: Mapping[str, Any], name: str, errors: list[str]) -> list[Any]:
    """A field that must hold a list where it is present; empty where it is missing, null or at error."""
    value = record.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        hint = f": write [{short(value)}]" if isinstance(value, str) else ""
        errors.append(str(value) if isinstance(value, Unreadable) else wrong_type(name, list, value) + hint)
        return []
    return value


def true_or_false(record: Mapping[str, Any], name: str, errors: list[str]) -> bool | None:
    """A field that must hold true or false where it is present; None where it is missing, null or at error."""
    value = record.get(name)
    if value is not None and not isinstance(value, bool):
        errors.append(wrong_type(name, bool, value))
        return None
    return value


def add_item_errors(found: list[str], errors: list[str]) -> None:
    """Adds the first errors of a list's items and counts the rest, so that a long list makes no endless line."""
    errors += found[:_SHOWN]
    if len(found) > _SHOWN:
        errors.append(f"and {len(found) - _SHOWN} more")


def _unstorable(name: str, value: str) -> str | None:
    # Half of a surrogate pair, as JSON's \\ud800 makes it, is no character and cannot be stored as UTF-8.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"{name} must be Unicode text, got a lone surrogate at character {error.start}"
    return None


def is_id_name(name: str, ids: Sequence[str] = QUESTION_IDS) -> bool:
    """Whether a column's name looks like that of an id, of documents where ``ids`` are theirs."""
    like = _DOCUMENT_ID_LIKE if ids == DOCUMENT_IDS else _QUESTION_ID_LIKE
    letters = re.sub(r"[^a-z]", "", name.lower())
    return bool(_ID_LIKE.fullmatch(letters) or like.fullmatch(letters))


def check_policy(on_bad_record: str) -> None:
    """Raises ConfigError where on_bad_record is neither "error" nor "skip"."""
    if on_bad_record not in ("error", "skip"):
        raise ConfigError(f'on_bad_record: must be "error" or "skip", got {on_bad_record!r}')


class Checks:
    """Watches over the records of one file: what is wrong with each, their ids, and how many are left out.

    Args:
        file: its name, for messages; "" for none.
        on_bad_record: "error", or "skip" to leave bad records out.
        ids: the names under which a record may have its id, the first that is given counts.
        ids_required: False: where the first record has no id, none may have one, and they are numbered from 1.

    Attributes:
        bad: an error a line, for each bad record.
        fatal: errors of the file itself, which "skip" does not pass over.
        n_records: records seen; n_bad: the bad ones among them.
        numbered: whether the ids are the numbers of the records.
    """

    def __init__(
        self,
        file: str | PathLike[str],
        on_bad_record: str,
        *,
        ids: Sequence[str] = QUESTION_IDS,
        ids_required: bool = False,
    ) -> None:
        check_policy(on_bad_record)
        self.file = str(file)
        self._prefix = f"{self.file}: " if self.file else ""
        self.bad: list[str] = []
        self.fatal: list[str] = []
        self.n_records = self.n_bad = 0
        self.numbered = False
        self._skip = on_bad_record == "skip"
        self._ids, self._required = ids, ids_required
        self._first = True
        self._n_named = 0  # records with an id, where the first has none
        self._seen: dict[str, Any] = {}

    def is_object(self, location: Location, record: Any) -> bool:
        """Counts a record; notes an error, and is False, where it is no object."""
        if isinstance(record, dict):
            self.n_records += 1
            return True
        count = record.records if isinstance(record, Unreadable) else 1
        self.n_records += count
        self.n_bad += count
        error = str(record) if isinstance(record, Unreadable) else f"must be an object, got {short(record)}"
        self.bad.append(f"{self._prefix}{where(location)}: {error}")
        return False

    def identify(self, location: Location, record: Mapping[str, Any], errors: list[str]) -> str | None:
        """The id of a record, or None where it is at error: whole numbers become text."""
        first = self._ids[0]  # looked at by itself, as most files have it
        given = (name for name in self._ids if record.get(name) is not None)
        name = first if record.get(first) is not None else next(given, None)
        if self._first:
            self._first = False
            if name is None:
                self._look_for_ids(record)
                self.numbered = not self._required
        if self.numbered:
            if name is None:
                return str(self.n_records)
            self._n_named += 1
            errors.append(f"{name} is given, while the first record has none, got {short(record[name])}")
            return None
        name = name or next((name for name in self._ids if name in record), "id")
        value = record.get(name)
        id_ = str(value) if type(value) is int else filled_text(record, name, errors)
        if id_ is not None:
            here: Any = location[1] if len(location) == 2 else location  # a corpus has millions
            before = self._seen.setdefault(id_, here)
            if before is not here and before != here:
                begun = before if isinstance(before, tuple) else (location[0], before)
                errors.append(f"duplicate id, first at {where(begun)}")
        return id_

    def _look_for_ids(self, record: Mapping[str, Any]) -> None:
        """A column of ids under a name that is not known must not be dropped: predictions could not be joined."""
        for name, value in record.items():
            if name not in self._ids and is_id_name(name, self._ids) and type(value) in (str, int):
                rule = f"looks like the id, which must be named {', '.join(self._ids)}: rename it to id"
                self.fatal.append(f"{self._prefix}{name} {rule}")

    def passed(self, location: Location, id_: str | None, errors: list[str]) -> bool:
        """Whether a record has no error; those it has are noted."""
        if errors:
            self.n_bad += 1
            self.bad.append(f"{self.named(location, id_)}: {'; '.join(errors)}")
        return not errors

    def named(self, location: Location, id_: str | None) -> str:
        """The file and the record, as a message names them."""
        if id_ is None or self.numbered:
            return f"{self._prefix}{where(location)}"
        return f"{self._prefix}record {id_ if len(id_) <= 60 and id_.isprintable() else short(id_)} ({where(location)})"

    def finish(self, n_kept: int) -> tuple[str, ...]:
        """The errors of the records that were left out.

        Raises:
            DataError: errors of the file; of records, where none may be left out; or no record remains.
        """
        if 2 * self._n_named > self.n_records:
            rule = f"{self._n_named:,} of {self.n_records:,} records have an id, while the first has none"
            self.fatal.append(f"{self._prefix}{rule}: give it to each, or to none")
        if self.fatal or (self.bad and not self._skip):
            raise DataError([*self.fatal, *self.bad])
        if not n_kept:
            nothing = f"no record remains, all {self.n_records:,} are bad" if self.n_records else "holds no record"
            raise DataError([f"{self._prefix}{nothing}", *self.bad])
        return tuple(self.bad)
