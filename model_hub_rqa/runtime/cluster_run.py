"""A run on a cluster: which errors a search may skip, and which metrics its searcher must never be given.

Determined knows two ends of a trial that did not work: it failed (and is restarted, and may fail the experiment), or
its hyperparameters were impossible (`determined.InvalidHP`), and the search goes on with others.
"""

import contextlib
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import determined
from determined import pytorch

from model_hub_rqa.config.fields import did_you_mean
from model_hub_rqa.errors import ConfigError, NonFiniteLoss, RqaError
from model_hub_rqa.runtime import determined_controller

logger = logging.getLogger(__name__)

_FIXED, _VARYING = "const", ("int", "double", "log", "categorical")  # types of search specifications


def trial_config() -> Mapping[str, Any] | None:
    """The experiment configuration of the trial that runs here as a cluster's task; None off a cluster."""
    info = determined.get_cluster_info()
    if info is None or info.task_type != "TRIAL":
        return None
    config: Mapping[str, Any] = info.trial._config
    return config


def searched_names(config: Mapping[str, Any]) -> set[str]:
    """The hyperparameters that the search varies, by their top names; none for a single trial."""
    if (config.get("searcher") or {}).get("name", "single") == "single":
        return set()
    hparams = config.get("hyperparameters") or {}
    return {name for name, value in hparams.items() if _varies(value)}


def _varies(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    if value.get("type") in (_FIXED, *_VARYING):
        return bool(value["type"] != _FIXED)
    return any(_varies(inner) for inner in value.values())


@contextlib.contextmanager
def raising_invalid_hp() -> Iterator[None]:
    """Turns an error of values that a search chose into InvalidHP, so that the search goes on with others.

    Such an error is a NonFiniteLoss, or a ConfigError whose every line names a hyperparameter that the search varies.
    Others are the same in each of its trials: those have to fail, since a search would replace invalid trials without
    an end. Off a cluster nothing is turned.
    """
    try:
        yield
    except (ConfigError, NonFiniteLoss) as error:
        config = trial_config()
        names = set() if config is None else searched_names(config)
        named = isinstance(error, NonFiniteLoss) or all(_names_any(line, names) for line in error.errors)
        if not names or not named:
            raise
        for line in error.errors:
            logger.error("%s", line)
        raise determined.InvalidHP(str(error)) from error


@contextlib.contextmanager
def reported_to_torchrun() -> Iterator[None]:
    """Gives torchrun an error of this package for its report, which names only exit codes otherwise."""
    try:
        yield
    except RqaError as error:
        report_to_torchrun(error)
        raise


def report_to_torchrun(error: RqaError) -> None:
    """Writes an error into the file that torchrun reads, where this process is one of its ranks."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def _names_any(line: str, names: set[str]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", line) for name in names)


class SearcherMetric(pytorch.PyTorchCallback):
    """Stops a trial whose searcher metric is missing or, on a cluster, not finite, before the master is told.

    One NaN would end a whole search. Under a search the trial ends as InvalidHP (its hyperparameters made training
    diverge); a single trial fails, and says why. The hook runs on every rank with the same metrics, so all agree.

    A checkpoint is written first.

    Args:
        context: of the trial.
        metric: the searcher's.
        searching: whether a search can go on without this trial.
        on_cluster: whether a master is told.
    """

    def __init__(self, context: pytorch.PyTorchTrialContext, metric: str, *, searching: bool, on_cluster: bool) -> None:
        self.context = context
        self.metric = metric
        self.searching = searching
        self.on_cluster = on_cluster

    def on_validation_end(self, metrics: dict[str, Any]) -> None:
        if self.metric not in metrics:
            given = ", ".join(sorted(metrics))
            determined_controller.keep_last_step(self.context)
            hint = did_you_mean(self.metric, metrics)
            raise ConfigError(
                f"searcher.metric: must be one of the validation metrics ({given}), got {self.metric!r}{hint}"
            )
        value = float(metrics[self.metric])
        if math.isfinite(value) or not self.on_cluster:
            return
        determined_controller.keep_last_step(self.context)
        error = f"searcher.metric: {self.metric} must be finite, got {value}: training diverged"
        if self.searching:
            logger.error("%s", error)
            raise determined.InvalidHP(error)
        raise ConfigError(f"{error} (a smaller learning_rate or max_grad_norm may help)")


def callbacks(context: pytorch.PyTorchTrialContext, searcher: Mapping[str, Any]) -> dict[str, pytorch.PyTorchCallback]:
    """The callbacks that hold a trial to its searcher, which may be there without a cluster as well."""
    metric, on_cluster = searcher.get("metric"), trial_config() is not None
    if metric is None:
        return {}
    searching = on_cluster and searcher.get("name", "single") != "single"
    return {"searcher_metric": SearcherMetric(context, metric, searching=searching, on_cluster=on_cluster)}
