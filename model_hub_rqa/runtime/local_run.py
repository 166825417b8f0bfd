"""A full local run: the folder it fills, what it reports, which checkpoints it keeps.

The folder: checkpoints/, metrics.jsonl (an object a report: steps, kind, the metrics by name), config.yaml as
resolved, run.log, tensorboard/, what the trial writes at a validation (predictions.json ...), and summary.json once
the run has ended or was stopped. Steps are optimizer steps everywhere; ``batches`` in a report are Determined's, before
accumulation.
"""

import contextlib
import json
import logging
import math
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from determined import core, util
from determined.common import util as common_util

from model_hub_rqa.checkpoints import RECORD, checkpoints_of, read_metadata, steps_completed, steps_in_name
from model_hub_rqa.errors import CheckpointError, RqaError
from model_hub_rqa.progress import ShownMetrics, TrainProgress, format_metrics
from model_hub_rqa.runtime import local_checkpoints

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


class Reports(core.DummyTrainContext):
    """Receives what a cluster's master would: metrics go to metrics.jsonl, and to the progress display.

    Args:
        folder: the run's.
        metric: the searcher's metric, by which a validation is the best so far.
        smaller_is_better: whether a lower value of it is better.
        resumed_at: optimizer steps trained before; later reports of an interrupted run are dropped from metrics.jsonl,
            since they are made again.
        accumulation: the batches of an optimizer step.
        is_chief: only the chief writes; other ranks read the same reports, and so agree with it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        metric: str,
        smaller_is_better: bool,
        resumed_at: int,
        accumulation: int = 1,
        is_chief: bool = True,
    ) -> None:
        super().__init__(folder / "tensorboard")
        self.path = folder / METRICS
        self.metric = metric
        self.smaller_is_better = smaller_is_better
        self.accumulation = accumulation
        self.progress: TrainProgress | None = None
        self.best: float | None = None
        self.best_steps: int | None = None
        self.last_validation: int | None = None
        kept = [report for report in self.read() if report["steps"] <= resumed_at]
        if is_chief:
            _write(self.path, kept)
        for report in kept:
            self._note(report)

    def read(self) -> list[dict[str, Any]]:
        """All reports that metrics.jsonl holds, in their order."""
        return _read(self.path) if self.path.exists() else []

    def _note(self, report: dict[str, Any]) -> None:
        if report["kind"] != "validation":
            return
        self.last_validation = report["steps"]
        value = report.get(self.metric)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return
        if self.best is None or (value < self.best if self.smaller_is_better else value > self.best):
            self.best, self.best_steps = value, report["steps"]

    def set_status(self, status: str) -> None:
        if self.progress is not None:
            self.progress.status(status)

    def validating(self, done: int, total: int) -> None:
        """After ``done`` of the ``total`` batches of a validation, on this rank."""
        if self.progress is not None:
            self.progress.validating(done, total)

    def _get_last_validation(self) -> int | None:
        """In batches."""
        return None if self.last_validation is None else self.last_validation * self.accumulation

    def get_experiment_best_validation(self) -> float | None:
        return self.best

    def _report_trial_metrics(
        self,
        group: str,
        steps_completed: int,
        metrics: dict[str, Any],
        batch_metrics: list[dict[str, Any]] | None = None,
    ) -> None:
        steps = steps_completed // self.accumulation
        report = json.loads(util.json_encode({"steps": steps, "kind": group, **metrics}))
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(report) + "\n")
        except OSError as error:  # whose own words do not name the file
            raise RqaError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._note(report)
        logger.info("%s after %d steps: %s", group, steps, json.dumps(report))
        if self.progress is None:
            return
        if group == "training":
            self.progress.training(steps, metrics)
        else:
            shown = {
                name: value for name, value in report.items() if name not in {"steps", "kind", "batches", "epochs"}
            }
            self.progress.line(f"step {steps}  {group}  {format_metrics(ShownMetrics(shown, self.metric))}")

    def upload_tensorboard_files(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to upload: the events are written to the run's folder."""

    def report_progress(self, progress: float) -> None:
        """The training reports tell."""


def remove_old_checkpoints(folder: Path, limit: int | None, reports: Reports) -> None:
    """Keeps the ``limit`` newest checkpoints of a run, and beside them the best by the searcher's metric."""
    if limit is None:
        return
    for path in checkpoints_of(folder)[limit:]:
        if steps_in_name(path) != reports.best_steps:
            _remove(path)
            logger.info("removed %s (save_total_limit %d)", path.name, limit)


def count_in_steps(folder: Path, accumulation: int) -> dict[str, str]:
    """Makes a run of 0.1, whose checkpoints and reports count batches, one that counts optimizer steps.

    Returns:
        The new name of each checkpoint that was renamed.
    """
    renamed: dict[str, str] = {}
    for path in reversed(checkpoints_of(folder)):  # the earliest first, whose new name is free
        with contextlib.suppress(CheckpointError):  # a damaged one does not tell
            batches = steps_completed(path)
            if accumulation > 1 and batches == steps_in_name(path) and RECORD not in read_metadata(path):
                renamed[path.name] = f"checkpoint-{batches // accumulation}"
    if renamed and (folder / METRICS).exists():
        reports = _read(folder / METRICS)
        for report in reports:
            if report["steps"] == report.get("batches"):
                report["steps"] //= accumulation
        _write(folder / METRICS, reports)
    for old, new in renamed.items():
        (folder / "checkpoints" / old).rename(folder / "checkpoints" / new)
    return renamed


def _read(path: Path) -> list[dict[str, Any]]:
    reports = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            reports.append(json.loads(line))
        except ValueError:  # a killed process may have left half a line, and it is the last one
            break
    return reports


def _write(path: Path, reports: list[dict[str, Any]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(report) + "\n" for report in reports), encoding="utf-8")
    partial.replace(path)


def roll_back(folder: Path, done: int) -> list[str]:
    """Makes the run's checkpoints those of its first ``done`` optimizer steps.

    What a killed process left half-written or half-removed goes. Checkpoints of later steps are hidden until they
    are made again: they are damaged, or belong to what the user goes back from, and none of them may be taken for the
    newest of this run, nor count as one to keep.

    Returns:
        Which were hidden, in words.
    """
    for pattern in (".checkpoint-*.partial", ".checkpoint-*.removed"):
        for path in (folder / "checkpoints").glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    later = [path for path in checkpoints_of(folder) if steps_in_name(path) > done]
    for path in later:
        local_checkpoints.hide_checkpoint(path)
    return [f"set aside: {path} (later than the {done} steps that the run goes on from)" for path in later]


def remove_hidden_checkpoints(folder: Path) -> None:
    """Removes the checkpoints that `roll_back` has hidden, at the end of the run that replaced them."""
    for path in (folder / "checkpoints").glob(".checkpoint-*.replaced"):
        shutil.rmtree(path, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Removes it under another name, so that a process killed meanwhile leaves no half of a checkpoint."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


@contextlib.contextmanager
def stopping_on_signals(context: Any) -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C end a local run after the batch at hand, with a checkpoint and exit code 0; twice, at once.

    Yields:
        What is set once a signal came; a stop that a program asks for leaves it alone.
    """
    interrupted = threading.Event()

    def stop(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        context.set_stop_requested(True)

    kept = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interrupted
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def logging_to(path: Path, *, enabled: bool) -> Iterator[None]:
    """Writes the log to a file too, this package's from INFO on."""
    if not enabled:
        yield
        return
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("model_hub_rqa").setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Writes a configuration as YAML."""
    with path.open("w", encoding="utf-8") as file:
        common_util.yaml_safe_dump(config, stream=file, default_flow_style=False)
