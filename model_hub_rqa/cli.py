"""The ``rqa`` command. Results go to stdout, progress and logs to stderr; exit codes: 0, 2 (mend it), 1."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_hub_rqa import __version__
from model_hub_rqa.errors import ConfigError, DataError, RqaError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``rqa`` with its arguments and returns the exit code."""
    from model_hub_rqa import train

    args = build_parser().parse_args(argv)
    train.log_to_stderr()
    try:
        return int(args.command(args) or 0)
    except RqaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:  # `rqa ... | head` is no error; close stdout so that nothing is said at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command; nothing heavy is imported until one runs."""
    parser = argparse.ArgumentParser(prog="rqa", description="Fine-tune and evaluate retrieval question answering.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    from model_hub_rqa import train
    from model_hub_rqa.commands import retrieval

    command = commands.add_parser("train", help="train a trial locally, from an experiment configuration")
    train.add_arguments(command)
    command.set_defaults(command=train.run)

    command = commands.add_parser("validate", help="check a configuration and its data, without loading a model")
    command.add_argument("config")
    command.add_argument("--config", dest="overrides", metavar="KEY=VALUE", action="append", default=[])
    command.set_defaults(command=validate)

    command = commands.add_parser("score", help="score predictions as the official SQuAD evaluators do")
    command.add_argument("predictions", help="JSON object of answers by question id")
    command.add_argument("--data", required=True, metavar="FILE", help="the questions with their true answers")
    command.add_argument("--version-2", action="store_true", help="SQuAD v2.0: questions may be unanswerable")
    command.add_argument("--na-prob-file", metavar="FILE", help="JSON object of no-answer probabilities by id (v2.0)")
    command.add_argument("--na-prob-thresh", metavar="P", type=float, default=1.0, help="answer below it only")
    command.set_defaults(command=score)

    command = commands.add_parser("predict", help="answer questions with a trained reader")
    command.add_argument("--checkpoint", required=True, metavar="DIR", help="a run, a checkpoint or a model folder")
    command.add_argument("--data", metavar="FILE", help="questions in SQuAD form, JSONL, CSV or Parquet")
    command.add_argument("--output", metavar="FILE", help="where predictions go (JSON); nbest_... is written beside")
    command.add_argument("--question")
    command.add_argument("--context")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="windows read at a time (default 32)")
    command.set_defaults(command=predict)

    command = commands.add_parser("export", help="copy a checkpoint's model folder, for transformers to load")
    command.add_argument("--checkpoint", required=True, metavar="DIR")
    command.add_argument("--output", required=True, metavar="DIR")
    command.set_defaults(command=export)

    retrieval.add_commands(commands)
    return parser


def validate(args: argparse.Namespace) -> None:
    """Says what a run of the configuration would train, or lists every fault."""
    from model_hub_rqa import train

    experiment = train.load_experiment(args.config, args.overrides)
    trial = train.validate(experiment)
    sizes = {split: len(examples) for split, examples in trial.examples.items()}
    print(json.dumps({"config": args.config, "trial": experiment.trial_class, "valid": True, "examples": sizes}))


def score(args: argparse.Namespace) -> None:
    """Prints the official evaluators' numbers as one JSON object."""
    from model_hub_rqa.data.readers import read_squad
    from model_hub_rqa.metrics.squad import missing_ids, references_from_rows, squad_v1, squad_v2

    if args.na_prob_file and not args.version_2:
        raise ConfigError("--na-prob-file: needs --version-2")
    faults: list[str] = []
    predictions = _attempt(faults, _read_object, args.predictions)
    probabilities = _attempt(faults, _read_object, args.na_prob_file) if args.na_prob_file else None
    records = _attempt(faults, read_squad, args.data, version_2_with_negative=args.version_2)
    if faults or predictions is None or records is None:
        raise DataError(faults)
    references = references_from_rows(records.rows)
    missing = missing_ids(predictions, references)
    if missing:
        print(
            f"{len(missing)} of {len(references)} questions have no prediction and count as wrong "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})",
            file=sys.stderr,
        )
    if args.version_2:
        scores: Any = squad_v2(predictions, references, probabilities, args.na_prob_thresh)
    else:
        scores = squad_v1(predictions, references)
    print(json.dumps(scores))


def predict(args: argparse.Namespace) -> None:
    """Answers one question (JSON on stdout) or all of a file (written to --output)."""
    one = args.question is not None or args.context is not None
    if one == (args.data is not None) or (one and (args.question is None or args.context is None)):
        raise ConfigError("rqa predict: give either --data FILE --output FILE, or --question Q with --context C")
    if not one and args.output is None:
        raise ConfigError("--output: say where the predictions go")
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size: must be at least 1, got {args.batch_size}")
    if one:
        blank = [name for name in ("question", "context") if not getattr(args, name).strip()]
        if blank:
            raise ConfigError([f"--{name}: must not be empty" for name in blank])
    else:
        from model_hub_rqa.data.loading import load_file

        # answers are not needed, and so a file may be of either version
        examples = load_file(args.data, version_2_with_negative=True, require_answers=False)
    from model_hub_rqa.pipeline import ExtractiveReader
    from model_hub_rqa.train import quiet_libraries

    quiet_libraries()
    reader = ExtractiveReader.from_pretrained(args.checkpoint, batch_size=args.batch_size)
    if one:
        answer = reader.answer(args.question, args.context)
        print(json.dumps({"answer": answer.text, "score": answer.score, "start": answer.start, "end": answer.end}))
        return
    decoded = reader.read(examples)
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _write_object(output, {key: found.prediction for key, found in decoded.items()})
    _write_object(output.with_name(f"nbest_{output.name}"), {key: found.n_best for key, found in decoded.items()})
    if reader.settings.version_2_with_negative:
        odds = {key: found.score_diff for key, found in decoded.items()}
        _write_object(output.with_name("null_odds.json"), odds)
    print(f"{len(decoded)} predictions in {output}", file=sys.stderr)


def export(args: argparse.Namespace) -> None:
    """Copies the model folder of a verified checkpoint."""
    import shutil

    from model_hub_rqa.checkpoints import pretrained_folder

    source, target = pretrained_folder(Path(args.checkpoint)), Path(args.output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--output: {target} exists and is not an empty folder")
    shutil.copytree(source, target, dirs_exist_ok=True)
    print(f"{source} copied to {target}", file=sys.stderr)


def _attempt(faults: list[str], step: Any, *args: Any, **kwargs: Any) -> Any:
    """The step's result; None, with its faults noted, where it fails: so that those of every file show at once."""
    try:
        return step(*args, **kwargs)
    except RqaError as error:
        faults.extend(error.problems)
        return None


def _read_object(path: str) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON in UTF-8: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be one JSON object by question id, got {type(content).__name__}")
    return content


def _write_object(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
