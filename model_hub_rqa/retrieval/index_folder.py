"""Index folders: built under another name and renamed when whole, described by a manifest, verified when opened.

A folder holds manifest.json (written last), the passages (passages.jsonl, offsets.npy), so that a search needs no
corpus file, and the files of its retriever: those of tantivy (in a folder of their own) or bm25s, or embeddings.npy.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.data.corpus import CorpusReader
from model_hub_rqa.data.documents import holds_documents
from model_hub_rqa.errors import CheckpointError, ConfigError, folder_error
from model_hub_rqa.libraries import check_libraries, missing_libraries
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.retrieval.base import (
    PROGRESS,
    PassageStore,
    Report,
    Retriever,
    RetrieverSettings,
    Written,
    no_report,
    write_passages,
)
from model_hub_rqa.retrieval.chunking import Chunking, document_splitter

if TYPE_CHECKING:
    from model_hub_rqa.retrieval.shards import IndexShard

from model_hub_rqa.retrieval.manifest import (
    Manifest,
    damage,
    file_sums,
    read_manifest,
    versions,
    write_manifest,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Index:
    """An open index folder; a :class:`~model_hub_rqa.retrieval.base.Retriever` itself."""

    manifest: Manifest
    passages: PassageStore
    retriever: Retriever

    @property
    def fingerprint(self) -> str:
        """Says all that a search depends on."""
        manifest = self.manifest
        return json.dumps([manifest.kind, manifest.settings, manifest.model, manifest.sha256], sort_keys=True)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As :class:`~model_hub_rqa.retrieval.base.Retriever` says."""
        return self.retriever.search(queries, k)


def build_index(
    corpus: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: RetrieverSettings,
    *,
    passage_words: int | None = None,
    passage_stride: int | None = None,
    chunking: Chunking | None = None,
    on_bad_record: str = "error",
    batch_size: int = 32,
    shard: "IndexShard | None" = None,
    report: Report = no_report,
) -> Manifest:
    """Builds an index folder from a corpus.

    It is built in ``output`` + ".partial" and renamed when it is whole. A dense index that was interrupted goes on
    from there when the same call is made again; BM25, which takes minutes, begins anew.

    Args:
        corpus: the file or folder, as :class:`~model_hub_rqa.data.corpus.CorpusReader` takes it.
        output: the folder to make; it must not exist, or be empty.
        settings: of the retriever; they tell its kind.
        passage_words: split documents into passages of so many words; None to index whole documents.
        passage_stride: words from the beginning of a passage to that of the next; by default as many: no overlap.
        chunking: how to split documents otherwise, as :func:`~model_hub_rqa.retrieval.chunking.split_document` does.
        on_bad_record: "error", or "skip" to leave bad documents out.
        batch_size: passages that the embedding model encodes at a time.
        shard: the part of the corpus to index, for `shards.build_shard`; None for all of it.
        report: told of the progress.

    Returns:
        The manifest that was written.

    Raises:
        ConfigError: an option breaks a rule, the output is taken, the model cannot be loaded, a library is missing.
        DataError: all errors of the corpus; nothing is left of the index then.
    """
    kept: Any = {"passage_words": passage_words, "passage_stride": passage_stride, "on_bad_record": on_bad_record}
    if errors := index_errors(corpus, output, settings, chunking=chunking, batch_size=batch_size, **kept):
        raise ConfigError(errors)
    reader = CorpusReader(corpus, on_bad_record=on_bad_record)
    chunks, _ = _chunking(passage_words, passage_stride, chunking)
    split = None if chunks is None else document_splitter(chunks)
    with partial_folder(Path(output)) as partial:
        _clear(partial, settings.unfinished)
        passages = _passages(reader, split)
        n_passages = write_passages(passages if shard is None else shard.of(passages), partial, report)
        written = settings.write(PassageStore(partial), partial, batch_size=batch_size, report=report)
        kept |= {"chunking": None if chunking is None else asdict(chunking), "corpus_file": os.fspath(corpus)}
        kept |= {"shard": None if shard is None else str(shard), "n_passages": n_passages}
        manifest = Manifest(**kept, **_measured(reader, settings, written), sha256=file_sums(partial))
        write_manifest(partial, manifest)
        (partial / PROGRESS).unlink(missing_ok=True)
        partial.replace(output)
    return manifest


def _measured(reader: CorpusReader, settings: RetrieverSettings, written: Written) -> dict[str, Any]:
    """The fields of a manifest that are known once the index is written."""
    return {
        "kind": settings.kind,
        "corpus_sha256": reader.sha256,
        "n_documents": reader.n_documents,
        "n_skipped": len(reader.skipped),
        "settings": asdict(written.settings),
        "model": dict(written.model),
        "measured": dict(written.measured),
        "versions": versions(settings.packages),
    }


def index_errors(
    corpus: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: RetrieverSettings | None,
    *,
    passage_words: int | None = None,
    passage_stride: int | None = None,
    chunking: Chunking | None = None,
    on_bad_record: str = "error",
    batch_size: int = 32,
) -> list[str]:
    """What is wrong with the arguments of :func:`build_index`, and with the corpus by its name alone. ``settings`` is
    None where the retriever is not known."""
    reader = CorpusReader(corpus, on_bad_record=on_bad_record)
    errors = [] if settings is None else settings.errors()
    errors += _chunking(passage_words, passage_stride, chunking)[1]
    if chunking is not None and chunking.by == "headings" and reader.path.exists() and not holds_documents(reader.path):
        errors.append(
            f"chunk_by: must not be headings, which {reader.path.name} has none of: it is a table of documents"
        )
    errors += _taken(Path(output))
    if settings is not None:
        errors += [*missing_libraries(*settings.needed_libraries()), *settings.model_errors()]
    if batch_size < 1:
        errors.append(f"batch_size: must be at least 1, got {batch_size}")
    return [*errors, *reader.errors()]


def open_index(
    folder: str | os.PathLike[str],
    *,
    retriever: str | None = None,
    embedding_model: str | None = None,
    corpus: str | os.PathLike[str] | None = None,
    verify: bool = True,
) -> Index:
    """Opens an index folder, after comparing it with what it is to be used for.

    Args:
        folder: what :func:`build_index` made.
        retriever: the kind that it must be of: "bm25" or "dense".
        embedding_model: encode queries with this model instead of the one that the manifest names; its
            weights must be the same.
        corpus: the file that it must have been built from, by its content.
        verify: compare the files with their sums: the first time, and where their size or time has changed.

    Raises:
        CheckpointError: everything in which the folder differs, is damaged or incomplete.
        ConfigError: the embedding model cannot be loaded, or a library is missing.
        DataError: the corpus file has errors.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    errors = _errors(path, manifest, retriever, corpus, verify)
    settings = manifest.retriever_settings()
    if not hasattr(settings, "embedding_model"):
        errors += query_model_errors(path, manifest, embedding_model)
    if retriever not in (None, manifest.kind):
        raise CheckpointError(errors)
    try:
        load, differences = settings.opener(path, manifest.model, embedding_model)
    except ConfigError as error:
        raise (CheckpointError([*errors, *error.errors]) if errors else error) from error
    if errors := [*errors, *differences]:
        raise CheckpointError(errors)
    passages = PassageStore(path)
    if len(passages) != manifest.n_passages:
        raise CheckpointError(f"{path}: holds {len(passages):,} passages, the manifest says {manifest.n_passages:,}")
    return Index(manifest, passages, load(passages))


def query_model_errors(folder: str | os.PathLike[str], manifest: Manifest, embedding_model: str | None) -> list[str]:
    """Why no embedding model can encode the queries of an index, by the name of the model alone.

    Args:
        folder, manifest: of the index.
        embedding_model: in place of the one that the manifest names.
    """
    settings: Any = manifest.retriever_settings()
    if not hasattr(settings, "embedding_model"):
        error = (
            f"{os.fspath(folder)}: is a {manifest.kind} index, which has no embedding model, got {embedding_model!r}"
        )
        return [] if embedding_model is None else [error]
    name = embedding_model or getattr(settings, "query_model", "") or settings.embedding_model
    other = {"query_model": ""} if hasattr(settings, "query_model") else {}
    hint = "" if embedding_model else f" ({os.fspath(folder)} was built with it: if it has moved, say where)"
    return [f"{line}{hint}" for line in replace(settings, embedding_model=name, **other).model_errors()]


def check_index(
    folder: str | os.PathLike[str],
    *,
    retriever: str | None = None,
    corpus: str | os.PathLike[str] | None = None,
    verify: bool = True,
    shard: str | None = None,
) -> Manifest:
    """Compares an index folder with its use as :func:`open_index` does, but loads no model; returns the manifest.

    ``shard`` says which part of an index, ``I/N``, the folder must be; None for a whole one."""
    manifest = read_manifest(Path(folder))
    check_libraries(*manifest.retriever_settings().needed_libraries())
    errors = _errors(Path(folder), manifest, retriever, corpus, verify, shard)
    if errors:
        raise CheckpointError(errors)
    return manifest


def _errors(
    folder: Path,
    manifest: Manifest,
    retriever: str | None,
    corpus: str | os.PathLike[str] | None,
    verify: bool,
    shard: str | None = None,
) -> list[str]:
    """Damage, and differences that show without a model."""
    errors = damage(folder, manifest, verify)
    if manifest.shard != shard:
        expected = "a whole index" if shard is None else f"shard {shard}"
        errors.append(f"{folder}: must be {expected}, got shard {manifest.shard}")
    if retriever is not None and retriever != manifest.kind:
        errors.append(f"{folder}: is a {manifest.kind} index, {retriever} was asked for")
    if corpus is not None:
        errors += _corpus_difference(folder, manifest, corpus)
    return errors


def _corpus_difference(folder: Path, manifest: Manifest, corpus: str | os.PathLike[str]) -> list[str]:
    reader = CorpusReader(corpus, on_bad_record=manifest.on_bad_record)
    for _ in reader:
        pass
    if reader.sha256 == manifest.corpus_sha256:
        return []
    built = f"{manifest.corpus_file} ({manifest.n_documents:,} documents, SHA-256 {manifest.corpus_sha256[:12]})"
    given = f"{os.fspath(corpus)} has {reader.n_documents:,} documents and {reader.sha256[:12]}"
    return [f"{folder}: is the index of another corpus: {built}; {given}"]


def _taken(target: Path) -> list[str]:
    if target.resolve() == Path.cwd():
        return ["output: must name a new folder, got the working directory"]
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        return [f"output: {target} exists and is not an empty folder"]
    error = folder_error(target)
    return [] if error is None else [f"output: {error}"]


@contextlib.contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """The folder to build in, for one process at a time; gone afterwards where nothing worth keeping is in it."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        handle = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"output: cannot write {partial}: {error.strerror}") from error
    try:
        lock(handle, partial, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise ConfigError(f"output: another process is building {partial}") from error
    try:
        yield partial
    finally:
        if partial.is_dir() and not (partial / PROGRESS).exists():
            shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


def lock(handle: int, folder: Path, how: int) -> None:
    """Locks an open file, or says that ``folder`` is not locked, as some file systems (NFS) have no locks.

    Raises:
        OSError: another process has locked it.
    """
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise
        logger.warning(
            "%s: is not locked (%s): see to it that no other process builds it at the same time", folder, error.strerror
        )


def _clear(folder: Path, keep: Sequence[str]) -> None:
    """Removes what an interrupted run has left and this one does not go on from."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep:
            path.unlink()


def _passages(reader: CorpusReader, split: Callable[[Passage], Iterator[Passage]] | None) -> Iterator[Passage]:
    for document in reader:
        yield from [document] if split is None else split(document)


def _chunking(words: int | None, stride: int | None, chunking: Chunking | None) -> tuple[Chunking | None, list[str]]:
    """How documents are split, and why they cannot be split so; None where they are not split."""
    if chunking is not None:
        given = [("passage_words", words), ("passage_stride", stride)]
        errors = [f"{name}: is ignored beside chunk_by" for name, value in given if value is not None]
        return chunking, [*errors, *chunking.errors()]
    if words is None:
        return None, [] if stride is None else [f"passage_stride: needs passage_words, got {stride} without"]
    errors = [] if words >= 1 else [f"passage_words: must be at least 1, got {words}"]
    if stride is not None and not 1 <= stride <= max(words, 1):
        errors.append(f"passage_stride: must be from 1 to passage_words ({words}), got {stride}")
    return Chunking(size=words, overlap=words - (stride or words)), errors
