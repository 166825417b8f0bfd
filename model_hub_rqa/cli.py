"""The ``rqa`` command. Results go to stdout, progress and logs to stderr; exit codes: 0, 2 (mend it), 1."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from model_hub_rqa import __version__
from model_hub_rqa.errors import RqaError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``rqa`` with its arguments and returns the exit code."""
    from model_hub_rqa import train

    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["train"]:  # whose flags are those of the trial
            return train.main(words[1:], prog="rqa train")
        args = build_parser().parse_args(words)
        train.log_to_stderr()
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

    from model_hub_rqa.commands import answers, evaluation, mining, retrieval

    # `main` hands these words to train.main; here is what the list of commands says of it
    commands.add_parser("train", help="train a trial locally, from an experiment configuration or from flags")

    command = commands.add_parser("validate", help="check a configuration and its data, without loading a model")
    command.add_argument("config")
    command.add_argument("--config", dest="overrides", metavar="KEY=VALUE", action="append", default=[])
    command.set_defaults(command=validate)

    command = commands.add_parser("config", help="print the JSON schema of configurations, for editors")
    schemas = command.add_subparsers(required=True, metavar="COMMAND")
    command = schemas.add_parser("schema", help="print the JSON schema of configurations, for editors to complete them")
    command.add_argument("config", nargs="?", help="the schema for this file (default: for the settings of all tasks)")
    command.add_argument("--trial", metavar="MODULE:CLASS", help="the schema for the settings of this trial")
    command.set_defaults(command=config_schema)

    command = commands.add_parser("export", help="copy a checkpoint's model folder, for transformers to load")
    command.add_argument("--checkpoint", required=True, metavar="DIR")
    command.add_argument("--output", required=True, metavar="DIR")
    command.set_defaults(command=export)

    answers.add_commands(commands)
    retrieval.add_commands(commands)
    mining.add_commands(commands)
    evaluation.add_commands(commands)
    return parser


def validate(args: argparse.Namespace) -> None:
    """Says what a run of the configuration would train and which keys are unknown, or lists every error."""
    from model_hub_rqa.config.parsing import listing_unknown
    from model_hub_rqa.progress import quiet_libraries
    from model_hub_rqa.runtime import experiments

    quiet_libraries()
    with listing_unknown() as unknown:
        experiment = experiments.load_experiment(args.config, args.overrides)
        trial = experiments.validate(experiment)
    sizes = {split: len(examples) for split, examples in trial.examples.items()}
    said = {"config": args.config, "trial": experiment.trial_class, "valid": True, "examples": sizes}
    said["unknown_keys"] = list(unknown)
    if hasattr(trial, "limits"):
        said["limits"] = trial.limits.as_dict()
    if getattr(trial, "task", None) is not None:
        said |= trial.task.notes
    print(json.dumps(said))


def config_schema(args: argparse.Namespace) -> None:
    """Prints the JSON schema of configurations."""
    from model_hub_rqa.commands.train_arguments import schema

    print(json.dumps(schema(args.trial, args.config), indent=1))


def export(args: argparse.Namespace) -> None:
    """Copies the model folder of a verified checkpoint."""
    import shutil

    from model_hub_rqa.checkpoints import check_tokenizer, pretrained_folder
    from model_hub_rqa.commands.common import check_new_folder, log, new_folder

    target = Path(args.output)
    check_new_folder(target)
    source = pretrained_folder(Path(args.checkpoint), log)
    check_tokenizer(source, needed=False)
    with new_folder(target) as partial:
        shutil.copytree(source, partial, copy_function=shutil.copyfile, dirs_exist_ok=True)
    print(f"{source} copied to {target}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
