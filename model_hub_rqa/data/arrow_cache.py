"""The validated rows of a file, written once as an Arrow file and memory-mapped from then on.

The file is named by a hash of all that its content depends on, and its fingerprint is that hash: so ``Dataset.map``
finds its own cache again in another process or on another rank, and an edited file never meets rows of before the
edit.
"""

import functools
import hashlib
import inspect
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.readers import Records
from model_hub_rqa.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

Reader = Callable[[str, str], Records]  # (path, on_bad_record) -> Records

FORMAT_VERSION = 1  # raise it whenever the package's readers, or the layout of the cached files, change what they give
_FOLDER = "model_hub_rqa"
_ROWS_PER_BATCH = 1000  # as datasets writes: random access to a row reads one batch
_SHOWN = 5

logger = logging.getLogger(__name__)


def cache_folder(cache_dir: str | None) -> Path:
    """Where this package keeps what it has made of data; None for the cache of datasets."""
    import datasets

    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / _FOLDER


def cached_dataset(
    path: str,
    reader: Reader,
    *,
    on_bad_record: str = "error",
    cache_dir: str | None = None,
    overwrite_cache: bool = False,
) -> "datasets.Dataset":
    """The rows of a file, through ``reader`` at first and from the Arrow cache afterwards.

    Several processes may call this at once: each builds under a name of its own and renames, the rows are the same. A
    process that dies meanwhile leaves no half-written file under the final name. Records that were left out are
    reported as a warning, also when the rows come from the cache.

    Args:
        path: a file, or a folder of ``Dataset.save_to_disk``.
        reader: called as ``reader(path, on_bad_record)``; a plain function, or a ``functools.partial`` of one.
        on_bad_record: "error" or "skip", for the reader.
        cache_dir: where the folder model_hub_rqa goes; None for the cache of datasets.
        overwrite_cache: read the file anew.

    Raises:
        DataError: what the reader raises.
        OSError: the cache cannot be written; the message names its path.
    """
    import datasets

    folder = cache_folder(cache_dir)
    try:
        key = _key(path, reader, on_bad_record)
    except OSError:
        reader(path, on_bad_record)  # says in its own words what is wrong with the file
        raise
    arrow, notes = folder / f"{key}.arrow", folder / f"{key}.json"
    if overwrite_cache or not (arrow.is_file() and notes.is_file()):
        records = reader(path, on_bad_record)
        if not records.rows:
            raise DataError(f"{path}: holds no record")
        noted = {"file": path, "n_skipped": max(records.n_skipped, len(records.skipped)), "skipped": records.skipped}
        _write(notes, lambda file: file.write(json.dumps(noted).encode()))
        _write(arrow, lambda file: _write_rows(file, records, key))  # last: its presence says that both are there
    _warn_of_skipped(path, json.loads(notes.read_text(encoding="utf-8")))
    return datasets.Dataset.from_file(str(arrow))


def _key(path: str, reader: Reader, on_bad_record: str) -> str:
    from datasets.fingerprint import Hasher

    # Hasher sees a partial's arguments and a closure's values; the source file stands for the reader's own code.
    parts = [str(FORMAT_VERSION), Hasher.hash(reader), _source_digest(reader), on_bad_record, content_digest(path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def content_digest(path: str) -> str:
    """SHA-256, in hexadecimal, of a file, or of the names and contents of a folder's files.

    Raises:
        OSError: it cannot be read.
    """
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(file for file in Path(path).rglob("*") if file.is_file())
    listed = [f"{file.relative_to(path).as_posix()} {content_digest(str(file))}" for file in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _source_digest(reader: Callable[..., Any]) -> str:
    while isinstance(reader, functools.partial):
        reader = reader.func
    try:
        source = inspect.getsourcefile(reader if inspect.isroutine(reader) else type(reader))
    except TypeError:  # built into Python
        source = None
    return content_digest(source) if source and os.path.isfile(source) else ""


def _write(target: Path, write: Callable[[Any], Any]) -> None:
    """Writes under another name and renames, so that the final name only ever shows the whole file."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the cache of data: {error.strerror or error}", str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_rows(file: Any, records: Records, key: str) -> None:
    import pyarrow as pa

    schema = _schema(records, key)
    with pa.ipc.new_stream(file, schema) as writer:
        for begin in range(0, len(records.rows), _ROWS_PER_BATCH):
            rows = records.rows[begin : begin + _ROWS_PER_BATCH]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))


def _schema(records: Records, key: str) -> "pa.Schema":
    import datasets
    import pyarrow as pa

    if records.features is None:
        features = datasets.Features.from_arrow_schema(pa.Table.from_pylist(records.rows).schema)
    else:
        features = datasets.Features(feature_types(records.features))
    schema = features.arrow_schema
    # Where datasets looks for the fingerprint; without it, it would be made of the file's path and time.
    known = json.loads(schema.metadata[b"huggingface"])
    return schema.with_metadata({"huggingface": json.dumps({**known, "fingerprint": key[:32]})})


def feature_types(plain: Any) -> Any:
    """The types of datasets for a plain description of columns, as `Records.features` has them."""
    import datasets

    if isinstance(plain, Mapping):
        return {name: feature_types(kind) for name, kind in plain.items()}
    return datasets.List(feature_types(plain[0])) if isinstance(plain, list) else datasets.Value(plain)


def _warn_of_skipped(path: str, noted: dict[str, Any]) -> None:
    if not noted["n_skipped"]:
        return
    # The same content may have been read under another name before.
    lines = [
        path + line.removeprefix(noted["file"]) if line.startswith(noted["file"]) else line for line in noted["skipped"]
    ]
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    logger.warning("%s: %d faulty records left out:\n%s", path, noted["n_skipped"], "\n".join([*lines[:_SHOWN], *more]))
