"""Records out of a file of any kind, with their places: JSON, JSON lines, CSV, Parquet, a folder of save_to_disk."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from model_hub_rqa.data.tables import Needed, iter_csv, iter_parquet, iter_saved
from model_hub_rqa.data.text_files import Place, iter_json, iter_jsonl
from model_hub_rqa.errors import DataError

ENDINGS = (".json", ".jsonl", ".csv", ".parquet")  # each but the last also with .gz


def file_problems(path: Path, endings: Collection[str] = ENDINGS, *, folders: bool = False) -> list[str]:
    """What is wrong with a file by its name alone: it is not there, or has another ending."""
    name = path.name.lower()
    if path.is_dir():
        return [] if folders else [f"{path}: is a folder, must be a file"]
    if not path.exists():
        return [f"{path}: no such file"]
    if ending_of(path) not in endings or name.endswith(".parquet.gz"):
        known = ", ".join(endings) + ("; or a folder of save_to_disk" if folders else "")
        return [f"{path}: unknown file ending {path.suffix!r} (known: {known}; text files also with .gz)"]
    return []


def ending_of(path: Path) -> str:
    """The ending that tells how a file is read: .gz does not count."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def iter_file(
    path: Path,
    needed: Needed = (),
    *,
    endings: Collection[str] = ENDINGS,
    folders: bool = True,
    known: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> Iterator[tuple[Place, Any]]:
    """The records of a file, not validated; what is no record comes as an `Unreadable`.

    Args:
        path: the file.
        needed: the columns that a table must have.
        endings: the kinds of files that are taken.
        folders: whether a folder of ``Dataset.save_to_disk`` is.
        known: the columns that a CSV file may have; empty for any.
        columns: read no others of a Parquet file.

    Raises:
        DataError: the file is missing, empty, damaged or of another kind.
    """
    problems = file_problems(path, endings, folders=folders)
    if problems:
        raise DataError(problems)
    ending = ending_of(path)
    if path.is_dir():
        yield from iter_saved(path, needed)
    elif ending == ".parquet":
        yield from iter_parquet(path, needed, columns)
    elif ending == ".jsonl":
        yield from iter_jsonl(path)
    elif ending == ".json":
        yield from iter_json(path)
    else:
        yield from iter_csv(path, needed, known=known, delimiter="\t" if ending == ".tsv" else ",")
