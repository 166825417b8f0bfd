"""Several files as one: a pattern of names, ids that are unique over all files, one data set."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.counts import FileCounts
from model_hub_rqa.data.text_files import short
from model_hub_rqa.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


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
    problems: list[str] = []
    owner: dict[str, str] = {}
    n_left_out = 0
    for name, part in parts:
        ids = part["id"][:] if "id" in part.column_names else []
        twice = {number for number, id_ in enumerate(ids) if owner.setdefault(id_, name) != name}
        problems += [f"{name}: record {short(ids[n])}: duplicate id, first in {owner[ids[n]]}" for n in sorted(twice)]
        kept.append(part.select([n for n in range(len(part)) if n not in twice]) if twice else part)
        n_left_out += len(twice)
    if problems and not skip:
        raise DataError(problems)
    try:
        whole = datasets.concatenate_datasets(kept)
    except ValueError as error:
        raise DataError(
            f"{parts[0][0]}: the files that are read together must have the same columns: {error}"
        ) from error
    # of the parts' own, so that it is the same in every process and Dataset.map finds its cache
    whole._fingerprint = Hasher.hash([one._fingerprint for one in kept])
    return whole, n_left_out
