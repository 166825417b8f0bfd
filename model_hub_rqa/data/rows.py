"""The reader for tasks of one's own: rows of any columns, of JSON, JSON lines, Parquet or ``Dataset.save_to_disk``."""

import functools
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.arrow_cache import Reader
from model_hub_rqa.data.fusion_records import raw_records
from model_hub_rqa.data.readers import Records
from model_hub_rqa.data.tables import iter_parquet, iter_saved
from model_hub_rqa.data.text_files import where
from model_hub_rqa.errors import ConfigError, DataError


def read_rows(path: str | PathLike[str], *, columns: Sequence[str] = (), on_bad_record: str = "error") -> Records:
    """Reads a file of records that have ``columns``; further ones are kept as they are.

    Args:
        path: .json (a list, or a list under "data"), .jsonl, each also .gz; .parquet; or a folder that
            ``Dataset.save_to_disk`` wrote.
        columns: what each record must have, and not as null.
        on_bad_record: "error", or "skip" to leave faulty records out and return their faults.

    Raises:
        DataError: all faults, each with its place.
    """
    if on_bad_record not in ("error", "skip"):
        raise ConfigError(f'on_bad_record: must be "error" or "skip", found {on_bad_record!r}')
    file, broken = Path(path), list[str]()
    if file.is_dir():
        records = list(iter_saved(file, columns))
    elif file.name.lower().endswith(".parquet") and file.is_file():
        records = list(iter_parquet(file, columns))
    else:
        records = raw_records(file, broken)
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    for place, record in records:
        if not isinstance(record, dict):
            bad.append(f"{path}: {where(place)}: must be an object, found {type(record).__name__}")
        elif missing := [name for name in columns if record.get(name) is None]:
            bad.append(f"{path}: {where(place)}: must have {', '.join(missing)}, found {', '.join(record)}")
        else:
            rows.append(record)
    if broken or (bad and on_bad_record == "error") or not rows:
        raise DataError([*broken, *bad] or f"{path}: holds no record")
    return Records(rows, tuple(bad), len(bad))


def rows_reader(*columns: str) -> Reader:
    """:func:`read_rows` in the form of a reader, for a trial's ``build_reader``: ``rows_reader("id", "sentences")``."""
    return functools.partial(_read, columns)


def _read(columns: Sequence[str], path: str, on_bad_record: str) -> Records:
    return read_rows(path, columns=columns, on_bad_record=on_bad_record)
