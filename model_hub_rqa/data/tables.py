"""Rows out of CSV, Parquet and folders of ``Dataset.save_to_disk``, as flat records with their places."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model_hub_rqa.data.text_files import Place, Unreadable, loads, read_text, short
from model_hub_rqa.errors import DataError

_NEEDED = ("id", "question", "context")
_ANSWER_PAIR = ("answer_text", "answer_start")
_CSV_COLUMNS = (*_NEEDED, "title", "answers", *_ANSWER_PAIR)
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def iter_csv(path: Path, *, require_answers: bool) -> Iterator[tuple[Place, Any]]:
    """The records of a CSV file: id, question, context, optionally title, and either ``answers`` (JSON) or the two
    columns answer_text and answer_start (one answer; both empty for none). Text is never taken for a null or a number.

    Raises:
        DataError: the file cannot be read, a quote is never closed, or the header breaks a rule.
    """
    rows = _csv_rows(path)
    if not rows:
        raise DataError(f"{path}: empty file")
    header = rows[0][1]
    _check_csv_header(path, header, require_answers)
    for line, row in rows[1:]:
        if len(row) == len(header):
            yield ("line", line), _csv_record(dict(zip(header, row, strict=True)))
        else:
            yield ("line", line), Unreadable(f"must have {len(header)} fields as the header, found {len(row)}")


def _csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Every row that is not blank, with the line that it begins on (a quoted field may hold line ends)."""
    text = read_text(path)
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    rows = []
    reader = csv.reader(_lines(text), strict=True)
    try:
        begins = 1
        for row in reader:
            if row:
                rows.append((begins, row))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {begins}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)  # the limit is the whole process's
    return rows


def _lines(text: str) -> Iterator[str]:
    """The text in pieces that end with a line feed, as a file opened with newline="" hands them out."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin) + 1 or len(text)
        yield text[begin:end]
        begin = end


def _check_csv_header(path: Path, header: Sequence[str], require_answers: bool) -> None:
    faults = [f'misses the column "{name}"' for name in _NEEDED if name not in header]
    pair = [name for name in _ANSWER_PAIR if name in header]
    if "answers" in header and pair:
        faults.append(f'must have either "answers" or {" and ".join(_ANSWER_PAIR)}, found both')
    elif len(pair) == 1:
        faults.append(f'must have both of {" and ".join(_ANSWER_PAIR)}, found only "{pair[0]}"')
    elif "answers" not in header and not pair and require_answers:
        faults.append(f'misses the column "answers" (or {" and ".join(_ANSWER_PAIR)})')
    unknown = sorted(set(header) - set(_CSV_COLUMNS))
    if unknown:
        faults.append(f"has columns that are not known: {short(unknown)} (known: {', '.join(_CSV_COLUMNS)})")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        faults.append(f"names columns twice: {short(twice)}")
    if faults:
        raise DataError([f"{path}: line 1: the header {fault}, found {short(list(header))}" for fault in faults])


def _csv_record(row: dict[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = {name: row[name] for name in (*_NEEDED, "title") if name in row}
    if "answer_text" in row:
        text, start = row["answer_text"], row["answer_start"]
        pairs = [] if text == start == "" else [(text, int(start) if _INTEGER.fullmatch(start) else start)]
        record["answers"] = {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}
    elif "answers" in row:
        record["answers"] = _csv_answers(row["answers"])
    return record


def _csv_answers(cell: str) -> Any:
    if not cell.strip():
        return None
    try:
        return loads(cell)
    except ValueError as error:
        return Unreadable(f"answers: {error}, found {short(cell)}")


def squad_columns(require_answers: bool) -> tuple[str, ...]:
    """The columns that SQuAD's form needs in a table."""
    return (*_NEEDED, "answers") if require_answers else _NEEDED


def iter_parquet(path: Path, needed: Sequence[str]) -> Iterator[tuple[Place, Any]]:
    """The records of a Parquet file that has the columns ``needed``.

    Raises:
        DataError: the file is missing, empty or damaged, or misses a column.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if not path.stat().st_size:
            raise DataError(f"{path}: empty file")
        with pa.parquet.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, needed)
            yield from _numbered(file.iter_batches())
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {_one_line(error)}") from error


def iter_saved(path: Path, needed: Sequence[str]) -> Iterator[tuple[Place, Any]]:
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


def _check_columns(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError([f'{path}: misses the column "{name}", found {short(list(columns))}' for name in missing])


def _numbered(tables: Any) -> Iterator[tuple[Place, Any]]:
    number = 0
    for table in tables:
        for row in table.to_pylist():
            number += 1
            yield ("row", number), row


def _one_line(error: Exception) -> str:
    return short(str(error)) if "\n" in str(error) else str(error)
