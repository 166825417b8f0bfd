"""The retriever of a training run: frozen, and opened from an index folder or from one made of a corpus, once."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model_hub_rqa.errors import CheckpointError
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.retrieval.index_folder import Index, build_index, open_index
from model_hub_rqa.tasks.passages.settings import PassageKwargs

logger = logging.getLogger(__name__)


def frozen_index(settings: PassageKwargs, records: Iterable[Mapping[str, Any]], cache_dir: Path) -> Index:
    """The index that the data section asks for.

    Args:
        settings: ``index`` names a folder, which must fit ``embedding_model`` where that is given; otherwise a dense
            index of ``corpus_file`` is made with ``embedding_model``, or of all passages of the records.
        records: rows with passages and negatives; only looked at where they are the corpus.
        cache_dir: where an index that is made is kept for the next run.

    Raises:
        CheckpointError: the index is damaged, or does not fit the embedding model.
        ConfigError: the model cannot be loaded, or a library is missing.
        DataError: all faults of the corpus.
    """
    if settings.index is not None:
        kind = "dense" if settings.embedding_model else None
        return open_index(settings.index, retriever=kind, embedding_model=settings.embedding_model or None)
    cache_dir.mkdir(parents=True, exist_ok=True)
    corpus = settings.corpus_file or _corpus_of(records, cache_dir)
    return _cached_index(Path(corpus), settings.embedding_model, cache_dir)


def fingerprint(index: Index) -> str:
    """Says all that a search of the index depends on."""
    manifest = index.manifest
    return json.dumps([manifest.kind, manifest.settings, manifest.model_sha256, manifest.sha256], sort_keys=True)


def _cached_index(corpus: Path, embedding_model: str, cache_dir: Path) -> Index:
    named = json.dumps([str(corpus.resolve()), embedding_model])
    folder = cache_dir / f"dense-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        try:
            return open_index(folder, embedding_model=embedding_model, corpus=corpus)
        except CheckpointError as error:  # another corpus or model under the same name, or damage
            logger.warning("the cached index is made anew: %s", error)
            shutil.rmtree(folder)
    build_index(corpus, folder, DenseSettings(embedding_model=embedding_model))
    return open_index(folder, verify=False)


def _corpus_of(records: Iterable[Mapping[str, Any]], cache_dir: Path) -> Path:
    """A corpus file of every passage that occurs in the records, each text once, named by its content."""
    lines: dict[str, str] = {}
    for record in records:
        for passage in (*record["passages"], *record["negatives"]):
            key = " ".join(passage["text"].split())
            if key not in lines:
                document = {"_id": str(len(lines)), "title": passage["title"], "text": passage["text"]}
                lines[key] = json.dumps(document, ensure_ascii=False) + "\n"
    content = "".join(lines.values()).encode()
    path = cache_dir / f"passages-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    if not path.is_file():
        path.with_suffix(".tmp").write_bytes(content)
        path.with_suffix(".tmp").replace(path)
    return path
