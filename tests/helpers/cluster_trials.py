"""Trials whose validation goes wrong, for runs on the stand-in's cluster."""

import os
import signal
from typing import Any

from model_hub_rqa.trials.qa import QATrial


class NotANumber(QATrial):
    """Its metrics are those of a training that diverged."""

    def compute_metrics(self, values: Any) -> dict[str, float]:
        return {**super().compute_metrics(values), "f1": float("nan")}


class Infinite(QATrial):
    def compute_metrics(self, values: Any) -> dict[str, float]:
        return {**super().compute_metrics(values), "f1": float("inf")}


class Silent(QATrial):
    """It does not report the searcher's metric."""

    def compute_metrics(self, values: Any) -> dict[str, float]:
        return {"exact_match": super().compute_metrics(values)["exact_match"]}


class Diverging(QATrial):
    """Its loss is infinite."""

    def compute_loss(self, batch: dict[str, Any]) -> Any:
        return super().compute_loss(batch) * float("inf")


class Rated(QATrial):
    """Its f1 is a hyperparameter, so that a test knows what the searcher decides."""

    def compute_metrics(self, values: Any) -> dict[str, float]:
        rating: Any = self.context.get_hparam("adam_epsilon")  # one that does no harm
        return {**super().compute_metrics(values), "f1": float(rating) * 1e8}


class Killed(QATrial):
    """The machine ends it in the first batch."""

    def compute_loss(self, batch: dict[str, Any]) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().compute_loss(batch)


class LateDiverging(QATrial):
    """Its loss is NaN in the eighth batch."""

    def compute_loss(self, batch: dict[str, Any]) -> Any:
        return super().compute_loss(batch) * (float("nan") if self.context._current_batch_idx == 7 else 1.0)
