"""The Arrow cache of validated rows: read once, found again, never half written."""

import errno
import functools
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import model_hub_rqa
from model_hub_rqa.data import arrow_cache
from model_hub_rqa.data.arrow_cache import cached_dataset
from model_hub_rqa.data.file_loaders import SQUAD_FEATURES, Records
from model_hub_rqa.data.loading import squad_reader
from model_hub_rqa.errors import DataError

ROW = {"id": "1", "title": "", "context": "a b", "question": "?", "answers": {"text": ["b"], "answer_start": [2]}}


class CountingReader:
    """A reader of one row, the file's text as its context, that counts its calls."""

    calls = 0

    def __call__(self, path: str, on_bad_record: str) -> Records:
        type(self).calls += 1
        text = Path(path).read_text()
        return Records(
            [{**ROW, "context": text}], (f"{path}: record 2: bad", f"{path}: record 3: bad"), 3, SQUAD_FEATURES
        )


@pytest.fixture
def reader() -> CountingReader:
    CountingReader.calls = 0
    return CountingReader()


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_text("first")
    return str(tmp_path / "a.txt")


def load(path: str, reader: Any, **options: Any) -> Any:
    return cached_dataset(path, reader, **{"cache_dir": os.path.dirname(path) + "/cache", **options})


def test_a_second_load_does_not_read_the_file_again(path: str, reader: CountingReader) -> None:
    """The rows come from the Arrow file: equal, memory-mapped, and with the same fingerprint."""
    first, second = load(path, reader), load(path, reader)
    assert reader.calls == 1
    assert first.to_list() == second.to_list() == [{**ROW, "context": "first"}]
    assert first._fingerprint == second._fingerprint
    assert first.cache_files == second.cache_files != []
    assert {file.suffix for file in Path(path).parent.joinpath("cache", "model_hub_rqa").iterdir()} == {
        ".arrow",
        ".json",
    }


def test_what_the_rows_depend_on_is_read_anew(path: str, reader: CountingReader, monkeypatch: Any) -> None:
    """Another content, setting, reader or format version, and overwrite_cache, call the reader; a copy does not."""
    prints = [load(path, reader)._fingerprint]
    Path(path).write_text("second")
    assert load(path, reader)["context"][0] == "second"
    prints.append(load(path, reader)._fingerprint)
    prints.append(load(path, reader, on_bad_record="skip")._fingerprint)
    prints.append(load(path, functools.partial(reader))._fingerprint)
    assert (reader.calls, len(set(prints))) == (4, 4)
    load(path, reader, overwrite_cache=True)
    assert reader.calls == 5
    copy = Path(path).with_name("b.txt")
    copy.write_text("second")
    load(str(copy), reader)
    assert reader.calls == 5
    monkeypatch.setattr(arrow_cache, "FORMAT_VERSION", -1)
    load(path, reader)
    assert reader.calls == 6


def test_an_edited_reader_is_another_reader(path: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The source file of a reader of one's own is part of what its rows depend on."""
    import importlib

    source = (
        "from model_hub_rqa.data.file_loaders import Records\n"
        "def read(path, on_bad_record): return Records([{'a': %d}])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my_own_reader.py").write_text(source % 1)
    module = importlib.import_module("my_own_reader")
    assert load(path, module.read).to_list() == [{"a": 1}]
    (tmp_path / "my_own_reader.py").write_text(source % 22)
    assert load(path, importlib.reload(module).read).to_list() == [{"a": 22}]


def test_records_left_out_are_reported_at_every_load(
    path: str, reader: CountingReader, caplog: pytest.LogCaptureFixture
) -> None:
    """From the cache too, and under the name by which the file was asked for."""
    copy = Path(path).with_name("b.txt")
    copy.write_text("first")
    for name in (path, path, str(copy)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load(name, reader)
        assert f"{name}: 3 bad records left out:\n{name}: record 2: bad\n{name}: record 3: bad" in caplog.text
    assert reader.calls == 1


def test_errors_are_the_readers_own_and_leave_no_cache(path: str, tmp_path: Path) -> None:
    """A bad, a missing and an empty file raise DataError and write nothing."""
    reader = squad_reader(False)
    for name, said in (("a.txt", "unknown file ending"), ("none.json", "no such file")):
        with pytest.raises(DataError, match=said):
            load(str(tmp_path / name), reader)
    with pytest.raises(DataError, match="holds no record"):
        load(path, lambda path, on_bad_record: Records([]))
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_names_the_file_and_leaves_nothing_behind(
    path: str, reader: CountingReader, tmp_path: Path, monkeypatch: Any
) -> None:
    """A failed write leaves neither a half file nor a temporary one, and the next load succeeds."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*cache/model_hub_rqa/.*'"):
            load(path, reader)
    assert list((tmp_path / "cache" / "model_hub_rqa").iterdir()) == []
    assert len(load(path, reader)) == 1


def test_a_cache_without_its_notes_is_built_anew(path: str, reader: CountingReader, tmp_path: Path) -> None:
    """Either of the two files may have been deleted by hand."""
    for suffix in ("*.json", "*.arrow"):
        load(path, reader)
        next((tmp_path / "cache").rglob(suffix)).unlink()
    assert len(load(path, reader)) == 1
    assert reader.calls == 3


def test_several_builders_at_once_give_the_same_rows(tmp_path: Path) -> None:
    """Builders of one file do not disturb one another, nor a reader that has it mapped already."""
    rows = [{**ROW, "id": str(number)} for number in range(3_000)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    name = str(tmp_path / "a.jsonl")
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load(name, squad_reader(False), overwrite_cache=True), range(8)))
    assert all(dataset[2_999] == rows[2_999] and len(dataset) == 3_000 for dataset in loaded)
    assert len(list((tmp_path / "cache" / "model_hub_rqa").iterdir())) == 2


def test_another_process_finds_the_same_fingerprint(tmp_path: Path) -> None:
    """A map in another process finds the cache of the first: key and fingerprint depend on content only."""
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW))
    code = (
        "import sys; from model_hub_rqa.data.loading import load_file; "
        "print(load_file(sys.argv[1], cache_dir=sys.argv[2])._fingerprint)"
    )
    prints = []
    for seed, folder in (("1", "one"), ("2", "two")):
        command = [sys.executable, "-c", code, str(tmp_path / "a.jsonl"), str(tmp_path / folder)]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(model_hub_rqa.__file__).parents[1])}
        prints.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert prints[0] == prints[1] != ""
    names = [sorted(file.name for file in (tmp_path / folder).rglob("*.*")) for folder in ("one", "two")]
    assert names[0] == names[1] != []


def test_rows_of_any_shape_are_stored(path: str) -> None:
    """A reader may leave the types to be inferred, over all rows."""
    rows: list[dict[str, Any]] = [{"a": [], "b": None, "c": {"d": 1.5}}, {"a": ["x"], "b": 2, "c": {"d": None}}]
    assert load(path, lambda path, on_bad_record: Records(rows)).to_list() == rows
