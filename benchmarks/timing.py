"""Fair timing: rivals take turns in one process, and medians with their spread are compared."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Case = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of a case: the median of its turns, the shortest and the longest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        return cls(statistics.median(seconds), min(seconds), max(seconds))


def interleaved(cases: Mapping[str, Case], repeats: int) -> dict[str, Timing]:
    """Runs all cases in turn, ``repeats`` times after one turn that is not counted.

    What else goes on in the machine hits every case alike, so ratios are steadier than times.
    """
    for run in cases.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, run in cases.items():
            gc.collect()
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: Timing.of(values) for name, values in seconds.items()}


@dataclass(frozen=True)
class Row:
    """A line of the table of results: how many times as fast (or as much) ``ours`` is as ``peer``.

    Attributes:
        what: names what is compared.
        ratio: above 1 is better for times; for memory, below.
        ours, peer: the measured values, in words.
        goal: what is aimed at, as "5 (8)": at least 5, at best 8; "" for none.
    """

    what: str
    ratio: float
    ours: str
    peer: str
    goal: str = ""


def faster(what: str, ours: Timing, peer: Timing, goal: str = "") -> Row:
    """The row of two timings."""
    return Row(what, peer.median / ours.median, _seconds(ours), _seconds(peer), goal)


def _seconds(timing: Timing) -> str:
    return f"{timing.median:.3g} s ({timing.low:.3g} to {timing.high:.3g})"
