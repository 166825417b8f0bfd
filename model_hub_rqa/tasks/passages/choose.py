"""Which passages are read for a question, and in which order: the record's own, or those of a retriever's index."""

import functools
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_hub_rqa.data.arrow_cache import map_examples
from model_hub_rqa.errors import CheckpointError, DataError
from model_hub_rqa.records import Hit, Question
from model_hub_rqa.retrieval.base import Report, Retriever
from model_hub_rqa.retrieval.dense import DenseSettings
from model_hub_rqa.retrieval.index_folder import Index, build_index, open_index
from model_hub_rqa.retrieval.queries import QueryBuilder, turns_of
from model_hub_rqa.retrieval.search import open_retriever, with_reranker
from model_hub_rqa.tasks.passages.settings import PassageKwargs

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Retrieve = Callable[[list[str]], list[list[Hit]]]
"""From queries to hits, best first: some more than are to be kept, since gold ones among them do not count."""

Row = dict[str, Any]  # a passage: id, title, text, score, gold

_QUESTIONS_A_BATCH = 1024  # retrieved for at a time
_SECONDS_BETWEEN_REPORTS = 30.0


def choose_passages(
    examples: "Dataset",
    *,
    n_context: int | None,
    num_hard_negatives: int = 0,
    seed: int = 0,
    overwrite_cache: bool = False,
) -> "Dataset":
    """Keeps the passages of each record that are read.

    Args:
        examples: rows as `formats.fid.FUSION_FEATURES` describes them.
        n_context: the first passages, so many of them; None for all.
        num_hard_negatives: so many of the record's negatives are put among its passages, at positions drawn from the
            seed, so that the gold passage is not always first; n_context then drops what is not gold.
        seed: of the positions.
        overwrite_cache: choose anew where the cache has the choice.
    """
    choose = functools.partial(_choose, n_context=n_context, num_hard_negatives=num_hard_negatives, seed=seed)
    return map_examples(examples, choose, overwrite_cache=overwrite_cache, with_indices=True, desc="choosing passages")


def retrieve_passages(
    examples: "Dataset",
    retrieve: Retrieve,
    *,
    max_num_to_retrieve: int,
    n_context: int | None,
    keep_gold: bool,
    queries: QueryBuilder | None = None,
    seed: int = 0,
    fingerprint: str | None = None,
    overwrite_cache: bool = False,
) -> "Dataset":
    """Replaces the passages of each record by retrieved ones.

    Args:
        examples: rows as `formats.fid.FUSION_FEATURES` describes them.
        retrieve: called with the queries of a batch.
        max_num_to_retrieve: passages kept of those retrieved, gold ones not counted.
        n_context: passages read in the end, the first that are not gold dropped last; None for all.
        keep_gold: True for training: the record's gold passages are read wherever they were ranked (see
            `insert_gold`). False for an honest evaluation.
        queries: makes queries of the questions and the turns before them; by default each is the question alone.
        seed: of the positions of gold passages that were not retrieved.
        fingerprint: says what the retrieval depends on (corpus, model), so that a cached result may be used; None to
            retrieve anew.

    Raises:
        DataError: ``retrieve`` returned a list of another length, or no passage for a question.
    """

    from datasets.fingerprint import generate_random_fingerprint

    build = queries or QueryBuilder()

    def replace(rows: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        passages = []
        for index, given, ranked in zip(indices, rows["passages"], _retrieved(retrieve, build, rows), strict=True):
            gold = [passage for passage in given if passage["gold"]] if keep_gold else []
            rng = np.random.default_rng([seed, index])
            merged = insert_gold(gold, [_row(hit) for hit in ranked], max_num_to_retrieve, rng)
            passages.append(_cut(merged, n_context))
        return {"passages": passages}

    # retrievers are large, and their own text says what they depend on
    found_by = generate_random_fingerprint() if fingerprint is None else (fingerprint, build.fingerprint)
    return map_examples(
        examples,
        replace,
        overwrite_cache=overwrite_cache,
        key=(max_num_to_retrieve, n_context, keep_gold, seed, found_by),
        batched=True,
        batch_size=_QUESTIONS_A_BATCH,
        with_indices=True,
        desc="retrieving passages",
    )


def _retrieved(retrieve: Retrieve, build: QueryBuilder, rows: Mapping[str, list[Any]]) -> Sequence[Sequence[Any]]:
    columns = zip(rows["id"], rows["question"], rows["chat_history"], strict=True)
    questions = [Question(text, (), turns_of(history), id_) for id_, text, history in columns]
    found = retrieve(build(questions))
    if len(found) != len(questions):
        raise DataError(f"retrieval: asked {len(questions)} questions, got {len(found)} lists of passages")
    without = [question.text for question, passages in zip(questions, found, strict=True) if not passages]
    if without:
        raise DataError(f"retrieval: no passage was found for the question {text!r}" for text in without)
    return found


def insert_gold(
    gold: Sequence[Mapping[str, Any]], ranked: Sequence[Mapping[str, Any]], max_others: int, rng: np.random.Generator
) -> list[Row]:
    """Merges gold passages into a ranked list, of which ``max_others`` that are not gold are kept.

    A gold passage that is ranked before the last of those stands there; any other stands at a position drawn at random,
    the first and the last included. Passages with the same text, or without one and with the same title, are the same:
    ids of a record and of a corpus need not agree.
    """
    golden = {_key(passage): passage for passage in gold}
    merged: list[Row] = []
    seen = set()
    others = 0
    for passage in ranked:
        if others == max_others:
            break
        key = _key(passage)
        if key not in seen:
            seen.add(key)
            others += key not in golden
            merged.append({**passage, "gold": key in golden})
    for key, passage in golden.items():
        if key not in seen:
            merged.insert(int(rng.integers(len(merged) + 1)), {**passage, "gold": True})
    return merged


def _choose(
    row: Mapping[str, Any], index: int, *, n_context: int | None, num_hard_negatives: int, seed: int
) -> dict[str, list[Row]]:
    passages = [dict(passage) for passage in row["passages"]]
    known = {_key(passage) for passage in passages}
    negatives = [passage for passage in row["negatives"] if _key(passage) not in known][:num_hard_negatives]
    if not num_hard_negatives:  # as in a validation, which must not know what is gold
        return {"passages": passages[:n_context]}
    rng = np.random.default_rng([seed, index])
    for negative in negatives:
        passages.insert(int(rng.integers(len(passages) + 1)), dict(negative))
    return {"passages": _cut(passages, n_context)}


def _cut(passages: list[Row], n_context: int | None) -> list[Row]:
    """At most ``n_context`` passages in their order; gold ones are dropped only where nothing else is left to drop."""
    if n_context is None or len(passages) <= n_context:
        return passages
    order = sorted(range(len(passages)), key=lambda i: not passages[i]["gold"])
    return [passages[i] for i in sorted(order[:n_context])]


def _key(passage: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of the text; of a passage without one, those of the title behind a first one that is empty."""
    return tuple(passage["text"].split()) or ("", *passage["title"].split())


def _row(hit: Hit) -> Row:
    passage = hit.passage
    return {"id": passage.id, "title": passage.title, "text": passage.text, "score": float(hit.score), "gold": False}


def task_retriever(settings: PassageKwargs, records: Iterable[Mapping[str, Any]], cache_dir: Path) -> Retriever:
    """The retriever that the data section asks for, with a ``fingerprint``, which says all that its searches depend on.

    Args:
        settings: ``index`` names a folder, or several that are fused, which must fit ``embedding_model`` where that is
            given; otherwise a dense index of ``corpus_file`` is made with ``embedding_model``, or of all passages of
            the records. ``rerank`` names what reranks the hits.
        records: rows with passages and negatives; only looked at where they are the corpus.
        cache_dir: where an index that is made is kept for the next run.

    Raises:
        CheckpointError: the index is damaged, or does not fit the embedding model.
        ConfigError: the model cannot be loaded, or a library is missing.
        DataError: every error of the corpus.
    """
    search = settings.search
    assert search is not None, "no retrieval is asked for"
    if search.index:
        return open_retriever(search, report=log_progress())
    cache_dir.mkdir(parents=True, exist_ok=True)
    corpus = settings.corpus_file or _corpus_of(records, cache_dir)
    index = _cached_index(Path(corpus), settings.embedding_model, cache_dir)
    return with_reranker(index, search, "dense", log_progress())


def log_progress() -> Report:
    """Logs the progress of a long step, every half a minute."""
    told = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _SECONDS_BETWEEN_REPORTS:
            told = time.monotonic()
            logger.info("%s: %d/%d questions", what, done, total)

    return report


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
    lines: dict[tuple[str, ...], str] = {}
    for record in records:
        for passage in (*record["passages"], *record["negatives"]):
            key = _key(passage)
            if key not in lines:
                document = {"_id": str(len(lines)), "title": passage["title"], "text": passage["text"]}
                lines[key] = json.dumps(document, ensure_ascii=False) + "\n"
    content = "".join(lines.values()).encode()
    path = cache_dir / f"passages-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    if not path.is_file():
        path.with_suffix(".tmp").write_bytes(content)
        path.with_suffix(".tmp").replace(path)
    return path
