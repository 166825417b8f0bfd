"""Dense retrieval: passages and queries as vectors of one model, and an exact search for the most similar ones.

The model is sentence-transformers', the search faiss' over the vectors on disk, block by block: memory is bounded
whatever the size of the corpus.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model_hub_rqa.checkpoints import file_sum
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.records import Hit, Passage
from model_hub_rqa.registry import RETRIEVERS
from model_hub_rqa.retrieval.base import (
    OFFSETS,
    PASSAGES,
    PROGRESS,
    PassageStore,
    Report,
    Retriever,
    Written,
    check_k,
    json_sum,
    no_report,
    passage_text,
)
from model_hub_rqa.retrieval.encoder import Encoder, EncoderSettings, identity_differences, model_name_error
from model_hub_rqa.retrieval.vectors import exact_search

if TYPE_CHECKING:
    import numpy as np

EMBEDDINGS = "embeddings.npy"
_SECONDS_BETWEEN_SAVES = 5.0


@RETRIEVERS.register("dense")
@dataclass(frozen=True)
class DenseSettings(EncoderSettings):
    """How texts become vectors, and how those are searched. The fields are those of
    :class:`~model_hub_rqa.retrieval.encoder.EncoderSettings`."""

    kind: ClassVar[str] = "dense"
    libraries: ClassVar[tuple[str, ...]] = ("sentence_transformers", "faiss")
    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers", "torch", "faiss-cpu", "numpy")
    unfinished: ClassVar[tuple[str, ...]] = (PASSAGES, OFFSETS, EMBEDDINGS, PROGRESS)

    def model_errors(self) -> list[str]:
        error = model_name_error(self.embedding_model) if self.embedding_model else None
        return [] if error is None else [error]

    def write(self, passages: PassageStore, folder: Path, *, batch_size: int, report: Report) -> Written:
        encoder = Encoder(self)
        # names all that the vectors depend on
        key = json_sum([file_sum(folder / PASSAGES), encoder.identity, encoder.settings.max_seq_length])
        write_embeddings(passages, encoder, folder, key, batch_size=batch_size, report=report)
        return Written(encoder.settings, encoder.identity)

    def opener(
        self, folder: Path, model: Mapping[str, str], embedding_model: str | None
    ) -> tuple[Callable[[PassageStore], Retriever], list[str]]:
        import numpy as np

        name = embedding_model or self.embedding_model
        try:
            encoder = Encoder(replace(self, embedding_model=name))  # with the index's limit, not the model's own
        except ConfigError as error:
            hint = "" if embedding_model else f" ({folder} was built with it: if it has moved, say where)"
            raise ConfigError([f"{line}{hint}" for line in error.errors]) from error

        def load(passages: PassageStore) -> "DenseRetriever":
            return DenseRetriever(passages, np.load(folder / EMBEDDINGS, mmap_mode="r"), encoder)

        return load, [f"{folder}: {name}: {line}" for line in identity_differences(model, encoder.identity)]


class DenseRetriever:
    """Ranks passages by the similarity of their vectors with the query's.

    Args:
        passages: of the corpus, in its order.
        embeddings: their vectors, (len(passages), dimension), float32, in memory or mapped.
        encoder: the model that they come from.

    Raises:
        CheckpointError: the vectors are not those of these passages and this model, by their shape.
    """

    def __init__(self, passages: Sequence[Passage], embeddings: "np.ndarray", encoder: Encoder) -> None:
        if embeddings.shape != (len(passages), encoder.dimension):
            expected = f"({len(passages)}, {encoder.dimension})"
            raise CheckpointError(f"embeddings: must have the shape {expected}, got {embeddings.shape}")
        self.passages = passages
        self.embeddings = embeddings
        self.encoder = encoder

    @classmethod
    def build(cls, passages: Sequence[Passage], settings: DenseSettings, *, batch_size: int = 32) -> "DenseRetriever":
        """Indexes a small corpus in memory; errors as those of :class:`Encoder`."""
        encoder = Encoder(settings)
        return cls(passages, encoder.passages([passage_text(passage) for passage in passages], batch_size), encoder)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As :class:`~model_hub_rqa.retrieval.base.Retriever` says; queries given together are searched faster."""
        check_k(k)
        if not queries:
            return []
        scores, positions = exact_search(
            self.encoder.queries(queries), self.embeddings, k, similarity=self.encoder.similarity
        )
        return [
            [Hit(self.passages[i], score) for i, score in zip(row.tolist(), values.tolist(), strict=True)]
            for row, values in zip(positions, scores, strict=True)
        ]


def write_embeddings(
    passages: PassageStore,
    encoder: Encoder,
    folder: Path,
    key: str,
    *,
    batch_size: int = 32,
    report: Report = no_report,
) -> None:
    """Encodes a corpus into ``folder``/embeddings.npy, from where a killed run with the same ``key`` has left off.

    Passages are encoded in the order of their lengths, the longest first, so that hardly anything is padded and too
    large a batch fails at once; each vector is written to its place on disk. What is kept in memory of the whole
    corpus is that order, 8 bytes a passage.

    Args:
        passages: the corpus.
        encoder: the model.
        folder: where the files go.
        key: names everything that the vectors depend on.
        batch_size: passages encoded at a time.
        report: told of the progress.
    """
    import numpy as np

    target, progress = folder / EMBEDDINGS, folder / PROGRESS
    done = _passages_done(target, progress, key)
    if not done:
        progress.unlink(missing_ok=True)
        np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=(len(passages), encoder.dimension))
    begins = np.load(target, mmap_mode="r").offset
    order = np.argsort(-np.diff(passages.offsets), kind="stable")
    report("encoding", done, len(order))
    with target.open("r+b") as file:
        saved = time.monotonic()
        for begin in range(done, len(order), 8 * batch_size):
            chosen = order[begin : begin + 8 * batch_size].tolist()
            vectors = encoder.passages([passage_text(passages[i]) for i in chosen], batch_size)
            for i, vector in zip(chosen, vectors, strict=True):
                file.seek(begins + i * vector.nbytes)  # not through the map: what it has touched counts as memory
                file.write(vector.data)
            finished = begin + len(chosen)
            if finished == len(order) or time.monotonic() - saved >= _SECONDS_BETWEEN_SAVES:
                file.flush()
                os.fsync(file.fileno())
                _write_progress(progress, {"key": key, "done": finished})
                saved = time.monotonic()
            report("encoding", finished, len(order))


def _passages_done(target: Path, progress: Path, key: str) -> int:
    """How many passages, in the order of their lengths, have their vectors on disk."""
    try:
        noted = json.loads(progress.read_text(encoding="utf-8"))
        return int(noted["done"]) if noted["key"] == key and target.is_file() else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_progress(progress: Path, content: dict[str, Any]) -> None:
    temporary = progress.with_name(f"{progress.name}.tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(progress)
