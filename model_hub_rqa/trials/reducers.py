"""Reducers that make validation metrics the same on any number of ranks."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from determined import pytorch

Values = Mapping[Hashable, Any]


class ByIdReducer(pytorch.MetricReducer):
    """Collects one value per id on each rank, and computes metrics from all of them on the chief.

    Ranks may overlap (an id counts once) and may report in any order (values reach ``compute`` sorted by id), so 1, 2
    and 4 ranks give identical numbers. Keep the values small: they travel between the ranks.

    Args:
        compute: from {id: value}, sorted by id, to metrics by name.
        is_chief: only the chief computes; the other ranks report no metrics of their own.
    """

    def __init__(self, compute: Callable[[Values], dict[str, float]], is_chief: bool = True) -> None:
        self.compute = compute
        self.is_chief = is_chief
        self.values: dict[Hashable, Any] = {}

    def reset(self) -> None:
        self.values = {}

    def update(self, values: Values) -> None:
        """Adds the values of a batch, by id."""
        self.values.update(values)

    def per_slot_reduce(self) -> dict[Hashable, Any]:
        return self.values

    def cross_slot_reduce(self, per_slot_metrics: list[dict[Hashable, Any]]) -> dict[str, float]:
        if not self.is_chief:
            return {}
        merged = {key: value for values in per_slot_metrics for key, value in values.items()}
        return self.compute({key: merged[key] for key in sorted(merged)})  # type: ignore[type-var]  # ids of one kind
