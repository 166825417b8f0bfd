"""Validation over several named sets: each one's metrics under its name, and their mean."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from model_hub_rqa.trials.reducers import Values

logger = logging.getLogger(__name__)


def metrics_by_set(
    values: Values, bounds: Mapping[str, range], compute: Callable[[str, Values], dict[str, float]]
) -> dict[str, float]:
    """Computes the metrics of each set as if it were alone.

    Args:
        values: of a validation, by the example's number, or by a tuple that begins with it; sorted.
        bounds: of each set, in their order, the numbers of its examples.
        compute: from a set's name and its values to metrics.

    Returns:
        ``name/metric`` for each set in its order; then, under the metric's plain name, the mean over the sets, where
        every set reports it. A set without values (Determined's test mode evaluates one batch) has NaN for the metrics
        of the others, and no part in the mean.
    """
    found: dict[str, dict[str, float]] = {}
    for name, numbers in bounds.items():
        part = {key: value for key, value in values.items() if _example(key) in numbers}
        if part:
            found[name] = compute(name, part)
        else:
            logger.info("no example of %s was evaluated", name)
    if not found:
        return {}
    names = dict.fromkeys(metric for metrics in found.values() for metric in metrics)
    result: dict[str, float] = {}
    for name in bounds:
        metrics = found.get(name, dict.fromkeys(names, math.nan))
        result |= {f"{name}/{metric}": value for metric, value in metrics.items()}
    for metric in names:
        if all(metric in metrics for metrics in found.values()):
            result[metric] = sum(metrics[metric] for metrics in found.values()) / len(found)
    return result


def _example(key: Any) -> int:
    return int(key[0] if isinstance(key, tuple) else key)
