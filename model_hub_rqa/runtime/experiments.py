"""From an experiment configuration's file to its trial class; Determined is imported when it is first needed."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from model_hub_rqa.config.experiment import Experiment
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import import_object

_EXPERIMENT = "rqa_experiment"  # an attribute of ours on Determined's context

logger = logging.getLogger(__name__)


def load_experiment(path: str, overrides: Sequence[str] = (), trial: str | None = None) -> Experiment:
    """Reads a configuration file as ``det experiment create`` does, resolves and checks it.

    Args:
        path: of the file.
        overrides: ``key=value``, in the grammar of ``--config``.
        trial: ``module:Class`` in place of the entrypoint.
    """
    config = read_config(path, overrides)
    return checked({**config, "entrypoint": trial} if trial is not None else config)


def checked(config: Mapping[str, Any], slots: int | None = None) -> Experiment:
    """The experiment of a configuration, its own keys checked, with its batch size for so many slots.

    Raises:
        ConfigError: as `Experiment.load`, `Experiment.check` and `Experiment.for_slots`.
    """
    experiment = Experiment.load(config)
    experiment.check()
    return experiment.for_slots(slots)


def attach(context: Any, experiment: Experiment) -> None:
    """Gives a context the experiment that was loaded, for its trial."""
    setattr(context, _EXPERIMENT, experiment)


def experiment_of(context: Any) -> Experiment:
    """The experiment of a context's trial: what `attach` gave it, or what its configuration says, loaded once.

    Raises:
        ConfigError: as `Experiment.load`.
    """
    if getattr(context, _EXPERIMENT, None) is None:
        attach(context, Experiment.load(context.get_experiment_config(), context.get_hparams()))
    experiment: Experiment = getattr(context, _EXPERIMENT)
    return experiment


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
    """A configuration with the values of ``--config KEY=VALUE`` in place of its own.

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
    trial_class = import_trial(experiment.trial_class or "")
    trial: Any = object.__new__(trial_class)  # __init__ would go on to build the model
    trial.prepare(experiment)
    given = "gradient_accumulation_steps" in trial.hparams
    trial.accumulation = trial.trainer.gradient_accumulation_steps if given else experiment.accumulation
    trial.check_course()
    if experiment.searcher.get("smaller_is_better") is None and not trial.smaller_is_better:
        logger.warning(
            "searcher.smaller_is_better: is unset, and a cluster takes true: set it to false for %s", experiment.metric
        )
    return trial
