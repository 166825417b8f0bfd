"""``rqa predict`` and ``rqa score``."""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.commands.common import (
    CHECKPOINT_HELP,
    ErrorCollector,
    add_format,
    add_language,
    add_on_bad_record,
    add_reading,
    check_language,
    check_output_file,
    given_format,
    log,
    log_rules,
    named_as_typed,
    parse_measures,
    reading_settings,
)
from model_hub_rqa.errors import ConfigError, DataError

if TYPE_CHECKING:
    from model_hub_rqa.data.predictions import Predictions
    from model_hub_rqa.metrics.text import AnswerRules
    from model_hub_rqa.readers import Reader
    from model_hub_rqa.records import Question
    from model_hub_rqa.tasks.base import Task


def add_commands(commands: Any) -> None:
    """Registers ``score`` and ``predict`` with what ``ArgumentParser.add_subparsers`` returned."""
    command = commands.add_parser("score", help="score predicted answers, or a run of ranked documents")
    command.add_argument(
        "predictions",
        help="JSON object of answers by question id, predictions.jsonl, or evaluate's, EfficientQA's, KILT's form; "
        "with --qrels TREC's run file, or a JSON object of scores by document id by query id",
    )
    command.add_argument("--data", metavar="FILE", help="the gold answers; a predictions.jsonl may bring its own")
    command.add_argument("--version-2", action="store_true", help="SQuAD v2.0: questions may be unanswerable")
    command.add_argument("--na-prob-file", metavar="FILE", help="JSON object of no-answer probabilities by id (v2.0)")
    command.add_argument("--na-prob-thresh", metavar="P", type=float, default=1.0, help="answer below it only")
    add_format(command)
    add_language(command)
    command.add_argument("--qrels", metavar="FILE", help="score a run of ranked documents by these relevance judgments")
    command.add_argument("--measures", metavar="NAMES", help='for a run, of ir_measures: "nDCG@10 R@100 AP@100" ...')
    command.set_defaults(command=score)

    command = commands.add_parser("predict", help="answer questions with a trained reader, from the passages given")
    command.add_argument("--checkpoint", required=True, metavar="DIR", help=CHECKPOINT_HELP)
    command.add_argument("--data", metavar="FILE", help="questions: SQuAD's form, JSONL, CSV, Parquet; FiD's for FiD")
    command.add_argument("--output", metavar="FILE", help="where predictions go (JSON); nbest_... is written beside")
    command.add_argument(
        "--passage-scores",
        metavar="FILE",
        help="what each passage is worth to the reader, in FiD's form: labels for a retriever (--output is not needed)",
    )
    command.add_argument("--question")
    command.add_argument("--context")
    add_on_bad_record(command, "questions")
    command.add_argument("--batch-size", type=int, metavar="N", help="windows (default 32) or questions (8) at a time")
    add_format(command)
    add_reading(command)
    command.set_defaults(command=predict)


# ---- score ----


def score(args: argparse.Namespace) -> None:
    """Prints the scores as one JSON object: for data in SQuAD's form those of the official evaluators, else
    exact_match, f1 and rougeL of `generation_metrics`, and total; then the language and the rules that compared the
    answers. For a run of ranked documents its measures."""
    from model_hub_rqa.data.predictions import JSONL, is_squad_format, read_predictions
    from model_hub_rqa.data.rankings import is_run

    if args.qrels:
        return _score_run(args)
    errors = ["--measures: needs --qrels"] if args.measures is not None else []
    if args.na_prob_file and not args.version_2:
        errors.append("--na-prob-file: needs --version-2")
    if is_run(args.predictions):
        errors.append(f"--qrels: must be given, {args.predictions} is a run of ranked documents")
    elif args.data is None and not args.predictions.lower().endswith(JSONL):
        errors.append("--data: say where the gold answers are (only a predictions.jsonl may bring its own)")
    if errors:
        raise ConfigError(errors)
    collector = ErrorCollector()
    collector.attempt(check_language, args.language)
    predictions = collector.attempt(read_predictions, args.predictions)
    args.question_format = collector.attempt(given_format, args)
    squad = args.data is not None and (args.version_2 or collector.attempt(is_squad_format, args.data) is not False)
    squad = squad and args.format is None and args.fields is None
    scores, warnings = (_score_squad if squad else _score_generated)(args, predictions, collector)
    print(json.dumps(scores), flush=True)
    for line in warnings:  # last, where they are seen
        log(f"warning: {line}")


def _score_run(args: argparse.Namespace) -> None:
    """Prints the measures of a run of ranked documents."""
    from model_hub_rqa.data.corpus import read_qrels
    from model_hub_rqa.data.rankings import ranked, read_run, trec_id
    from model_hub_rqa.metrics.ranking import measures_beyond, measures_within, ranking_metrics

    errors = ErrorCollector()
    defaults = {"data": None, "version_2": False, "na_prob_file": None, "na_prob_thresh": 1.0, "language": "auto"}
    given = [f"--{name.replace('_', '-')}" for name, value in defaults.items() if getattr(args, name) != value]
    if given:
        errors.add(ConfigError(f"{option}: is not allowed with --qrels, it is for answers" for option in given))
    run = errors.attempt(read_run, args.predictions)
    qrels = errors.attempt(read_qrels, args.qrels)
    measures = errors.attempt(parse_measures, args)
    errors.raise_any()
    assert run is not None
    assert qrels is not None
    assert measures is not None
    judgments = {
        trec_id(query): {trec_id(document): relevance for document, relevance in documents.items()}
        for query, documents in qrels.judgements.items()
    }
    rankings = {query: ranked(run[query]) for query in judgments if query in run}
    _announce_run(args, run, judgments)
    depth = max(map(len, rankings.values()))
    if args.measures is None:
        measures = measures_within(max(depth, 1))
    for name in measures_beyond(measures, depth):
        log(f"warning: {name} counts more than the {depth} documents that the run ranks for a query at most")
    scores: dict[str, float] = ranking_metrics(rankings, judgments, measures)
    missing, unjudged = len(judgments) - len(rankings), len(run) - len(rankings)
    counts = {"n_queries": len(judgments), "n_missing_queries": missing, "n_unjudged_queries": unjudged}
    print(json.dumps({**scores, **counts}), flush=True)


def _announce_run(
    args: argparse.Namespace, run: Mapping[str, Mapping[str, float]], judgments: Mapping[str, Mapping[str, int]]
) -> None:
    """What a run and judgments do not have in common, which is an error where they have no query in common."""
    both = [query for query in judgments if query in run]
    if not both:
        first, known = next(iter(judgments)), next(iter(run))
        lines = f"{args.qrels}: no judged query is in {args.predictions}: judges {first!r} ..., it has {known!r} ..."
        raise DataError(lines)
    if len(both) < len(judgments):
        log(f"{len(judgments) - len(both):,} of {len(judgments):,} judged queries are not in the run: they count as 0")
    if len(both) < len(run):
        log(f"{len(run) - len(both):,} of {len(run):,} queries of the run have no judgments: they do not count")
    if not any(judgments[query].keys() & run[query].keys() for query in both):
        log("warning: the run ranks no judged document, its ids may be of another corpus")


def _score_squad(
    args: argparse.Namespace, predictions: "Predictions | None", errors: ErrorCollector
) -> tuple[dict[str, Any], list[str]]:
    from model_hub_rqa.data.file_loaders import read_squad
    from model_hub_rqa.metrics.squad import references_from_rows, squad_v1, squad_v2

    probabilities = errors.attempt(_read_object, args.na_prob_file) if args.na_prob_file else None
    records = errors.attempt(
        read_squad,
        args.data,
        version_2_with_negative=args.version_2,
        require_offsets=False,
        version_option="--version-2",
    )
    errors.raise_any()
    assert records is not None
    assert predictions is not None
    lines, warnings = _match(predictions, records.rows)
    references = references_from_rows(records.rows)
    answers = {key: line["prediction"] for key, line in lines.items()}
    if probabilities is None and any("no_answer_probability" in line for line in lines.values()):
        probabilities = {key: line.get("no_answer_probability") for key, line in lines.items()}
    rules, which = _rules(args.language, references.values())
    if args.version_2:
        return {**squad_v2(answers, references, probabilities, args.na_prob_thresh, rules=rules), **which}, warnings
    return {**squad_v1(answers, references, rules=rules), **which}, warnings


def _score_generated(
    args: argparse.Namespace, predictions: "Predictions | None", errors: ErrorCollector
) -> tuple[dict[str, Any], list[str]]:
    from model_hub_rqa.data.formats.answers import NO_ANSWER
    from model_hub_rqa.data.formats.fid import read_fusion
    from model_hub_rqa.data.formats.nested import NO_ANSWER_WORDS
    from model_hub_rqa.metrics.generation import generation_metrics

    records = None
    if args.data is not None:
        records = errors.attempt(read_fusion, args.data, require_passages=False, question_format=args.question_format)
    if args.data is None and predictions is not None:
        without = [key for key, line in predictions.lines.items() if not line.get("references")]
        if without:
            errors.add(
                DataError(f"{args.predictions}: record {key}: has no references, give --data" for key in without)
            )
    errors.raise_any()
    assert predictions is not None
    lines, warnings = dict(predictions.lines), list[str]()
    references: dict[str, Any] = {key: line.get("references") for key, line in lines.items()}
    if records is not None:
        lines, warnings = _match(predictions, records.rows)
        references = {row["id"]: row["answers"] for row in records.rows}
    wrong = {key: line["prediction"] for key, line in lines.items() if not isinstance(line["prediction"], str)}
    if wrong:
        raise DataError(f"{args.predictions}: record {key}: must be text, got {text!r}" for key, text in wrong.items())
    answers = [lines[key]["prediction"] if key in lines else "" for key in references]
    # QuAC's and CoQA's predictions have a word for "no answer"
    pairs = zip(answers, references.values(), strict=True)
    answers = ["" if gold == [NO_ANSWER] and answer in NO_ANSWER_WORDS else answer for answer, gold in pairs]
    rules, which = _rules(args.language, references.values())
    return {
        **generation_metrics(answers, list(references.values()), rules=rules),
        "total": len(references),
        **which,
    }, warnings


def _match(predictions: "Predictions", rows: list[dict[str, Any]]) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The predictions by the ids of the questions, and warnings where few of either have the other."""
    from model_hub_rqa.metrics.squad import missing_ids

    lines, used = predictions.of_rows(rows)
    ids, given = dict.fromkeys(row["id"] for row in rows), len(predictions.lines)
    missing, total = missing_ids(lines, ids), len(ids)
    if missing:
        log(
            f"{len(missing)} of {total} questions have no prediction and count as wrong "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})"
        )
    warnings = []
    if 2 * len(lines) < total:
        warnings.append(f"only {len(lines):,} of {total:,} questions have a prediction")
    if 2 * used < given:
        warnings.append(f"only {used:,} of {given:,} predictions are of questions in the data")
    return lines, warnings


def _rules(language: str, references: Iterable[Iterable[str]]) -> tuple["AnswerRules", dict[str, str]]:
    """The rules for the answers, and what the output says of them."""
    from model_hub_rqa.metrics.languages import choose_rules

    choice = choose_rules(language, [text for texts in references for text in texts])
    log_rules(choice)
    return choice.rules, {"language": choice.rules.language, "answer_rules": choice.rules.name}


def _read_object(path: str) -> dict[str, Any]:
    from model_hub_rqa.data.text_files import read_object

    return read_object(Path(path), "one JSON object by question id")


# ---- predict ----


def predict(args: argparse.Namespace) -> None:
    """Answers one question (JSON on stdout) or all of a file (written to --output)."""
    _check_arguments(args)
    from model_hub_rqa.checkpoints import pretrained_folder
    from model_hub_rqa.progress import quiet_libraries
    from model_hub_rqa.readers import Reader, task_of

    quiet_libraries()
    errors = ErrorCollector()
    kind = errors.attempt(lambda: task_of(pretrained_folder(Path(args.checkpoint))))
    examples = rows = None
    if args.data is None and kind is not None and not kind.takes_questions():
        raise ConfigError("--question: this task needs more than a question and a context: give --data FILE")
    if args.output is not None:
        examples = errors.attempt(_read, kind, args)
    if args.passage_scores is not None:
        rows = errors.attempt(_read_rows, kind, args)
    errors.raise_any()
    with named_as_typed(args):
        reader = Reader.from_pretrained(args.checkpoint, batch_size=args.batch_size, tell=log, **reading_settings(args))
    if args.data is None:
        _predict_one(reader, args.question, args.context)
    if args.output is not None:
        _predict_all(reader, examples, Path(args.output))
    if rows is not None:
        _score_passages(reader, rows, Path(args.passage_scores))


def _read(kind: "type[Task] | None", args: argparse.Namespace) -> Any:
    """The examples of a file that the task reads itself, or else the questions in it."""
    question_format = given_format(args)
    if question_format is None and kind is not None and kind.reads_file(args.data):
        return kind().load(args.data, labelled=False, on_bad_record=args.on_bad_record)
    return _read_questions(args, question_format)


def _read_questions(args: argparse.Namespace, question_format: Any) -> "list[Question]":
    """The questions of a file in any format; answers are not needed."""
    from model_hub_rqa.data.formats.fid import read_fusion
    from model_hub_rqa.data.loading import load_file
    from model_hub_rqa.data.predictions import from_squad, is_squad_format, question_of
    from model_hub_rqa.data.slices import parse_slice

    part = parse_slice(args.data)
    if question_format is None and is_squad_format(part.path):
        examples = load_file(
            args.data,
            version_2_with_negative=True,
            require_answers=False,
            require_offsets=False,
            on_bad_record=args.on_bad_record,
        )
        return [question_of(from_squad(row)) for row in examples]
    records = read_fusion(
        part.path, require_answers=False, on_bad_record=args.on_bad_record, question_format=question_format
    )
    for line in records.skipped:
        log(f"left out: {line}")
    start, stop = part.bounds(len(records.rows))
    return [question_of(row) for row in records.rows[start:stop]]


def _predict_all(reader: "Reader", examples: Any, output: Path) -> None:
    """Writes the files of the task, or the answers to questions, by id."""
    from model_hub_rqa.tasks.base import write_file

    if isinstance(examples, list):
        answers = reader.answer_questions(examples)
        texts = {question.id: answer.text for question, answer in zip(examples, answers, strict=True)}
        files: dict[str, Any] = {"predictions.json": texts}
    else:
        files = reader.task.files(reader.predict(examples), examples)
    for name, content in files.items():
        write_file(output.with_name(name.replace("predictions.json", output.name)), content)
    log(f"{len(examples)} predictions in {output}")


def _read_rows(kind: "type[Task] | None", args: argparse.Namespace) -> list[dict[str, Any]]:
    """The questions of a file with their passages and answers, for scores of the passages."""
    from model_hub_rqa.data.formats.fid import read_fusion
    from model_hub_rqa.data.slices import parse_slice

    if kind is not None and not hasattr(kind, "score_passages"):
        raise ConfigError(f"--passage-scores: {kind.description} gives passages no scores")
    part = parse_slice(args.data)
    answers = bool(getattr(kind, "scores_answers", False))
    question_format = given_format(args)
    records = read_fusion(
        part.path, require_answers=answers, on_bad_record=args.on_bad_record, question_format=question_format
    )
    if args.output is None:  # told already
        for line in records.skipped:
            log(f"left out: {line}")
    start, stop = part.bounds(len(records.rows))
    return records.rows[start:stop]


def _score_passages(reader: "Reader", rows: list[dict[str, Any]], output: Path) -> None:
    """Writes the questions with the passages that were read, and the reader's score of each."""
    from model_hub_rqa.tasks.base import write_file

    lines = []
    for row, scores in zip(rows, reader.score_passages(rows), strict=True):
        ctxs = [
            {**{name: passage[name] for name in ("id", "title", "text")}, "score": score, "isgold": passage["gold"]}
            for passage, score in zip(row["passages"], scores, strict=False)  # the first n_context are read
        ]
        answers = {"answers": row["answers"]} if row["answers"] else {}
        lines.append({"id": row["id"], "question": row["question"], **answers, "ctxs": ctxs})
    write_file(output, lines)
    log(f"passages of {len(lines):,} questions scored in {output}")


def _check_arguments(args: argparse.Namespace) -> None:
    one = args.question is not None or args.context is not None
    if one == (args.data is not None) or (one and (args.question is None or args.context is None)):
        raise ConfigError("rqa predict: give either --data FILE --output FILE, or --question Q with --context C")
    if one and (given := [name for name in ("output", "passage_scores") if getattr(args, name) is not None]):
        raise ConfigError(f"--{name.replace('_', '-')}: needs --data" for name in given)
    if not one and args.output is None and args.passage_scores is None:
        raise ConfigError("--output: say where the predictions go")
    errors, names = ErrorCollector(), [name for name in ("output", "passage_scores") if getattr(args, name) is not None]
    for name in names:
        errors.attempt(check_output_file, Path(getattr(args, name)), f"--{name.replace('_', '-')}")
    if len(names) > 1 and Path(args.output).resolve() == Path(args.passage_scores).resolve():
        errors.add(ConfigError(f"--passage-scores: must be another file than --output, got {args.output}"))
    if args.batch_size is not None and args.batch_size < 1:
        errors.add(ConfigError(f"--batch-size: must be at least 1, got {args.batch_size}"))
    if one and (blank := [name for name in ("question", "context") if not getattr(args, name).strip()]):
        errors.add(ConfigError(f"--{name}: must not be empty" for name in blank))
    errors.raise_any()


def _predict_one(reader: "Reader", question: str, context: str) -> None:
    from model_hub_rqa.records import Passage, Question

    (answer,) = reader.answer_questions([Question(question, (Passage("0", context),))], scores=True)
    config_path = {"start": answer.start, "end": answer.end} if answer.passage >= 0 else {}
    print(json.dumps({"answer": answer.text, "score": answer.score, **config_path}))
