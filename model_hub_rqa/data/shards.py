"""Several files as one: a pattern of names, ids unique over all files; and what became of the records of each."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.text_files import short
from model_hub_rqa.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace


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


@dataclass
class Shard:
    """A file's rows, with their counts."""

    examples: "Dataset"
    counts: FileCounts


def matching_files(path: str) -> list[str]:
    """The files that a name with ``*`` or ``?`` stands for, in the order of their names; any other name as it is.

    Raises:
        DataError: no file matches.
    """
    if os.path.exists(path) or not set("*?") & set(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise DataError(f"{path}: no file matches")
    return found


def number_through(shards: Sequence[Shard]) -> None:
    """Gives the rows of files without ids numbers that go on from file to file, in place."""
    before = 0
    for shard in shards:
        if not shard.counts.numbered:
            continue
        if before:
            order = shard.examples.column_names
            ids = [str(before + int(number)) for number in shard.examples["id"][:]]
            numbered = shard.examples.remove_columns("id").add_column("id", ids)
            shard.examples = numbered.select_columns(order)
        before += shard.counts.n_read + shard.counts.n_skipped


def join(parts: Sequence[tuple[str, "Dataset"]], *, skip: bool) -> "tuple[Dataset, int]":
    """The rows of all parts, one after another, and how many were left out for an id that an earlier part has.

    Args:
        parts: names, for messages, and rows.
        skip: whether such rows are left out; otherwise they are errors.

    Raises:
        DataError: ids that two parts have, or columns that do not agree.
    """
    import datasets
    from datasets.fingerprint import Hasher

    if len(parts) == 1:
        return parts[0][1], 0
    kept: list[Any] = []
    errors: list[str] = []
    owner: dict[str, str] = {}
    n_left_out = 0
    for name, part in parts:
        ids = part["id"][:] if "id" in part.column_names else []
        twice = {number for number, id_ in enumerate(ids) if owner.setdefault(id_, name) != name}
        errors += [f"{name}: record {short(ids[n])}: duplicate id, first in {owner[ids[n]]}" for n in sorted(twice)]
        kept.append(part.select([n for n in range(len(part)) if n not in twice]) if twice else part)
        n_left_out += len(twice)
    if errors and not skip:
        raise DataError(errors)
    try:
        whole = datasets.concatenate_datasets(kept)
    except ValueError as error:
        raise DataError(
            f"{parts[0][0]}: the files that are read together must have the same columns: {error}"
        ) from error
    # of the parts' own, so that it is the same in every process and Dataset.map finds its cache
    whole._fingerprint = Hasher.hash([one._fingerprint for one in kept])
    return whole, n_left_out
