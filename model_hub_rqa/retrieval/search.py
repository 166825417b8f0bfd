"""What a search is made of: one index or several that are fused, and a reranker. The one module that opens what a user
named."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_hub_rqa.errors import CheckpointError, ConfigError, ErrorCollector
from model_hub_rqa.retrieval.base import PASSAGES, Report, Retriever, no_report
from model_hub_rqa.retrieval.hybrid import FUSION_DEPTH, HybridRetriever, fusion_errors
from model_hub_rqa.retrieval.index_folder import check_index, open_index, query_model_errors
from model_hub_rqa.retrieval.manifest import Manifest
from model_hub_rqa.retrieval.rerank import RERANK_DEPTH, RerankedRetriever, build_reranker, parse_reranker

HYBRID = "hybrid"
_CHUNKING = ("corpus_sha256", "n_passages", "passage_words", "passage_stride", "chunking")


@dataclass(frozen=True)
class SearchSettings:
    """Which indexes are searched, and how their hits become one ranking.

    Attributes:
        index: folders of ``rqa index``, all of the same passages; none where the caller makes its index itself.
        retriever: the kind that each index must be of, such as "bm25" or "dense"; "hybrid" asks for several indexes;
            None for any.
        embedding_model: where the embedding model of the dense indexes is now.
        fusion: how several indexes are fused, "rrf" or "convex" (see `hybrid`); None for rrf.
        fusion_weights: with convex, one for each index; None for equal ones.
        fusion_depth: hits of each index that are fused; None for 100.
        rerank: what puts the first hits in another order, as `rerank.parse_reranker` takes it; None for nothing.
        rerank_depth: hits that are reranked; None for 100.
    """

    index: tuple[str, ...]
    retriever: str | None = None
    embedding_model: str | None = None
    fusion: str | None = None
    fusion_weights: tuple[float, ...] | None = None
    fusion_depth: int | None = None
    rerank: str | Mapping[str, Any] | None = None
    rerank_depth: int | None = None

    def errors(self) -> list[str]:
        """A line for each field that breaks a rule."""
        names = [os.path.realpath(name) for name in self.index]
        twice = dict.fromkeys(name for i, name in enumerate(self.index) if names[i] in names[:i])
        errors = [f"index: names {name} twice" for name in twice]
        if self.rerank_depth is not None and self.rerank is None:
            errors.append("rerank_depth: needs rerank")
        if self.rerank_depth is not None and self.rerank_depth < 1:
            errors.append(f"rerank_depth: must be at least 1, got {self.rerank_depth}")
        if len(self.index) > 1:
            depth = FUSION_DEPTH if self.fusion_depth is None else self.fusion_depth
            return errors + fusion_errors(len(self.index), self.fusion or "rrf", self.fusion_weights, depth)
        for name in ("fusion", "fusion_weights", "fusion_depth"):
            if getattr(self, name) is not None:
                errors.append(f"{name}: needs several indexes, got {len(self.index)}")
        if self.retriever == HYBRID:
            errors.append(f"retriever: hybrid needs several indexes, got {len(self.index)}")
        return errors


def check_retriever(
    settings: SearchSettings,
    *,
    corpus: str | os.PathLike[str] | None = None,
    top_k: int | None = None,
    verify: bool = True,
) -> list[Manifest]:
    """Compares indexes with their use and with each other, as `check_index` does each; loads no model.

    Args:
        settings: what is to be opened.
        corpus: the file that the indexes must have been built from, by its content.
        top_k: the passages that a user asks for, which the indexes must have; None where nobody does.
        verify: compare the files with their sums, which reads them all once.

    Returns:
        The manifests of the indexes.

    Raises:
        ConfigError, CheckpointError, DataError: all errors of the settings, of every index and of the reranker's name.
    """
    return _check(settings, corpus, verify, check_model=True, top_k=top_k)


def _check(
    settings: SearchSettings,
    corpus: str | os.PathLike[str] | None,
    verify: bool,
    *,
    check_model: bool,
    top_k: int | None = None,
) -> list[Manifest]:
    errors = ErrorCollector()
    if lines := settings.errors():
        errors.add(ConfigError(lines))
    kind = None if settings.retriever == HYBRID else settings.retriever
    manifests = []
    for folder in settings.index:  # of the same corpus, so one is compared with the file
        same = corpus if folder == settings.index[0] else None
        manifests.append(errors.attempt(check_index, folder, retriever=kind, corpus=same, verify=verify))
    known = [manifest for manifest in manifests if manifest is not None]
    if known and len(known) == len(manifests) and (lines := _corpus_differences(settings.index, known)):
        errors.add(CheckpointError(lines))
    if known and top_k is not None and top_k > (most := min(one.n_passages for one in known)):
        errors.add(ConfigError(f"top_k: must be at most the {most:,} passages of the index, got {top_k}"))
    if check_model:
        of_folder = {folder: one for folder, one in zip(settings.index, manifests, strict=True) if one is not None}
        for folder, model in _query_models(settings, of_folder).items():
            if lines := query_model_errors(folder, of_folder[folder], model):
                encodes = "embedding_model" in of_folder[folder].settings
                errors.add(ConfigError(lines) if encodes else CheckpointError(lines))
    if settings.rerank is not None and check_model:
        errors.attempt(parse_reranker, settings.rerank)
    errors.raise_any()
    return known


def _query_models(settings: SearchSettings, manifests: Mapping[str, Manifest]) -> dict[str, str | None]:
    """The embedding model that each index is opened with: indexes without one get it only where no index has one."""
    encoded = [folder for folder, one in manifests.items() if "embedding_model" in one.settings]
    return {folder: settings.embedding_model if folder in encoded or not encoded else None for folder in manifests}


def open_retriever(settings: SearchSettings, *, verify: bool = True, report: Report = no_report) -> Retriever:
    """Opens what is to be searched: an :class:`Index`, or a :class:`HybridRetriever` over several, within a
    :class:`RerankedRetriever` where there is a reranker.

    It has a ``fingerprint``, which says all that a search depends on.

    Args:
        settings: what to open.
        verify: False where :func:`check_retriever` has been called: the indexes' files and the reranker's name are not
            checked again.
        report: told of a reranker's progress.

    Raises:
        ConfigError, CheckpointError: as :func:`check_retriever`, or an embedding model cannot be loaded, or is another.
    """
    manifests = _check(settings, None, verify, check_model=verify)
    errors, opened = ErrorCollector(), {}
    for folder, model in _query_models(settings, dict(zip(settings.index, manifests, strict=True))).items():
        opened[folder] = errors.attempt(open_index, folder, embedding_model=model, verify=False)
    errors.raise_any()
    indexes: dict[str, Retriever] = {folder: index for folder, index in opened.items() if index is not None}
    retriever = indexes[settings.index[0]]
    if len(indexes) > 1:
        retriever = HybridRetriever(
            indexes,
            fusion=settings.fusion or "rrf",
            weights=settings.fusion_weights,
            depth=settings.fusion_depth or FUSION_DEPTH,
        )
    return with_reranker(retriever, settings, settings.index[0], report)


def with_reranker(retriever: Retriever, settings: SearchSettings, name: str, report: Report = no_report) -> Retriever:
    """The retriever, within a :class:`RerankedRetriever` where the settings ask for one.

    Raises:
        ConfigError: the reranker cannot be made.
    """
    if settings.rerank is None:
        return retriever
    reranker = build_reranker(settings.rerank)
    depth = settings.rerank_depth or RERANK_DEPTH
    return RerankedRetriever(retriever, reranker, depth=depth, name=name, report=report)


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
