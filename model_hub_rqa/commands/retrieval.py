"""``rqa index`` and ``rqa retrieve``."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.commands.common import (
    ErrorCollector,
    Progress,
    add_search,
    check_new_folder,
    check_search,
    named_as_typed,
    new_folder,
    say,
    search_settings,
)
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.libraries import check_libraries

if TYPE_CHECKING:
    from model_hub_rqa.data.corpus import Qrels, Query
    from model_hub_rqa.records import Hit
    from model_hub_rqa.retrieval.base import Retriever, RetrieverSettings
    from model_hub_rqa.retrieval.index_folder import Manifest

_OPTIONS = (
    *("k1", "b", "stopwords", "stemmer"),
    *("embedding_model", "similarity", "pooling", "query_prompt", "passage_prompt", "max_seq_length"),
)
_HITS_AT_ONCE = 50_000  # kept in memory with their texts


def add_commands(commands: Any) -> None:
    """Registers ``index`` and ``retrieve`` with what ``ArgumentParser.add_subparsers`` returned."""
    command = commands.add_parser("index", help="index a corpus for retrieval")
    command.add_argument("--corpus", required=True, metavar="FILE", help="jsonl (BEIR's), csv, tsv or parquet")
    command.add_argument("--retriever", required=True, metavar="NAME", help="bm25, dense, or package.module:Class")
    command.add_argument("--output", required=True, metavar="DIR", help="the index folder to make")
    command.add_argument("--passage-words", type=int, metavar="N", help="split documents into passages of N words")
    command.add_argument(
        "--passage-stride",
        type=int,
        metavar="N",
        help="words from one passage's beginning to the next's (default: all)",
    )
    command.add_argument(
        "--on-bad-record", choices=("error", "skip"), default="error", help="skip leaves bad documents out"
    )
    bm25 = command.add_argument_group("with --retriever bm25")
    bm25.add_argument("--k1", type=float, help="weight of repeated words (default 1.2)")
    bm25.add_argument("--b", type=float, help="how much long passages are held back, 0 to 1 (default 0.75)")
    bm25.add_argument("--stopwords", metavar="LANGUAGE", help='words passed over (default english; "" for none)')
    bm25.add_argument("--stemmer", metavar="LANGUAGE", help="cut words to their stems, for example english")
    dense = command.add_argument_group("with --retriever dense")
    dense.add_argument("--embedding-model", metavar="M", help="a sentence-transformers folder, or a name on the hub")
    dense.add_argument("--similarity", metavar="NAME", help="cosine, dot, euclidean, manhattan (default: the model's)")
    dense.add_argument("--pooling", metavar="NAME", help="mean, cls, lasttoken or another (default: the model's own)")
    dense.add_argument("--query-prompt", metavar="TEXT", help="put before each query (default: the model's own)")
    dense.add_argument("--passage-prompt", metavar="TEXT", help="put before each passage (default: the model's own)")
    dense.add_argument("--max-seq-length", type=int, metavar="N", help="tokens read of a text (default: the model's)")
    dense.add_argument("--batch-size", type=int, metavar="N", help="passages encoded at a time (default 32)")
    command.set_defaults(command=index)

    command = commands.add_parser("retrieve", help="find passages for questions, and score them against judgements")
    add_search(command, required=True)
    command.add_argument("--queries", required=True, metavar="FILE", help="BEIR's, FiD's, SQuAD's or dialogues")
    command.add_argument("--qrels", metavar="FILE", help="judgements: prints nDCG@10, Recall@100 and MRR@10")
    command.add_argument("--top-k", type=int, default=100, metavar="N", help="passages for each question (default 100)")
    command.add_argument("--output", required=True, metavar="DIR", help="receives ctxs.jsonl and run.trec")
    command.add_argument(
        "--on-bad-record", choices=("error", "skip"), default="error", help="skip leaves bad questions out"
    )
    command.set_defaults(command=retrieve)


def index(args: argparse.Namespace) -> None:
    """Builds an index folder; prints what is in it as a JSON object."""
    from model_hub_rqa.retrieval.index_folder import build_index

    progress = Progress("passages")
    with named_as_typed(args):
        settings = _settings(args)
        manifest = build_index(
            args.corpus,
            args.output,
            settings,
            passage_words=args.passage_words,
            passage_stride=args.passage_stride,
            on_bad_record=args.on_bad_record,
            batch_size=args.batch_size or 32,
            report=progress,
        )
    if manifest.n_skipped:
        say(f"{manifest.n_skipped:,} bad documents were left out of {args.corpus}")
    say(f"{args.output}: {manifest.n_passages:,} passages; {progress.summary()}")
    names = ("kind", "n_documents", "n_skipped", "n_passages", "corpus_sha256")
    shown = {name: getattr(manifest, name) for name in names}
    if "similarity" in manifest.model:
        shown["similarity"] = manifest.model["similarity"]
    print(json.dumps({"index": args.output, **shown, **manifest.measured}))


def _settings(args: argparse.Namespace) -> "RetrieverSettings":
    from model_hub_rqa.registry import RETRIEVERS
    from model_hub_rqa.retrieval.search import HYBRID

    if args.retriever == HYBRID:
        raise ConfigError("--retriever: hybrid is no index: make one of each kind, and give rqa retrieve both --index")
    try:
        kind: Any = RETRIEVERS.find(args.retriever)
    except ValueError as error:
        raise ConfigError(f"--retriever: {error}") from error
    own = {field.name for field in fields(kind)}
    options = {name: value for name in (*_OPTIONS, "batch_size") if (value := getattr(args, name)) is not None}
    errors = [
        f"--{name.replace('_', '-')}: is ignored with --retriever {args.retriever}"
        for name in options
        if name not in own and not (name == "batch_size" and "embedding_model" in own)
    ]
    if args.batch_size is not None and args.batch_size < 1:
        errors.append(f"--batch-size: must be at least 1, got {args.batch_size}")
    settings: RetrieverSettings = kind(**{name: value for name, value in options.items() if name in own})
    if errors:
        raise ConfigError([*errors, *settings.errors()])
    return settings


def retrieve(args: argparse.Namespace) -> None:
    """Writes ctxs.jsonl and run.trec; with judgements or answers, prints the measures as a JSON object."""
    from model_hub_rqa.data.corpus import read_qrels, read_queries
    from model_hub_rqa.metrics.ranking import has_answer_metrics, measures_within, ranking_metrics
    from model_hub_rqa.retrieval.search import open_retriever

    errors = ErrorCollector()
    output = Path(args.output)
    errors.attempt(check_new_folder, output)
    manifests = errors.attempt(check_search, args)
    queries = errors.attempt(read_queries, args.queries, on_bad_record=args.on_bad_record) or []
    qrels = errors.attempt(read_qrels, args.qrels) if args.qrels else None
    if args.qrels:
        errors.attempt(check_libraries, "ir_measures")
    if qrels is not None and queries and manifests is not None:
        unknown = _qrels_errors(qrels, queries, manifests[0], Path(args.index[0]))
        if unknown:
            errors.add(DataError(unknown))
    errors.raise_any()
    assert manifests is not None
    with named_as_typed(args):
        retriever = open_retriever(search_settings(args), verify=False)  # verified above
    if qrels is not None:
        _announce(args.top_k, len(queries) - len(qrels.judgements), len(queries), manifests[0].passage_words)
    tag = manifests[0].kind if len(manifests) == 1 else "hybrid"
    run, answer_ranks = _write(output, retriever, manifests[0], queries, args.top_k, tag)
    scores: dict[str, float] = {}
    if qrels is not None:
        scores = ranking_metrics(run, qrels.judgements, measures_within(args.top_k))
        scores["n_queries"] = len(qrels.judgements)
    scores |= has_answer_metrics(answer_ranks, args.top_k)
    if scores:
        print(json.dumps(scores))


def _qrels_errors(qrels: "Qrels", queries: Sequence["Query"], manifest: "Manifest", folder: Path) -> list[str]:
    """A line for each judgement of a document that the index lacks, and for each judged query that is not asked."""
    from model_hub_rqa.retrieval.base import PassageStore

    unknown = manifest.unknown_documents({document for _, document in qrels.lines}, PassageStore(folder))
    asked, missing = {query.id for query in queries}, set()
    errors = []
    for (query, document), line in qrels.lines.items():
        if query not in asked and query not in missing:
            missing.add(query)
            errors.append(f"{qrels.file}: line {line}: query {query!r} is not among the queries")
        if document in unknown:
            errors.append(f"{qrels.file}: line {line}: document {document!r} is not in the index")
    return errors


def _announce(top_k: int, n_unjudged: int, n_queries: int, passage_words: int | None) -> None:
    """What the measures do not count."""
    if n_unjudged:
        say(f"{n_unjudged:,} of {n_queries:,} queries have no judgements: they are retrieved for, and not scored")
    if passage_words is not None:
        say(f"documents are ranked by their best passage: --top-k {top_k} passages are of fewer documents")


def _write(
    output: Path, retriever: "Retriever", manifest: "Manifest", queries: Sequence["Query"], top_k: int, tag: str
) -> tuple[dict[str, list[str]], list[int | None]]:
    """Retrieves and writes both files; returns the ranked document ids by query id, and the queries' answer ranks."""
    from model_hub_rqa.metrics.ranking import answer_rank

    progress = Progress("questions")
    run, answer_ranks = {}, []
    with (
        new_folder(output) as folder,
        (folder / "ctxs.jsonl").open("w", encoding="utf-8") as ctxs,
        (folder / "run.trec").open("w", encoding="utf-8") as trec,
    ):
        step = max(_HITS_AT_ONCE // top_k, 1)
        for begin in range(0, len(queries), step):
            batch = queries[begin : begin + step]
            found = retriever.search([query.question for query in batch], top_k)
            for query, hits in zip(batch, found, strict=True):
                ctxs.write(json.dumps(_fid_record(query, hits), ensure_ascii=False) + "\n")
                ranking = _ranked_documents(manifest, hits)
                trec.writelines(_trec_lines(query.id, ranking, tag))
                run[query.id] = list(ranking)
                answer_ranks.append(answer_rank((hit.passage.text for hit in hits), _answers(query)))
            progress("retrieving", begin + len(batch), len(queries))
    say(f"{len(queries):,} questions in {output}; {progress.summary()}")
    return run, answer_ranks


def _answers(query: "Query") -> list[str]:
    """The gold answers, or the answer to train on where there are none."""
    return list(query.answers) if query.answers is not None else [] if query.target is None else [query.target]


def _fid_record(query: "Query", hits: Sequence["Hit"]) -> dict[str, Any]:
    """A question in the form of FiD's data, with what its file said of the answer."""
    record: dict[str, Any] = {"id": query.id, "question": query.question}
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
        {"id": hit.passage.id, "title": hit.passage.title, "text": hit.passage.text, "score": hit.score} for hit in hits
    ]
    return record


def _ranked_documents(manifest: "Manifest", hits: Sequence["Hit"]) -> dict[str, float]:
    """Documents, the best first, with the score of the best passage of each."""
    ranking: dict[str, float] = {}
    for hit in hits:
        ranking.setdefault(manifest.document_id(hit.passage.id), hit.score)
    return ranking


def _trec_lines(query: str, ranking: dict[str, float], tag: str) -> Iterator[str]:
    """A TREC run's lines. Evaluators order by score alone and break ties by document id: so that they keep our order,
    a score that does not fall is lowered to the next smaller number of 32 bits. White space in ids becomes %20 and
    the like, as the fields are separated by it."""
    import numpy as np

    last = np.float32(np.inf)
    for rank, (document, score) in enumerate(ranking.items(), 1):
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        yield f"{_no_spaces(query)} Q0 {_no_spaces(document)} {rank} {float(last)!r} {tag}\n"


def _no_spaces(id_: str) -> str:
    return "".join(f"%{ord(character):02X}" if character.isspace() else character for character in id_)
