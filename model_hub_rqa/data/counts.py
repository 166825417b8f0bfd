"""What became of the records of the files that a run reads: how many are used, mended and left out."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class FileCounts:
    """What became of the records of one file.

    Attributes:
        file: its name.
        n_read: records that are used; n_skipped: those that were left out.
        n_mended: records of which an answer_start was mended; n_ignored: answers left out for an answer_start of -1.
        numbered: whether the ids are the numbers of the records.
        split: "train" or "validation", where it is of one.
    """

    file: str
    n_read: int
    n_skipped: int = 0
    n_mended: int = 0
    n_ignored: int = 0
    numbered: bool = False
    split: str = ""


_counted: ContextVar[list[FileCounts] | None] = ContextVar("counted", default=None)
_split: ContextVar[str] = ContextVar("split", default="")


@contextmanager
def counting() -> Iterator[list[FileCounts]]:
    """Collects the counts of every file that is read within the block."""
    counted: list[FileCounts] = []
    token = _counted.set(counted)
    try:
        yield counted
    finally:
        _counted.reset(token)


@contextmanager
def counted_as(split: str) -> Iterator[None]:
    """Files that are read within the block are of this split."""
    token = _split.set(split)
    try:
        yield
    finally:
        _split.reset(token)


def count_file(counts: FileCounts) -> None:
    """Hands the counts of a file to the innermost :func:`counting`."""
    counted = _counted.get()
    if counted is not None:
        counted.append(replace(counts, split=counts.split or _split.get()))


def totals(counts: Iterable[FileCounts]) -> dict[str, dict[str, int]]:
    """The sums over the files of each split: read, skipped, mended, ignored_answers."""
    found: dict[str, dict[str, int]] = {}
    for one in counts:
        numbers = {"read": one.n_read, "skipped": one.n_skipped, "mended": one.n_mended}
        numbers["ignored_answers"] = one.n_ignored
        before = found.get(one.split, dict.fromkeys(numbers, 0))
        found[one.split] = {name: before[name] + number for name, number in numbers.items()}
    return found
