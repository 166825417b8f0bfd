"""Callbacks that a configuration names: ``data.callbacks: [early_stopping, {name: loss_logger, filename: x.jsonl}]``.

Another one is a subclass of `TrialCallback` under `register_callback`, in any module that the trial imports.
"""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from determined import pytorch

from model_hub_rqa.config.fields import did_you_mean
from model_hub_rqa.errors import ConfigError, ErrorCollector, RqaError
from model_hub_rqa.registry import CALLBACKS
from model_hub_rqa.runtime import determined_controller, determined_fixes
from model_hub_rqa.runtime.metric_names import check_metric

logger = logging.getLogger(__name__)


class TrialCallback(pytorch.PyTorchCallback):
    """A callback of Determined's that knows its trial, from `bind` on.

    Its constructor's arguments come from the configuration, before a model is loaded. State that a resume needs goes
    through ``state_dict`` and ``load_state_dict``, as plain numbers and texts.
    """

    trial: Any

    def check(self, trial: Any) -> None:
        """Called once the data is read, before a model is built: raises ConfigError for what does not fit the trial."""

    def bind(self, trial: Any) -> "TrialCallback":
        """Called with the trial once its model is built."""
        self.trial = trial
        return self


class MetricError(pytorch.PyTorchCallback):
    """Raises on every rank what `compute_metrics` raised on the chief, once a checkpoint is written."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial

    def on_validation_end(self, metrics: dict[str, Any]) -> None:
        context, error = self.trial.context, self.trial.metric_error
        if context.distributed.size > 1:
            known = error is None or isinstance(error, RqaError)  # another may not travel
            told = context.distributed.broadcast(error if known else RuntimeError(f"compute_metrics: {error!r}"))
            error = error or told
        if error is not None:
            determined_controller.keep_last_step(context)
            raise error


register_callback = CALLBACKS.register
"""A decorator: the class can be named in ``data.callbacks``."""


def build_named_callbacks(entries: Iterable[Any]) -> dict[str, TrialCallback]:
    """Makes the callbacks of a list, each a name or a mapping with ``name`` and the arguments.

    Raises:
        ConfigError: every error: unknown names and arguments, each with the nearest right one, and repeated names.
    """
    errors = ErrorCollector()
    built: dict[str, Any] = {}
    for number, entry in enumerate(entries):
        path = f"data.callbacks[{number}]"
        callback = errors.attempt(CALLBACKS.from_config, entry, path)
        if callback is not None and callback.name in built:
            errors.add(ConfigError(f"{path}: {callback.name} is listed already"))
        elif callback is not None:
            built[callback.name] = errors.attempt(callback.build)
    errors.raise_any()
    return built


@CALLBACKS.register("early_stopping")
class EarlyStopping(TrialCallback):
    """Ends training when a metric has not improved for so many validations, as transformers' EarlyStoppingCallback.

    A value that is not finite is no improvement. Training ends with a checkpoint, on a cluster as well; a run that
    ended so stays ended when it is resumed.

    Args:
        patience: validations in a row without an improvement.
        threshold: an improvement is larger than this.
        metric: of the validation; unset: the searcher's.
        smaller_is_better: whether a lower value is an improvement; to be given with ``metric``.
    """

    def __init__(
        self,
        *,
        patience: int = 1,
        threshold: float = 0.0,
        metric: str | None = None,
        smaller_is_better: bool | None = None,
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience must be >= 1, got {patience}")
        if threshold < 0:
            raise ValueError(f"threshold must be >= 0, got {threshold}")
        if (metric is None) != (smaller_is_better is None):
            raise ValueError("metric and smaller_is_better belong together: give both, or neither for the searcher's")
        self.patience = patience
        self.threshold = threshold
        self.metric = metric
        self.smaller_is_better = smaller_is_better
        self.best: float | None = None
        self.waited = 0

    def check(self, trial: Any) -> None:
        if self.metric is not None:
            check_metric(trial, self.metric, self.smaller_is_better, "data.callbacks: early_stopping")

    def bind(self, trial: Any) -> "TrialCallback":
        if self.metric is None:
            self.metric, self.smaller_is_better = trial.searcher.get("metric"), trial.smaller_is_better
        return super().bind(trial)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.waited = state_dict["best"], state_dict["waited"]

    def on_training_start(self) -> None:
        self._stop_if_due()

    def on_validation_end(self, metrics: dict[str, Any]) -> None:
        if self.metric not in metrics:
            given = ", ".join(sorted(metrics))
            determined_controller.keep_last_step(self.trial.context)
            raise ConfigError(
                f"data.callbacks: early_stopping.metric must be one of the validation metrics ({given}), "
                f"got {self.metric!r}{did_you_mean(self.metric, metrics)}"
            )
        value = float(metrics[self.metric])
        if self._improves(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        self._stop_if_due()

    def _improves(self, value: float) -> bool:
        if not math.isfinite(value) or self.best is None:
            return math.isfinite(value)
        gain = self.best - value if self.smaller_is_better else value - self.best
        return gain > self.threshold

    def _stop_if_due(self) -> None:
        if self.waited < self.patience:
            return
        best = "was never finite" if self.best is None else f"has not improved on {self.best:.6g}"
        times = "once" if self.waited == 1 else f"for {self.waited} validations"
        self.trial.stop_reason = f"early_stopping: {self.metric} {best} {times}"
        logger.info("%s: training ends", self.trial.stop_reason)
        self.trial.context.set_stop_requested(True)


@CALLBACKS.register("loss_logger")
class LossLogger(TrialCallback):
    """Writes the mean training loss of each reporting period: steps (of the optimizer), loss and learning_rate.

    Args:
        filename: a file of JSON lines in the run's folder. null, or a cluster, where there is no such folder: the
            lines go to the log.
    """

    def __init__(self, *, filename: str | None = "losses.jsonl") -> None:
        if filename is not None and Path(filename).name != filename:
            raise ValueError(f"filename must be a name without a folder, got {filename!r}")
        self.filename = filename
        self.steps = 0
        self._divisor = 1  # of the steps in the file

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer_steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "optimizer_steps" not in state_dict:  # of 0.1, which counted batches as steps
            self._divisor = self.trial.accumulation
            state_dict = {"optimizer_steps": state_dict["steps"] // self._divisor}
        self.steps = state_dict["optimizer_steps"]

    @property
    def path(self) -> Path | None:
        """The file, where lines go to one."""
        folder = self.trial.output_dir
        return None if folder is None or self.filename is None else folder / self.filename

    def on_training_start(self) -> None:
        """Drops the lines of what is trained again: later than the checkpoint that the run goes on from."""
        if self._is_chief and self.path is not None and self.path.exists():
            found = [_read(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
            lines = [{**line, "steps": line["steps"] // self._divisor} for line in found if line is not None]
            kept = [json.dumps(line) for line in lines if line["steps"] <= self.steps]
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_training_workload_end(self, avg_metrics: dict[str, Any], batch_metrics: Any) -> None:
        self.steps = determined_fixes.batches_trained(self.trial.context) // self.trial.accumulation
        if not self._is_chief:
            return
        values = {name: float(avg_metrics[name]) for name in ("loss", "learning_rate") if name in avg_metrics}
        line = json.dumps({"steps": self.steps, **values})
        if self.path is None:
            logger.info("loss_logger: %s", line)
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @property
    def _is_chief(self) -> bool:
        return bool(self.trial.context.distributed.rank == 0)


def _read(line: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(line)
        return {**found, "steps": int(found["steps"])}
    except (ValueError, KeyError, TypeError):  # half a line, of a killed process
        return None
