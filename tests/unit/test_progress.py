"""Progress: plain lines where nobody watches, a live bar on a terminal."""

import io
import subprocess
import sys

import pytest

from model_hub_rqa import progress
from model_hub_rqa.progress import TrainProgress, format_metrics, format_seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3599, "0:59:59"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_seconds_are_shown_as_hours_minutes_seconds(seconds: float, text: str) -> None:
    """Rounded to the second; hours go on beyond a day."""
    assert format_seconds(seconds) == text


def test_metrics_are_shown_to_five_digits() -> None:
    """Numbers in their order; whatever is no number is left out."""
    assert format_metrics({"f1": 81.23456, "total": 600, "name": "x", "list": [1]}) == "f1 81.235  total 600"


def test_a_line_tells_rate_and_time_left(clock: Clock) -> None:
    """10 batches of 8 in 20 seconds are 4 examples a second; the 30 batches left take a minute."""
    stream = io.StringIO()
    shown = TrainProgress(total=40, done=0, examples_a_step=8, stream=stream)
    clock.now += 20
    shown.training(10, {"loss": 2.5, "learning_rate": 3e-5, "batches": 10})
    assert stream.getvalue() == "step 10/40  loss 2.5  learning_rate 3e-05  4.0 examples/s  0:01:00 left\n"


def test_validation_does_not_count_towards_the_rate(clock: Clock) -> None:
    """Validation takes no part in the rate, and neither do the batches of an earlier process."""
    stream = io.StringIO()
    shown = TrainProgress(total=40, done=20, examples_a_step=8, stream=stream)
    clock.now += 5
    shown.training(25, {})
    shown.status("validating")
    clock.now += 1000
    shown.status("training")
    clock.now += 5
    shown.training(30, {})
    assert stream.getvalue().splitlines()[-1] == "step 30/40    8.0 examples/s  0:00:10 left"


def test_a_validation_has_lines_of_its_own(clock: Clock) -> None:
    """Every ten seconds: 20 of 80 batches in 10 seconds leave 30 seconds; a short one has none."""
    stream = io.StringIO()
    shown = TrainProgress(total=40, done=0, examples_a_step=8, stream=stream)
    for done, seconds in ((10, 5), (20, 5), (30, 5), (80, 5)):
        if done == 10:
            shown.status("validating")
        clock.now += seconds
        shown.validating(done, 80)
    shown.status("validating")
    clock.now += 9
    shown.validating(80, 80)
    lines = stream.getvalue().splitlines()
    assert lines == ["validation 20/80 batches  2.0 batches/s  0:00:30 left", "validation 80/80 batches  4.0 batches/s"]


def test_a_validation_has_a_bar_of_its_own_on_a_terminal() -> None:
    """Beside that of training, with its own numbers; it goes when training goes on."""
    stream = Terminal()
    shown = TrainProgress(total=40, done=0, examples_a_step=8, stream=stream)
    shown.status("validating")
    shown.validating(3, 7)
    assert [task.description for task in shown._bar.tasks] == ["training", "validation"]
    shown._bar.refresh()
    shown.status("training")
    assert [task.description for task in shown._bar.tasks] == ["training"]
    shown.close()
    assert "3/7" in stream.getvalue()


def test_a_terminal_gets_a_live_bar() -> None:
    """The bar shows steps and news, lines stand above it, and closing ends it."""
    stream = Terminal()
    shown = TrainProgress(total=40, done=0, examples_a_step=8, stream=stream)
    shown.training(10, {"loss": 2.5})
    shown.line("step 10  validation  f1 50")
    shown.status("checkpointing")
    shown.close()
    text = stream.getvalue()
    assert "10/40" in text
    assert "step 10  validation  f1 50" in text
    assert "\x1b[" in text


def test_peak_memory_is_this_programs_own() -> None:
    """A child of a large process does not start with its parent's peak, and what it fills counts."""
    script = (
        "from model_hub_rqa.progress import peak_memory_mib as p; a = p(); x = bytearray(b'1' * 2**27); print(a, p())"
    )
    ballast = bytearray(b"1" * 2**28)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    before, after = map(float, done.stdout.split())
    assert before < 128 < len(ballast) / 2**20
    assert after - before > 120
