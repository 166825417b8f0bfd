"""``rqa evaluate`` and ``rqa ask``."""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.commands.common import (
    CHECKPOINT_HELP,
    ErrorCollector,
    Progress,
    add_format,
    add_language,
    add_on_bad_record,
    add_queries,
    add_reading,
    add_search,
    check_language,
    check_new_folder,
    check_search,
    given_format,
    log,
    log_rules,
    named_as_typed,
    new_folder,
    query_builder,
    reading_settings,
    search_settings,
)
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.libraries import check_libraries
from model_hub_rqa.progress import peak_memory_mib

if TYPE_CHECKING:
    from model_hub_rqa.data.file_loaders import Records
    from model_hub_rqa.metrics.text import AnswerRules
    from model_hub_rqa.pipeline import Prediction, RQAPipeline
    from model_hub_rqa.retrieval.manifest import Manifest
    from model_hub_rqa.tasks.base import Task

logger = logging.getLogger(__name__)


def add_commands(commands: Any) -> None:
    """Registers ``evaluate`` and ``ask`` with what ``ArgumentParser.add_subparsers`` returned."""
    command = commands.add_parser("evaluate", help="evaluate retriever and reader together, from question to answer")
    command.add_argument("--checkpoint", required=True, metavar="DIR", help=CHECKPOINT_HELP)
    command.add_argument("--data", required=True, metavar="FILE", help="FiD's, KILT's, SQuAD's ... format, or FILE[:N]")
    command.add_argument("--top-k", type=int, metavar="N", help="passages a question (default: as trained, or 10)")
    add_search(command, required=False)
    add_queries(command)
    command.add_argument("--output-dir", required=True, metavar="DIR", help="for score.json, predictions.jsonl ...")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="questions at a time (default 64)")
    add_on_bad_record(command, "questions")
    add_format(command)
    add_language(command)
    add_reading(command)
    command.set_defaults(command=evaluate)

    command = commands.add_parser("ask", help="answer a question from an index")
    command.add_argument("question")
    command.add_argument("--checkpoint", required=True, metavar="DIR", help=CHECKPOINT_HELP)
    command.add_argument("--top-k", type=int, metavar="N", help="passages a question (default: as trained, or 10)")
    add_search(command, required=True)
    add_queries(command)
    command.add_argument(
        "--turn",
        dest="turns",
        metavar="TEXT",
        action="append",
        default=[],
        help="what was said before the question, the oldest first, the last by the assistant",
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    add_reading(command)
    command.set_defaults(command=ask)


def evaluate(args: argparse.Namespace) -> None:
    """Writes score.json, predictions.jsonl, all_args.json and evaluate.log; prints the scores as a JSON object."""
    from model_hub_rqa.metrics.languages import choose_rules

    errors = ErrorCollector()
    output = Path(args.output_dir)
    errors.attempt(check_new_folder, output, "--output-dir")
    task = errors.attempt(_checked_task, args)
    if task is not None and not task.takes_questions():
        errors.raise_any()
        return _evaluate_task(args, output)
    if args.batch_size < 1:
        errors.add(ConfigError(f"--batch-size: must be at least 1, got {args.batch_size}"))
    errors.attempt(check_language, args.language)
    question_format = errors.attempt(given_format, args)
    records = errors.attempt(_read_questions, args.data, args.index is None, args.on_bad_record, question_format)
    manifests = errors.attempt(check_search, args) or []
    errors.attempt(check_libraries, "sacrebleu", *([] if args.index is None else ["ir_measures"]))
    errors.raise_any()
    assert records is not None
    pipeline = _pipeline(args)
    records = _readable(pipeline.reader, records, args.on_bad_record)
    for line in records.skipped:
        log(f"left out: {line}")
    choice = choose_rules(args.language, [text for row in records.rows for text in row["answers"]])
    log_rules(choice)
    progress = Progress("questions")
    with new_folder(output, "--output-dir") as folder, _logging_to(folder / "evaluate.log"):
        _write(folder / "all_args.json", _all_args(args, pipeline, manifests))
        logger.info("%d questions of %s, %d left out", len(records.rows), args.data, records.n_skipped)
        scores = _scores(pipeline, records, choice.rules, args.batch_size, folder / "predictions.jsonl", progress)
        _write(folder / "score.json", scores)
        logger.info("scores: %s", json.dumps(scores))
    log(f"{len(records.rows):,} questions in {output}; {progress.summary()}")
    print(json.dumps(scores))


def _scores(
    pipeline: "RQAPipeline", records: "Records", rules: "AnswerRules", batch_size: int, path: Path, progress: Progress
) -> dict[str, Any]:
    """Asks all questions, writes the predictions to ``path`` and returns the scores."""
    from model_hub_rqa.evaluation import evaluate as run
    from model_hub_rqa.metrics.generation import bleu_tokenizer

    with path.open("w", encoding="utf-8") as file:

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

        def report(what: str, done: int, total: int) -> None:
            logger.info("%s: %d/%d questions", what, done, total)
            progress(what, done, total)

        scores: dict[str, Any] = {
            **run(pipeline, records.rows, batch_size=batch_size, rules=rules, write=write, report=report)
        }
    scores |= {"n_skipped": records.n_skipped, "peak_memory_mib": round(peak_memory_mib(), 1)}
    if pipeline.retriever is not None:
        scores["top_k"] = pipeline.top_k  # of the document_ measures and ndcg
    scores |= {"language": rules.language, "answer_rules": rules.name}
    return scores | {"bleu_tokenizer": bleu_tokenizer(rules.language)}


def _checked_task(args: argparse.Namespace) -> "type[Task]":
    """The task of the reader, whose settings are checked; its weights are not loaded."""
    from model_hub_rqa.checkpoints import check_tokenizer, pretrained_folder
    from model_hub_rqa.readers import task_of, trained_settings

    folder = pretrained_folder(Path(args.checkpoint))
    task = task_of(folder)
    check_tokenizer(folder)
    with named_as_typed(args):
        trained_settings(folder, task.Settings, reading_settings(args))
    return task


def _evaluate_task(args: argparse.Namespace, output: Path) -> None:
    """The same for a task whose examples are more than questions and passages: its own metrics and files."""
    from model_hub_rqa.readers import Reader
    from model_hub_rqa.tasks.base import write_file

    if args.index is not None:
        raise ConfigError("--index: this task has no passages to retrieve")
    if args.format is not None or args.fields is not None:
        raise ConfigError("--format, --fields: are ignored, this task reads its own format")
    with named_as_typed(args):
        reader = Reader.from_pretrained(args.checkpoint, tell=log, **reading_settings(args))
    examples = reader.task.load(args.data, on_bad_record=args.on_bad_record)
    results = reader.predict(examples)
    scores = {"n_questions": len(examples), **reader.task.metrics(results, examples)}
    with new_folder(output, "--output-dir") as folder:
        for name, content in reader.task.files(results, examples).items():
            write_file(folder / name, content)
        _write(folder / "score.json", scores)
    print(json.dumps(scores))


def ask(args: argparse.Namespace) -> None:
    """Prints an answer with its passages and scores."""
    from model_hub_rqa.records import Question, Turn

    errors = ErrorCollector()
    for name, text in (("QUESTION", args.question), *(("--turn", turn) for turn in args.turns)):
        if not text.strip():
            errors.add(ConfigError(f"{name}: must not be blank"))
    errors.attempt(_checked_task, args)
    errors.attempt(check_search, args)
    errors.raise_any()
    # The question is the user's, so the turn before it is the assistant's.
    roles = ["user" if (len(args.turns) - number) % 2 == 0 else "assistant" for number in range(len(args.turns))]
    history = tuple(Turn(role, text) for role, text in zip(roles, args.turns, strict=True))
    (answered,) = _pipeline(args).ask([Question(args.question, chat_history=history)], scores=True)
    print(json.dumps(_as_json(answered)) if args.json else _as_text(answered))


def _read_questions(data: str, require_passages: bool, on_bad_record: str, question_format: Any) -> "Records":
    from dataclasses import replace

    from model_hub_rqa.data.predictions import read_questions
    from model_hub_rqa.data.slices import parse_slice

    part = parse_slice(data, "--data")
    try:
        records = read_questions(
            part.path, require_passages=require_passages, on_bad_record=on_bad_record, question_format=question_format
        )
    except DataError as error:
        if require_passages and any(_lacks_passages(line) for line in error.errors):
            raise DataError([*error.errors, "--index: says where to find passages for questions without"]) from error
        raise
    start, stop = part.bounds(len(records.rows))
    return replace(records, rows=records.rows[start:stop])


def _lacks_passages(line: str) -> bool:
    """Whether an error is that of a question without passages."""
    from model_hub_rqa.data.formats.questions import all_formats

    names = [name for one in all_formats() for name in one.passages]
    return any(f"{name} {rule}" in line for name in names for rule in ("is missing", "must hold at least one"))


def _readable(reader: Any, records: "Records", on_bad_record: str) -> "Records":
    """The questions without those that the reader refuses, which are errors unless they may be skipped."""
    from dataclasses import replace

    from model_hub_rqa.data.predictions import question_of

    errors = reader.task.question_errors([question_of(row) for row in records.rows])
    if not errors:
        return records
    if on_bad_record != "skip" or len(errors) == len(records.rows):
        raise DataError(errors.values())
    rows = [row for number, row in enumerate(records.rows) if number not in errors]
    skipped = (*records.skipped, *errors.values())
    return replace(records, rows=rows, skipped=skipped, n_skipped=records.n_skipped + len(errors))


def _pipeline(args: argparse.Namespace) -> "RQAPipeline":
    from model_hub_rqa.pipeline import DEFAULT_TOP_K, RQAPipeline, load_reader
    from model_hub_rqa.progress import quiet_libraries
    from model_hub_rqa.retrieval.search import open_retriever

    quiet_libraries()
    retriever, report = None, Progress("questions")
    with named_as_typed(args):
        if args.index is not None:  # opened first, as an embedding model may be another than the index's
            retriever = open_retriever(search_settings(args), verify=False, report=report)  # verified before
        reader = load_reader(args.checkpoint, tell=log, **reading_settings(args))
    if retriever is None:
        return RQAPipeline(reader)
    top_k = args.top_k or reader.n_context or DEFAULT_TOP_K
    return RQAPipeline(reader, retriever, top_k=top_k, queries=query_builder(args))


def _all_args(args: argparse.Namespace, pipeline: "RQAPipeline", manifests: "Sequence[Manifest]") -> dict[str, Any]:
    """What the scores depend on: the command's arguments, the reader's settings, the indexes, the versions."""
    from importlib.metadata import version

    given = {name: value for name, value in vars(args).items() if name != "command"}
    settings = getattr(pipeline.reader, "settings", None)
    known = [{**vars(manifest), "sha256": None} for manifest in manifests]
    return {
        **given,
        "top_k": pipeline.top_k if pipeline.retriever is not None else None,
        "reader": type(pipeline.reader).__name__,
        "reader_settings": {} if settings is None else vars(settings),
        "index_manifest": known if len(known) > 1 else next(iter(known), None),
        "versions": {name: version(name) for name in ("model-hub-rqa", "torch", "transformers", "sacrebleu")},
    }


def _as_json(answered: "Prediction") -> dict[str, Any]:
    answer = answered.answer
    shares = answer.passage_scores or [None] * len(answered.hits)
    return {
        "question": answered.question.text,
        "answer": answer.text,
        "score": answer.score,
        "passage": answer.passage if answer.passage >= 0 else None,
        "passages": [
            {
                "id": hit.passage.id,
                "title": hit.passage.title,
                "text": hit.passage.text,
                **hit.passage.source(),
                "retrieval_score": hit.score,
                "reader_score": share,
            }
            for hit, share in zip(answered.hits, shares, strict=True)
        ],
    }


def _as_text(answered: "Prediction") -> str:
    answer = answered.answer
    lines = [f"{answer.text or '(no answer)'}  (score {answer.score:.3f})", ""]
    lines += _passage_lines(answered, answer.passage_scores or [None] * len(answered.hits))
    return "\n".join(lines)


def _passage_lines(answered: "Prediction", shares: Sequence[float | None]) -> Iterator[str]:
    yield "rank  read  retrieval  passage"
    for rank, (hit, share) in enumerate(zip(answered.hits, shares, strict=True), 1):
        mark = "*" if rank - 1 == answered.answer.passage else " "
        title = f"{hit.passage.heading or hit.passage.title} ".lstrip()
        text = " ".join(hit.passage.text.split())
        read = "   -" if share is None else f"{share:.2f}"  # a causal language model does not tell
        yield f"{rank:>3}{mark}  {read}  {hit.score:>9.3f}  {title}[{hit.passage.id}]"
        yield f"      {text[:200]}{'...' if len(text) > 200 else ''}"


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("model_hub_rqa")
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
