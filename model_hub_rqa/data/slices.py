"""Parts of data: of a file, spelled as datasets spells splits (``train.json[:4000]``), and parts drawn at random, the
same in every process and on every rank.
"""

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_hub_rqa.errors import ConfigError, DataError, ErrorCollector

if TYPE_CHECKING:
    from datasets import Dataset

_BRACKETED = re.compile(r"(?s)(?P<path>.+)\[(?P<inside>[^\[\]]*)\]")
_END = re.compile(r"(-?[0-9]{1,15}%?)?", re.ASCII)


@dataclass(frozen=True)
class FileSlice:
    """A file and which of its records are meant.

    Attributes:
        path: the file.
        start: first record: a count, negative from the end, or a percentage as "10%"; "" for the beginning.
        stop: the record after the last one, alike; "" for the end.
    """

    path: str
    start: str = ""
    stop: str = ""

    def bounds(self, total: int) -> tuple[int, int]:
        """First record and the one after the last, for a file of ``total`` records.

        A percentage is rounded to the closest record, as datasets does.

        Raises:
            DataError: the slice reaches beyond the file, or no record is in it.
        """
        start = _resolve(self.start, total) if self.start else 0
        stop = _resolve(self.stop, total) if self.stop else total
        spelled = f"{self.path}[{self.start}:{self.stop}]"
        if not (0 <= start <= total and 0 <= stop <= total):
            raise DataError(f"{spelled}: the slice reaches beyond the file, which has {total:,} records")
        if start >= stop:
            raise DataError(f"{spelled}: no record is in the slice, the file has {total:,}")
        return start, stop


def parse_slice(text: str, field: str = "") -> FileSlice:
    """Takes ``path[start:stop]`` apart; a file that exists under the whole name is taken as it is.

    Args:
        text: the path, with or without a slice.
        field: name of the option that it comes from, for the message.

    Raises:
        ConfigError: the brackets do not hold a slice.
    """
    match = _BRACKETED.fullmatch(text)
    if match is None or os.path.exists(text):
        return FileSlice(text)
    ends = match["inside"].split(":")
    if len(ends) != 2 or not all(_END.fullmatch(end.strip()) for end in ends):
        prefix = f"{field}: " if field else ""
        raise ConfigError(
            f"{prefix}a slice must be as [:4000], [1000:2000] or [:10%], got [{match['inside']}] in {text!r}"
        )
    return FileSlice(match["path"], *(end.strip() for end in ends))


def parse_slices(files: Any, field: str) -> list[FileSlice]:
    """Takes the value of a field apart that names one file, or a list of them; each may have a slice.

    Raises:
        ConfigError: an entry is no text, or its brackets do not hold a slice; all of them.
    """
    entries = list(files) if isinstance(files, list | tuple) else [files]
    names = [field] if len(entries) == 1 else [f"{field}[{number}]" for number in range(len(entries))]
    slices: list[Any] = []
    errors = ErrorCollector()
    for name, entry in zip(names, entries, strict=True):
        if not isinstance(entry, str | os.PathLike) or not str(entry).strip():
            errors.add(ConfigError(f"{name}: must be the name of a file, got {entry!r}"))
        else:
            slices.append(errors.attempt(parse_slice, os.fspath(entry), name))
    errors.raise_any()
    return slices


def _resolve(end: str, total: int) -> int:
    position = round(float(end[:-1]) * total / 100) if end.endswith("%") else int(end)
    return position + total if end.startswith("-") else position


def split_off(dataset: "Dataset", percentage: float, seed: int) -> "tuple[Dataset, Dataset]":
    """Draws ``percentage`` of the examples, rounded to the closest count.

    Returns:
        What remains, and what was drawn: disjoint, each in the order of ``dataset``.

    Raises:
        DataError: one of the two would be empty.
    """
    total = len(dataset)
    count = round(total * percentage / 100)
    if not 0 < count < total:
        raise DataError(
            f"data.validation_split_percentage: {percentage}% of {total:,} examples leaves {total - count:,} for "
            f"training and {count:,} for validation, each must have at least 1"
        )
    drawn = _permutation(total, seed)
    return dataset.select(sorted(drawn[count:])), dataset.select(sorted(drawn[:count]))


def subsample(dataset: "Dataset", limit: int | None, seed: int) -> "Dataset":
    """At most ``limit`` examples (None: all), drawn at random, in the order of ``dataset``."""
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.select(sorted(_permutation(len(dataset), seed)[:limit]))


def _permutation(total: int, seed: int) -> list[int]:
    import numpy as np

    order: list[int] = np.random.default_rng(seed).permutation(total).tolist()
    return order
