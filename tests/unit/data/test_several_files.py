"""Several files of one set: lists, patterns, slices and ids."""

from pathlib import Path
from typing import Any

import pytest
from public_records import FID, FLAT, write

from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.loading import default_load_dataset
from model_hub_rqa.errors import ConfigError, DataError


def test_lists_and_patterns_of_files(tmp_path: Path) -> None:
    """In the order of their names; a slice of a pattern counts over all of its files."""
    for shard in range(3):
        records = [{**FLAT, "id": f"{shard}-{number}"} for number in range(2)]
        write(tmp_path / f"part-{shard}.jsonl", *records)

    def ids(files: Any) -> list[str]:
        data = {"train_file": files, "validation_file": str(tmp_path / "part-0.jsonl"), "cache_dir": str(tmp_path)}
        found: list[str] = default_load_dataset(data)["train"]["id"][:]
        return found

    pattern = str(tmp_path / "part-*.jsonl")
    every = ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert ids(pattern) == every
    assert ids(f"{pattern}[1:4]") == every[1:4]
    assert ids([str(tmp_path / "part-2.jsonl"), f"{tmp_path}/part-0.jsonl[:1]"]) == ["2-0", "2-1", "0-0"]
    assert ids([f"{tmp_path}/part-1.jsonl[:1]", f"{tmp_path}/part-1.jsonl[1:]"]) == ["1-0", "1-1"]
    with pytest.raises(DataError, match=r"no-\*\.jsonl: no file matches"):
        ids(str(tmp_path / "no-*.jsonl"))
    with pytest.raises(ConfigError, match=r"data\.train_file\[1\]: must be the name of a file, got 3"):
        ids([pattern, 3])


def test_ids_over_several_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An id that two files have is an error, or left out; records without ids are numbered through."""
    one, two = write(tmp_path / "1.jsonl", FLAT), write(tmp_path / "2.jsonl", FLAT, {**FLAT, "id": "q2"})
    data = {"train_file": [str(one), str(two)], "validation_file": str(one), "cache_dir": str(tmp_path)}
    with pytest.raises(DataError, match=r"2\.jsonl: record 'q1': duplicate id, first in .*1\.jsonl"):
        default_load_dataset(data)
    assert default_load_dataset({**data, "on_bad_record": "skip"})["train"]["id"][:] == ["q1", "q2"]
    assert "1 records left out whose id an earlier file has" in caplog.text
    bare = {key: value for key, value in FID.items() if key != "id"}
    write(one, bare), write(two, bare, bare)
    loaded = default_load_dataset(data, reader=lambda path, policy: read_fusion(path, on_bad_record=policy))
    assert loaded["train"]["id"][:] == ["1", "2", "3"]
