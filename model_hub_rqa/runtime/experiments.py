"""From an experiment configuration's file to its trial class; Determined is imported when it is first needed."""

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from model_hub_rqa.config.experiment import Experiment, parse_experiment
from model_hub_rqa.config.interpolation import referred_names, resolve_whole
from model_hub_rqa.config.trainer_names import with_global_batch_size, with_searcher_metric
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import import_object

logger = logging.getLogger(__name__)


def load_experiment(path: str, overrides: Sequence[str] = (), trial: str | None = None) -> Experiment:
    """Reads a configuration file as ``det experiment create`` does, and resolves the references in it.

    Args:
        path: of the file.
        overrides: ``key=value``, in the grammar of ``--config``.
        trial: ``module:Class`` in place of the entrypoint.
    """
    config = read_config(path, overrides)
    return resolve_experiment({**config, "entrypoint": trial} if trial is not None else config)


def resolve_experiment(config: Mapping[str, Any], slots: int | None = None) -> Experiment:
    """The experiment of a configuration: its parts with references resolved, beside the whole as it is written.

    What names of transformers' Trainer say of its other keys is filled in (`config.trainer_names`).

    Args:
        config: as it is written.
        slots: the ranks that train, None for those of ``resources.slots_per_trial``.
    """
    config = with_searcher_metric(config)
    resolved = resolve_whole(config)
    experiment = parse_experiment(resolved, config)
    if slots is None:
        resources = resolved.get("resources")
        given = resources.get("slots_per_trial") if isinstance(resources, Mapping) else None
        slots = given if isinstance(given, int) and given > 0 else 1
    hparams = with_global_batch_size(experiment.hyperparameters, slots)
    if hparams.get("global_batch_size") != experiment.hyperparameters.get("global_batch_size"):
        config["hyperparameters"] = {**config["hyperparameters"], "global_batch_size": hparams["global_batch_size"]}
    return dataclasses.replace(experiment, hyperparameters=hparams, raw=config)


def read_config(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A configuration file as it is written, with ``--config`` overrides.

    Determined's own YAML reader is used since it reads 1e-4 as a number, where PyYAML reads text.
    """
    from determined.common import util

    try:
        with open(path, encoding="utf-8") as file:
            config = util.yaml_safe_load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error}") from error
    except Exception as error:  # the YAML parser raises many kinds, all about the user's text
        mark = getattr(error, "problem_mark", None)  # where: its own text tells of its API as well
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        text = str(error if mark is None else getattr(error, "problem", error))
        raise ConfigError(f"{path}: cannot be parsed: {where}{' '.join(text.split())}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values, got {type(config).__name__}")
    return with_overrides(config, overrides)


def with_overrides(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A configuration with what ``--config KEY=VALUE`` says in the place of its own.

    Raises:
        ConfigError: with a line for each that is no KEY=VALUE, or whose key is below a value.
    """
    from determined.cli import ntsc

    errors = [f"--config: must be KEY=VALUE, got {word}" for word in overrides if not word.partition("=")[1]]
    if errors:
        raise ConfigError(errors)
    for word in overrides:
        try:
            config = ntsc.parse_config_overrides(config, [word])
        except (TypeError, AttributeError):  # it looks for a key in a value
            errors.append(f"--config {word}: a part of the key before its last dot is a value, not a mapping")
        except Exception as error:  # of many kinds, all about the user's text
            errors.append(f"--config {word}: {' '.join(str(error).split())}")
    if errors:
        raise ConfigError(errors)
    return without_unset(config, overrides)


def without_unset(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A configuration without the keys that ``--config KEY=null`` unsets, so that their defaults hold."""
    kept = copy.deepcopy(dict(config))
    for key in (word.partition("=")[0] for word in overrides if word.partition("=")[2].strip() in ("null", "~")):
        *path, last = key.strip().split(".")
        inner: Any = kept
        for name in path:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(last, None)
    return kept


def import_trial(name: str, config_path: str = "entrypoint") -> type:
    """The trial class ``module:Class``; modules in the working directory are found as well.

    Raises:
        ConfigError: there is none, or it is no trial; ``config_path`` is where the name was given.
    """
    try:
        found = import_object(name)
    except ValueError as error:
        raise ConfigError(f"{config_path}: {error}") from error
    from determined import pytorch

    if not (isinstance(found, type) and issubclass(found, pytorch.PyTorchTrial)):
        raise ConfigError(f"{config_path}: {name} is not a trial class (a PyTorchTrial)")
    return found


def validate(experiment: Experiment) -> Any:
    """Checks a configuration as far as it goes without a model: settings, names, data, tokenizer, features.

    Returns:
        The trial, prepared but without a model.
    """
    trial_class = import_trial(experiment.trial_class)
    trial: Any = object.__new__(trial_class)  # __init__ would go on to build the model
    trial.referred = referred_names(experiment.raw)
    trial.searcher = resolve_whole(experiment.raw).get("searcher") or {}
    trial.checkpoint_policy = experiment.checkpoint_policy
    trial.prepare(experiment.hyperparameters, experiment.data)
    by_determined = (experiment.raw.get("optimizations") or {}).get("aggregation_frequency", 1)
    given = "gradient_accumulation_steps" in trial.hparams
    trial.accumulation = trial.trainer.gradient_accumulation_steps if given else by_determined
    trial.check_course()
    if trial.searcher.get("smaller_is_better") is None and not trial.smaller_is_better:
        logger.warning(
            "searcher.smaller_is_better: is unset, and a cluster takes true: set it to false for %s", experiment.metric
        )
    return trial
