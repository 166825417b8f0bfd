"""Whether data are of the SQuAD version that version_2_with_negative says: only v2.0 has unanswerable questions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from model_hub_rqa.errors import ConfigError, DataError

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
            f"{str(version_2).lower()}, found {str(version_2_with_negative).lower()}"
        )


def check_unanswerable(splits: Mapping[str, "Dataset"], version_2_with_negative: bool, source: str) -> None:
    """Counts the unanswerable questions of all splits together: a part of v2.0 may well have none.

    Args:
        splits: data in the flat SQuAD form.
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
