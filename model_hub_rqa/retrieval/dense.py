"""Dense retrieval: passages and queries as vectors of a model or of two, and a search for the most similar ones.

The model is sentence-transformers', the search faiss' over the vectors on disk, block by block: memory is bounded
whatever the size of the corpus.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from model_hub_rqa.retrieval.encoder import (
    Encoder,
    EncoderSettings,
    all_gpus,
    identity_differences,
    model_name_error,
)
from model_hub_rqa.retrieval.vectors import (
    DTYPES,
    FLAT,
    MOST_ON_GPU,
    approximate_search,
    build_faiss,
    exact_search,
    faiss_errors,
    file_of_vectors_errors,
    import_vectors,
    np_load,
    open_faiss,
    stored,
)

if TYPE_CHECKING:
    import numpy as np

EMBEDDINGS = "embeddings.npy"
FAISS = "index.faiss"
_SECONDS_BETWEEN_SAVES = 5.0


@RETRIEVERS.register("dense")
@dataclass(frozen=True)
class DenseSettings(EncoderSettings):
    """How texts become vectors, and how those are kept and searched. The first fields are those of
    :class:`~model_hub_rqa.retrieval.encoder.EncoderSettings`.

    Attributes:
        query_model: encodes queries in place of embedding_model, which encodes passages then; "" for one model.
        embeddings: a .npy file with the passages' vectors, (n passages, dimension), in the order of the corpus; "" to
            encode them. Queries are encoded by query_model, or embedding_model.
        embeddings_dtype: in which vectors are kept, "float32" or "float16". Scores are computed in float32.
        faiss_index: a string of faiss' index_factory, which chooses candidates; their scores are exact. "Flat"
            compares all vectors.
        faiss_search: faiss' parameters of a search, for example "nprobe=16" or "efSearch=128".
        devices: that encode together, each in a process of its own, for example "cuda:0,cuda:1"; "" for all GPUs, or
            the CPU. Not kept in the manifest.
    """

    kind: ClassVar[str] = "dense"
    libraries: ClassVar[tuple[str, ...]] = ("sentence_transformers", "faiss")
    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers", "torch", "faiss-cpu", "numpy")
    unfinished: ClassVar[tuple[str, ...]] = (PASSAGES, OFFSETS, EMBEDDINGS, PROGRESS)

    of_whole: ClassVar[tuple[str, ...]] = ("faiss_index", "faiss_search")  # what the shards of an index do not have

    query_model: str = ""
    embeddings: str = ""
    embeddings_dtype: str = "float32"
    faiss_index: str = FLAT
    faiss_search: str = ""
    devices: str = ""

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        errors = super().errors()
        if self.embeddings and self.query_model:
            errors = replace(self, embedding_model=self.query_model, query_model="").errors()
            errors = [line.replace("embedding_model:", "query_model:", 1) for line in errors]
            if self.embedding_model:
                errors.append(
                    f"embedding_model: encodes nothing with embeddings and query_model, got {self.embedding_model!r}"
                )
            return errors
        if self.embeddings_dtype not in DTYPES:
            errors.append(f"embeddings_dtype: must be one of {', '.join(DTYPES)}, got {self.embeddings_dtype!r}")
        if self.embeddings:
            errors += file_of_vectors_errors(self.embeddings)
        if self.embeddings and self.devices:
            errors.append(f"devices: encode nothing with embeddings, got {self.devices!r}")
        return errors + faiss_errors(self.faiss_index, self.faiss_search)

    def model_errors(self) -> list[str]:
        found = [
            (field, model_name_error(name))
            for field in ("embedding_model", "query_model")
            if (name := getattr(self, field))
        ]
        return [error.replace("embedding_model", field, 1) for field, error in found if error is not None]

    def write(self, passages: PassageStore, folder: Path, *, batch_size: int, report: Report) -> Written:
        if self.embeddings and (rows := len(np_load(Path(self.embeddings)))) != len(passages):
            expected = f"{len(passages):,} rows, one for each passage"
            raise ConfigError(f"embeddings: must have {expected}, got {rows:,} in {self.embeddings}")
        queries = self._query_encoder(self.query_model or self.embedding_model)
        encoder = self._query_encoder(self.embedding_model) if self.query_model and not self.embeddings else queries
        if errors := [*_two_models_errors(queries, encoder), *self._vectors_errors(queries, len(passages))]:
            raise ConfigError(errors)
        identity, settings = dict(queries.identity), replace(self, devices="")
        if self.embeddings:
            (folder / PROGRESS).unlink(missing_ok=True)  # of vectors that these replace
            import_vectors(self.embeddings, folder / EMBEDDINGS, queries.similarity, self.embeddings_dtype)
        else:
            # names all that the vectors depend on
            names = [file_sum(folder / PASSAGES), encoder.identity, encoder.settings.max_seq_length]
            key = json_sum([*names, *([] if self.embeddings_dtype == "float32" else [self.embeddings_dtype])])
            settings = replace(settings, embedding_model=encoder.settings.embedding_model)
            with _several(encoder, self.devices) as at_once:
                write_embeddings(
                    passages,
                    encoder,
                    folder,
                    key,
                    batch_size=batch_size,
                    at_once=at_once,
                    dtype=self.embeddings_dtype,
                    report=report,
                )
        if encoder is queries:
            settings = replace(settings, max_seq_length=queries.settings.max_seq_length)
        else:
            identity |= {f"passages {name}": value for name, value in encoder.identity.items()}
        if self.query_model:
            settings = replace(settings, query_model=queries.settings.embedding_model)
        elif self.embeddings:
            settings = replace(settings, embedding_model=queries.settings.embedding_model)
        measured = {}
        if self.faiss_index != FLAT:
            vectors = np_load(folder / EMBEDDINGS)
            measured = build_faiss(
                vectors, folder / FAISS, self.faiss_index, self.faiss_search, queries.similarity, report
            )
        return Written(settings, identity, measured)

    def join(
        self,
        folders: Sequence[Path],
        rows: Iterable[tuple[int, int]],
        folder: Path,
        model: Mapping[str, str],
        report: Report,
    ) -> Mapping[str, float]:
        """Writes the vectors of an index from those of its shards.

        Args:
            folders: of the shards.
            rows: (shard, row in it) of each passage of the index, in its order.
            folder: of the index.
            model: what the shards' manifests say of it.
            report: told of the progress.

        Returns:
            Figures of the index, by name.
        """
        import numpy as np

        parts = [np_load(one / EMBEDDINGS) for one in folders]
        n_passages, dimension = sum(map(len, parts)), parts[0].shape[1]
        if errors := faiss_errors(
            self.faiss_index, self.faiss_search, dimension, model["similarity"], n_passages=n_passages
        ):
            raise ConfigError(errors)
        target = np.lib.format.open_memmap(
            folder / EMBEDDINGS, mode="w+", dtype=parts[0].dtype, shape=(n_passages, dimension)
        )
        for position, (shard, row) in enumerate(rows):
            target[position] = parts[shard][row]
        target.flush()
        if self.faiss_index == FLAT:
            return {}
        return build_faiss(target, folder / FAISS, self.faiss_index, self.faiss_search, model["similarity"], report)

    def _query_encoder(self, name: str) -> Encoder:
        return Encoder(replace(self, embedding_model=name, query_model="", embeddings=""))

    def _vectors_errors(self, encoder: Encoder, n_passages: int) -> list[str]:
        """What shows when the dimension is known."""
        errors = faiss_errors(
            self.faiss_index, self.faiss_search, encoder.dimension, encoder.similarity, n_passages=n_passages
        )
        if self.embeddings:
            columns = np_load(Path(self.embeddings)).shape[1]
            if columns != encoder.dimension:
                name = encoder.settings.embedding_model
                errors.append(
                    f"embeddings: must have {encoder.dimension} columns, the dimension of {name}, got {columns}"
                )
        return errors

    def opener(
        self, folder: Path, model: Mapping[str, str], embedding_model: str | None
    ) -> tuple[Callable[[PassageStore], Retriever], list[str]]:
        name = embedding_model or self.query_model or self.embedding_model
        try:
            encoder = self._query_encoder(name)  # with the index's limit, not the model's own
        except ConfigError as error:
            hint = "" if embedding_model else f" ({folder} was built with it: if it has moved, say where)"
            begins = ("" if line.startswith("embedding_model:") else f"{folder}: {name}: " for line in error.errors)
            raise ConfigError(
                f"{begin}{line}{hint}" for begin, line in zip(begins, error.errors, strict=True)
            ) from error

        def load(passages: PassageStore) -> "DenseRetriever":
            index = None if self.faiss_index == FLAT else open_faiss(folder / FAISS, self.faiss_search, encoder.device)
            return DenseRetriever(passages, np_load(folder / EMBEDDINGS), encoder, index)

        return load, [f"{folder}: {name}: {line}" for line in identity_differences(model, encoder.identity)]


def _two_models_errors(queries: Encoder, passages: Encoder) -> list[str]:
    """Why the vectors of two models cannot be compared."""
    errors = []
    if queries.dimension != passages.dimension:
        errors.append(
            f"query_model: must give vectors of {passages.dimension} numbers as embedding_model does, "
            f"got {queries.dimension}"
        )
    if queries.similarity != passages.similarity:
        errors.append(
            f"similarity: must be set, as embedding_model has {passages.similarity}, got {queries.similarity} "
            "of query_model"
        )
    return errors


@contextlib.contextmanager
def _several(encoder: Encoder, devices: str) -> Iterator[int]:
    """Lets several devices encode; gives how many batches are encoded at once."""
    names = [name.strip() for name in devices.split(",") if name.strip()] or all_gpus()
    if len(names) < 2 and not devices:
        yield 8
        return
    with encoder.on(names):
        yield 8 * len(names)


class DenseRetriever:
    """Ranks passages by the similarity of their vectors with the query's.

    Args:
        passages: of the corpus, in its order.
        embeddings: their vectors, (len(passages), dimension), float32 or float16, in memory or mapped.
        encoder: the model that they come from, or that of the queries.
        index: of faiss, over the vectors; None to compare all of them.

    Raises:
        CheckpointError: the vectors are not those of these passages and this model, by their shape.
    """

    def __init__(
        self, passages: Sequence[Passage], embeddings: "np.ndarray", encoder: Encoder, index: Any = None
    ) -> None:
        if embeddings.shape != (len(passages), encoder.dimension):
            expected = f"({len(passages)}, {encoder.dimension})"
            raise CheckpointError(f"embeddings: must have the shape {expected}, got {embeddings.shape}")
        self.passages = passages
        self.embeddings = embeddings
        self.encoder = encoder
        self.index = index

    @classmethod
    def build(cls, passages: Sequence[Passage], settings: DenseSettings, *, batch_size: int = 32) -> "DenseRetriever":
        """Indexes a small corpus in memory; errors as those of :class:`Encoder`."""
        encoder = Encoder(settings)
        return cls(passages, encoder.passages([passage_text(passage) for passage in passages], batch_size), encoder)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """As :class:`~model_hub_rqa.retrieval.base.Retriever` says; queries given together are searched faster.

        An index of faiss may find fewer than ``k``.
        """
        check_k(k)
        if not queries:
            return []
        return [
            [Hit(self.passages[i], score) for score, i in zip(scores.tolist(), positions.tolist(), strict=True)]
            for scores, positions in self.search_vectors(self.encoder.queries(queries), k)
        ]

    def search_vectors(self, vectors: "np.ndarray", k: int) -> "Iterable[tuple[np.ndarray, np.ndarray]]":
        """Scores and positions of the ``k`` best passages for each vector of (n queries, dimension), float32."""
        similarity, device = self.encoder.similarity, self.encoder.device
        too_many = k >= len(self.passages) or (device != "cpu" and k > MOST_ON_GPU)
        if self.index is not None and not too_many:
            return approximate_search(self.index, vectors, self.embeddings, k, similarity)
        return zip(*exact_search(vectors, self.embeddings, k, similarity=similarity, device=device), strict=True)


def write_embeddings(
    passages: PassageStore,
    encoder: Encoder,
    folder: Path,
    key: str,
    *,
    batch_size: int = 32,
    at_once: int = 8,
    dtype: str = "float32",
    report: Report = no_report,
) -> None:
    """Encodes a corpus into ``folder``/embeddings.npy, from where a killed run with the same ``key`` has left off.

    Passages are encoded in the order of their lengths, the longest first, so that hardly anything is padded and too
    large a batch fails at once; each vector is written to its row on disk. What is kept in memory of the whole
    corpus is that order, 8 bytes a passage.

    Args:
        passages: the corpus.
        encoder: the model.
        folder: where the files go.
        key: names everything that the vectors depend on.
        batch_size: passages encoded at a time.
        at_once: batches given to the encoder at a time.
        dtype: of the numbers on disk.
        report: told of the progress.
    """
    import numpy as np

    target, progress = folder / EMBEDDINGS, folder / PROGRESS
    done = _passages_done(target, progress, key)
    if not done:
        progress.unlink(missing_ok=True)
        np.lib.format.open_memmap(target, mode="w+", dtype=dtype, shape=(len(passages), encoder.dimension))
    begins = np.load(target, mmap_mode="r").offset
    order = np.argsort(-np.diff(passages.offsets), kind="stable")
    report("encoding", done, len(order))
    with target.open("r+b") as file:
        saved = time.monotonic()
        for begin in range(done, len(order), at_once * batch_size):
            rows = order[begin : begin + at_once * batch_size].tolist()
            vectors = encoder.passages([passage_text(passages[i]) for i in rows], batch_size)
            vectors = stored(vectors, dtype, encoder.settings.embedding_model)
            for i, vector in zip(rows, vectors, strict=True):
                file.seek(begins + i * vector.nbytes)  # not through the map: what it has touched counts as memory
                file.write(vector.data)
            finished = begin + len(rows)
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
