"""Experiment configurations: the parts of Determined's format that a run needs, checked before anything is loaded."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_hub_rqa.config.fields import near_miss
from model_hub_rqa.config.parsing import warn_of_unknown
from model_hub_rqa.config.trainer_names import hint_for
from model_hub_rqa.errors import ConfigError

KEYS = (
    *("name", "entrypoint", "data", "hyperparameters", "searcher", "resources", "environment", "labels", "description"),
    *("min_validation_period", "min_checkpoint_period", "checkpoint_policy", "checkpoint_storage", "max_restarts"),
    *("workspace", "project", "bind_mounts", "profiling", "reproducibility", "optimizations", "log_policies"),
    *("perform_initial_validation", "records_per_epoch", "scheduling_unit", "slurm", "pbs", "integrations", "internal"),
    *("debug", "retention_policy", "preemption_timeout", "tensorboard_storage"),
)
"""What Determined has at the top of a configuration; other keys there are variables of one's own."""
_TRIAL_CLASS = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True)
class Experiment:
    """What a run takes from an experiment configuration; ``raw`` is the whole of it."""

    name: str
    trial_class: str
    hyperparameters: Mapping[str, Any]
    data: Mapping[str, Any]
    metric: str
    smaller_is_better: bool
    checkpoint_policy: str
    raw: Mapping[str, Any]


def trial_class_of(entrypoint: Any) -> str | None:
    """The ``module:Class`` that an entrypoint names: it is one, or a script whose option ``--trial`` gives it."""
    words = shlex.split(entrypoint) if isinstance(entrypoint, str) else entrypoint
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    if len(words) == 1 and _TRIAL_CLASS.fullmatch(words[0]):
        return str(words[0])
    for option, value in zip(words, [*words[1:], ""], strict=True):
        name, _, attached = option.partition("=")
        if name == "--trial" and _TRIAL_CLASS.fullmatch(attached or value):
            return str(attached or value)
    return None


def parse_experiment(config: Any, written: Any = None) -> Experiment:
    """Reads a configuration (the parsed YAML).

    Args:
        config: with its references resolved.
        written: the same as it was written; keys that it refers to are variables, and right.

    Raises:
        ConfigError: with every error of its own keys. Hyperparameters and data are the trial's to check.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"the configuration must be a mapping of keys to values, got {type(config).__name__}")
    errors = _unknown_keys(config, str(config if written is None else written))
    trial_class = trial_class_of(config.get("entrypoint"))
    if trial_class is None:
        errors.append(
            f"entrypoint: must be module:Class, or a script with --trial module:Class, got {config.get('entrypoint')!r}"
        )
    sections: dict[str, Mapping[str, Any]] = {}
    for name in ("hyperparameters", "data", "searcher"):
        section = config.get(name)
        if section is not None and not isinstance(section, Mapping):
            errors.append(f"{name}: must be a mapping of names to values, got {section!r}")
        sections[name] = section if isinstance(section, Mapping) else {}
    metric = sections["searcher"].get("metric")
    if not isinstance(metric, str) or not metric:
        errors.append(f"searcher.metric: must name a validation metric, got {metric!r}")
    smaller = sections["searcher"].get("smaller_is_better", True)
    if not isinstance(smaller, bool):
        errors.append(f"searcher.smaller_is_better: must be true or false, got {smaller!r}")
    policy = config.get("checkpoint_policy", "best")
    if policy not in ("best", "all", "none"):
        errors.append(f"checkpoint_policy: must be best, all or none, got {policy!r}")
    if errors:
        raise ConfigError(errors)
    return Experiment(
        name=str(config.get("name") or "experiment"),
        trial_class=str(trial_class),
        hyperparameters=sections["hyperparameters"],
        data=sections["data"],
        metric=str(metric),
        smaller_is_better=smaller,
        checkpoint_policy=policy,
        raw=config,
    )


def _unknown_keys(config: Mapping[str, Any], text: str) -> list[str]:
    """The keys at the top that are mistyped; warns of others that neither Determined knows nor ``text`` refers to."""
    errors = []
    for key in config:
        if key in KEYS or is_referred(key, text):
            continue
        line = f"{key}: is not a key of a configuration{hint_for(key, KEYS)}"
        if near_miss(key, KEYS):
            errors.append(line)
        else:
            warn_of_unknown(str(key), line)
    return errors


def is_referred(key: Any, text: str) -> bool:
    """Whether a reference in ``text``, a configuration written out, names a key at its top."""
    return re.search(rf"\${{[^}}]*\b{re.escape(str(key))}\b", text) is not None
