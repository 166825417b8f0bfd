"""The reader for tasks of one's own: rows of any columns, of JSON, JSON lines, Parquet or ``Dataset.save_to_disk``."""

import functools
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from model_hub_rqa.data.arrow_cache import Reader
from model_hub_rqa.data.checks import Checks
from model_hub_rqa.data.file_loaders import Records
from model_hub_rqa.data.files import iter_file

_ENDINGS = (".json", ".jsonl", ".parquet")


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
    checks = Checks(path, on_bad_record)
    rows: list[dict[str, Any]] = []
    for place, record in iter_file(Path(path), [(name,) for name in columns], endings=_ENDINGS):
        if not checks.is_object(place, record):
            continue
        missing = [name for name in columns if record.get(name) is None]
        faults = [f"must have {', '.join(missing)}, found {', '.join(record)}"] if missing else []
        if checks.passed(place, None, faults):
            rows.append(record)
    skipped = checks.finish(len(rows))
    return Records(rows, skipped, checks.n_bad)


def rows_reader(*columns: str) -> Reader:
    """:func:`read_rows` in the form of a reader, for a trial's ``build_reader``: ``rows_reader("id", "sentences")``."""
    return functools.partial(_read, columns)


def _read(columns: Sequence[str], path: str, on_bad_record: str) -> Records:
    return read_rows(path, columns=columns, on_bad_record=on_bad_record)
