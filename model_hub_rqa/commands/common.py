"""What commands share: output folders that appear when they are whole, errors of several steps, news on stderr."""

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_hub_rqa.errors import ConfigError, RqaError, folder_error, renamed
from model_hub_rqa.errors import ErrorCollector as ErrorCollector  # for the commands
from model_hub_rqa.libraries import check_libraries
from model_hub_rqa.metrics.languages import Choice, language_error
from model_hub_rqa.progress import format_seconds, peak_memory_mib

if TYPE_CHECKING:
    from model_hub_rqa.retrieval.manifest import Manifest
    from model_hub_rqa.retrieval.queries import QueryBuilder
    from model_hub_rqa.retrieval.search import SearchSettings

CHECKPOINT_HELP = "a run (its best checkpoint; RUN@best, RUN@last, RUN@STEP), a checkpoint or a model folder"


def check_new_folder(path: Path, option: str = "--output") -> None:
    """Raises ConfigError where ``path`` exists and is not an empty folder, or is the working directory."""
    if path.resolve() == Path.cwd():  # it is to be put there whole, which would pull the ground from under the user
        raise ConfigError(f"{option}: must name a new folder, got the working directory")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{option}: {path} exists and is not an empty folder")
    if error := folder_error(path):
        raise ConfigError(f"{option}: {error}")


def check_output_file(path: Path, option: str = "--output") -> None:
    """Raises ConfigError where ``path`` is a folder, or cannot be made."""
    error = f"must name a file, got the folder {path}" if path.is_dir() else folder_error(path.parent)
    if error:
        raise ConfigError(f"{option}: {error}")


@contextlib.contextmanager
def named_as_typed(args: argparse.Namespace) -> Iterator[None]:
    """Errors of what options set name the options, ``--num-beams`` for ``num_beams``."""
    try:
        yield
    except RqaError as error:
        raise renamed(error, {name: f"--{name.replace('_', '-')}" for name in vars(args)}) from error


@contextlib.contextmanager
def new_folder(path: Path, option: str = "--output") -> Iterator[Path]:
    """A folder to write into, which is ``path`` once the block ends without an error, and gone otherwise.

    Raises:
        ConfigError: it cannot be written; the message names it and the reason.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{option}: cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def add_language(command: argparse.ArgumentParser) -> None:
    """Adds --language."""
    command.add_argument(
        "--language", default="auto", metavar="CODE", help="of the answers, ISO 639-1 (default auto: by their script)"
    )


def add_on_bad_record(command: argparse.ArgumentParser, what: str) -> None:
    """Adds --on-bad-record, for a file of ``what``."""
    command.add_argument(
        "--on-bad-record", choices=("error", "skip"), default="error", help=f"skip leaves bad {what} out"
    )


def check_language(language: str) -> None:
    """Raises ConfigError where --language names none."""
    if error := language_error(language):
        raise ConfigError(f"--language: {error}")


def log_rules(choice: Choice) -> None:
    """Tells on stderr which rules compare the answers, and whether they fit."""
    log(choice.said)
    if choice.warning:
        log(f"warning: {choice.warning}")


_READING: tuple[tuple[str, type, str], ...] = (
    ("n_context", int, "passages read together"),
    ("num_beams", int, "beams of the search for an answer; 1 is greedy"),
    ("length_penalty", float, "exponent of the length that beams' scores are divided by"),
    ("early_stopping", bool, "end a beam search once so many answers have ended"),
    ("no_repeat_ngram_size", int, "tokens in a row that an answer has once only; 0: any"),
    ("min_new_tokens", int, "the shortest answer, in tokens"),
    ("max_new_tokens", int, "the longest answer, in tokens"),
    ("do_sample", bool, "draw tokens at random in place of the likeliest; the same every time"),
    ("temperature", float, "of the draws"),
    ("top_p", float, "draw among the likeliest tokens that sum up to this probability"),
)


def add_format(command: argparse.ArgumentParser) -> None:
    """Adds --format and --fields."""
    known = "kilt, dpr, hotpotqa ..., or package.module:Class (default: by the first record)"
    command.add_argument("--format", metavar="NAME", help=f"of the questions: {known}")
    command.add_argument(
        "--fields", nargs="+", metavar="PART=PATH", help="where they have what: question=q answers=answer.aliases ..."
    )


def given_format(args: argparse.Namespace) -> Any:
    """The format that the options of `add_format` choose; None without them.

    Raises:
        ConfigError: an option breaks a rule.
    """
    from model_hub_rqa.data.formats.fields import parse_format

    errors, paths = ErrorCollector(), dict[str, str]()
    for one in args.fields or ():
        part, sign, path = one.partition("=")
        if not sign:
            errors.add(ConfigError(f"--fields: must be PART=PATH, got {one!r}"))
        elif part in paths:
            errors.add(ConfigError(f"--fields: names {part} twice, {paths[part]!r} and {path!r}"))
        paths.setdefault(part, path if sign else part)
    with named_as_typed(args):
        question_format = errors.attempt(parse_format, args.format, None if args.fields is None else paths)
        errors.raise_any()
    return question_format


def add_reading(command: argparse.ArgumentParser) -> None:
    """The options of a command that override what a reader was trained with."""
    group = command.add_argument_group("in place of what the reader was trained with")
    group.add_argument("--max-answer-length", type=int, metavar="N", help="the longest answer (extractive)")
    group = command.add_argument_group("the same for readers that generate answers")
    for name, kind, text in _READING:
        option = f"--{name.replace('_', '-')}"
        if kind is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            group.add_argument(option, type=kind, metavar="N" if kind is int else "X", help=text)


def reading_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of the options of `add_reading`."""
    names = ("max_answer_length", *(name for name, _, _ in _READING))
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def add_search(command: argparse.ArgumentParser, *, required: bool) -> None:
    """The options of a command that searches indexes."""
    beside = "" if required else "; without, the passages of the questions are read"
    command.add_argument(
        "--index",
        required=required,
        action="append",
        metavar="DIR",
        help=f"where passages are found; several are fused{beside}",
    )
    command.add_argument("--retriever", metavar="NAME", help="refuse another kind: bm25, dense ...; hybrid: several")
    command.add_argument("--embedding-model", metavar="M", help="where the index's embedding model is now")
    command.add_argument("--corpus", metavar="FILE", help="refuse the index if it was built from another corpus")
    group = command.add_argument_group("with several --index")
    group.add_argument("--fusion", choices=("rrf", "convex"), help="by ranks (default), or by scores")
    group.add_argument(
        "--weights",
        "--fusion-weights",
        dest="fusion_weights",
        type=float,
        nargs="+",
        metavar="W",
        help="with --fusion convex, one for each index (default: equal ones)",
    )
    group.add_argument("--fusion-depth", type=int, metavar="N", help="hits of each index that are fused (default 100)")
    command.add_argument(
        "--rerank",
        metavar="MODEL",
        help="put the first hits in the order of a cross-encoder (a folder, a run, a name on the hub), or of a "
        "registered reranker",
    )
    command.add_argument("--rerank-depth", type=int, metavar="N", help="hits that are reranked (default 100)")


def add_queries(command: argparse.ArgumentParser) -> None:
    """The options of a command that searches for questions of dialogues."""
    command.add_argument(
        "--query-template",
        metavar="TEXT",
        help="what an index is asked: a text with {question} and {history}, {history:N} (N turns), {last_question} or "
        "{last_answer} (default: the question alone)",
    )
    command.add_argument(
        "--query-rewriter",
        metavar="NAME",
        help="a registered function, or package.module:function, that rewrites the questions before that",
    )


def query_builder(args: argparse.Namespace) -> "QueryBuilder":
    """What the options of `add_queries` ask for."""
    from model_hub_rqa.retrieval.queries import build_queries

    with named_as_typed(args):
        return build_queries(args.query_template, args.query_rewriter)


def search_settings(args: argparse.Namespace) -> "SearchSettings":
    """What was given of the options of `add_search`; --index must be."""
    from model_hub_rqa.retrieval.search import SearchSettings

    pairs = ((field.name, getattr(args, field.name)) for field in fields(SearchSettings))
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in pairs}
    return SearchSettings(**given)


def check_search(args: argparse.Namespace) -> "list[Manifest]":
    """The manifests of the indexes that were named, after a comparison with the options; none without --index.

    Raises:
        RqaError: all errors of the options and of the indexes; no model is loaded.
    """
    from model_hub_rqa.retrieval.queries import parse_queries
    from model_hub_rqa.retrieval.search import SearchSettings, check_retriever

    queries = {name: getattr(args, name, None) for name in ("query_template", "query_rewriter")}
    errors = ErrorCollector()
    if args.top_k is not None and args.top_k < 1:
        errors.add(ConfigError(f"--top-k: must be at least 1, got {args.top_k}"))
    manifests = None
    if args.index is None:
        names = [
            "top_k",
            "corpus",
            *queries,
            *(field.name for field in fields(SearchSettings) if field.name != "index"),
        ]
        given = [name for name in names if getattr(args, name, None) is not None]
        lines = [f"--{name.replace('_', '-')}: needs --index" for name in given]
        if lines:
            errors.add(ConfigError(lines))
    else:
        errors.attempt(parse_queries, *queries.values())
        manifests = errors.attempt(check_retriever, search_settings(args), corpus=args.corpus, top_k=args.top_k)
    with named_as_typed(args):
        errors.raise_any()
    return manifests or []


def parse_measures(args: argparse.Namespace, retrieved: int | None = None) -> list[str]:
    """The measures that --measures names, or the usual ones; an error if they count more documents than ``retrieved``.

    Raises:
        ConfigError: one is unknown, counts too many, or there are no judgments for them.
    """
    from model_hub_rqa.metrics import ranking

    if args.measures is None:
        if args.qrels:
            check_libraries("ir_measures")
        return list(ranking.MEASURES) if retrieved is None else ranking.measures_within(retrieved)
    measures = ranking.split_measures(args.measures)
    errors = [f"--{line}" for line in ranking.measure_errors(measures)]
    if not errors and retrieved is not None:
        beyond = ranking.measures_beyond(measures, retrieved)
        errors = [f"--measures: must count at most the --top-k {retrieved} documents, got {name!r}" for name in beyond]
    if not args.qrels:
        errors.append("--measures: needs --qrels")
    if errors:
        raise ConfigError(errors)
    return measures


def log(text: str) -> None:
    """Tells the user on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Tells on stderr how far a long step has come, every few seconds."""

    def __init__(self, unit: str, seconds_between: float = 5.0) -> None:
        self.unit = unit
        self._between = seconds_between
        self._begun = self._told = self._since = time.monotonic()
        self._what = ""
        self._first = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:  # what an earlier run has done must not count towards the rate
            self._what, self._since, self._first = what, now, done
        if now - self._told < self._between:
            return
        self._told = now
        rate = (done - self._first) / (now - self._since) if now > self._since else 0.0
        news = f"  {rate:.1f}/s" if rate else ""
        if rate and total:
            news += f"  {format_seconds((total - done) / rate)} left"
        log(f"{what}: {done:,}{f'/{total:,}' if total else ''} {self.unit}{news}")

    def summary(self) -> str:
        """Time and memory so far."""
        return f"{format_seconds(time.monotonic() - self._begun)}, peak memory {peak_memory_mib():,.0f} MiB"
