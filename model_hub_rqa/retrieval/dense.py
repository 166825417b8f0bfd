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

from model_hub_rqa.checkpoints import PRETRAINED, file_sum, pretrained_folder
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
<<<<<<< Updated upstream
class DenseSettings(EncoderSettings):
    """How texts become vectors, and how those are searched. The fields are those of
    :class:`~model_hub_rqa.retrieval.encoder.EncoderSettings`."""
=======
class DenseSettings(RetrieverSettings):
    """How texts become vectors.

    Attributes:
        embedding_model: a folder of sentence-transformers (or of transformers: then the mean over the tokens), a run
            of RetrieverTrial or a checkpoint of one (RUN, RUN@best, RUN@last, RUN@STEP), or a name on the hub.
        normalize_embeddings: to length 1, so that the inner product is the cosine.
        query_prompt: put before each query; None for the model's own, if it has one.
        passage_prompt: put before each passage, alike.
        max_seq_length: tokens read of a text; None for the model's own limit.
    """
>>>>>>> Stashed changes

    kind: ClassVar[str] = "dense"
    libraries: ClassVar[tuple[str, ...]] = ("sentence_transformers", "faiss")
    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers", "torch", "faiss-cpu", "numpy")
    unfinished: ClassVar[tuple[str, ...]] = (PASSAGES, OFFSETS, EMBEDDINGS, PROGRESS)

<<<<<<< Updated upstream
=======
    embedding_model: str = ""
    normalize_embeddings: bool = True
    query_prompt: str | None = None
    passage_prompt: str | None = None
    max_seq_length: int | None = None

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        errors = []
        name = self.embedding_model
        if not name:
            errors.append("embedding_model: must be given for a dense index")
        elif name.startswith(("/", "./", "../", "~")) and not Path(model_folder(name)).is_dir():
            errors.append(f"embedding_model: no such folder, got {name!r}")
        if self.max_seq_length is not None and self.max_seq_length < 1:
            errors.append(f"max_seq_length: must be at least 1, got {self.max_seq_length}")
        return errors

>>>>>>> Stashed changes
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

<<<<<<< Updated upstream
        return load, [f"{folder}: {name}: {line}" for line in identity_differences(model, encoder.identity)]
=======
        return load, errors


def model_folder(name: str) -> str:
    """The folder inside a run or a checkpoint that sentence-transformers loads; any other name is returned as it is.

    Raises:
        CheckpointError: the checkpoint is damaged, or the run has none.
    """
    path = Path(name)
    run, chosen, _ = name.rpartition("@")
    inside = path if path.is_dir() or not chosen else Path(run)
    if (inside / "checkpoints").is_dir() or (path / PRETRAINED).is_dir():
        return str(pretrained_folder(path))
    return name


def model_name_error(name: str) -> str | None:
    """Why no embedding model has this name; None if it is a folder, or in the hub's cache or on the hub."""
    if os.path.isdir(model_folder(name)):
        return None
    on_hub = name if "/" in name else f"sentence-transformers/{name}"  # as sentence-transformers looks for it
    return check_model_name("embedding_model", on_hub, files=("modules.json", *CONFIG_FILES))


class Encoder:
    """A loaded embedding model.

    Attributes:
        settings: with the maximal length as it is in force, and the model's folder as an absolute path.
        sha256: of the model's weights.
        dimension: of its vectors.

    Raises:
        ConfigError: the settings break a rule, the model cannot be loaded, or sentence-transformers is missing.
    """

    def __init__(self, settings: DenseSettings) -> None:
        errors = settings.errors()
        if errors:
            raise ConfigError(errors)
        name = model_folder(settings.embedding_model)
        sentence_transformers = require("sentence_transformers")
        if unknown := model_name_error(name):  # found out in seconds, where the library would try again for minutes
            raise ConfigError(unknown)
        try:
            model = sentence_transformers.SentenceTransformer(name)
        except Exception as error:  # the hub client, safetensors and transformers each raise their own kinds
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(f"embedding_model: cannot load {name!r}: {type(error).__name__}: {reason}") from error
        if settings.max_seq_length is not None:
            limit = _longest_input(model)
            if limit is not None and settings.max_seq_length > limit:
                raise ConfigError(
                    f"max_seq_length: must be at most {limit}, the longest input of {name}, "
                    f"got {settings.max_seq_length}"
                )
            model.max_seq_length = settings.max_seq_length
        self._model = model
        source = os.path.abspath(name) if os.path.isdir(name) else name
        self.settings = replace(settings, embedding_model=source, max_seq_length=model.max_seq_length)
        self.sha256 = _weights_sum(model)
        self.dimension = int(self.queries(["x"]).shape[1])  # some models do not know it by themselves

    def queries(self, texts: Sequence[str], batch_size: int = 32) -> "np.ndarray":
        """Vectors of queries: (len(texts), dimension), float32."""
        return self._vectors(self._model.encode_query, texts, self.settings.query_prompt, batch_size)

    def passages(self, texts: Sequence[str], batch_size: int = 32) -> "np.ndarray":
        """Vectors of passages: (len(texts), dimension), float32."""
        return self._vectors(self._model.encode_document, texts, self.settings.passage_prompt, batch_size)

    def _vectors(self, encode: Any, texts: Sequence[str], prompt: str | None, batch_size: int) -> "np.ndarray":
        import numpy as np

        vectors = encode(
            list(texts),
            prompt=prompt,
            batch_size=batch_size,
            normalize_embeddings=self.settings.normalize_embeddings,
            show_progress_bar=False,
        )
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise CheckpointError(f"{self.settings.embedding_model}: gives vectors that are not finite")
        return vectors


def _longest_input(model: Any) -> int | None:
    """The tokens that an embedding model has positions for; None where it does not say."""
    from model_hub_rqa.models.limits import UNLIMITED, model_limits

    inner = getattr(model[0], "auto_model", None)
    limit = UNLIMITED if inner is None else model_limits(inner).tokens
    return None if limit == UNLIMITED else limit


def _weights_sum(model: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of a model's weights: the same wherever they are stored."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
>>>>>>> Stashed changes


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
