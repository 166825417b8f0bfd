"""The validated rows of a file, and what is made of them, each written once as an Arrow file and memory-mapped.

A file is named by a hash of all that its content depends on, the code that makes it included: so it is found again in
another process or on another rank, and an edit of the data or of the code never meets rows of before the edit.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
import logging
import os
import pickle
import pickletools
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import model_hub_rqa
from model_hub_rqa.data.file_loaders import Records
from model_hub_rqa.data.shards import FileCounts, count_file
from model_hub_rqa.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

FileLoader = Callable[[str, str], Records]  # (path, on_bad_record) -> Records

FORMAT_VERSION = 2  # raise it whenever the package's readers, or the layout of the cached files, change what they give
_FOLDER = "model_hub_rqa"
_ROWS_PER_BATCH = 1000  # as datasets writes: random access to a row reads one batch
_SHOWN = 5
_PACKAGE = os.path.dirname(os.path.realpath(model_hub_rqa.__file__))
_STANDARD_LIBRARY = os.path.dirname(os.path.realpath(os.__file__)) + os.sep

logger = logging.getLogger(__name__)


def cache_folder(cache_dir: str | None) -> Path:
    """Where this package keeps what it has made of data; None for the cache of datasets."""
    import datasets

    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / _FOLDER


def cached_dataset(
    path: str,
    reader: FileLoader,
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
    dataset, counts = cached_records(
        path, reader, on_bad_record=on_bad_record, cache_dir=cache_dir, overwrite_cache=overwrite_cache
    )
    count_file(counts)
    return dataset


def cached_records(
    path: str, reader: FileLoader, *, on_bad_record: str, cache_dir: str | None, overwrite_cache: bool
) -> "tuple[datasets.Dataset, FileCounts]":
    """As :func:`cached_dataset`, with the file's counts, which are not handed on."""
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
        noted = {
            "file": path,
            "skipped": records.skipped,
            "n_read": len(records.rows),
            "n_skipped": max(records.n_skipped, len(records.skipped)),
            **{name: getattr(records, name) for name in ("n_mended", "n_ignored", "numbered")},
        }
        _write(notes, lambda file: file.write(json.dumps(noted).encode()))
        _write(arrow, lambda file: _write_rows(file, records, key))  # last: its presence says that both are there
    noted = json.loads(notes.read_text(encoding="utf-8"))
    _report(path, noted)
    return datasets.Dataset.from_file(str(arrow)), _counts(path, noted)


def _counts(path: str, noted: Mapping[str, Any]) -> FileCounts:
    return FileCounts(path, *(noted[name] for name in ("n_read", "n_skipped", "n_mended", "n_ignored", "numbered")))


def _key(path: str, reader: FileLoader, on_bad_record: str) -> str:
    parts = [str(FORMAT_VERSION), function_digest(reader), on_bad_record, content_digest(path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def map_examples(
    examples: "datasets.Dataset",
    function: Callable[..., Any],
    *,
    overwrite_cache: bool = False,
    key: Any = None,
    **options: Any,
) -> "datasets.Dataset":
    """What ``function`` makes of all examples: ``Dataset.map``, whose cache holds until the data or the code changes.

    ``Dataset.map`` alone hashes a function of a module by its name: after an edit it returns what the old one made.

    Args:
        examples: the data set.
        function: as ``Dataset.map`` takes it.
        overwrite_cache: make the result anew, even if the cache has it.
        key: stands for the values that the function depends on where they are too large to hash; None to hash them.
        options: of ``Dataset.map``.
    """
    from datasets.fingerprint import Hasher, generate_random_fingerprint

    try:
        digest = function_digest(function, key)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s cannot be hashed, so its result is not kept for the next run: %s", function, error)
        digest = generate_random_fingerprint()
    fingerprint = Hasher.hash([examples._fingerprint, examples.format, digest, options])
    return examples.map(function, load_from_cache_file=not overwrite_cache, new_fingerprint=fingerprint, **options)


def map_features(
    examples: "datasets.Dataset",
    builder: Callable[..., Any],
    columns: Mapping[str, Any] | None = None,
    *,
    overwrite_cache: bool = False,
    batch_size: int = 512,
) -> "datasets.Dataset":
    """The features that ``builder`` makes of all examples, from the cache unless ``overwrite_cache``.

    Args:
        examples: the data set.
        builder: called with the columns of ``batch_size`` examples and their indices.
        columns: the types of the features' columns; None where the builder's values say them.
        overwrite_cache: make them anew.
        batch_size: examples tokenised at a time.

    Returns:
        A dataset in numpy format with the builder's columns.
    """
    from datasets import Features

    return map_examples(
        examples,
        builder,
        overwrite_cache=overwrite_cache,
        batched=True,
        batch_size=batch_size,
        with_indices=True,
        remove_columns=examples.column_names,
        features=None if columns is None else Features(columns),
        desc="tokenising",
    ).with_format("numpy")


def function_digest(function: Callable[..., Any], key: Any = None) -> str:
    """A hash of a function: of its arguments and of its source, the same in every process.

    The source is all of this package, and the file of each function and class that ``function`` holds, with the files
    that those import; of installed libraries only the file itself.

    Args:
        function: a function, a ``functools.partial``, a method or a callable object.
        key: is hashed in place of the function's own values, if it is not None.

    Raises:
        pickle.PicklingError, TypeError, AttributeError, RecursionError: a value cannot be hashed.
    """
    from datasets.utils._dill import dumps

    pickled = dumps(function if key is None else key)
    roots = [_source_file(function), *map(module_file, _modules_in(pickled))]
    parts = [hashlib.sha256(pickled).hexdigest(), source_digest(*roots)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def source_digest(*roots: str | None) -> str:
    """A hash of this package, its version and some source files, with what those import outside installed libraries.

    Args:
        roots: paths of source files; None is ignored.
    """
    waiting, found = [path for path in roots if path is not None], dict[str, str]()
    while waiting:
        path = os.path.realpath(waiting.pop())
        if path in found or path.startswith(_PACKAGE + os.sep) or not (path.endswith(".py") and os.path.isfile(path)):
            continue
        source = Path(path).read_bytes()
        found[path] = hashlib.sha256(source).hexdigest()
        if not _is_installed(path):
            waiting += _imported_files(path, source)
    return "\n".join([_package_digest(), *sorted(set(found.values()))])


@functools.cache
def _package_digest() -> str:
    files = sorted(Path(_PACKAGE).rglob("*.py"))
    return " ".join([model_hub_rqa.__version__, *(content_digest(str(file)) for file in files)])


def _modules_in(pickled: bytes) -> set[str]:
    """The modules whose functions and classes a pickle names."""
    names, before, last = set(), "", ""
    for opcode, argument, _ in pickletools.genops(pickled):
        if "UNICODE" in opcode.name:
            before, last = last, str(argument)
        elif opcode.name == "STACK_GLOBAL":  # module and name are the two strings before it: datasets keeps no memo
            names.add(before)
        elif opcode.name == "GLOBAL":
            names.add(str(argument).partition(" ")[0])
    return names


def _source_file(function: Callable[..., Any]) -> str | None:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return inspect.getsourcefile(function if inspect.isroutine(function) else type(function))
    except TypeError:  # built into Python
        return None


def module_file(name: str) -> str | None:
    return getattr(sys.modules.get(name), "__file__", None)


def _is_installed(path: str) -> bool:
    return "site-packages" in path or "dist-packages" in path or path.startswith(_STANDARD_LIBRARY)


def _imported_files(path: str, source: bytes) -> Iterator[str]:
    """Where the modules would be that a source file imports, wherever in it; nothing is imported for that."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _absolute(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            for alias in node.names:
                if node.level:
                    yield from _along(Path(path).parents[node.level - 1], [*module, alias.name])
                else:
                    yield from _absolute([*module, alias.name])


def _absolute(parts: list[str]) -> Iterator[str]:
    if parts[0] in sys.stdlib_module_names:
        return
    try:
        spec = importlib.util.find_spec(parts[0])
    except ValueError:  # a module that was made without a spec
        spec = None
    if spec is not None and spec.origin is not None and _is_installed(spec.origin):
        return
    if spec is not None and spec.origin is not None:
        yield spec.origin
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from _along(Path(folder), parts[1:])


def _along(folder: Path, parts: list[str]) -> Iterator[str]:
    yield str(folder / "__init__.py")
    for part in parts:
        yield str(folder / f"{part}.py")
        folder /= part
        yield str(folder / "__init__.py")


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


def _report(path: str, noted: dict[str, Any]) -> None:
    """Says what was mended and left out."""
    if noted["n_mended"] or noted["n_ignored"]:
        logger.info(
            "%s: answer_start was mended in %d records, %d answers with an answer_start of -1 are ignored",
            path,
            noted["n_mended"],
            noted["n_ignored"],
        )
    if not noted["n_skipped"]:
        return
    # The same content may have been read under another name before.
    lines = [
        path + line.removeprefix(noted["file"]) if line.startswith(noted["file"]) else line for line in noted["skipped"]
    ]
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    logger.warning("%s: %d bad records left out:\n%s", path, noted["n_skipped"], "\n".join([*lines[:_SHOWN], *more]))
