"""The reader of rows of any columns, and Kendall's tau."""

import gzip
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy import stats

from model_hub_rqa.data.file_loaders import read_rows, rows_reader
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.metrics.ranking import kendall_tau

ROWS = [{"a": 1, "b": ["x"]}, {"a": 2, "b": ["y", "z"]}]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows{kind}"
    if kind == "":
        from datasets import Dataset

        Dataset.from_list(ROWS).save_to_disk(path)
    elif kind == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        lines = "\n".join(map(json.dumps, ROWS))
        text = {".json": json.dumps(ROWS), ".jsonl": lines, ".jsonl.gz": lines}[kind].encode()
        path.write_bytes(gzip.compress(text) if kind.endswith(".gz") else text)
    return path


@pytest.mark.parametrize("kind", [".json", ".jsonl", ".jsonl.gz", ".parquet", ""])
def test_every_form_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    """JSON, JSON lines, Parquet, and a folder of save_to_disk; a missing column is named."""
    path = written(tmp_path, kind)
    assert read_rows(path, columns=("a", "b")).rows == ROWS
    assert rows_reader("a")(str(path), "error").rows == ROWS
    with pytest.raises(DataError, match=r'must have c, got a, b|misses the column "c"'):
        read_rows(path, columns=("a", "c"))


def test_errors_are_named_together(tmp_path: Path) -> None:
    """Or left out, where that is wished and something remains."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": null, "b": 2}\n[3]\n')
    with pytest.raises(DataError, match=r"rows\.jsonl: line 2: must have a, got a, b") as caught:
        read_rows(path, columns=("a",))
    assert caught.value.errors == (
        f"{path}: line 2: must have a, got a, b",
        f"{path}: line 3: must be an object, got [3]",
    )
    kept = read_rows(path, columns=("a",), on_bad_record="skip")
    assert (kept.rows, kept.n_skipped) == ([{"a": 1}], 2)
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="on_bad_record"):
        read_rows(path, on_bad_record="keep")


@pytest.mark.parametrize(
    ("ranks", "truth", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], 1),
        ([2, 1, 0], [0, 1, 2], -1),
        ([0, 2, 1], [0, 1, 2], 1 / 3),
        ([1, 0, 3, 2], [0, 1, 2, 3], 2 / 6),
        ([5, 5, 7], [0, 1, 2], 2 / 3),  # a tie
        ([4], [0], 1),
    ],
)
def test_kendall_tau_by_hand(ranks: list[int], truth: list[int], expected: float) -> None:
    """Pairs in order minus pairs out of order, over all pairs."""
    assert kendall_tau(ranks, truth) == pytest.approx(expected)


def test_kendall_tau_is_scipys() -> None:
    """Without ties, for every order of five."""
    for order in itertools.permutations(range(5)):
        assert kendall_tau(order, range(5)) == pytest.approx(stats.kendalltau(order, range(5)).statistic)
