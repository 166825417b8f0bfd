"""Several data sets of a split: loaded one by one, then one after another, with the rows of each."""

import functools
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from model_hub_rqa.config.datasets import NamedDatasetKwargs
from model_hub_rqa.data.arrow_cache import FileLoader
from model_hub_rqa.data.formats.fields import parse_format
from model_hub_rqa.data.hub import check_unanswerable
from model_hub_rqa.data.loading import load_split
from model_hub_rqa.data.shards import counted_as
from model_hub_rqa.data.slices import subsample
from model_hub_rqa.errors import ConfigError, DataError, RqaError
from model_hub_rqa.registry import Loaded

logger = logging.getLogger(__name__)


Sets = Mapping[str, Any]
"""Data sets by name, in their order; the name is "" for the one set of a split that lists none."""


def load_datasets(
    sets: Mapping[str, Sequence[NamedDatasetKwargs]],
    *,
    seed: int,
    reader: FileLoader | None = None,
    version_2_with_negative: bool = False,
) -> Mapping[str, Sets]:
    """Loads every set of both splits.

    Args:
        sets: what `parse_datasets` gave.
        seed: of the draw of samples where a set has no seed of its own.
        reader: as `default_load_dataset` takes it; None for SQuAD's format.
        version_2_with_negative: whether questions may be unanswerable, in SQuAD's format; the data sets of a split are
            looked at together: one of v1.1 may stand beside one of v2.0.

    Returns:
        "train" and "validation", each a mapping of names to data sets.

    Raises:
        ConfigError, DataError: the errors of all sets.
    """
    loaded: dict[str, dict[str, Any]] = {split: {} for split in sets}
    errors: dict[type[RqaError], list[str]] = {ConfigError: [], DataError: []}
    for split, entries in sets.items():
        for number, one in enumerate(entries):
            try:
                own = reader_of(one, reader, f"data.{split}[{number}]" if one.name else f"data.{split}")
                loaded[split][one.name] = load_dataset(
                    one, split, seed=seed, reader=own, version_2_with_negative=version_2_with_negative
                )
            except (ConfigError, DataError) as error:
                lines = errors[type(error)]
                lines += [line for line in error.errors if line not in lines]
    for kind, lines in errors.items():
        if lines:
            raise kind([line for kept in errors.values() for line in kept])
    if reader is None and version_2_with_negative:
        parts = [(f"{split} {name}", part) for split, named in loaded.items() for name, part in named.items()]
        every = {location: getattr(part, "examples", part) for location, part in parts}
        check_unanswerable(every, True, "data")
    return loaded


def reader_of(one: NamedDatasetKwargs, reader: FileLoader | None, config_path: str) -> FileLoader | None:
    """The reader for a data set's own format, where it has one."""
    given = [name for name in ("format", "fields") if getattr(one, name) is not None]
    if not given:
        return reader
    if reader is None or one.factory or "question_format" not in inspect.signature(reader).parameters:
        rule = "is ignored, since the task reads its own format"
        raise ConfigError(f"{config_path}.{name}: {rule}" for name in given)
    try:
        return functools.partial(cast(Any, reader), question_format=parse_format(one.format, one.fields))
    except ConfigError as error:
        raise ConfigError(f"{config_path}.{line}" for line in error.errors) from error


def load_dataset(
    one: NamedDatasetKwargs, split: str, *, seed: int, reader: FileLoader | None, version_2_with_negative: bool
) -> Any:
    """One data set of a split ("train" or "validation"), of an entry of a list.

    Returns:
        The data set; a `Loaded` one where a registered factory loads it.
    """
    drawn_by = seed if one.seed is None else one.seed
    if one.factory is not None:
        with counted_as(split):
            found = one.factory.build(cache_dir=one.cache_dir, on_bad_record=one.on_bad_record or "error")
        loaded = found if isinstance(found, Loaded) else Loaded(found)
        limit = one.max_train_samples if split == "train" else one.max_eval_samples
        return replace(loaded, examples=subsample(loaded.examples, limit, drawn_by))
    return load_split(one, split, seed=drawn_by, reader=reader, version_2_with_negative=version_2_with_negative)


def join_datasets(parts: Sets) -> tuple[Any, dict[str, range]]:
    """Puts data sets one after another.

    Returns:
        The whole, and the indices of each set's examples in it. Of Hugging Face's data sets, the columns that
        all have are kept, in the types of the first; of others, the whole is a ``ConcatDataset``.

    Raises:
        DataError: the sets share no column, or have a column in types that do not fit.
    """
    bounds = {}
    begin = 0
    for name, part in parts.items():
        bounds[name] = range(begin, begin + len(part))
        begin += len(part)
    return _concatenate(parts), bounds


def _concatenate(parts: Sets) -> Any:
    import datasets
    import torch.utils.data
    from datasets.fingerprint import Hasher

    every = list(parts.values())
    if len(every) == 1:
        return every[0]
    if not all(isinstance(part, datasets.Dataset) for part in every):
        return torch.utils.data.ConcatDataset(every)
    first = every[0]
    columns = [name for name in first.column_names if all(name in part.column_names for part in every)]
    dropped = sorted({name for part in every for name in part.column_names} - set(columns))
    if not columns:
        listed = "; ".join(f"{name}: {part.column_names}" for name, part in parts.items())
        raise DataError(f"data: sets that are mixed must share their columns, got {listed}")
    if dropped:
        logger.info("columns that not every set has are dropped: %s", ", ".join(dropped))
    features = first.select_columns(columns).features
    aligned = []
    for name, part in parts.items():
        one = part.select_columns(columns)
        try:
            aligned.append(one if one.features == features else one.cast(features))
        except (ValueError, TypeError, OverflowError) as error:  # pyarrow's errors are of these kinds
            raise DataError(f"data: {name} does not have the types of the first set: {error}") from error
    whole = datasets.concatenate_datasets(aligned)
    # of the parts' own, so that it is the same in every process and Dataset.map finds its cache
    whole._fingerprint = Hasher.hash([one._fingerprint for one in aligned])
    return whole


def dataset_ids(bounds: Mapping[str, range], example_index: Sequence[int] | np.ndarray) -> np.ndarray:
    """The number of the set, in their order, that each example is in.

    Args:
        bounds: what `join_datasets` gave.
        example_index: of examples in the whole.
    """
    ends = [indices.stop for indices in bounds.values()]
    return np.searchsorted(ends, np.asarray(example_index), side="right")
