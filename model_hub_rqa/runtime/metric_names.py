"""The metrics that a trial declares, and what chooses one of them: its name must be known, and its direction right."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model_hub_rqa.config.fields import did_you_mean, show
from model_hub_rqa.errors import ConfigError, ErrorCollector
from model_hub_rqa.registry import METRICS, RegisteredObject


def read_metrics(entries: Iterable[Any]) -> dict[str, RegisteredObject]:
    """The metrics of ``data.metrics``, by the name that a validation reports: the registered one, or the function's.

    A metric's attribute ``higher_is_better`` says whether a higher value is better; without, it is neither.

    Raises:
        ConfigError: every unknown name, every argument that does not fit, and every name that comes twice.
    """
    errors = ErrorCollector()
    found: dict[str, RegisteredObject] = {}
    for number, entry in enumerate(entries):
        path = f"data.metrics[{number}]"
        component = errors.attempt(METRICS.from_config, entry, path)
        if component is None:
            continue
        name = component.name.replace(":", ".").rpartition(".")[2]
        if name in found:
            errors.add(ConfigError(f"{path}: {name} is listed already"))
        found[name] = component
    errors.raise_any()
    return found


def added_metrics(
    components: Mapping[str, RegisteredObject], predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """What `read_metrics` gave, computed.

    Args:
        components: by name.
        predictions: a text for each example.
        references: the gold answers of each.

    Raises:
        ConfigError: a metric gives no number.
    """
    found = {}
    for name, one in components.items():
        value = one.build()(predictions, references)
        try:
            found[name] = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{one.path}: {one.name} must return a number, got {show(value)}") from error
    return found


def declared_metrics(trial: Any) -> Mapping[str, bool | None] | None:
    """What ``trial.higher_is_better`` says, with ``name/metric`` for each of several data sets beside ``metric``.

    Returns:
        None where the trial has a `compute_metrics` of its own, of which no declaration speaks.
    """
    for kind in type(trial).__mro__:
        if "higher_is_better" in vars(kind):
            own: Mapping[str, bool | None] = trial.higher_is_better
            sets = trial.sets["validation"]
            return {**own, **{f"{name}/{metric}": own[metric] for name in sets for metric in own}}
        if "compute_metrics" in vars(kind):
            return None
    return None


def check_metric(trial: Any, metric: str, smaller_is_better: bool | None, config_path: str) -> bool:
    """Whether a lower value of a metric is better: as the metric itself has it, or as is given for an unknown one.

    Args:
        trial: with its settings and examples.
        metric: its name.
        smaller_is_better: what is given beside it; None: nothing.
        config_path: of both in the configuration, ``searcher`` say.

    Raises:
        ConfigError: the trial does not report such a metric, or its direction is the other one.
    """
    declared = declared_metrics(trial)
    if declared is not None and metric not in declared:
        raise ConfigError(
            f"{config_path}.metric: must be one of the validation metrics ({', '.join(declared)}), got {metric!r}"
            f"{did_you_mean(metric, declared)}"
        )
    higher = (trial.higher_is_better if declared is None else declared).get(metric)
    if higher is None:
        return True if smaller_is_better is None else smaller_is_better
    if smaller_is_better is higher:
        raise ConfigError(
            f"{config_path}.smaller_is_better: must be {show(not higher)} for {metric}, got {show(smaller_is_better)}"
            + (" (a cluster's value where it is unset)" if smaller_is_better else "")
        )
    return not higher
