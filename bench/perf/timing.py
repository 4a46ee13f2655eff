"""Time as ratios: works that are compared run in turns in one process, and only their ratios are reported."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """A ratio over the repeats: median, smallest, largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def spread(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The ratios `above` / `below`, repeat by repeat: neighbours in time see the same machine."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


class Clock:
    """Seconds that a work takes on a device; without one it is done by other processes.

    On a CPU with one thread it is the processor time of this process, so that other programs on the machine count
    less; otherwise wall-clock time, with the device's queue empty before and after.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._device = None if device is None else torch.device(device)
        self._own = self._device is not None and self._device.type == "cpu" and torch.get_num_threads() == 1
        self.name = "processor time of one thread" if self._own else "wall-clock time"

    def seconds(self, work: Callable[[], Any]) -> float:
        """How long `work` takes, once."""
        self._wait()
        start = self._now()
        work()
        self._wait()
        return self._now() - start

    def _now(self) -> float:
        return time.process_time() if self._own else time.perf_counter()

    def _wait(self) -> None:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def alternate(
    works: Mapping[str, Callable[[], Any]], *, repeats: int, clock: Clock, tell: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """Seconds of each work, `repeats` times: all of them in turn, each round beginning with another one.

    Args:
        tell: gets the name of a work and its round before it begins.
    """
    names = list(works)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            tell(f"{name}, round {repeat + 1} of {repeats}")
            seconds[name].append(clock.seconds(works[name]))
    return seconds
