"""A full local run: the folder it fills, what it reports, which checkpoints it keeps.

The folder: checkpoints/, metrics.jsonl (an object a report: steps, kind, the metrics by name), config.yaml as
resolved, run.log, tensorboard/, what the trial writes at a validation (predictions.json ...), and summary.json once
the run has ended or was stopped.
"""

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

from determined import core, util

from model_hub_rqa.checkpoints import checkpoints_of, steps_in_name
from model_hub_rqa.errors import RqaError
from model_hub_rqa.progress import TrainProgress, format_metrics
from model_hub_rqa.trials import determined_fixes

logger = logging.getLogger(__name__)


class Reports(core.DummyTrainContext):
    """Receives what a cluster's master would: metrics go to metrics.jsonl, and to the progress display.

    Args:
        folder: the run's.
        metric: the searcher's metric, by which a validation is the best so far.
        smaller_is_better: whether a lower value of it is better.
        resumed_at: batches trained before; later reports of an interrupted run are dropped from metrics.jsonl, since
            they are made again.
        is_chief: only the chief writes; other ranks read the same reports, and so agree with it.
    """

    def __init__(
        self, folder: Path, *, metric: str, smaller_is_better: bool, resumed_at: int, is_chief: bool = True
    ) -> None:
        super().__init__(folder / "tensorboard")
        self.path = folder / "metrics.jsonl"
        self.metric = metric
        self.smaller_is_better = smaller_is_better
        self.progress: TrainProgress | None = None
        self.best: float | None = None
        self.best_steps: int | None = None
        self.last_validation: int | None = None
        kept = [report for report in self.read() if report["steps"] <= resumed_at]
        if is_chief:
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(report) + "\n" for report in kept), encoding="utf-8")
            partial.replace(self.path)
        for report in kept:
            self._note(report)

    def read(self) -> list[dict[str, Any]]:
        """All reports that metrics.jsonl holds, in their order."""
        if not self.path.exists():
            return []
        reports = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                reports.append(json.loads(line))
            except ValueError:  # a killed process may have left half a line, and it is the last one
                break
        return reports

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
        return self.last_validation

    def get_experiment_best_validation(self) -> float | None:
        return self.best

    def _report_trial_metrics(
        self,
        group: str,
        steps_completed: int,
        metrics: dict[str, Any],
        batch_metrics: list[dict[str, Any]] | None = None,
    ) -> None:
        report = json.loads(util.json_encode({"steps": steps_completed, "kind": group, **metrics}))
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(report) + "\n")
        except OSError as error:  # whose own words do not name the file
            raise RqaError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._note(report)
        logger.info("%s after %d batches: %s", group, steps_completed, json.dumps(report))
        if self.progress is None:
            return
        if group == "training":
            self.progress.training(steps_completed, metrics)
        else:
            shown = {
                name: value for name, value in report.items() if name not in {"steps", "kind", "batches", "epochs"}
            }
            self.progress.line(f"step {steps_completed}  {group}  {format_metrics(shown)}")

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


def clear_the_way(folder: Path, done: int) -> list[str]:
    """Makes the run's checkpoints those of its first ``done`` batches.

    What a killed process left half-written or half-removed goes. Checkpoints of later batches are set aside until they
    are made again: they are damaged, or belong to what the user goes back from, and none of them may be taken for the
    newest of this run, nor count as one to keep.

    Returns:
        What was set aside, in words.
    """
    for pattern in (".checkpoint-*.partial", ".checkpoint-*.removed"):
        for path in (folder / "checkpoints").glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    later = [path for path in checkpoints_of(folder) if steps_in_name(path) > done]
    for path in later:
        determined_fixes.set_aside(path)
    return [f"set aside: {path} (later than the {done} batches that the run goes on from)" for path in later]


def _remove(checkpoint: Path) -> None:
    """Removes it under another name, so that a process killed meanwhile leaves no half of a checkpoint."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
