"""An index's manifest: damage, what is verified once, and folders of other versions."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from index_folders import corpus_file, flip, refusals

from model_hub_rqa import checkpoints
from model_hub_rqa.retrieval import manifest
from model_hub_rqa.retrieval.bm25 import BM25Settings
from model_hub_rqa.retrieval.index_folder import build_index, check_index, open_index
from model_hub_rqa.retrieval.manifest import Manifest


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """PASSAGES as a BEIR corpus."""
    return corpus_file(tmp_path)


@pytest.mark.parametrize("name", ["passages.jsonl", "offsets.npy", "data.csc.index.npy", "params.index.json"])
def test_one_flipped_bit_is_noticed(tmp_path: Path, corpus: Path, name: str) -> None:
    """Damage of any file is named before anything is loaded."""
    build_index(corpus, tmp_path / "index", BM25Settings("bm25s"))
    flip(tmp_path / "index" / name)
    errors = refusals(lambda: open_index(tmp_path / "index"))
    assert errors == [f"{tmp_path}/index/{name}: damaged, its SHA-256 is not the one in manifest.json"]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the index files that are hashed."""
    names: list[str] = []

    def file_sum(path: Path) -> str:
        names.append(path.name)
        return checkpoints.file_sum(path)

    monkeypatch.setattr(manifest, "file_sum", file_sum)
    return names


def file_names(manifest: Manifest) -> list[str]:
    return sorted(Path(name).name for name in manifest.sha256)


def test_an_index_is_verified_once(tmp_path: Path, corpus: Path, hashed: list[str]) -> None:
    """The second time no file is hashed; of changed sizes and times, those files alone, and all in a copy."""
    folder = tmp_path / "index"
    built = build_index(corpus, folder, BM25Settings())
    hashed.clear()
    first = open_index(folder).search(["cat mat"], 9)
    assert sorted(hashed) == file_names(built)
    hashed.clear()
    assert open_index(folder).search(["cat mat"], 9) == first
    check_index(folder)
    assert hashed == []
    os.utime(folder / "offsets.npy", (0, 0))
    open_index(folder)
    assert hashed == ["offsets.npy"]
    open_index(folder)
    assert hashed == ["offsets.npy"]
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy)  # without their times
    open_index(tmp_path / "copy")
    assert sorted(hashed[1:]) == file_names(built)


def test_damage_after_a_verification(tmp_path: Path, corpus: Path, hashed: list[str]) -> None:
    """Of the same size, with another time: it is noticed each time, until the file is whole again."""
    folder = tmp_path / "index"
    build_index(corpus, folder, BM25Settings())
    open_index(folder)
    size = (folder / "passages.jsonl").stat().st_size
    flip(folder / "passages.jsonl")
    assert (folder / "passages.jsonl").stat().st_size == size
    for _ in range(2):
        hashed.clear()
        assert refusals(lambda: open_index(folder)) == [
            f"{folder}/passages.jsonl: damaged, its SHA-256 is not the one in manifest.json"
        ]
        assert hashed == ["passages.jsonl"]
    flip(folder / "passages.jsonl")
    open_index(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"files": 1}', '{"of": "another index", "files": {}}'])
def test_a_record_of_another_index_counts_for_nothing(
    tmp_path: Path, corpus: Path, hashed: list[str], content: str
) -> None:
    """Damaged or left by another index in this folder, every file is hashed."""
    folder = tmp_path / "index"
    built = build_index(corpus, folder, BM25Settings())
    open_index(folder)
    path = folder / "verified.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({**noted, "of": "another"}) if "another" in content else content)
    hashed.clear()
    open_index(folder)
    assert sorted(hashed) == file_names(built)
    assert json.loads(path.read_text()) == noted


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, corpus: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index in a read-only folder opens, and is hashed each time."""
    folder = tmp_path / "index"
    built = build_index(corpus, folder, BM25Settings())

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    for _ in range(2):
        hashed.clear()
        assert open_index(folder).search(["cat"], 1)
        assert sorted(hashed) == file_names(built)
    assert not (folder / "verified.json").exists()


def test_manifests_that_cannot_be_used(tmp_path: Path, corpus: Path) -> None:
    """No folder, no manifest, a changed one and one of another format are each told apart."""
    folder = tmp_path / "index"
    path = folder / "manifest.json"
    build_index(corpus, folder, BM25Settings())
    content = path.read_text()
    path.write_text(content.replace('"english"', '"german"'))
    assert "damaged, its content does not have the SHA-256 that it names" in refusals(lambda: open_index(folder))[0]
    path.write_text(content.replace('"format_version": 2', '"format_version": 1'))
    assert "has the format 1, this version reads 2" in refusals(lambda: open_index(folder))[0]
    for damaged in (content[:-9], "[]", "{}"):
        path.write_text(damaged)
        assert "is not the manifest of an index, or damaged" in refusals(lambda: open_index(folder))[0]
    path.unlink()
    assert refusals(lambda: open_index(folder)) == [f"{folder}: incomplete, manifest.json (written last) is missing"]
    assert refusals(lambda: open_index(tmp_path / "none")) == [f"{tmp_path}/none: is not an index folder"]
    (tmp_path / "none.partial").mkdir()
    (line,) = refusals(lambda: open_index(tmp_path / "none"))
    assert line.endswith("none: is not an index folder; run the same rqa index again to finish none.partial")
