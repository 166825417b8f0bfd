"""Progress of a run: a live bar on a terminal, plain lines elsewhere. It writes to stderr; stdout is for results."""

import contextlib
import logging
import os
import resource
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


def is_chief() -> bool:
    """Whether this process speaks for all ranks; known before they have met."""
    return os.environ.get("RANK", "0") == "0"


def quiet_libraries() -> None:
    """No progress bars and loading tables of libraries where stderr is no terminal, no commentary of Determined.

    Ranks other than 0 say nothing: what there is to say, the first one says.
    """
    logging.getLogger("determined").setLevel(logging.WARNING)
    hide_bars()


def hide_bars() -> None:
    """No progress bars and loading tables of libraries where stderr is no terminal: each refresh is a line there."""
    import datasets
    import transformers

    if not is_chief():
        warnings.simplefilter("ignore")
        datasets.utils.logging.set_verbosity_error()
        transformers.utils.logging.set_verbosity_error()
    if not is_chief() or not sys.stderr.isatty():
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        logging.getLogger("transformers.modeling_utils").addFilter(_is_no_table)


def _is_no_table(record: logging.LogRecord) -> bool:
    return " LOAD REPORT" not in str(record.msg)


def format_seconds(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def peak_memory_mib() -> float:
    """The most memory that this process has held so far, in MiB."""
    with contextlib.suppress(OSError):
        # A child starts with its parent's peak in getrusage; the kernel's own mark begins anew with a program.
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Numbers to five digits, as ``name value``, in their order; whatever is no number is left out."""
    parts = (f"{name} {value:.5g}" for name, value in metrics.items() if isinstance(value, (int, float)))
    return "  ".join(parts)


_SECONDS_BETWEEN = 10.0  # of two lines of a validation
_MAIN = ("f1", "exact_match", "exact", "rougeL", "accuracy", "eval_loss", "loss")


class ShownMetrics(dict[str, Any]):
    """Metrics that print rounded to five digits, the main ones first; their values stay as they are.

    Args:
        metrics: any values; those that are no floats print as they are.
        searched: the searcher's metric, which comes first of all.
    """

    def __init__(self, metrics: Mapping[str, Any], searched: str | None = None) -> None:
        main = [searched, *_MAIN]
        names = [name for name in main if name in metrics]
        super().__init__({name: metrics[name] for name in (*dict.fromkeys(names), *metrics) if name is not None})

    def __repr__(self) -> str:
        shown = (f"{value:.5g}" if isinstance(value, float) else repr(value) for value in self.values())
        return "{" + ", ".join(f"{name}: {value}" for name, value in zip(self, shown, strict=True)) + "}"


class TrainProgress:
    """Shows loss, learning rate, examples a second and the time left at each report; how far a validation is, too.

    Args:
        total: optimizer steps of the whole run.
        done: steps trained before this process began.
        examples_a_step: over all ranks.
        stream: where lines go; a live bar is drawn only where it is a terminal.
    """

    def __init__(self, total: int, done: int, examples_a_step: int, stream: TextIO | None = None) -> None:
        self.total = total
        self.done = done
        self.examples_a_step = examples_a_step
        self.stream = stream or sys.stderr
        self.seconds = 0.0  # spent in training alone: validation and checkpoints would spoil the rate
        self.trained = 0
        self._since = self._told = time.monotonic()
        self._bar: Any = None
        self._validation: Any = None
        if self.stream.isatty():
            self._bar = self._live_bar()

    def _live_bar(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            console=Console(file=self.stream),
        )
        self._task = bar.add_task("training", total=self.total, completed=self.done, news="")
        bar.start()
        return bar

    def status(self, status: str) -> None:
        """Tells what the trial is doing now: only training counts towards the rate."""
        self._since = self._told = time.monotonic()
        if self._bar is None:
            return
        if self._validation is not None:
            self._bar.remove_task(self._validation)
            self._validation = None
        if status != "training":
            self._bar.update(self._task, news=status)

    def training(self, steps: int, metrics: Mapping[str, Any]) -> None:
        """A training report after ``steps`` optimizer steps."""
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now
        self.trained += steps - self.done
        self.done = steps
        rate = self.trained / self.seconds if self.seconds else 0.0
        left = format_seconds((self.total - steps) / rate) if rate else "?"
        shown = {name: metrics[name] for name in ("loss", "learning_rate") if name in metrics}
        news = f"{format_metrics(shown)}  {rate * self.examples_a_step:.1f} examples/s  {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, news=news)
        else:
            self.line(f"step {steps}/{self.total}  {news}")

    def validating(self, done: int, total: int) -> None:
        """After ``done`` of the ``total`` batches of a validation, which `status` has told the beginning of."""
        now = time.monotonic()
        rate = done / (now - self._since) if now > self._since else 0.0
        news = f"{rate:.1f} batches/s" if rate else ""
        if rate and done < total:
            news += f"  {format_seconds((total - done) / rate)} left"
        if self._bar is not None:
            if self._validation is None:
                self._validation = self._bar.add_task("validation", total=total, news="")
            self._bar.update(self._validation, completed=done, news=news)
        elif now - self._told >= _SECONDS_BETWEEN:
            self._told = now
            self.line(f"validation {done}/{total} batches  {news}")

    def line(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
