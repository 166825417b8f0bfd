"""The errors that a user can mend: each lists every error found, so that one run is enough to see them all.

An error is one line that names the field (or ``file: record``), the rule and the value.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SHOWN = 20  # lines printed of one error; the rest are counted


class RqaError(Exception):
    """Base of the package's errors.

    Args:
        errors: one line, or one for each error.

    Attributes:
        errors: a line for each error, as a tuple; ``str(error)`` shows the first 20 and counts the rest.
        exit_code: what the command line ends with.
    """

    exit_code = 2

    def __init__(self, errors: str | Iterable[str]) -> None:
        self.errors = (errors,) if isinstance(errors, str) else tuple(errors)
        super().__init__(self.errors)

    @property
    def problems(self) -> tuple[str, ...]:
        """What `errors` was called in version 0.1."""
        return self.errors

    def __str__(self) -> str:
        shown = list(self.errors[:SHOWN])
        more = len(self.errors) - len(shown)
        if more:
            shown.append(f"... and {more} more")
        return "\n".join(shown)


class ConfigError(RqaError, ValueError):
    """A field of the experiment configuration, or a command-line option, breaks a rule."""


class DataError(RqaError, ValueError):
    """A data file, or a record of one, breaks a rule."""


class CheckpointError(RqaError):
    """A checkpoint is missing, incomplete, damaged, or not what it is used for."""


class NonFiniteLoss(RqaError):
    """A loss or a gradient is not a finite number: training stopped before the weights took it.

    The exit code is 2, since the same configuration and data would end here again.
    """


def renamed(error: RqaError, names: Mapping[str, str]) -> RqaError:
    """The error with other names for the fields that its lines begin with.

    Args:
        error: stays as it is.
        names: by the field, as in ``hyperparameters.learning_rate``, what the user knows it by.
    """

    def line_of(line: str) -> str:
        field = line.partition(": ")[0]
        whole = max((name for name in names if _is_within(field, name)), key=len, default=None)
        return line if whole is None else names[whole] + line.removeprefix(whole)

    return type(error)([line_of(line) for line in error.errors])


def _is_within(field: str, name: str) -> bool:
    return field == name or field.startswith((f"{name}.", f"{name}["))


def folder_error(path: Path) -> str | None:
    """Why a folder cannot be made, or be written into; None if it can."""
    existing = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} cannot be written"


class ErrorCollector:
    """Gathers the errors of several steps, so that what is wrong with every file shows at once."""

    def __init__(self) -> None:
        self._errors: list[RqaError] = []

    def attempt(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The step's result; None, with its error noted, where it fails."""
        try:
            return step(*args, **kwargs)
        except RqaError as error:
            self._errors.append(error)
            return None

    def add(self, error: RqaError) -> None:
        """Notes an error."""
        self._errors.append(error)

    def __bool__(self) -> bool:
        """Whether there is an error."""
        return bool(self._errors)

    def raise_any(self) -> None:
        """Raises one error, of the first one's kind, with the lines of all."""
        if self._errors:
            lines = dict.fromkeys(line for error in self._errors for line in error.errors)
            raise type(self._errors[0])(lines)
