"""Data sets of the hub, through ``datasets.load_dataset``; whether data are of the SQuAD version that is asked for."""

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.file_loaders import SQUAD_FEATURES
from model_hub_rqa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

_OFFICIAL = {"squad": False, "rajpurkar/squad": False, "squad_v2": True, "rajpurkar/squad_v2": True}


def check_official_name(dataset_name: str, version_2_with_negative: bool) -> None:
    """Before any download: the official data sets of the hub are of a known version.

    Raises:
        ConfigError: the name and version_2_with_negative disagree.
    """
    version_2 = _OFFICIAL.get(dataset_name.lower())
    if version_2 is not None and version_2 != version_2_with_negative:
        has = "has" if version_2 else "has no"
        raise ConfigError(
            f"data.dataset_name: {dataset_name} {has} unanswerable questions: set version_2_with_negative: "
            f"{str(version_2).lower()}, got {str(version_2_with_negative).lower()}"
        )


def check_unanswerable(splits: Mapping[str, "Dataset"], version_2_with_negative: bool, source: str) -> None:
    """Counts the unanswerable questions of all splits together: a part of v2.0 may well have none.

    Args:
        splits: data in the flat SQuAD format.
        version_2_with_negative: what the configuration says.
        source: what to call the data in the message.

    Raises:
        DataError: there are such questions in v1.1, or none in v2.0.
    """
    unanswerable = sum(count_unanswerable(dataset) for dataset in splits.values())
    total = sum(len(dataset) for dataset in splits.values())
    if version_2_with_negative and not unanswerable:
        raise DataError(f"{source}: none of {total:,} questions is unanswerable: set version_2_with_negative: false")
    if unanswerable and not version_2_with_negative:
        raise DataError(
            f"{source}: {unanswerable:,} of {total:,} questions are unanswerable: set version_2_with_negative: true"
        )


def count_unanswerable(dataset: "Dataset") -> int:
    """Questions with an empty list of answers, counted in Arrow without making a Python object of each."""
    counted = 0
    for batch in dataset.select_columns("answers").with_format("arrow").iter(batch_size=10_000):
        for chunk in batch.column("answers").chunks:
            # A sliced struct's own children ignore the slice, hence flatten().
            texts = chunk.flatten()[chunk.type.get_field_index("text")]
            counted += sum(length == 0 for length in texts.value_lengths().to_pylist())
    return counted


def load_hub_splits(settings: Mapping[str, Any], version_2_with_negative: bool | None) -> "dict[str, Dataset]":
    """The splits train and, where there is one, validation.

    Args:
        settings: dataset_name, dataset_config_name, revision, token, cache_dir, overwrite_cache.
        version_2_with_negative: for data in the SQuAD format; None for data of another format, of which nothing is
            checked. The single records of a hub data set are not validated as those of a file are.

    Raises:
        ConfigError: the data set cannot be had (no network, no such name, configuration or revision), has no split
            train, or is of the other SQuAD version by its name.
        DataError: it is not in the SQuAD format, or of the other version by its content.
    """
    name = settings["dataset_name"]
    if version_2_with_negative is not None:
        check_official_name(name, version_2_with_negative)
    found = _load(name, settings)
    if "train" not in found:
        raise ConfigError(f'data.dataset_name: {name} must have a split "train", got {sorted(map(str, found))}')
    splits = {split: found[split] for split in ("train", "validation") if split in found}
    if version_2_with_negative is not None:
        _check_format(name, splits)
        check_unanswerable(splits, version_2_with_negative, f"data.dataset_name: {name}")
    return splits


def load_every_split(settings: Mapping[str, Any]) -> "dict[str, Dataset]":
    """All splits of a data set of any format; raises ConfigError where it cannot be had."""
    return dict(_load(settings["dataset_name"], settings))


def load_hub_split(settings: Mapping[str, Any], split: str, version_2_with_negative: bool | None) -> "Dataset":
    """One split, as `load_hub_splits` loads both; its questions may all have answers.

    Raises:
        ConfigError: the data set cannot be had, or has no such split.
        DataError: it is not in the SQuAD format.
    """
    name = settings["dataset_name"]
    found = _load(name, settings)
    if split not in found:
        raise ConfigError(f'data.dataset_name: {name} must have a split "{split}", got {sorted(map(str, found))}')
    if version_2_with_negative is not None:
        _check_format(name, {split: found[split]})
        if not version_2_with_negative:
            check_unanswerable({split: found[split]}, False, f"data.dataset_name: {name}")
    dataset: Dataset = found[split]
    return dataset


def _load(name: str, settings: Mapping[str, Any]) -> Any:
    import datasets

    try:
        return datasets.load_dataset(
            name,
            settings.get("dataset_config_name"),
            revision=settings.get("revision"),
            token=settings.get("token"),
            cache_dir=settings.get("cache_dir"),
            # What was downloaded stays valid; what was made of it is made anew.
            download_mode="reuse_cache_if_exists" if settings.get("overwrite_cache") else None,
        )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # not the configuration's error
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"data.dataset_name: cannot load {name!r}: {type(error).__name__}: {reason}") from error


def _check_format(name: str, splits: "Mapping[str, Dataset]") -> None:
    errors = []
    for split, dataset in splits.items():
        missing = [column for column in SQUAD_FEATURES if column != "title" and column not in dataset.column_names]
        if missing:
            errors.append(
                f"data.dataset_name: {name}, split {split}: misses the columns {missing}, got {dataset.column_names}"
            )
        elif not _holds_two_lists(dataset.features["answers"]):
            errors.append(
                f"data.dataset_name: {name}, split {split}: answers must hold the lists text and answer_start, "
                f"got {dataset.features['answers']}"
            )
    if errors:
        raise DataError(errors)


def _holds_two_lists(feature: Any) -> bool:
    return isinstance(feature, Mapping) and set(feature) == set(SQUAD_FEATURES["answers"])
