"""Seeded random parts of a data set, the same in every process and on every rank."""

from typing import TYPE_CHECKING

from model_hub_rqa.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def split_off(dataset: "Dataset", percentage: float, seed: int) -> "tuple[Dataset, Dataset]":
    """Draws ``percentage`` of the examples, rounded to the closest count.

    Returns:
        What remains, and what was drawn: disjoint, each in the order of ``dataset``.

    Raises:
        DataError: one of the two would be empty.
    """
    total = len(dataset)
    count = round(total * percentage / 100)
    if not 0 < count < total:
        raise DataError(
            f"data.validation_split_percentage: {percentage}% of {total:,} examples leaves {total - count:,} for "
            f"training and {count:,} for validation, each must have at least 1"
        )
    drawn = _permutation(total, seed)
    return dataset.select(sorted(drawn[count:])), dataset.select(sorted(drawn[:count]))


def subsample(dataset: "Dataset", limit: int | None, seed: int) -> "Dataset":
    """At most ``limit`` examples (None: all), drawn at random, in the order of ``dataset``."""
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.select(sorted(_permutation(len(dataset), seed)[:limit]))


def _permutation(total: int, seed: int) -> list[int]:
    import numpy as np

    order: list[int] = np.random.default_rng(seed).permutation(total).tolist()
    return order
