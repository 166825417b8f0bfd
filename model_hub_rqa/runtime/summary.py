"""summary.json of a local run: what was run, what came of it, and which files tell more."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from model_hub_rqa import __version__
from model_hub_rqa.checkpoints import checkpoints_of
from model_hub_rqa.config.experiment import Experiment
from model_hub_rqa.data.shards import totals
from model_hub_rqa.runtime import determined_fixes
from model_hub_rqa.runtime.local_run import Reports

NAME = "summary.json"
_LIBRARIES = ("torch", "transformers", "datasets", "determined")
_SECRET = ("token", "use_auth_token")
_COUNTED = ("checkpoints", "tensorboard")  # folders whose files are not listed one by one


def remove(folder: Path) -> None:
    """Takes an earlier summary away: while a run goes on there is none."""
    (folder / NAME).unlink(missing_ok=True)


def write(
    folder: Path, trial: Any, experiment: Experiment, reports: Reports, *, resumed_at: int, seconds: float
) -> None:
    """Writes the summary of a run that has ended or was stopped; whole, or not at all.

    Args:
        folder: the run's.
        trial: with its settings as they were resolved.
        experiment: its configuration.
        reports: what was measured.
        resumed_at: optimizer steps trained before this process.
        seconds: that training and validation took in this process.
    """
    partial = folder / f".{NAME}.partial"
    content = summarise(folder, trial, experiment, reports, resumed_at=resumed_at, seconds=seconds)
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False, default=str)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / NAME)


def summarise(
    folder: Path, trial: Any, experiment: Experiment, reports: Reports, *, resumed_at: int, seconds: float
) -> dict[str, Any]:
    """The content of the summary: plain values. Steps are optimizer steps, as in metrics.jsonl."""
    every = reports.read()
    validations = [report for report in every if report["kind"] == "validation"]
    training = [report for report in every if report["kind"] == "training"]
    best = [report for report in validations if report["steps"] == reports.best_steps]
    steps = determined_fixes.batches_trained(trial.context) // trial.accumulation
    whole = trial.num_training_batches() // trial.accumulation
    stopped = steps < whole or reports.last_validation != steps
    return {
        "name": experiment.name,
        "trial": experiment.trial_class,
        "status": "stopped" if stopped else "finished",
        "stop_reason": trial.stop_reason,
        "steps": steps,
        "max_steps": whole,
        "resumed_at": resumed_at,
        "seconds": round(seconds, 3),
        "examples": {split: len(examples) for split, examples in trial.examples.items()},
        "records": totals(trial.file_counts),
        "sets": {split: {name: len(of) for name, of in sets.items()} for split, sets in trial.sets.items() if sets},
        "metric": {"name": experiment.metric, "smaller_is_better": trial.smaller_is_better},
        "best": _metrics(best),
        "last": _metrics(validations),
        "training": _metrics(training),
        "arguments": _arguments(trial),
        "files": _files(folder),
        "checkpoints": [path.name for path in reversed(checkpoints_of(folder))],
        "versions": {
            "python": platform.python_version(),
            "model_hub_rqa": __version__,
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
    }


def _metrics(reports: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest report; None where there is none."""
    return {name: value for name, value in reports[-1].items() if name != "kind"} if reports else None


def _arguments(trial: Any) -> dict[str, Any]:
    """Every setting with its default filled in, by the thing that it is for; tokens of the hub are left out."""
    parts = {
        "config": trial.config_kwargs,
        "tokenizer": trial.tokenizer_kwargs,
        "model": trial.model_kwargs,
        "optimizer": vars(trial.optimizer_kwargs),
        "lr_scheduler": vars(trial.lr_scheduler_kwargs),
        "trainer": vars(trial.trainer),
        "data": vars(trial.data),
        "task": {} if trial.settings is None else vars(trial.settings),
    }
    resolved: dict[str, Any] = _without_secrets(
        {**parts, "callbacks": trial.callback_kwargs.callbacks or [], "seed": trial.seed}
    )
    return resolved


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items() if name not in _SECRET}
    return [_without_secrets(inner) for inner in value] if isinstance(value, list) else value


def _files(folder: Path) -> list[str]:
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    shown = [path for path in paths if path.parts[0] not in _COUNTED and not path.name.startswith(".")]
    return sorted(path.as_posix() for path in shown)
