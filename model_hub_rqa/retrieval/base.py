"""What retrievers share: the protocol, passages and where they are kept, ranking with ties in the corpus' order."""

import hashlib
import json
import mmap
import time
import uuid
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, overload

from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Hit, Passage

if TYPE_CHECKING:
    import numpy as np

PASSAGES = "passages.jsonl"
OFFSETS = "offsets.npy"
PROGRESS = "progress.json"  # how far an index that is not whole yet has come

Report = Callable[[str, int, int], None]  # (what is being done, passages done, passages in all; 0: not known)


class Retriever(Protocol):
    """Finds the passages of its corpus that a query asks for."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The ``k`` best passages for each query, the best first.

        Equal scores stand in the order of the corpus. There are fewer where the corpus has fewer, or where fewer match
        the query, which may be none.

        Raises:
            ConfigError: ``k`` is below 1.
        """
        ...


@dataclass(frozen=True)
class RetrieverSettings:
    """A kind of retriever and its settings: what `registry.RETRIEVERS` registers. The fields of a subclass stand in the
    manifest of an index.

    Attributes:
        kind: the name under which it is registered, or ``package.module:Class``.
        libraries: optional modules that it needs, or may need, for `libraries.require`.
        packages: those whose versions the manifest notes.
        unfinished: files that an interrupted build leaves, and that the same build goes on from.
    """

    kind: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    unfinished: ClassVar[tuple[str, ...]] = ()

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        return []

    def needed_libraries(self) -> tuple[str, ...]:
        """Those of `libraries` that it needs with these settings."""
        return self.libraries

    def model_errors(self) -> list[str]:
        """A line for each model that is neither in a folder nor on the hub, which may be asked."""
        return []

    def write(self, passages: "PassageStore", folder: Path, *, batch_size: int, report: Report) -> "Written":
        """Writes the files of an index beside its passages.

        Args:
            passages: the corpus.
            folder: where the passages are; it exists.
            batch_size: passages that a model encodes at a time.
            report: told of the progress.
        """
        raise NotImplementedError(f"{type(self).__name__} must define write")

    def opener(
        self, folder: Path, model: Mapping[str, str], embedding_model: str | None
    ) -> "tuple[Callable[[PassageStore], Retriever], list[str]]":
        """What opens an index from its passages, and a line for each difference from what it was built with.

        Args:
            folder: of the index.
            model: what `write` returned of the model.
            embedding_model: in place of the one that the settings name.

        Raises:
            ConfigError: the model cannot be loaded, or a library is missing.
        """
        raise NotImplementedError(f"{type(self).__name__} must define opener")


@dataclass(frozen=True)
class Written:
    """What an index's manifest notes of a retriever that has written its files.

    Attributes:
        settings: as they are in force.
        model: all of the embedding model that the index depends on, by name; empty without one.
        measured: figures of the index, by name.
    """

    settings: RetrieverSettings
    model: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """What one stage of a search gave, such as one index, the fusion or the reranker.

    Attributes:
        name: of the stage.
        hits: for each query, the best first.
        seconds: that it took for all queries.
    """

    name: str
    hits: list[list[Hit]]
    seconds: float


def timed(name: str, step: Callable[[], list[list[Hit]]]) -> Stage:
    """The stage that ``step`` computes."""
    begun = time.perf_counter()
    hits = step()
    return Stage(name, hits, time.perf_counter() - begun)


def search_stages(name: str, retriever: Retriever, queries: Sequence[str], k: int) -> list[Stage]:
    """The stages of a search; the last one has its result.

    Args:
        name: of the stage of a retriever that has no ``search_stages`` of its own.
        retriever, queries, k: as for ``retriever.search``.
    """
    own: Callable[[Sequence[str], int], list[Stage]] | None = getattr(retriever, "search_stages", None)
    return [timed(name, lambda: retriever.search(queries, k))] if own is None else own(queries, k)


def fingerprint_of(part: Any) -> str:
    """What a retriever or reranker says of all that its results depend on; where it says nothing, a new text each time,
    so that no cached result is taken for its."""
    return str(getattr(part, "fingerprint", None) or uuid.uuid4().hex)


def json_sum(content: Any) -> str:
    """SHA-256 of a plain value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def no_report(what: str, done: int, total: int) -> None:
    """A :data:`Report` that says nothing."""


def passage_text(passage: Passage) -> str:
    """What is indexed of a passage: title and text, as BEIR joins them."""
    return f"{passage.title} {passage.text}".strip()


def check_k(k: int) -> None:
    """Raises ConfigError where ``k`` is below 1."""
    if k < 1:
        raise ConfigError(f"k: must be at least 1, got {k}")


def top_k(scores: "np.ndarray", k: int) -> "np.ndarray":
    """Positions of the ``k`` highest of ``scores`` (n,), the highest first, equal ones by position; all if k >= n."""
    import numpy as np

    if k < len(scores):
        least = np.partition(scores, -k)[-k]
        above = np.flatnonzero(scores > least)
        top = np.concatenate([above, np.flatnonzero(scores == least)[: k - len(above)]])
    else:
        top = np.arange(len(scores))
    return top[np.argsort(-scores[top], kind="stable")]


class PassageStore(Sequence[Passage]):
    """The passages of an index folder, read from disk when they are asked for.

    Attributes:
        offsets: where each passage begins in the file, and where the last one ends: (n + 1,), bytes.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self.offsets: np.ndarray = np.load(folder / OFFSETS, mmap_mode="r")
        with (folder / PASSAGES).open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        record = json.loads(self._bytes[self.offsets[position] : self.offsets[position + 1]])
        return Passage(**record, position=position)


def write_passages(passages: Iterable[Passage], folder: Path, report: Report = no_report) -> int:
    """Writes the files of a :class:`PassageStore` while reading ``passages`` once; returns how many there are.

    Raises:
        DataError: there are none; or whatever reading them raises. Then no file of the two is left or changed.
    """
    import numpy as np

    temporary = folder / f"{PASSAGES}.tmp"
    offsets = array("q", [0])
    try:
        with temporary.open("wb") as file:
            for passage in passages:
                record = {"id": passage.id, "title": passage.title, "text": passage.text, **passage.source()}
                offsets.append(offsets[-1] + file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n"))
                report("reading", len(offsets) - 1, 0)
        if len(offsets) == 1:
            raise DataError("corpus: holds no passage")
        np.save(folder / OFFSETS, np.frombuffer(offsets, dtype=np.int64))
        temporary.replace(folder / PASSAGES)
    finally:
        temporary.unlink(missing_ok=True)
    return len(offsets) - 1
