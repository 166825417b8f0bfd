"""How long a run is, and how often it validates and writes checkpoints, by Determined's keys of a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_hub_rqa.config.fields import show
from model_hub_rqa.errors import ConfigError

UNITS = ("batches", "records", "epochs")


@dataclass(frozen=True)
class MaxLength:
    """What ``searcher.max_length``, or a period, says: so many batches (before accumulation), records or epochs."""

    value: int
    unit: str

    def __str__(self) -> str:
        return f"{self.value} {self.unit}"

    def batches(self, *, batches_per_epoch: int, global_batch_size: int) -> int:
        """The micro-batches of a rank, as Determined counts them: records are rounded down to whole batches."""
        if self.unit == "epochs":
            return self.value * batches_per_epoch
        return max(self.value // global_batch_size, 1) if self.unit == "records" else self.value


def read_max_length(searcher: Mapping[str, Any]) -> MaxLength | None:
    """The ``max_length`` of a configuration's searcher, None where there is none; a plain number counts batches.

    Raises:
        ConfigError: it is neither a number nor one unit with its number.
    """
    given = searcher.get("max_length")
    return None if given is None else _read(given, "searcher.max_length")


def read_period(config: Mapping[str, Any], name: str) -> MaxLength | None:
    """How often a configuration wants validations (``min_validation_period``) or checkpoints
    (``min_checkpoint_period``), None where it does not say.

    Raises:
        ConfigError: as `read_max_length`.
    """
    given = config.get(name)
    if given is None or given in ({}, 0) or (isinstance(given, Mapping) and [*given.values()] == [0]):
        return None  # a cluster writes {batches: 0} where nothing was given
    return _read(given, name)


def _read(given: Any, name: str) -> MaxLength:
    unit, value = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else ("batches", given)
    if unit not in UNITS or isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{name}: must be a number of batches, or one of {', '.join(UNITS)} with its number, got {show(given)}"
        )
    return MaxLength(value, unit)


def steps_in(length: MaxLength, batches: int, accumulation: int) -> int:
    """The optimizer steps in the ``batches`` of a length; what is left of an accumulation makes no step.

    Raises:
        ConfigError: there is not one step in them.
    """
    if batches < accumulation:
        raise ConfigError(
            f"searcher.max_length: must be at least one optimizer step, {accumulation} batches "
            f"(gradient_accumulation_steps), got {length}, which is {batches}"
        )
    return batches // accumulation


def check_agreement(name: str, value: Any, *, steps: int, length: MaxLength, length_steps: int) -> None:
    """Raises ConfigError where a hyperparameter and ``searcher.max_length`` give a run two lengths."""
    if steps != length_steps:
        raise ConfigError(
            f"hyperparameters.{name}: must be as long as searcher.max_length ({length}: {length_steps} optimizer "
            f"steps), got {value}: {steps} steps (give one of them, or the same length)"
        )
