"""One index by several processes: each encodes a shard of the corpus, and the last to finish joins them.

Passage p is in shard ``p // BLOCK % N``, so that shards are as long as each other. A shard is an index folder,
``OUTPUT.shards/I-of-N``, which goes on where it was interrupted. The joined index differs from one that was built in
one go by how texts were padded in batches: in the last digits of vectors.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from model_hub_rqa.checkpoints import MANIFEST
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.base import PassageStore, Report, RetrieverSettings, no_report, write_passages
from model_hub_rqa.retrieval.encoder import model_folder
from model_hub_rqa.retrieval.index_folder import build_index, check_index, index_errors, lock, partial_folder
from model_hub_rqa.retrieval.manifest import Manifest, file_sums, read_manifest, write_manifest

BLOCK = 256  # passages that stand together in a shard
_SPLIT = ("passage_words", "passage_stride", "chunking", "on_bad_record")
_SAME = ("corpus_sha256", "n_documents", *_SPLIT, "model", "settings")


@dataclass(frozen=True)
class IndexShard:
    """Shard ``number`` of the ``count`` shards of an index, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def folder(self, output: str | os.PathLike[str]) -> Path:
        """Where it is built, beside the index ``output``."""
        target = Path(output)
        return target.with_name(f"{target.name}.shards") / f"{self.number}-of-{self.count}"

    def of(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """Those of the corpus' passages that are in it; the others are read as well, so that they are checked."""
        number, own = 0, 0
        for number, passage in enumerate(passages, 1):
            if (number - 1) // BLOCK % self.count == self.number - 1:
                own += 1
                yield passage
        if number and not own:
            blocks = -(-number // BLOCK)
            raise ConfigError(f"shard: must be of at most {blocks}, as {number:,} passages are, got {self}")


def parse_shard(text: str | None) -> IndexShard | None:
    """The shard that ``I/N`` names, or, without a text, that of this rank where torchrun has started several.

    Raises:
        ConfigError: the text is no such thing.
    """
    if text is None:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        return IndexShard(int(os.environ.get("RANK", "0")) + 1, count) if count > 1 else None
    match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(f"shard: must be I/N with I from 1 to N, such as 2/4, got {text!r}")
    return IndexShard(int(match[1]), int(match[2]))


def build_shard(
    corpus: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: RetrieverSettings,
    shard: IndexShard,
    *,
    report: Report = no_report,
    **options: Any,
) -> tuple[Path, Manifest]:
    """Builds a shard of an index, and the index where it is the last one.

    Args:
        corpus, output, settings, options: as :func:`~model_hub_rqa.retrieval.index_folder.build_index` takes them.
        shard: which.
        report: told of the progress.

    Returns:
        The folder and its manifest: of the whole index, or of the shard where others are still missing.

    Raises:
        ConfigError, DataError, CheckpointError: as `build_index`; or the retriever cannot be built in shards, a shard
            is of another corpus or model or has other settings, or a file of one is damaged.
    """
    target, folder = Path(output), shard.folder(output)
    joins = getattr(settings, "join", None)
    errors = [] if joins is not None else [f"shard: is for dense indexes, got a {settings.kind} index"]
    if getattr(settings, "embeddings", ""):
        errors.append("shard: encodes nothing with embeddings")
    errors += index_errors(corpus, output, settings, **options)
    if errors and not (joins and (target / MANIFEST).is_file()):
        raise ConfigError(errors)
    given: Any = settings
    own = replace(given, faiss_index="Flat", faiss_search="")  # the whole index has it
    with _one_at_a_time(folder.parent):  # after a restart, another rank may have joined them by now
        if (target / MANIFEST).is_file():
            return target, _as_asked(target, corpus, settings, options)
        if is_built := (folder / MANIFEST).is_file():
            _as_asked(folder, corpus, own, options)
    if not is_built:
        build_index(corpus, folder, own, shard=shard, report=report, **options)
    with _one_at_a_time(folder.parent):
        if (target / MANIFEST).is_file():
            return target, read_manifest(target)
        folders = [IndexShard(number, shard.count).folder(output) for number in range(1, shard.count + 1)]
        if not all((one / MANIFEST).is_file() for one in folders):
            return folder, read_manifest(folder)
        manifest = join_shards(folders, target, settings, report=report)
        shutil.rmtree(folder.parent, ignore_errors=True)
    return target, manifest


def _as_asked(
    folder: Path, corpus: str | os.PathLike[str], settings: RetrieverSettings, options: Mapping[str, Any]
) -> Manifest:
    """The manifest of a shard, or an index, that an earlier run has built.

    Raises:
        CheckpointError: it was built from another corpus file, or with other settings, than is asked for now.
    """
    manifest = read_manifest(folder)
    asked: dict[str, Any] = {**asdict(settings), "devices": ""}
    asked |= {name: _full_name(asked[name]) for name in ("embedding_model", "query_model") if asked[name]}
    noted = dict(manifest.settings)
    if asked["max_seq_length"] is None:
        del asked["max_seq_length"]  # the model's own is noted
    chunking = options.get("chunking")
    asked |= {"corpus": os.path.abspath(corpus), "on_bad_record": options.get("on_bad_record", "error")}
    asked |= {name: options.get(name) for name in ("passage_words", "passage_stride")}
    asked["chunking"] = None if chunking is None else asdict(chunking)
    noted |= {"corpus": os.path.abspath(manifest.corpus_file), **{name: getattr(manifest, name) for name in _SPLIT}}
    if errors := [
        f"{folder}: was built with {name} {noted.get(name)!r}, got {value!r}; remove it, or name another output"
        for name, value in asked.items()
        if noted.get(name) != value
    ]:
        raise CheckpointError(errors)
    return manifest


def _full_name(model: str) -> str:
    """As a manifest names an embedding model."""
    name = model_folder(model)
    return os.path.abspath(name) if os.path.isdir(name) else name


def join_shards(
    folders: Sequence[Path], output: Path, settings: RetrieverSettings, *, report: Report = no_report
) -> Manifest:
    """Joins the shards of an index, each of which is verified first.

    Args:
        folders: of all shards, in their order.
        output: the index folder to make.
        settings: of the index.

    Raises:
        CheckpointError: a shard is damaged, or differs from the first one in corpus, model or settings.
    """
    manifests = [check_index(folder, shard=f"{number}/{len(folders)}") for number, folder in enumerate(folders, 1)]
    first, errors = manifests[0], list[str]()
    for folder, manifest in zip(folders, manifests, strict=True):
        different = [name for name in _SAME if getattr(manifest, name) != getattr(first, name)]
        errors += [f"{folder}: must have the {name} of {folders[0].name}, got another" for name in different]
    if errors:
        raise CheckpointError(errors)
    stores = [PassageStore(folder) for folder in folders]
    asked: Any = settings
    joined: Any = replace(first.retriever_settings(), **{name: getattr(asked, name) for name in asked.of_whole})
    with partial_folder(output) as partial:
        n_passages = write_passages((stores[shard][row] for shard, row in _rows(list(map(len, stores)))), partial)
        measured = joined.join(folders, _rows([len(store) for store in stores]), partial, first.model, report)
        manifest = replace(
            first,
            n_passages=n_passages,
            shard=None,
            settings=asdict(joined),
            measured=dict(measured),
            sha256=file_sums(partial),
        )
        write_manifest(partial, manifest)
        partial.replace(output)
    return manifest


def _rows(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(shard, row in it) of each passage, in the order of the corpus."""
    rows = [iter(range(length)) for length in lengths]
    while True:
        before = True
        for shard, left in enumerate(rows):
            for row in islice(left, BLOCK):
                before = False
                yield shard, row
        if before:
            return


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """A lock of the shards' folder on a shared file system; its file is gone afterwards."""
    path = folder.with_name(f"{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            lock(file.fileno(), folder, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), path):
                continue  # whoever held it has removed it: the next one locks a new file
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
