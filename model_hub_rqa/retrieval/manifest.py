"""What an index folder says of itself, and whether its files are those that were written."""

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from model_hub_rqa.checkpoints import MANIFEST, file_sum
from model_hub_rqa.errors import CheckpointError
from model_hub_rqa.records import Passage
from model_hub_rqa.registry import RETRIEVERS
from model_hub_rqa.retrieval.base import PROGRESS, RetrieverSettings, json_sum

VERIFIED = "verified.json"  # size and time of the files that have been verified
FORMAT_VERSION = 2  # raise it whenever folders of before cannot be used any more


@dataclass(frozen=True)
class Manifest:
    """What an index folder says of itself.

    Attributes:
        kind: of the retriever, as it is registered: "bm25", "dense", or ``package.module:Class``.
        corpus_file: the corpus as it was named.
        corpus_sha256: of its content, as :class:`~model_hub_rqa.data.corpus.CorpusReader` hashes it.
        n_documents: documents of the corpus, n_skipped of its bad ones not among them.
        n_passages: passages to search; as many as documents where they were not split.
        passage_words, passage_stride: how documents were split by words; None where they were not.
        chunking: the fields of `Chunking` where they were split otherwise.
        shard: ``I/N`` of a folder that is a part of an index.
        on_bad_record: how bad documents were treated.
        settings: fields of the retriever's settings.
        model: all of the embedding model that the index depends on, by name: the SHA-256 of its weights and tokenizer,
            its similarity, prompts and configurations; empty without one.
        measured: figures of the index, by name.
        versions: of the libraries that wrote it. They are for the record: another version is no reason to refuse it.
        sha256: of each other file, by its path in the folder.
        format_version: of the folder's layout.
    """

    kind: str
    corpus_file: str
    corpus_sha256: str
    n_documents: int
    n_skipped: int
    n_passages: int
    passage_words: int | None
    passage_stride: int | None
    on_bad_record: str
    settings: dict[str, Any]
    model: dict[str, str]
    measured: dict[str, float]
    versions: dict[str, str]
    sha256: dict[str, str]
    format_version: int = FORMAT_VERSION
    chunking: dict[str, Any] | None = None
    shard: str | None = None

    @property
    def is_split(self) -> bool:
        """Whether passages are pieces of documents."""
        return self.passage_words is not None or self.chunking is not None

    def retriever_settings(self) -> RetrieverSettings:
        """The settings as an object."""
        settings: RetrieverSettings = RETRIEVERS.find(self.kind)(**self.settings)
        return settings

    def document_id(self, passage_id: str) -> str:
        """The document that a passage is from."""
        return passage_id.rpartition("#")[0] if self.is_split else passage_id

    def unknown_documents(self, ids: Iterable[str], passages: Iterable[Passage]) -> set[str]:
        """Those of ``ids`` that none of the index's passages is from."""
        unknown = set(ids)
        for passage in passages:
            unknown.discard(self.document_id(passage.id))
        return unknown


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an index folder.

    Raises:
        CheckpointError: there is none (the folder is no index, or half written), or it cannot be used.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        hint = f"; run the same rqa index again to finish {partial.name}" if partial.is_dir() else ""
        hint += _missing_shards(folder.with_name(f"{folder.name}.shards"))
        raise CheckpointError(f"{folder}: is not an index folder{hint}")
    if not path.is_file():
        hint = "; run the same rqa index again to finish it" if folder.name.endswith(".partial") else ""
        raise CheckpointError(f"{folder}: incomplete, {MANIFEST} (written last) is missing{hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        noted = content.pop("manifest_sha256")
        version = content["format_version"]
        if version == FORMAT_VERSION and noted == json_sum(content):
            manifest = Manifest(**content)
            manifest.retriever_settings()
            return manifest
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not the manifest of an index, or damaged ({error!r})") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: has the format {version!r}, this version reads {FORMAT_VERSION}: index anew")
    raise CheckpointError(f"{path}: damaged, its content does not have the SHA-256 that it names")


def _missing_shards(folder: Path) -> str:
    """Which shards an index still waits for; empty where none was begun."""
    counts = {int(count) for path in folder.glob("*-of-*") if (count := path.name.partition("-of-")[2]).isdigit()}
    if not counts:
        return ""
    names = [f"{number}-of-{max(counts)}" for number in range(1, max(counts) + 1)]
    missing = [name for name in names if not (folder / name / MANIFEST).is_file()]
    if not missing:
        return f"; run rqa index with any --shard again to join {folder.name}"
    return f"; {folder.name} lacks {', '.join(missing)}: run rqa index for them"


def damage(folder: Path, manifest: Manifest, verify: bool) -> list[str]:
    """A line for each file that is missing, or does not have its sum. Size and time of those that do are noted in the
    folder, if it can be written, so that they are not hashed again as long as both stay."""
    record: dict[str, Any] = {"of": json_sum(manifest.sha256), "files": {}}
    noted = _noted(folder / VERIFIED, record["of"])
    errors = []
    for name, expected in sorted(manifest.sha256.items()):
        path = folder / name
        if not path.is_file():
            errors.append(f"{path}: is missing")
            continue
        record["files"][name] = [path.stat().st_size, path.stat().st_mtime_ns]  # before it is read
        if verify and record["files"][name] != noted.get(name) and file_sum(path) != expected:
            errors.append(f"{path}: damaged, its SHA-256 is not the one in {MANIFEST}")
    if verify and not errors and record["files"] != noted:
        with contextlib.suppress(OSError):
            temporary = folder / f"{VERIFIED}.{os.getpid()}.tmp"
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
            temporary.replace(folder / VERIFIED)
    return errors


def _noted(path: Path, of: str) -> dict[str, Any]:
    """Size and time of the files that were verified, by name; none where the record is not of this index."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return dict(record["files"]) if record["of"] == of else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def file_sums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    names = sorted({path.relative_to(folder).as_posix() for path in files} - {PROGRESS, MANIFEST})
    return {name: file_sum(folder / name) for name in names}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    content = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    content["manifest_sha256"] = json_sum(content)
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def versions(packages: Iterable[str]) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    from model_hub_rqa import __version__

    found = {"model-hub-rqa": __version__}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):  # PyStemmer is optional, faiss has other packages as well
            found[name] = version(name)
    return found
