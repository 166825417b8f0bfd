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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.base import PassageStore, Report, RetrieverSettings, no_report, write_passages
from model_hub_rqa.retrieval.index_folder import build_index, check_index, index_errors, partial_folder
from model_hub_rqa.retrieval.manifest import Manifest, file_sums, read_manifest, write_manifest

BLOCK = 256  # passages that stand together in a shard
_SAME = ("corpus_sha256", "n_documents", "passage_words", "passage_stride", "chunking", "on_bad_record", "model")


@dataclass(frozen=True)
class IndexShard:
    """IndexShard ``number`` of ``count``, counted from 1."""

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


def chosen_shard(text: str | None) -> IndexShard | None:
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
            is of another corpus or model, or a file of one is damaged.
    """
    folder = shard.folder(output)
    joins = getattr(settings, "join", None)
    errors = [] if joins is not None else [f"shard: is for dense indexes, got a {settings.kind} index"]
    if getattr(settings, "embeddings", ""):
        errors.append("shard: encodes nothing with embeddings")
    if errors := [*errors, *index_errors(corpus, output, settings, **options)]:
        raise ConfigError(errors)
    own = replace(settings, faiss_index="Flat", faiss_search="")  # type: ignore[call-arg]  # the whole index has it
    if not (folder / "manifest.json").is_file():
        build_index(corpus, folder, own, shard=shard, report=report, **options)
    with _one_at_a_time(folder.parent):
        if not folder.parent.is_dir() or Path(output).is_dir():
            return Path(output), read_manifest(Path(output))
        folders = [IndexShard(number, shard.count).folder(output) for number in range(1, shard.count + 1)]
        if not all((one / "manifest.json").is_file() for one in folders):
            return folder, read_manifest(folder)
        manifest = join_shards(folders, Path(output), settings, report=report)
    shutil.rmtree(folder.parent, ignore_errors=True)
    return Path(output), manifest


def join_shards(
    folders: Sequence[Path], output: Path, settings: RetrieverSettings, *, report: Report = no_report
) -> Manifest:
    """Joins the shards of an index, each of which is verified first.

    Args:
        folders: of all shards, in their order.
        output: the index folder to make.
        settings: of the index.

    Raises:
        CheckpointError: a shard is damaged, or differs from the first one in corpus or model.
    """
    manifests = [check_index(folder, shard=f"{number}/{len(folders)}") for number, folder in enumerate(folders, 1)]
    first, errors = manifests[0], list[str]()
    for folder, manifest in zip(folders, manifests, strict=True):
        different = [name for name in _SAME if getattr(manifest, name) != getattr(first, name)]
        errors += [f"{folder}: must have the {name} of {folders[0].name}, got another" for name in different]
    if errors:
        raise CheckpointError(errors)
    stores = [PassageStore(folder) for folder in folders]
    joined: Any = settings
    joined = replace(manifests[0].retriever_settings(), **{name: getattr(joined, name) for name in joined.of_whole})
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
    """A lock of the shards' folder on a shared file system."""
    path = folder.with_name(f"{folder.name}.lock")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
