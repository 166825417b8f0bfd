"""``rqa mine``."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.commands.common import (
    ErrorCollector,
    Progress,
    add_format,
    add_language,
    add_on_bad_record,
    add_search,
    check_language,
    check_output_file,
    check_search,
    given_format,
    log,
    named_as_typed,
    search_settings,
)
from model_hub_rqa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from model_hub_rqa.retrieval.manifest import Manifest
    from model_hub_rqa.retrieval.mining import Asked


def add_commands(commands: Any) -> None:
    """Registers ``mine`` with what ``ArgumentParser.add_subparsers`` returned."""
    command = commands.add_parser("mine", help="find hard negatives to train a retriever or a reranker on")
    add_search(command, required=True)
    command.add_argument("--data", required=True, metavar="FILE", help="questions with positives, or with --qrels")
    command.add_argument("--qrels", metavar="FILE", help="the positives are the judged passages of the index")
    command.add_argument("--output", required=True, metavar="FILE", help="DPR's training form, one record a line")
    command.add_argument("--top-k", type=int, metavar="N", help="candidates of a question (default 100)")
    command.add_argument("--skip", type=int, default=0, metavar="N", help="pass over the first N of them (default 0)")
    command.add_argument("--negatives", type=int, default=8, metavar="N", help="kept of a question (default 8)")
    command.add_argument(
        "--margin", type=float, metavar="X", help="drop candidates above X times the positive's score, such as 0.95"
    )
    command.add_argument(
        "--keep-answers", action="store_true", help="keep candidates that have an answer of the question in their text"
    )
    add_format(command)
    add_language(command)
    add_on_bad_record(command, "questions")
    command.set_defaults(command=mine)


def mine(args: argparse.Namespace) -> None:
    """Writes records with positives and hard negatives; prints what was kept and dropped as a JSON object."""
    from model_hub_rqa.metrics.languages import choose_rules
    from model_hub_rqa.retrieval.mining import MiningSettings
    from model_hub_rqa.retrieval.mining import mine as mine_negatives
    from model_hub_rqa.retrieval.rerank import RERANK_DEPTH
    from model_hub_rqa.retrieval.search import open_retriever
    from model_hub_rqa.tasks.base import write_file

    errors, output = ErrorCollector(), Path(args.output)
    errors.attempt(check_output_file, output)
    errors.attempt(check_language, args.language)
    top_k = 100 if args.top_k is None else args.top_k
    settings = MiningSettings(top_k, args.skip, args.negatives, args.margin, args.keep_answers)
    lines, depth = settings.errors(), RERANK_DEPTH if args.rerank_depth is None else args.rerank_depth
    if args.rerank is not None and 0 < depth < top_k:
        rule = f"must be at least top_k ({top_k}), since other passages get no score of the reranker"
        lines.append(f"rerank_depth: {rule}, got {depth}")
    if lines:
        errors.add(ConfigError(lines))
    manifests = errors.attempt(check_search, args)
    question_format, questions = errors.attempt(given_format, args), None
    if args.qrels is None:
        questions = errors.attempt(_questions, args.data, args.on_bad_record, question_format)
    elif manifests is not None:
        questions = errors.attempt(_judged_questions, args, manifests[0], question_format)
    with named_as_typed(args):
        errors.raise_any()
        assert questions is not None
        progress = Progress("questions")
        retriever = open_retriever(search_settings(args), verify=False, report=progress)  # verified above
    texts = [[*one.answers] or [one.positives[0].text] for one in questions]
    rules = choose_rules(args.language, [text for some in texts for text in some]).rules
    try:
        records, counts = mine_negatives(questions, retriever, settings, rules=rules, report=progress)
    except DataError as error:
        raise DataError(f"{args.data}: {line}" for line in error.errors) from error
    write_file(output, records)
    log(f"{len(records):,} of {len(questions):,} questions in {output}; {progress.summary()}")
    print(json.dumps(counts))


def _questions(path: str, on_bad_record: str, question_format: Any) -> "list[Asked]":
    """The questions of a file that have positives."""
    from model_hub_rqa.records import Passage
    from model_hub_rqa.retrieval.mining import Asked
    from model_hub_rqa.tasks.retriever.records import positives_of, read_relevance

    records = read_relevance(path, on_bad_record, question_format)
    found, bad = [], []
    for row in records.rows:
        positives = tuple(Passage(one["id"], one["text"], one["title"]) for one in positives_of(row))
        if positives:
            found.append(Asked(row["id"], row["question"], positives, tuple(filter(None, row["answers"]))))
        else:
            bad.append(f"{path}: record {row['id']}: must have a positive passage, got none")
    if bad and (on_bad_record == "error" or not found):
        raise DataError(bad)
    for line in (*records.skipped, *bad):
        log(f"left out: {line}")
    return found


def _judged_questions(args: argparse.Namespace, manifest: "Manifest", question_format: Any) -> "list[Asked]":
    """The questions that --qrels judges, with the passages of the index that it judges relevant."""
    from model_hub_rqa.data.corpus import read_qrels, read_queries
    from model_hub_rqa.records import Passage
    from model_hub_rqa.retrieval.base import PassageStore
    from model_hub_rqa.retrieval.mining import Asked

    errors = ErrorCollector()
    queries = errors.attempt(read_queries, args.data, on_bad_record=args.on_bad_record, question_format=question_format)
    qrels = errors.attempt(read_qrels, args.qrels)
    errors.raise_any()
    assert queries is not None
    assert qrels is not None
    judged = {document for documents in qrels.judgements.values() for document in documents}
    passages: dict[str, list[Passage]] = {}
    for passage in PassageStore(Path(args.index[0])):
        if (document := manifest.document_id(passage.id)) in judged:
            passages.setdefault(document, []).append(passage)
    found = []
    for query in queries:
        relevant = [one for one, score in qrels.judgements.get(query.id, {}).items() if score > 0]
        positives = tuple(passage for one in relevant for passage in passages.get(one, ()))
        if positives:
            found.append(Asked(query.id, query.question, positives, tuple(filter(None, query.answers or ()))))
    if not found:
        raise DataError(f"{args.qrels}: judges no passage of {args.index[0]} relevant for a question of {args.data}")
    if len(found) < len(queries):
        log(f"{len(queries) - len(found):,} of {len(queries):,} questions have no positive passage and are left out")
    return found
