"""Training and validation data: from files or the hub, split, cut down and stripped to what a model takes."""

import functools
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.arrow_cache import FileLoader, cached_dataset, cached_records
from model_hub_rqa.data.file_loaders import SQUAD_FEATURES, Records, read_squad
from model_hub_rqa.data.files import concatenated, load_any_file, may_be_squad
from model_hub_rqa.data.hub import check_unanswerable, load_every_split, load_hub_split, load_hub_splits
from model_hub_rqa.data.shards import FileCounts, Shard, count_file, join, matching_files, number_through
from model_hub_rqa.data.slices import FileSlice, parse_slice, parse_slices, split_off, subsample
from model_hub_rqa.errors import ConfigError, DataError, ErrorCollector

if TYPE_CHECKING:
    import torch
    from datasets import Dataset, DatasetDict

_FILE_FIELDS = {"train": "train_file", "validation": "validation_file"}
_LIMIT_FIELDS = {"train": "max_train_samples", "validation": "max_eval_samples"}
_FIELDS = (
    *("dataset_name", "dataset_config_name", "revision", "token", *_FILE_FIELDS.values(), *_LIMIT_FIELDS.values()),
    *("validation_split_percentage", "on_bad_record", "cache_dir", "overwrite_cache", "version_2_with_negative"),
)

logger = logging.getLogger(__name__)


def load_splits(
    data_config: Any,
    *,
    seed: int = 42,
    reader: FileLoader | None = None,
    version_2_with_negative: bool | None = None,
) -> "DatasetDict":
    """Training and validation data, as the fields of :class:`~model_hub_rqa.config.DatasetKwargs` describe them.

    Either ``train_file``, or ``dataset_name`` (on the hub, or a folder that ``datasets.load_dataset`` takes): files win
    where both are given, so that local files can stand in for what a configuration names. ``train_file`` is with, or
    without, ``validation_file``. Either may be a list of files, and a file a pattern of several (``shards/*.json``, in
    the order of their names). A file may be a part of one, and a pattern of its files together:
    ``train.json[:4000]``, ``[1000:2000]`` or ``[:10%]``, counted after the whole file has been validated. Where there
    is no validation data, ``validation_split_percentage`` of the training data, drawn at random by ``seed``, becomes it
    (examples are drawn one by one: questions about one paragraph may fall on both sides); where there is, the
    percentage is ignored. ``max_train_samples`` and ``max_eval_samples`` then keep as many examples, drawn at random by
    ``seed``, in their order.

    Args:
        data_config: an object with these attributes, or a mapping.
        seed: of the random draws.
        reader: ``reader(path, on_bad_record) -> Records`` for files; None for
            :func:`~model_hub_rqa.data.file_loaders.read_squad`, which checks the offsets of training files alone.
        version_2_with_negative: whether questions may be unanswerable, for read_squad; None to take it from
            data_config, where it is False by default. With a reader of your own it is ignored.

    Returns:
        "train" and "validation".

    Raises:
        ConfigError: the fields contradict one another, or the hub data cannot be had.
        DataError: all errors of both files; or a side has no example.
    """
    settings = _settings(data_config)
    if version_2_with_negative is None:
        version_2_with_negative = bool(settings["version_2_with_negative"])
    _check(settings)
    squad_version_2 = version_2_with_negative if reader is None else None
    if not settings["train_file"]:
        splits = load_hub_splits(settings, squad_version_2)
    else:
        splits = _load_files(settings, reader, squad_version_2)
    return _finish(splits, settings, seed)


def default_load_dataset(
    data_config: Any,
    *,
    seed: int = 42,
    reader: FileLoader | None = None,
    version_2_with_negative: bool | None = None,
) -> "DatasetDict":
    """Training and validation data in any form that `datasets` reads: csv, json, text, parquet, a folder, the hub.

    Data in SQuAD's form, nested or flat, and data for which ``reader`` or ``version_2_with_negative`` is given, are
    loaded and validated by `load_splits`. Other files are read by what their ending says, a folder as
    ``Dataset.save_to_disk`` wrote it or as ``datasets.load_dataset`` takes it, and every split of a data set of the hub
    is kept. Without validation data, ``validation_split_percentage`` of the training data becomes it; without that,
    there is no validation split.

    Args:
        data_config: an object with the fields of :class:`~model_hub_rqa.config.DatasetKwargs`, or a mapping; other
            fields are ignored.
        seed: of the random draws.
        reader, version_2_with_negative: as `load_splits` takes them.

    Raises:
        ConfigError: the fields contradict one another, or the data cannot be had.
        DataError: a file is missing, empty or damaged; or all errors of data in SQuAD's form.
    """
    settings = _settings(data_config)
    _check(settings)
    load = functools.partial(
        load_splits, data_config, seed=seed, reader=reader, version_2_with_negative=version_2_with_negative
    )
    if reader is not None or version_2_with_negative is not None:
        return load()
    if not settings["train_file"]:
        found = load_every_split(settings)
        squad = all(set(SQUAD_FEATURES) - {"title"} <= set(split.column_names) for split in found.values())
        return load() if squad else _finish(found, settings, seed, needs_validation=False)
    slices = _parse_slices(settings)
    files = {split: [(part, matching_files(part.path)) for part in parts] for split, parts in slices.items()}
    if all(may_be_squad(path) for of_split in files.values() for _, paths in of_split for path in paths):
        return load()
    splits = {
        split: concatenated([_cut(load_any_file(path, settings), part) for part, paths in of_split for path in paths])
        for split, of_split in files.items()
    }
    return _finish(splits, settings, seed, needs_validation=False)


def load_split(
    data_config: Any,
    split: str,
    *,
    seed: int = 42,
    reader: FileLoader | None = None,
    version_2_with_negative: bool = False,
) -> "Dataset":
    """One side of what `load_splits` loads: "train" or "validation", from its file or else its data set.

    Unlike there, questions of v2.0 need not be unanswerable here: another set may hold those.

    Raises:
        ConfigError: neither is given, or the hub data cannot be had or have no such split.
        DataError: all errors of the file.
    """
    settings = _settings(data_config)
    field = _FILE_FIELDS[split]
    if settings[field]:
        parts = parse_slices(settings[field], f"data.{field}")
        shards = _read_parts(settings, parts, reader or _squad_reader_of(split, version_2_with_negative))
        found = _join_parts(settings, split, parts, shards)
    elif settings["dataset_name"]:
        found = load_hub_split(settings, split, version_2_with_negative if reader is None else None)
    else:
        raise ConfigError(f"data.{field}: must be given, or dataset_name, got neither")
    return subsample(found, settings[_LIMIT_FIELDS[split]], seed)


def load_file(
    path: str | os.PathLike[str],
    *,
    version_2_with_negative: bool = False,
    require_answers: bool = True,
    require_offsets: bool = True,
    on_bad_record: str = "error",
    cache_dir: str | None = None,
    overwrite_cache: bool = False,
) -> "Dataset":
    """One SQuAD-style file, or a part of one (``dev.json[:100]``), validated and memory-mapped.

    Args:
        path: as :func:`~model_hub_rqa.data.file_loaders.read_squad` takes it, a slice may follow.
        version_2_with_negative: whether questions may be unanswerable.
        require_answers: False where answers may be missing, for a file to predict on.
        require_offsets: True for a file to train on, see `read_squad`.
        on_bad_record: "error", or "skip" to leave bad records out with a warning.
        cache_dir: as :func:`~model_hub_rqa.data.arrow_cache.cached_dataset` takes it.
        overwrite_cache: read the file anew.

    Raises:
        ConfigError: the slice is malformed.
        DataError: all errors of the file.
    """
    part = parse_slice(os.fspath(path))
    whole = cached_dataset(
        part.path,
        squad_reader(version_2_with_negative, require_answers=require_answers, require_offsets=require_offsets),
        on_bad_record=on_bad_record,
        cache_dir=cache_dir,
        overwrite_cache=overwrite_cache,
    )
    return _cut(whole, part)


def squad_reader(
    version_2_with_negative: bool, *, require_answers: bool = True, require_offsets: bool = True
) -> FileLoader:
    """:func:`~model_hub_rqa.data.file_loaders.read_squad` in the form of a reader: ``reader(path, on_bad_record)``."""
    return functools.partial(_read_squad, version_2_with_negative, require_answers, require_offsets)


def _read_squad(
    version_2_with_negative: bool, require_answers: bool, require_offsets: bool, path: str, on_bad_record: str
) -> Records:
    return read_squad(
        path,
        version_2_with_negative=version_2_with_negative,
        require_answers=require_answers,
        require_offsets=require_offsets,
        on_bad_record=on_bad_record,
    )


def _squad_reader_of(split: str, version_2_with_negative: bool) -> FileLoader:
    return squad_reader(version_2_with_negative, require_offsets=split == "train")


def _settings(data_config: Any) -> dict[str, Any]:
    if isinstance(data_config, Mapping):
        return {name: data_config.get(name) for name in _FIELDS}
    return {name: getattr(data_config, name, None) for name in _FIELDS}


def _check(settings: Mapping[str, Any]) -> None:
    errors = []
    files = [name for name in _FILE_FIELDS.values() if settings[name]]
    if "train_file" not in files and (files or not settings["dataset_name"]):
        errors.append("data.train_file: must be given, or dataset_name, got neither")
    for name in _LIMIT_FIELDS.values():
        if settings[name] is not None and settings[name] < 1:
            errors.append(f"data.{name}: must be at least 1, got {settings[name]!r}")
    if errors:
        raise ConfigError(errors)


def _load_files(
    settings: Mapping[str, Any], reader: FileLoader | None, squad_version_2: bool | None
) -> "dict[str, Dataset]":
    slices = _parse_slices(settings)
    errors = ErrorCollector()
    readers = {split: reader or _squad_reader_of(split, bool(squad_version_2)) for split in slices}
    whole = {split: errors.attempt(_read_parts, settings, slices[split], readers[split]) or [] for split in slices}
    errors.raise_any()
    if squad_version_2 is not None:
        every = {f"{split} {i}": shard.examples for split, of in whole.items() for i, shard in enumerate(of)}
        paths = ", ".join(dict.fromkeys(part.path for parts in slices.values() for part in parts))
        check_unanswerable(every, squad_version_2, paths)
    found: dict[str, Any] = {
        split: errors.attempt(_join_parts, settings, split, slices[split], whole[split]) for split in slices
    }
    errors.raise_any()
    return found


def _parse_slices(settings: Mapping[str, Any]) -> dict[str, list[FileSlice]]:
    errors = ErrorCollector()
    slices = {
        split: errors.attempt(parse_slices, settings[field], f"data.{field}") or []
        for split, field in _FILE_FIELDS.items()
        if settings[field]
    }
    errors.raise_any()
    return slices


def _read_parts(settings: Mapping[str, Any], parts: Sequence[FileSlice], reader: FileLoader) -> list[Shard]:
    """The files of one split, each once."""
    errors = ErrorCollector()
    paths = dict.fromkeys(path for part in parts for path in errors.attempt(matching_files, part.path) or ())
    shards: list[Any] = [errors.attempt(_read_file, settings, path, reader) for path in paths]
    errors.raise_any()
    number_through(shards)
    return shards


def _read_file(settings: Mapping[str, Any], path: str, reader: FileLoader) -> Shard:
    return Shard(
        *cached_records(
            path,
            reader,
            on_bad_record=settings["on_bad_record"] or "error",
            cache_dir=settings["cache_dir"],
            overwrite_cache=bool(settings["overwrite_cache"]),
        )
    )


def _join_parts(
    settings: Mapping[str, Any], split: str, parts: Sequence[FileSlice], shards: Sequence[Shard]
) -> "Dataset":
    """The slices of one split, one after another; hands on what became of the records of its files."""
    by_path = {shard.counts.file: shard for shard in shards}
    skip = settings["on_bad_record"] == "skip"
    cut: list[tuple[str, Dataset]] = []
    errors: list[str] = []
    n_left_out = 0
    for part in parts:
        files = [(path, by_path[path].examples) for path in matching_files(part.path)]
        try:
            whole, n_twice = join(files, skip=skip)
            cut.append((part.path, _cut(whole, part)))
            n_left_out += n_twice
        except DataError as error:
            errors += error.errors
    if errors:
        raise DataError(errors)
    joined, n_twice = join(cut, skip=skip)
    for shard in shards:
        count_file(replace(shard.counts, split=split))
    if n_left_out + n_twice:
        logger.warning("%d records left out whose id an earlier file has", n_left_out + n_twice)
        count_file(FileCounts(f"data.{_FILE_FIELDS[split]}", 0, n_left_out + n_twice, split=split))
    return joined


def _cut(dataset: "Dataset", part: FileSlice) -> "Dataset":
    start, stop = part.bounds(len(dataset))
    return dataset if (start, stop) == (0, len(dataset)) else dataset.select(range(start, stop))


def _finish(
    splits: "dict[str, Dataset]", settings: Mapping[str, Any], seed: int, *, needs_validation: bool = True
) -> "DatasetDict":
    from datasets import DatasetDict

    parts = dict(splits)
    percentage = settings["validation_split_percentage"]
    if "validation" not in parts and (percentage or needs_validation):
        if not percentage:
            raise ConfigError("data.validation_split_percentage: must be given where there is no validation data")
        parts["train"], parts["validation"] = split_off(parts["train"], percentage, seed)
    limited = {split: _LIMIT_FIELDS[split] for split in parts if split in _LIMIT_FIELDS}
    return DatasetDict(
        {**parts, **{split: subsample(parts[split], settings[limit], seed) for split, limit in limited.items()}}
    )


def remove_unused_columns(model: "torch.nn.Module", dataset: "Dataset") -> "Dataset":
    """Hides the columns that ``model.forward`` has no argument for, as transformers' Trainer does; logs their names.

    Args:
        model: its forward method tells the arguments; a wrapper that keeps the model in ``module`` is looked through.
        dataset: features. Its format is changed in place: rows show the other columns (and label, label_ids, labels
            where present) alone.

    Returns:
        ``dataset`` itself.

    Raises:
        DataError: no column would be shown.
    """
    from torch.nn.parallel import DistributedDataParallel

    inner: Any = model
    while isinstance(inner, DistributedDataParallel):  # it takes any argument and hands it on
        inner = inner.module
    name = f"{type(inner).__name__}.forward"
    kept = {*inspect.signature(inner.forward).parameters, "label", "label_ids", "labels"}
    dropped = [column for column in dataset.column_names if column not in kept]
    if len(dropped) == len(dataset.column_names):
        raise DataError(f"remove_unused_columns: {name} takes none of the columns {dropped}")
    if dropped:
        logger.info("columns that %s does not take are hidden: %s", name, ", ".join(dropped))
    dataset.set_format(type=dataset.format["type"], columns=[one for one in dataset.column_names if one in kept])
    return dataset
