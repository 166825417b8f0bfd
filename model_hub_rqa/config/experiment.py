"""Experiment configurations: the parts of Determined's format that a run needs, checked before anything is loaded."""

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from model_hub_rqa.config.fields import near_miss
from model_hub_rqa.config.interpolation import (
    SECRETS,
    SECTIONS,
    escape,
    interpolate,
    interpolate_all,
    referenced_names,
    resolve_search_specs,
)
from model_hub_rqa.config.parsing import warn_of_unknown
from model_hub_rqa.config.trainer_names import hint_for, with_global_batch_size, with_searcher_metric
from model_hub_rqa.errors import ConfigError

KEYS = (
    *("name", "entrypoint", "data", "hyperparameters", "searcher", "resources", "environment", "labels", "description"),
    *("min_validation_period", "min_checkpoint_period", "checkpoint_policy", "checkpoint_storage", "max_restarts"),
    *("workspace", "project", "bind_mounts", "profiling", "reproducibility", "optimizations", "log_policies"),
    *("perform_initial_validation", "records_per_epoch", "scheduling_unit", "slurm", "pbs", "integrations", "internal"),
    *("debug", "retention_policy", "preemption_timeout", "tensorboard_storage"),
)
"""What Determined has at the top of a configuration; other keys there are variables of one's own."""
_OF_TRIAL = ("hyperparameters", "data", "searcher", "checkpoint_policy")
_TRIAL_CLASS = re.compile(r"[\w.]+:[\w.]+")


@dataclass(frozen=True)
class Experiment:
    """An experiment configuration, resolved once: what every part of a run reads.

    Attributes:
        raw: the configuration as it is written, as Determined gets it.
        trial_hparams: its hyperparameters without search specifications, references as they are written: what
            Determined gets, and stores in checkpoints (a token from the environment stays out of them).
        resolved: the whole without references (``${...}``) and search specifications.
        hyperparameters, data, searcher: sections of ``resolved``.
        name: of the experiment.
        trial_class: ``module:Class``, or None where the entrypoint names none.
        metric, smaller_is_better: the searcher's.
        checkpoint_policy: "best", "all" or "none".
        seed: of the experiment; a cluster draws each trial's own from it.
        accumulation: ``optimizations.aggregation_frequency``, batches of an optimizer step where the hyperparameters do
            not say it.
        referenced: by section, the names that ``${...}`` refers to: variables of the user's own.
    """

    raw: Mapping[str, Any]
    trial_hparams: Mapping[str, Any]
    resolved: Mapping[str, Any]
    referenced: Mapping[str, Collection[str]]

    @classmethod
    def load(cls, config: Any, hparams: Mapping[str, Any] | None = None) -> "Experiment":
        """Resolves a configuration (the parsed YAML).

        ``metric_for_best_model`` and ``greater_is_better`` fill in the searcher's metric.

        Args:
            config: as it is written.
            hparams: the hyperparameters that a search chose for this trial, references as written. Then only what a
                trial reads is resolved; else everything, and each search specification becomes one value.

        Raises:
            ConfigError: every specification that is malformed, or else every reference that leads nowhere and every
                ``???``.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(f"the configuration must be a mapping of keys to values, got {type(config).__name__}")
        config = with_searcher_metric(config)
        written = config.get("hyperparameters") if hparams is None else hparams
        trial_hparams = resolve_search_specs(written) if isinstance(written, Mapping) else {}
        fixed = {**config, "hyperparameters": trial_hparams} if isinstance(written, Mapping) else config
        # the other keys of a trial's configuration may hold texts for Determined, such as environment variables
        resolved = interpolate_all(fixed, written) if hparams is None else interpolate(fixed, _OF_TRIAL)
        return cls(config, trial_hparams, resolved, referenced_names({**config, "hyperparameters": written}))

    def check(self) -> None:
        """Raises ConfigError with every error of the keys at the top; hyperparameters and data are the trial's to
        check."""
        errors = _unknown_keys(self.resolved, str(self.raw))
        if self.trial_class is None:
            rule = "must be module:Class, or a script with --trial module:Class"
            errors.append(f"entrypoint: {rule}, got {self.resolved.get('entrypoint')!r}")
        for name in ("hyperparameters", "data", "searcher"):
            section = self.resolved.get(name)
            if section is not None and not isinstance(section, Mapping):
                errors.append(f"{name}: must be a mapping of names to values, got {section!r}")
        metric, smaller = self.searcher.get("metric"), self.searcher.get("smaller_is_better", True)
        if not isinstance(metric, str) or not metric:
            errors.append(f"searcher.metric: must name a validation metric, got {metric!r}")
        if not isinstance(smaller, bool):
            errors.append(f"searcher.smaller_is_better: must be true or false, got {smaller!r}")
        if self.checkpoint_policy not in ("best", "all", "none"):
            errors.append(f"checkpoint_policy: must be best, all or none, got {self.checkpoint_policy!r}")
        if (seed := self.seed) is not None and not (type(seed) is int and 0 <= seed < 2**32):
            errors.append(f"reproducibility.experiment_seed: must be a whole number from 0 to 2**32 - 1, got {seed!r}")
        if not (type(self.accumulation) is int and self.accumulation >= 1):
            name, got = "optimizations.aggregation_frequency", self.accumulation
            errors.append(f"{name}: must be a whole number of at least 1, got {got!r}")
        if errors:
            raise ConfigError(errors)

    def for_slots(self, slots: int | None = None) -> "Experiment":
        """The experiment with ``global_batch_size`` where ``per_device_train_batch_size`` says it.

        Args:
            slots: the ranks that train, None for those of ``resources.slots_per_trial``.

        Raises:
            ConfigError: as `with_global_batch_size`.
        """
        if slots is None:
            given = self._section("resources").get("slots_per_trial")
            slots = given if isinstance(given, int) and given > 0 else 1
        hparams = with_global_batch_size(self.hyperparameters, slots)
        if hparams == self.hyperparameters:
            return self
        added = {name: value for name, value in hparams.items() if name not in self.hyperparameters}
        return replace(
            self,
            raw={**self.raw, "hyperparameters": {**self.raw["hyperparameters"], **added}},
            trial_hparams={**self.trial_hparams, **added},
            resolved={**self.resolved, "hyperparameters": hparams},
        )

    def file_content(self) -> dict[str, Any]:
        """The configuration without references and search specifications, to be written and read again.

        A text that holds ``${`` is escaped. A secret (the hub's token) that is a reference stays one, since it is
        likely to come from the environment, and belongs into no file.
        """
        content: dict[str, Any] = escape(self.resolved)
        for section in SECTIONS:
            written = self.raw.get(section) or {}
            for name in SECRETS:
                if "${" in str(written.get(name)):
                    content[section][name] = written[name]
        return content

    @property
    def name(self) -> str:
        return str(self.resolved.get("name") or "experiment")

    @property
    def trial_class(self) -> str | None:
        return trial_class_of(self.resolved.get("entrypoint"))

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        return self._section("hyperparameters")

    @property
    def data(self) -> Mapping[str, Any]:
        return self._section("data")

    @property
    def searcher(self) -> Mapping[str, Any]:
        return self._section("searcher")

    @property
    def metric(self) -> str:
        return str(self.searcher.get("metric"))

    @property
    def smaller_is_better(self) -> bool:
        return bool(self.searcher.get("smaller_is_better", True))

    @property
    def checkpoint_policy(self) -> Any:
        return self.resolved.get("checkpoint_policy") or "best"

    @property
    def seed(self) -> Any:
        return self._section("reproducibility").get("experiment_seed")

    @property
    def accumulation(self) -> Any:
        given = self._section("optimizations").get("aggregation_frequency")
        return 1 if given is None else given

    def _section(self, name: str) -> Mapping[str, Any]:
        section = self.resolved.get(name)
        return section if isinstance(section, Mapping) else {}


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


def _unknown_keys(config: Mapping[str, Any], text: str) -> list[str]:
    """The keys at the top that are mistyped; warns of others that neither Determined knows nor ``text`` refers to."""
    errors = []
    for key in config:
        if key in KEYS or is_referenced(key, text):
            continue
        line = f"{key}: is not a key of a configuration{hint_for(key, KEYS)}"
        if near_miss(key, KEYS):
            errors.append(line)
        else:
            warn_of_unknown(str(key), line)
    return errors


def is_referenced(key: Any, text: str) -> bool:
    """Whether a reference in ``text``, a configuration written out, names a key at its top."""
    return re.search(rf"\${{[^}}]*\b{re.escape(str(key))}\b", text) is not None
