"""What every trial's features and batches have: the columns ``length`` and ``example_index``."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from model_hub_rqa.errors import DataError, ErrorCollector, RqaError
from model_hub_rqa.registry import own_frames

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

LENGTH, INDEX = "length", "example_index"
_ROWS_AT_ONCE = 10_000


def complete_datasets(datasets: Any, examples: Mapping[str, Any], source: str) -> "dict[str, Dataset]":
    """The features of "train" and "validation", each as `complete_features` gives them.

    Args:
        datasets: what a trial's ``build_datasets`` gave.
        examples: the examples of each split.
        source: for messages.

    Raises:
        DataError: all errors of both splits; or a split is missing.
    """
    names = ("train", "validation")
    if not isinstance(datasets, Mapping) or any(name not in datasets for name in names):
        got = ", ".join(map(str, datasets)) if isinstance(datasets, Mapping) else type(datasets).__name__
        raise DataError(f"{source}: must give train and validation, got {got or 'nothing'}")
    errors = ErrorCollector()
    made = {
        name: errors.attempt(complete_features, datasets[name], examples.get(name), f"{source}: {name}")
        for name in names
    }
    errors.raise_any()
    return {name: features for name, features in made.items() if features is not None}


def complete_features(features: Any, examples: Any, source: str) -> "Dataset":
    """Features with ``length``, their tokens, and ``example_index``, the row of the example that each is made of.

    A ``length`` that is missing is that of ``input_ids``, or else of the longest list of numbers (of nested lists, the
    numbers in them). A missing ``example_index`` is the row's number where the columns that both have
    show that the rows are the examples.

    Args:
        features: a datasets.Dataset.
        examples: what they are made of.
        source: for messages.

    Raises:
        DataError: a column cannot be known, or holds no whole numbers.
    """
    if not hasattr(features, "column_names") or not hasattr(features, "add_column"):
        raise DataError(f"{source}: must be a datasets.Dataset, got {type(features).__name__}")
    errors = []
    lists = _lists_of_numbers(features)
    if LENGTH not in features.column_names and not lists:
        errors.append(
            f"{source}: must have the column {LENGTH}, the tokens of each feature: it is counted only where there is "
            f"a list of numbers such as input_ids; got {', '.join(features.column_names)}"
        )
    if INDEX not in features.column_names and not _same_rows(features, examples):
        errors.append(
            f"{source}: must have the column {INDEX}, for each feature the row of self.examples that it is made of, "
            "since features need not be one to one with examples: self.map_examples adds it where it maps row by row, "
            f"a batched function has to give it (with_indices=True); got {', '.join(features.column_names)}"
        )
    for name in (LENGTH, INDEX):
        kind = str(getattr(features.features.get(name), "dtype", "a list")) if name in features.column_names else "int"
        if not kind.startswith(("int", "uint")):
            errors.append(f"{source}: {name} must be a whole number, got {kind}")
    if errors:
        raise DataError(errors)
    if LENGTH not in features.column_names:
        features = _with_column(features, LENGTH, _count(features, lists))
    return with_row_numbers(features)


def with_row_numbers(features: "Dataset") -> "Dataset":
    """Adds ``example_index``, the rows' indices, where it is missing."""
    return features if INDEX in features.column_names else _with_column(features, INDEX, np.arange(len(features)))


def with_shifted_rows(features: "Dataset", by: int) -> "Dataset":
    """Adds a number to ``example_index``, for the features of examples that stand behind others."""
    if by == 0:
        return features
    shifted = (np.asarray(features[INDEX][:]) + by).astype(features.features[INDEX].dtype)
    return _with_column(features.remove_columns(INDEX), INDEX, shifted)


def _with_column(features: "Dataset", name: str, values: np.ndarray) -> "Dataset":
    format_ = features.format
    plain = features.with_format(None)  # datasets may fail to rewrite rows in another format
    every = set(format_["columns"]) == set(features.column_names)
    return plain.add_column(name, values).with_format(
        format_["type"],
        columns=None if every else [*format_["columns"], name],
        output_all_columns=format_["output_all_columns"],
        **format_["format_kwargs"],
    )


def check_batch(
    collate: Callable[[list[Any]], Any], features: "Dataset", split: str, *, indexed: bool, source: str
) -> None:
    """Tries a collator on two features.

    Args:
        collate: the collator.
        features: those of a split.
        split: for messages.
        indexed: whether the batch must say by ``example_index`` which example each of its rows is of.
        source: for messages.

    Raises:
        DataError: it fails, or the batch has no such column.
    """
    rows = [features[number] for number in range(min(2, len(features)))]
    try:
        batch = collate(rows)
    except RqaError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise DataError(
            f"{source}: fails on two {split} features ({', '.join(rows[0])}):\n{own_frames(error)}"
        ) from error
    columns = batch if isinstance(batch, Mapping) else {}
    if indexed and not hasattr(columns.get(INDEX), "tolist"):
        got = ", ".join(map(str, columns)) or type(batch).__name__
        raise DataError(
            f"{source}: a batch must have the column {INDEX}, a tensor with a number for each of its rows, by which a "
            f"validation knows the examples; got {got}"
        )


def _lists_of_numbers(features: "Dataset") -> list[str]:
    """The columns that count as tokens: input_ids where it is one, else every list of numbers, nested or not."""
    schema = features.data.schema
    found = [name for name in features.column_names if _holds_numbers(schema.field(name).type)]
    return ["input_ids"] if "input_ids" in found else found


def _holds_numbers(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    if not (types.is_list(kind) or types.is_large_list(kind)):
        return False
    inner = kind.value_type
    return types.is_integer(inner) or types.is_floating(inner) or _holds_numbers(inner)


def _count(features: "Dataset", columns: Sequence[str]) -> np.ndarray:
    """For each row the numbers in the longest of these columns."""
    parts = [np.empty(0, np.int64)]
    for table in features.select_columns(list(columns)).with_format("arrow").iter(_ROWS_AT_ONCE):
        counts = [np.concatenate([_count_chunk(chunk) for chunk in table[name].chunks]) for name in columns]
        parts.append(np.max(counts, axis=0))
    return np.concatenate(parts)


def _count_chunk(lists: "pa.Array") -> np.ndarray:
    import pyarrow.compute as pc
    import pyarrow.types as types

    counts = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    inner = lists.flatten()
    if not (types.is_list(inner.type) or types.is_large_list(inner.type)):
        return np.asarray(counts)
    sums = np.concatenate([[0], np.cumsum(_count_chunk(inner))])
    ends = np.cumsum(counts)
    return np.asarray(sums[ends] - sums[ends - counts])


def _same_rows(features: "Dataset", examples: Any) -> bool:
    """Whether the rows are the examples, in their order: the columns that both have are the same."""
    names = [name for name in getattr(examples, "column_names", ()) if name in features.column_names]
    if not names or len(features) != len(examples):
        return False
    one, other = (rows.select_columns(names).with_format("arrow")[:].select(names) for rows in (features, examples))
    return bool(one.equals(other))
