"""Records out of a file of any kind, with their locations: JSON, JSON lines, CSV, Parquet, a folder of save_to_disk.

Files that are not in a format of the package's own are read by the `datasets` library.
"""

import csv
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.text_files import Location, Unreadable, decoded, iter_json, iter_jsonl, iter_lines, short
from model_hub_rqa.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

# Loaders of `datasets`; others are named as the ending.
_BUILDERS = {".txt": "text", ".jsonl": "json", ".tsv": "csv", ".pq": "parquet"}

Needed = Sequence[Sequence[str]]
"""The columns that a table must have: one name at least of each entry."""


def iter_csv(
    path: Path, needed: Needed = (), *, known: Sequence[str] = (), delimiter: str = ","
) -> Iterator[tuple[Location, Any]]:
    """The records of a CSV file, all values as text, read as a stream.

    A column without a name, as pandas writes its index (also "Unnamed: 0"), is ignored.

    Args:
        path: the file.
        needed: the columns that it must have.
        known: the columns that it may have; empty for any.
        delimiter: what stands between two fields.

    Raises:
        DataError: the file cannot be read, a quote is never closed, or the header breaks a rule.
    """
    limit = csv.field_size_limit(sys.maxsize)  # texts are longer than csv allows by itself
    header: list[str] = []
    try:
        for begins, row in _csv_rows(path, delimiter):
            if not header and row:
                if isinstance(row, Unreadable):
                    raise DataError(f"{path}: line {begins}: {row}")
                header = row
                _check_header(path, begins, [name for name in header if not _is_index(name)], needed, known)
            elif isinstance(row, Unreadable):
                yield ("line", begins), row
            elif row and len(row) != len(header):
                yield ("line", begins), Unreadable(f"must have {len(header)} fields as the header, got {len(row)}")
            elif row:
                record = dict(zip(header, row, strict=True))
                yield ("line", begins), {name: cell for name, cell in record.items() if not _is_index(name)}
    finally:
        csv.field_size_limit(limit)  # the limit is the whole process's
    if not header:
        raise DataError(f"{path}: empty file")


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    """The cells of each row, with the number of its first line; an `Unreadable` for a line that is none by itself."""
    number, last = 0, b""

    def text(line: bytes) -> str:
        nonlocal number, last
        number, last = number + 1, line
        return decoded(line)

    rows = csv.reader(map(text, iter_lines(path)), delimiter=delimiter, strict=True)
    while True:
        begins = number + 1  # a quoted field may hold line ends
        try:
            row: Any = next(rows)
        except StopIteration:
            return
        except DataError:
            raise
        except (csv.Error, ValueError) as error:
            rule = f"{'not CSV: ' if isinstance(error, csv.Error) else ''}{error}"
            if number > begins or last.count(b'"') % 2:  # which lines belong to it is not known
                raise DataError(f"{path}: line {begins}: {rule}") from error
            row = Unreadable(rule)
        yield begins, row


def iter_table(path: Path, columns: Sequence[str], *, quoted: bool) -> Iterator[tuple[Location, Any]]:
    """The records of a tab-separated file without a header.

    Args:
        path: the file.
        columns: the names of its cells; empty to give the cells as a list.
        quoted: whether cells may stand in quotes, as CSV's may.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    empty = True
    for number, cells in _quoted_rows(path) if quoted else _plain_rows(path):
        empty = False
        if columns and isinstance(cells, list) and len(cells) != len(columns):
            names = ", ".join(columns)
            yield ("line", number), Unreadable(f"must have {len(columns)} fields ({names}), got {len(cells)}")
        else:
            record = dict(zip(columns, cells, strict=True)) if columns and isinstance(cells, list) else cells
            yield ("line", number), record
    if empty:
        raise DataError(f"{path}: empty file")


def _plain_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The number and the cells of each line that is not empty; an `Unreadable` for one that is not UTF-8."""
    for number, line in enumerate(iter_lines(path), 1):
        try:
            text = decoded(line).rstrip("\r\n")
        except ValueError as error:
            yield number, Unreadable(str(error))
        else:
            if text:
                yield number, text.split("\t")


def _quoted_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The same of a file whose cells may stand in quotes, and then hold tabs and line ends."""
    limit = csv.field_size_limit(sys.maxsize)
    rows = csv.reader((decoded(line) for line in iter_lines(path)), delimiter="\t")
    begins = 1
    try:
        for row in rows:
            if row:
                yield begins, row
            begins = rows.line_num + 1
    except DataError:
        raise
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: line {begins}: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _is_index(name: str) -> bool:
    return not name.strip() or (name.startswith("Unnamed: ") and name[9:].isdecimal())


def _check_header(path: Path, line: int, header: Sequence[str], needed: Needed, known: Sequence[str]) -> None:
    errors = [f"misses the column {_any_of(names)}" for names in needed if not set(names) & set(header)]
    unknown = sorted(set(header) - set(known)) if known else []
    if unknown:
        errors.append(f"has columns that are not known: {short(unknown)} (known: {', '.join(known)})")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        errors.append(f"names columns twice: {short(twice)}")
    if errors:
        raise DataError([f"{path}: line {line}: the header {error}, got {short(list(header))}" for error in errors])


def _any_of(names: Sequence[str]) -> str:
    others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    return f'"{names[0]}"{others}'


def iter_parquet(
    path: Path, needed: Needed = (), columns: Sequence[str] | None = None
) -> Iterator[tuple[Location, Any]]:
    """The records of a Parquet file that has the columns ``needed``; of its columns, those in ``columns`` (None: all).

    Raises:
        DataError: the file is missing, empty or damaged, or misses a column.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if not path.stat().st_size:
            raise DataError(f"{path}: empty file")
        with pa.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, names, needed)
            # What looks like an id is read, so that one under a name that is not known can be named.
            kept = columns and [name for name in names if name in columns or name.lower().endswith("id")]
            yield from _numbered(file.iter_batches(batch_size=1000, columns=kept))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {_one_line(error)}") from error


def iter_saved(path: Path, needed: Needed = ()) -> Iterator[tuple[Location, Any]]:
    """The records of a folder that ``Dataset.save_to_disk`` wrote, of data with the columns ``needed``.

    Raises:
        DataError: the folder is of another kind, holds several splits, is damaged, or misses a column.
    """
    if (path / "dataset_dict.json").is_file():
        raise DataError(f"{path}: holds several splits: name one of its folders, {_splits(path)}")
    if not ((path / "state.json").is_file() and (path / "dataset_info.json").is_file()):
        raise DataError(f"{path}: is a folder, and not one that Dataset.save_to_disk wrote (no state.json)")
    import pyarrow as pa
    from datasets import Dataset

    try:
        dataset = Dataset.load_from_disk(str(path))
        _check_columns(path, dataset.column_names, needed)
        yield from _numbered(dataset.with_format("arrow").iter(batch_size=1000))
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a folder of Dataset.save_to_disk: {_one_line(error)}") from error


def _splits(path: Path) -> str:
    try:
        names = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    except (ValueError, KeyError, TypeError, OSError):
        names = ["train", "validation"]
    return " or ".join(str(path / str(name)) for name in names)


def _check_columns(path: Path, columns: Sequence[str], needed: Needed) -> None:
    missing = [names for names in needed if not set(names) & set(columns)]
    if missing:
        raise DataError(
            [f"{path}: misses the column {_any_of(names)}, got {short(list(columns))}" for names in missing]
        )


def _numbered(tables: Any) -> Iterator[tuple[Location, Any]]:
    number = 0
    for table in tables:
        for row in table.to_pylist():
            number += 1
            yield ("row", number), row


def _one_line(error: Exception) -> str:
    return short(str(error)) if "\n" in str(error) else str(error)


ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")  # each but the last also with .gz


def file_errors(path: Path, endings: Collection[str] = ENDINGS, *, folders: bool = False) -> list[str]:
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
) -> Iterator[tuple[Location, Any]]:
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
    errors = file_errors(path, endings, folders=folders)
    if errors:
        raise DataError(errors)
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


def may_be_squad(path: str) -> bool:
    """Whether a file is in SQuAD's form by its first record, or cannot be read, which our reader says best."""
    file = Path(path)
    if not file.is_dir() and ending_of(file) not in ENDINGS:
        return not file.exists()
    try:
        first = next((record for _, record in iter_file(file)), None)
    except DataError:
        return True
    if not isinstance(first, Mapping):
        return True
    return "paragraphs" in first or ("question" in first and bool({"context", "answers", "answer"} & set(first)))


def load_any_file(path: str, settings: Mapping[str, Any]) -> "Dataset":
    """A file of any kind that `datasets` reads, by its ending; or a folder.

    Raises:
        DataError: the file is missing, or cannot be read.
    """
    import datasets

    file = Path(path)
    if not file.exists():
        raise DataError(f"{path}: no such file")
    try:
        if file.is_dir() and any((file / name).is_file() for name in ("state.json", "dataset_info.json")):
            return datasets.Dataset.load_from_disk(path)
        options = {"split": "train", "cache_dir": settings.get("cache_dir")}
        if file.is_dir():
            return datasets.load_dataset(path, **options)
        ending = ending_of(file)
        options |= {"data_files": path} | ({"sep": "\t"} if ending == ".tsv" else {})
        return datasets.load_dataset(_BUILDERS.get(ending, ending.removeprefix(".")), **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise DataError(f"{path}: cannot be read: {reason}") from error


def concatenated(parts: "Sequence[Dataset]") -> "Dataset":
    """Data sets one after another."""
    from datasets import concatenate_datasets

    return parts[0] if len(parts) == 1 else concatenate_datasets(list(parts))
