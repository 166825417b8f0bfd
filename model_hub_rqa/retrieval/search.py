"""What a search is made of: one index or several that are fused. The one place that opens what a user named."""

import os
from dataclasses import dataclass
from pathlib import Path

from model_hub_rqa.errors import CheckpointError, ConfigError, ErrorCollector
from model_hub_rqa.retrieval.base import PASSAGES, Retriever
from model_hub_rqa.retrieval.hybrid import FUSION_DEPTH, HybridRetriever, fusion_errors
from model_hub_rqa.retrieval.index_folder import Manifest, check_index, open_index

HYBRID = "hybrid"
_CHUNKING = ("corpus_sha256", "n_passages", "passage_words", "passage_stride")


@dataclass(frozen=True)
class SearchSettings:
    """Which indexes are searched, and how their hits become one ranking.

    Attributes:
        index: folders of ``rqa index``, all of the same passages.
        retriever: the kind that each index must be of, such as "bm25" or "dense"; "hybrid" asks for several indexes;
            None for any.
        embedding_model: where the embedding model of the dense indexes is now.
        fusion: how several indexes are fused, "rrf" or "convex" (see `hybrid`); None for rrf.
        fusion_weights: with convex, one for each index; None for equal ones.
        fusion_depth: hits of each index that are fused; None for 100.
    """

    index: tuple[str, ...]
    retriever: str | None = None
    embedding_model: str | None = None
    fusion: str | None = None
    fusion_weights: tuple[float, ...] | None = None
    fusion_depth: int | None = None

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        names = [os.path.realpath(name) for name in self.index]
        twice = dict.fromkeys(name for i, name in enumerate(self.index) if names[i] in names[:i])
        errors = [f"index: names {name} twice" for name in twice]
        if len(self.index) > 1:
            depth = FUSION_DEPTH if self.fusion_depth is None else self.fusion_depth
            return errors + fusion_errors(len(self.index), self.fusion or "rrf", self.fusion_weights, depth)
        for name in ("fusion", "fusion_weights", "fusion_depth"):
            if getattr(self, name) is not None:
                errors.append(f"{name}: needs several indexes, got one")
        if self.retriever == HYBRID:
            errors.append("retriever: hybrid needs several indexes, got one")
        return errors


def check_retriever(
    settings: SearchSettings, *, corpus: str | os.PathLike[str] | None = None, verify: bool = True
) -> list[Manifest]:
    """Compares indexes with their use and with each other, as `check_index` does each; loads no model.

    Args:
        settings: what is to be opened.
        corpus: the file that the indexes must have been built from, by its content.
        verify: compare the files with their sums, which reads them all once.

    Returns:
        The manifests of the indexes.

    Raises:
        ConfigError, CheckpointError, DataError: all errors of the settings and of every index.
    """
    errors = ErrorCollector()
    if lines := settings.errors():
        errors.add(ConfigError(lines))
    kind = None if settings.retriever == HYBRID else settings.retriever
    manifests = []
    for folder in settings.index:  # of the same corpus, so one is compared with the file
        same = corpus if folder == settings.index[0] else None
        manifests.append(errors.attempt(check_index, folder, retriever=kind, corpus=same, verify=verify))
    known = [manifest for manifest in manifests if manifest is not None]
    if len(known) == len(manifests) and (lines := _corpus_differences(settings.index, known)):
        errors.add(CheckpointError(lines))
    errors.raise_any()
    return known


def open_retriever(settings: SearchSettings, *, verify: bool = True) -> Retriever:
    """Opens what is to be searched: an :class:`Index`, or a :class:`HybridRetriever` over several.

    It has a ``fingerprint``, which says all that a search depends on.

    Args:
        settings: what to open.
        verify: as for :func:`check_retriever`, which is called first.

    Raises:
        ConfigError, CheckpointError: as :func:`check_retriever`, or an embedding model cannot be loaded, or is another.
    """
    manifests = check_retriever(settings, verify=verify)
    encoded = [
        folder for folder, one in zip(settings.index, manifests, strict=True) if "embedding_model" in one.settings
    ]
    errors, opened = ErrorCollector(), {}
    for folder in settings.index:
        model = settings.embedding_model if folder in encoded or not encoded else None
        opened[folder] = errors.attempt(open_index, folder, embedding_model=model, verify=False)
    errors.raise_any()
    indexes: dict[str, Retriever] = {folder: index for folder, index in opened.items() if index is not None}
    if len(indexes) == 1:
        return indexes[settings.index[0]]
    return HybridRetriever(
        indexes,
        fusion=settings.fusion or "rrf",
        weights=settings.fusion_weights,
        depth=settings.fusion_depth or FUSION_DEPTH,
    )


def _corpus_differences(folders: tuple[str, ...], manifests: list[Manifest]) -> list[str]:
    """A line for each index whose passages are not those of the first."""
    first, errors = manifests[0], []
    for folder, other in zip(folders[1:], manifests[1:], strict=True):
        if other.sha256.get(PASSAGES) == first.sha256.get(PASSAGES):
            continue
        differences = [
            f"{name} {_shown(getattr(other, name))}, not {_shown(getattr(first, name))}"
            for name in _CHUNKING
            if getattr(other, name) != getattr(first, name)
        ]
        said = f" ({'; '.join(differences)})" if differences else ""
        errors.append(f"{Path(folder)}: has other passages than {folders[0]}{said}: index the same corpus alike")
    return errors


def _shown(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)
