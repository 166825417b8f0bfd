"""``rqa index`` and ``rqa retrieve``."""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.commands.common import (
    ErrorCollector,
    Progress,
    add_format,
    add_on_bad_record,
    add_queries,
    add_search,
    check_new_folder,
    check_search,
    given_format,
    log,
    named_as_typed,
    new_folder,
    parse_measures,
    query_builder,
    search_settings,
)
from model_hub_rqa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from model_hub_rqa.data.corpus import Qrels, Query
    from model_hub_rqa.records import Hit
    from model_hub_rqa.retrieval.base import Retriever, RetrieverSettings
    from model_hub_rqa.retrieval.chunking import Chunking
    from model_hub_rqa.retrieval.manifest import Manifest

_OPTIONS = (
    *("engine", "language", "stopwords", "k1", "b"),
    *("embedding_model", "similarity", "pooling", "query_prompt", "passage_prompt", "max_seq_length"),
    *("query_model", "embeddings", "embeddings_dtype", "faiss_index", "faiss_search", "devices"),
)
_HITS_AT_ONCE = 50_000  # kept in memory with their texts


def add_commands(commands: Any) -> None:
    """Registers ``index`` and ``retrieve`` with what ``ArgumentParser.add_subparsers`` returned."""
    _add_index(commands.add_parser("index", help="index a corpus for retrieval"))
    _add_retrieve(commands.add_parser("retrieve", help="find passages for questions, and score them against judgments"))


def _add_index(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--corpus",
        required=True,
        metavar="PATH",
        help="json(l), csv, tsv, parquet; txt, md, rst, html, pdf; a folder of these",
    )
    command.add_argument("--retriever", required=True, metavar="NAME", help="bm25, dense, or package.module:Class")
    command.add_argument("--output", required=True, metavar="DIR", help="the index folder to make")
    command.add_argument("--passage-words", type=int, metavar="N", help="split documents into passages of N words")
    command.add_argument(
        "--passage-stride",
        type=int,
        metavar="N",
        help="words from one passage's beginning to the next's (default: all)",
    )
    command.add_argument("--chunk-by", metavar="UNIT", help="split by words, tokens, sentences or headings")
    command.add_argument("--chunk-size", type=int, metavar="N", help="units of a passage; of headings, words at most")
    command.add_argument("--chunk-overlap", type=int, metavar="N", help="units in common with the passage before")
    command.add_argument("--chunk-tokenizer", metavar="M", help="of tokens: a folder, or a name on the hub")
    add_on_bad_record(command, "documents")
    _add_bm25(command.add_argument_group("with --retriever bm25"))
    _add_dense(command.add_argument_group("with --retriever dense"))
    command.set_defaults(command=index)


def _add_bm25(bm25: Any) -> None:
    bm25.add_argument("--engine", choices=("tantivy", "bm25s"), help="default tantivy; bm25s where k1 or b is given")
    bm25.add_argument(
        "--language", "--stemmer", metavar="LANGUAGE", help='whose stems are taken (default english; "none" for none)'
    )
    bm25.add_argument("--stopwords", metavar="LANGUAGE", help="whose commonest words are left out (default none)")
    bm25.add_argument("--k1", type=float, help="weight of repeated words, with bm25s (default 1.2)")
    bm25.add_argument("--b", type=float, help="how much long passages count less, 0 to 1, with bm25s (default 0.75)")


def _add_dense(dense: Any) -> None:
    dense.add_argument("--embedding-model", metavar="M", help="a sentence-transformers folder, or a name on the hub")
    dense.add_argument("--similarity", metavar="NAME", help="cosine, dot, euclidean, manhattan (default: the model's)")
    dense.add_argument("--pooling", metavar="NAME", help="mean, cls, lasttoken or another (default: the model's own)")
    dense.add_argument("--query-prompt", metavar="TEXT", help="put before each query (default: the model's own)")
    dense.add_argument("--passage-prompt", metavar="TEXT", help="put before each passage (default: the model's own)")
    dense.add_argument("--max-seq-length", type=int, metavar="N", help="tokens read of a text (default: the model's)")
    dense.add_argument("--query-model", metavar="M", help="encodes queries where they have a model of their own (DPR)")
    dense.add_argument("--embeddings", metavar="FILE", help="a .npy file of the passages' vectors, not to encode them")
    dense.add_argument("--embeddings-dtype", metavar="TYPE", help="float16 halves the disk (default float32)")
    dense.add_argument("--faiss-index", metavar="TEXT", help="faiss' index_factory string, for example HNSW32")
    dense.add_argument("--faiss-search", metavar="TEXT", help="faiss' search parameters, for example efSearch=128")
    dense.add_argument("--devices", metavar="LIST", help="that encode together: cuda:0,cuda:1 (default: every GPU)")
    dense.add_argument(
        "--shard", metavar="I/N", help="encode part I of N; the last one joins them (default: the rank, under torchrun)"
    )
    dense.add_argument("--batch-size", type=int, metavar="N", help="passages encoded at a time (default 32)")


def _add_retrieve(command: argparse.ArgumentParser) -> None:
    add_search(command, required=True)
    add_queries(command)
    command.add_argument("--queries", required=True, metavar="FILE", help="BEIR's, FiD's, KILT's ... (docs/data.rst)")
    command.add_argument("--qrels", metavar="FILE", help="relevance judgments: prints the measures")
    command.add_argument(
        "--measures",
        metavar="NAMES",
        help='of ir_measures, for example "nDCG@10 R@100 AP@100" (default: nDCG@10 Recall@100 MRR@10)',
    )
    command.add_argument(
        "--ignore-identical-ids", action="store_true", help="drop documents with the id of their query, as BEIR does"
    )
    command.add_argument("--top-k", type=int, metavar="N", help="passages for each question (default 100)")
    command.add_argument("--output", required=True, metavar="DIR", help="receives ctxs.jsonl and run.trec")
    add_on_bad_record(command, "questions")
    add_format(command)
    command.set_defaults(command=retrieve)


def index(args: argparse.Namespace) -> None:
    """Builds an index folder; prints what is in it as a JSON object."""
    from model_hub_rqa.retrieval.index_folder import build_index, index_errors
    from model_hub_rqa.retrieval.shards import build_shard, parse_shard

    progress = Progress("passages")
    with named_as_typed(args):
        settings, errors = _settings(args)
        chunking, more = _chunking(args)
        what = {
            "passage_words": args.passage_words,
            "passage_stride": args.passage_stride,
            "chunking": chunking,
            "on_bad_record": args.on_bad_record,
            "batch_size": 32 if args.batch_size is None else args.batch_size,
        }
        if settings is None or errors or more:
            raise ConfigError([*errors, *more, *index_errors(args.corpus, args.output, settings, **what)])
        shard, folder = parse_shard(args.shard), Path(args.output)
        if shard is None:
            manifest = build_index(args.corpus, folder, settings, **what, report=progress)
        else:
            folder, manifest = build_shard(args.corpus, folder, settings, shard, **what, report=progress)
    _say_ignored(Path(args.corpus))
    if manifest.n_skipped:
        log(f"{manifest.n_skipped:,} bad documents were left out of {args.corpus}")
    log(f"{folder}: {manifest.n_passages:,} passages; {progress.summary()}")
    names = ("kind", "n_documents", "n_skipped", "n_passages", "corpus_sha256")
    shown = {name: getattr(manifest, name) for name in names}
    if "similarity" in manifest.model:
        shown["similarity"] = manifest.model["similarity"]
    print(json.dumps({"index": str(folder), **shown, **manifest.measured}))


def _chunking(args: argparse.Namespace) -> "tuple[Chunking | None, list[str]]":
    """How documents are split, and a line for each option that is ignored."""
    from model_hub_rqa.retrieval.chunking import Chunking

    names = ("size", "overlap", "tokenizer")
    given = {name: value for name in names if (value := getattr(args, f"chunk_{name}")) is not None}
    if args.chunk_by is None:
        return None, [f"chunk_{name}: needs chunk_by" for name in given]
    return Chunking(args.chunk_by, **given), []


def _say_ignored(corpus: Path) -> None:
    from model_hub_rqa.data.documents import document_files

    others = document_files(corpus)[1] if corpus.is_dir() else {}
    if others:
        listed = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in sorted(others.items()))
        log(f"{sum(others.values()):,} files of {corpus} are no documents and are ignored: {listed}")


def _settings(args: argparse.Namespace) -> "tuple[RetrieverSettings | None, list[str]]":
    """The settings of the retriever, None where there is no such kind, and a line for each option that does not fit."""
    from model_hub_rqa.registry import RETRIEVERS
    from model_hub_rqa.retrieval.search import HYBRID

    if args.retriever == HYBRID:
        hint = "make one of each kind, and give rqa retrieve both --index"
        return None, [f"--retriever: hybrid is no index: {hint}"]
    try:
        kind: Any = RETRIEVERS.find(args.retriever)
    except ValueError as error:
        return None, [f"--retriever: {error}"]
    own = {field.name for field in fields(kind)}
    options = {name: value for name in (*_OPTIONS, "batch_size") if (value := getattr(args, name)) is not None}
    errors = [
        f"--{name.replace('_', '-')}: is ignored with --retriever {args.retriever}"
        for name in options
        if name not in own and not (name == "batch_size" and "embedding_model" in own)
    ]
    return kind(**{name: value for name, value in options.items() if name in own}), errors


def retrieve(args: argparse.Namespace) -> None:
    """Writes ctxs.jsonl and run.trec; with relevance judgments or answers, prints the measures as a JSON object."""
    from model_hub_rqa.data.corpus import read_qrels, read_queries
    from model_hub_rqa.metrics.documents import has_answer_metrics
    from model_hub_rqa.retrieval.search import open_retriever

    errors = ErrorCollector()
    errors.attempt(check_new_folder, Path(args.output))
    manifests = errors.attempt(check_search, args)
    args.top_k = 100 if args.top_k is None else args.top_k
    question_format = errors.attempt(given_format, args)
    options = {
        "on_bad_record": args.on_bad_record,
        "require_ids": args.ignore_identical_ids,
        "question_format": question_format,
    }
    queries = errors.attempt(read_queries, args.queries, **options)
    qrels = errors.attempt(read_qrels, args.qrels) if args.qrels else None
    measures = errors.attempt(parse_measures, args, max(args.top_k, 1))
    judged = None
    if qrels is not None and queries and manifests is not None:
        judged = errors.attempt(_judgments, qrels, queries, manifests[0], Path(args.index[0]))
    errors.raise_any()
    assert queries is not None
    assert measures is not None
    assert manifests is not None
    with named_as_typed(args):
        retriever = open_retriever(search_settings(args), verify=False, report=Progress("questions"))  # verified above
    if judged is not None:
        _announce(args.top_k, len(queries) - len(judged[0]), len(queries), manifests[0].is_split)
    more = _most_passages(manifests[0], Path(args.index[0]), queries) if args.ignore_identical_ids else 0
    stages, answer_ranks = _write(args, retriever, manifests[0], queries, more)
    scores: dict[str, Any] = {}
    if judged is not None:
        judgments, unknown = judged
        by_stage = _stage_scores(stages, judgments, measures)
        best = {name: by_stage[-1][name] for name in measures}
        scores = {**best, "n_queries": len(judgments), **unknown, "stages": by_stage}
    scores |= has_answer_metrics(answer_ranks, args.top_k)
    if scores:
        print(json.dumps(scores))


def _judgments(
    qrels: "Qrels", queries: Sequence["Query"], manifest: "Manifest", folder: Path
) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """The relevance judgments of the queries that are asked, and how many documents and queries of all are unknown."""
    from model_hub_rqa.retrieval.base import PassageStore

    asked = {query.id for query in queries}
    judgments = {query: documents for query, documents in qrels.judgements.items() if query in asked}
    if not judgments:
        first, known = next(iter(qrels.judgements)), queries[0].id
        raise DataError(f"{qrels.file}: no judged query is asked: judges {first!r} ..., asked are {known!r} ...")
    judged = {document for documents in judgments.values() for document in documents}
    store = PassageStore(folder)
    unknown = manifest.unknown_documents(judged, store)
    if unknown == judged:
        first, known = next(iter(next(iter(judgments.values())))), manifest.document_id(store[0].id)
        raise DataError(f"{qrels.file}: no judged document is in the index: judges {first!r} ..., it has {known!r} ...")
    if unknown:
        log(f"{len(unknown):,} of {len(judged):,} judged documents are not in the index: they count as not retrieved")
    n_unknown_queries = len(qrels.judgements) - len(judgments)
    if n_unknown_queries:
        log(f"{n_unknown_queries:,} of {len(qrels.judgements):,} judged queries are not asked: they do not count")
    return judgments, {"n_unknown_documents": len(unknown), "n_unknown_queries": n_unknown_queries}


def _announce(top_k: int, n_unjudged: int, n_queries: int, is_split: bool) -> None:
    """What the measures do not count."""
    if n_unjudged:
        log(f"{n_unjudged:,} of {n_queries:,} queries have no judgments: they are retrieved for, and not scored")
    if is_split:
        log(f"documents are ranked by their best passage: --top-k {top_k} passages are of fewer documents")


@dataclass
class _StageRun:
    """What a stage of the search gave for all queries: ranked document ids by query id, and its seconds."""

    name: str
    run: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0


def _write(
    args: argparse.Namespace, retriever: "Retriever", manifest: "Manifest", queries: Sequence["Query"], more: int
) -> tuple[list[_StageRun], list[int | None]]:
    """Retrieves, and writes both files of what the last stage gives; returns each stage, and the queries' answer ranks.

    Where ``more`` is not 0, documents with the id of their query are dropped, and so many more passages are retrieved.
    """
    from model_hub_rqa.data.rankings import trec_lines
    from model_hub_rqa.metrics.documents import answer_rank
    from model_hub_rqa.records import Question
    from model_hub_rqa.retrieval.base import search_stages

    def kept(query: "Query", hits: Sequence["Hit"]) -> list["Hit"]:
        return [hit for hit in hits if not more or manifest.document_id(hit.passage.id) != query.id][: args.top_k]

    progress, build = Progress("questions"), query_builder(args)
    tag = "rerank" if args.rerank else "hybrid" if len(args.index) > 1 else manifest.kind
    stages, answer_ranks, n_identical = list[_StageRun](), [], 0
    with (
        new_folder(Path(args.output)) as folder,
        (folder / "ctxs.jsonl").open("w", encoding="utf-8") as ctxs,
        (folder / "run.trec").open("w", encoding="utf-8") as trec,
    ):
        step = max(_HITS_AT_ONCE // args.top_k, 1)
        for begin in range(0, len(queries), step):
            batch = queries[begin : begin + step]
            texts = build([Question(query.question, (), query.chat_history, query.id) for query in batch])
            found = search_stages(args.index[0], retriever, texts, args.top_k + more)
            stages = stages or [_StageRun(stage.name) for stage in found]
            for total, stage in zip(stages, found, strict=True):
                total.seconds += stage.seconds
                for query, hits in zip(batch, stage.hits, strict=True):
                    total.run[query.id] = list(_ranked_documents(manifest, kept(query, hits)))
            for query, text, hits in zip(batch, texts, found[-1].hits, strict=True):
                best = kept(query, hits)
                n_identical += bool(more) and any(manifest.document_id(hit.passage.id) == query.id for hit in hits)
                ctxs.write(json.dumps(_fid_record(query, text, best), ensure_ascii=False) + "\n")
                trec.writelines(trec_lines(query.id, _ranked_documents(manifest, best), tag))
                answer_ranks.append(answer_rank((hit.passage.text for hit in best), _answers(query)))
            progress("retrieving", begin + len(batch), len(queries))
    log(f"{len(queries):,} questions in {args.output}; {progress.summary()}")
    if n_identical:
        log(f"{n_identical:,} queries retrieved the document with their own id: it was dropped")
    return stages, answer_ranks


def _stage_scores(
    stages: Sequence[_StageRun], judgments: Mapping[str, Mapping[str, int]], measures: Sequence[str]
) -> list[dict[str, Any]]:
    """The measures of each stage and its milliseconds a query, which are told as a table as well."""
    from model_hub_rqa.metrics.ranking import ranking_metrics

    scores, cells = list[dict[str, Any]](), [["stage", *measures, "ms a query"]]
    for stage in stages:
        values, time = ranking_metrics(stage.run, judgments, measures), 1000 * stage.seconds / len(stage.run)
        scores.append({"stage": stage.name, **values, "ms_per_query": time})
        cells.append([stage.name, *(f"{values[name]:.4f}" for name in measures), f"{time:.1f}"])
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    for name, *row in cells:
        log("  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(row, others, strict=True))]))
    return scores


def _most_passages(manifest: "Manifest", folder: Path, queries: Sequence["Query"]) -> int:
    """The most passages that a document with the id of a query has in the index; 0 where there is no such document."""
    from model_hub_rqa.retrieval.base import PassageStore

    if not manifest.is_split:
        return 1
    counts = Counter(manifest.document_id(passage.id) for passage in PassageStore(folder))
    return max((counts[query.id] for query in queries), default=0)


def _answers(query: "Query") -> list[str]:
    """The gold answers, or the answer to train on where there are none."""
    return list(query.answers) if query.answers is not None else [] if query.target is None else [query.target]


def _fid_record(query: "Query", text: str, hits: Sequence["Hit"]) -> dict[str, Any]:
    """A question in the form of FiD's data, with what its file said of the answer."""
    record: dict[str, Any] = {"id": query.id, "question": query.question}
    if text != query.question:
        record["retrieval_query"] = text
    if query.chat_history:
        record["chat_history"] = [{"role": turn.role, "text": turn.text} for turn in query.chat_history]
    if query.answers == ("",):  # it cannot be answered
        record["is_impossible"] = True
        query = replace(query, answers=None)
    if query.target is not None:
        record["target"] = query.target
    if answers := _answers(query):
        record["answers"] = answers
    record["ctxs"] = [
        {"id": hit.passage.id, "title": hit.passage.title, "text": hit.passage.text, "score": hit.score}
        | hit.passage.source()
        for hit in hits
    ]
    return record


def _ranked_documents(manifest: "Manifest", hits: Sequence["Hit"]) -> dict[str, float]:
    """Documents, the best first, with the score of the best passage of each."""
    ranking: dict[str, float] = {}
    for hit in hits:
        ranking.setdefault(manifest.document_id(hit.passage.id), hit.score)
    return ranking
