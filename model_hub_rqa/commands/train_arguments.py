"""The command line of a run: options, flags of the trial's settings, and the configuration that they make together."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model_hub_rqa.config.experiment import is_referenced, trial_class_of
from model_hub_rqa.config.fields import names_of
from model_hub_rqa.config.flags import NO, flags_of, merge, parse_flags
from model_hub_rqa.config.interpolation import referenced_names
from model_hub_rqa.config.trainer_names import STRATEGIES, with_global_batch_size
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import TASKS, import_plugins
from model_hub_rqa.runtime.experiments import import_trial, read_config, with_overrides

_SCRIPT = "python3 -m determined.launch.torch_distributed -- python3 -m model_hub_rqa.train"
_LENGTHS = {
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "gradient_accumulation_steps": 1,
    "eval_steps": None,
    "save_steps": None,
    **dict.fromkeys(STRATEGIES),
}
_PERIODS = {"min_validation_period": "eval_steps", "min_checkpoint_period": "save_steps"}

_NO = ("no", False)  # as YAML 1.1 reads it

Given = dict[str, dict[str, Any]]


def parse_arguments(
    argv: Sequence[str], add_arguments: Callable[[Any], None], *, prog: str
) -> tuple[argparse.Namespace, Given]:
    """The options of a command, and by section what flags of the trial's settings say.

    The trial has to be known before its flags are: --trial names it, or a CONFIG that comes before them. Nothing is
    imported for a command line without flags.

    Raises:
        ConfigError: no trial, or what `parse_flags` raises.
    """
    text = "Trains a trial, from an experiment configuration or from flags."
    parser = argparse.ArgumentParser(prog=prog, description=text, allow_abbrev=False)
    add_arguments(parser)
    helping = any(word in ("-h", "--help") for word in argv)
    args, rest = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])
    if helping and args.trial is None and args.config is None:
        parser.print_help()
        sys.exit(0)
    if not rest and not helping:
        return args, {}
    trial, task = args.trial, _flag(argv, "--task")
    if trial is None:
        words = list(argv)
        if args.config is None or (rest and words.index(args.config) > words.index(rest[0])):
            raise ConfigError(f"{rest[0]}: is no option, unless --trial or a CONFIG before it says what is trained")
        config = read_config(args.config, args.overrides)
        data = config.get("data")
        import_plugins(data.get("plugins") if isinstance(data, Mapping) else None)  # which may register the task
        trial, task = trial_class_of(config.get("entrypoint")), task or _task_of(config)
        if trial is None:
            raise ConfigError(f"entrypoint: {args.config} must name a trial class, so that its flags are known")
    config_path = "entrypoint" if args.trial is None else "--trial"
    return parse_flags(argv, _task_kwargs(trial, config_path, task), add_arguments, prog=prog)


def names_as_typed(argv: Sequence[str], args: argparse.Namespace, given: Given) -> dict[str, str]:
    """What the user knows settings by that flags set, or may set: by their paths in a configuration.

    A flag that is given is named as it was typed, ``--learning-rate``; without a configuration file, every setting is
    named by its flag.
    """
    names = {} if args.trial is None else {"entrypoint": "--trial"}
    if args.config is None and args.trial is None:
        return names
    if not given and args.config is not None:
        return names
    typed = {word[2:].partition("=")[0].replace("-", "_"): word.partition("=")[0] for word in argv if word[:2] == "--"}
    try:
        config = {} if args.config is None else read_config(args.config, args.overrides)
        task = _task_of(given) or _task_of(config)
        flags = flags_of(_task_kwargs(args.trial or trial_class_of(config.get("entrypoint")) or "", task=task))
    except ConfigError:  # of the trial's name: the error at hand says it, and must not give way to another
        return names
    for name, flag in flags.items():
        spellings = [name, f"{NO}{name}", *names_of(flag.field)[1:]]
        word = next((typed[spelling] for spelling in spellings if spelling in typed), None)
        if flag.field.name in given.get(flag.section, ()) and word is not None:
            names[f"{flag.section}.{flag.field.name}"] = word
        elif args.config is None:
            names[f"{flag.section}.{flag.field.name}"] = f"--{name}"
    return names


def _flag(words: Sequence[str], name: str) -> str | None:
    """The value of a flag among words that are not parsed yet."""
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == name or word.startswith(f"{name}="):
            return word.partition("=")[2] or following
    return None


def configuration(args: argparse.Namespace, given: Given) -> dict[str, Any]:
    """The experiment configuration that a command line means, with its references as they are written.

    Args:
        args: the options config, overrides and trial.
        given: what flags say; it goes before the file and its overrides.
    """
    if args.config is None:
        if args.trial is None:
            raise ConfigError("CONFIG: the experiment configuration is missing (or --trial, and flags)")
        return config_of_flags(args.trial, given, args.overrides)
    config = read_config(args.config, args.overrides)
    if args.trial is not None:
        config["entrypoint"] = args.trial
    if not given:
        return config
    config = merge(
        config,
        given,
        _task_kwargs(trial_class_of(config["entrypoint"]) or "", task=_task_of(given) or _task_of(config)),
    )
    return with_lengths(config) if set(_LENGTHS) & set(given.get("hyperparameters", ())) else config


def config_of_flags(trial: str, given: Given, overrides: Sequence[str]) -> dict[str, Any]:
    """The experiment configuration of a run without a file: what flags say, and around it what a cluster needs.

    The batch is that of transformers, 8 examples a slot, where no flag says otherwise; the metric is the trial's.
    """
    defaults = _defaults(trial, "--trial", _task_of(given))
    searcher = {"metric": defaults["default_metric"], "smaller_is_better": defaults["default_smaller_is_better"]}
    if "metric_for_best_model" in given.get("hyperparameters", {}):
        searcher = {}
    elif "greater_is_better" in given.get("hyperparameters", {}):
        del searcher["smaller_is_better"]
    slots = int(os.environ.get("WORLD_SIZE", "1"))
    config: dict[str, Any] = {
        "name": trial.rpartition(":")[2],
        "entrypoint": trial,
        "data": {},
        "hyperparameters": {"global_batch_size": 8 * slots},
        "searcher": {"name": "single", **searcher},
        "min_validation_period": {"epochs": 1},
        "min_checkpoint_period": {"epochs": 1},
        "resources": {"slots_per_trial": slots},
    }
    config = merge(with_overrides(config, overrides), given, defaults["task_kwargs"])
    config["hyperparameters"] = with_global_batch_size(config["hyperparameters"], slots)
    return with_lengths(config)


def with_lengths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose keys outside of ``hyperparameters`` say the same of a run's length and periods as these.

    A cluster trains a ``module:Class`` entrypoint by those keys, and knows no part of an epoch, and no run without
    training: such a run gets the script as its entrypoint, which takes the hyperparameters. A ``searcher.max_length``
    stays where the hyperparameters say nothing of a length.
    """
    entrypoint, searcher = config.get("entrypoint"), config.get("searcher")
    settings = {**_LENGTHS, **(config.get("hyperparameters") or {})}
    epochs, steps, accumulation = (settings[name] for name in list(_LENGTHS)[:3])
    numbers = [epochs, steps, accumulation, *(settings[name] or 1 for name in _PERIODS.values())]
    if not all(isinstance(number, int | float) for number in numbers) or not isinstance(searcher, Mapping):
        return {**config}  # a reference, a search specification or an error, which is told elsewhere
    config = {**config, "searcher": {**searcher}}
    legacy = entrypoint is not None and entrypoint == trial_class_of(entrypoint)
    if legacy:
        config |= {key: {"batches": settings[name] * accumulation} for key, name in _PERIODS.items() if settings[name]}
        config = _with_strategies(config, settings)
    given = {"num_train_epochs", "max_steps"} & set(config.get("hyperparameters") or {})
    if ("max_length" in searcher and not given) or (not legacy and "max_length" not in searcher):
        return config
    if steps > 0:
        config["searcher"]["max_length"] = {"batches": steps * accumulation}
    elif steps and epochs > 0 and float(epochs).is_integer():
        config["searcher"]["max_length"] = {"epochs": int(epochs)}
    else:
        config["searcher"].pop("max_length", None)
        if legacy:
            config["entrypoint"] = f"{_SCRIPT} --trial {entrypoint}"
    return config


def _with_strategies(config: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the periods of strategies that say more than steps do."""
    config = {**config}
    for key, steps in _PERIODS.items():
        strategy = next(settings[name] for name, its_steps in STRATEGIES.items() if its_steps == steps)
        if strategy == "epoch":
            config[key] = {"epochs": 1}
        elif strategy in _NO:
            config.pop(key, None)
    if settings["save_strategy"] in _NO:
        config.setdefault("checkpoint_policy", "none")
    return config


def _task_kwargs(trial: str, config_path: str = "entrypoint", task: Any = None) -> type | None:
    """The dataclass of the settings of a trial's task; our trials have flags, and no others.

    Args:
        trial: the trial's class, ``module:Class``.
        config_path: where it is given, for messages.
        task: what the hyperparameter ``task`` says.
    """
    found: type | None = _defaults(trial, config_path, task)["task_kwargs"]
    return found


def _defaults(trial: str, config_path: str, task: Any) -> dict[str, Any]:
    """What a trial, or its task, says of itself: ``task_kwargs``, ``default_metric``, ``default_smaller_is_better``."""
    from model_hub_rqa.trials.settings import find_task, task_defaults
    from model_hub_rqa.trials.task_trial import TaskTrial

    trial_class: Any = import_trial(trial, config_path)
    if not issubclass(trial_class, TaskTrial):
        raise ConfigError(f"{config_path}: {trial} is no TaskTrial, whose settings have flags")
    own = {name: getattr(trial_class, name) for name in ("task_kwargs", "default_metric", "default_smaller_is_better")}
    return {**own, **task_defaults(trial_class, find_task(trial_class, {"task": task}))}


def schema(trial: str | None, path: str | None) -> dict[str, Any]:
    """The JSON schema of a trial's configurations, of the configuration ``path``, or, without either, of all tasks'.

    That of a configuration also has the variables that references in it name.

    Raises:
        ConfigError: both are given, or what `read_config` and `import_trial` raise.
    """
    from model_hub_rqa.config.schema import json_schema

    if trial is not None and path is not None:
        raise ConfigError(f"--trial: must be left out beside a CONFIG, which names its own, got {trial}")
    if trial is None and path is None:
        found: list[Any] = [TASKS.find(name) for name in TASKS.names()]
        return json_schema(task.Settings for task in found if task.Settings is not None)
    config = {} if path is None else read_config(path)
    data = config.get("data")
    import_plugins(data.get("plugins") if isinstance(data, Mapping) else None)
    config_path, named = (
        ("entrypoint", trial_class_of(config.get("entrypoint"))) if trial is None else ("--trial", trial)
    )
    if named is None:
        raise ConfigError(f"entrypoint: {path} must name a trial class, so that its settings are known")
    settings = _task_kwargs(named, config_path, _task_of(config))
    top = [key for key in config if is_referenced(key, str(config))]
    return json_schema([] if settings is None else [settings], {**referenced_names(config), "": top})


def _task_of(config: Mapping[str, Any]) -> Any:
    hparams = config.get("hyperparameters")
    return hparams.get("task") if isinstance(hparams, Mapping) else None
