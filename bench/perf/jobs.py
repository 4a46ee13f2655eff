"""Several jobs at once on one device: the time of the same `bench run` one job after another over theirs."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import BenchError
from bench.experiment.spec import Job
from bench.jobs.executors.local import cores
from bench.perf.processes import BENCH, python
from bench.perf.timing import Spread, spread

ON_GPU = (2, 4)  # jobs at once on a GPU, unless told otherwise


@dataclass(frozen=True)
class AtOnce:
    """`jobs` at once.

    Attributes:
        options: those of `bench run` that ask for it.
        seconds: wall-clock time of the command in each round.
        ratio: the time of one job after another over this, round by round; more than 1 is faster.
    """

    jobs: int
    options: tuple[str, ...]
    seconds: tuple[float, ...]
    ratio: Spread


@dataclass(frozen=True)
class Found:
    """The `seconds` of one job after another in each round, and what several at once come to, fewest first."""

    seconds: tuple[float, ...]
    at_once: tuple[AtOnce, ...]

    @property
    def best(self) -> AtOnce | None:
        """The fastest number of jobs at once; None where one after another is."""
        fastest = max(self.at_once, key=lambda one: one.ratio.median)
        return fastest if fastest.ratio.median > 1 else None


def usual(device: str, threads: int) -> tuple[int, ...]:
    """How many jobs at once to try on a device; on a CPU powers of two, as long as each thread has a core."""
    if _on_gpu(device):
        return ON_GPU
    return tuple(2**power for power in range(1, (cores() // threads).bit_length())) or (2,)


def options(jobs: int, *, device: str, threads: int) -> list[str]:
    """What tells `bench run` to do `jobs` at once on `device`, each with `threads` on the CPU.

    One job needs no worker: it is done in the process of the command, as by default.

    Raises:
        BenchError: no jobs can share such a device.
    """
    own = ["--threads", str(threads)]
    if jobs == 1:
        return ["--device", device, *own]
    if _on_gpu(device):
        return ["--gpus", device.partition(":")[2] or "0", "--per-gpu", str(jobs), *own]
    return ["--workers", str(jobs), *own]


def _on_gpu(device: str) -> bool:
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise BenchError(f"several jobs at once share a CPU or a CUDA GPU, not {device!r}")
    return kind == "cuda"


def abreast(jobs: Sequence[Job]) -> tuple[int, int]:
    """How many trainings, and how many measurements, of `jobs` (each after those it needs) can run side by side."""
    depth: dict[str, int] = {}
    for job in jobs:
        depth[job.job_id] = 1 + max((depth[needed] for needed in job.needs), default=0)
    trainings, measurements = (
        max(Counter(depth[job.job_id] for job in jobs if bool(job.evaluation) is measured).values(), default=0)
        for measured in (False, True)
    )
    return trainings, measurements


def measure(
    selection: Sequence[str], given: Sequence[str], *, at_once: Sequence[int], device: str, threads: int, repeats: int,
    tell: Callable[[str], None],
) -> Found:  # fmt: skip
    """`bench run` with the options `selection` (what) and `given` (where), `repeats` times from nothing each way.

    The time is that of the whole command, its start and its table included, so that what workers need to start is too.

    Args:
        at_once: numbers of jobs at once, more than 1.

    Raises:
        BenchError: a run failed; the message says with how many jobs at once and is otherwise its own.
    """
    ways = [1, *sorted(set(at_once))]
    chosen = {jobs: options(jobs, device=device, threads=threads) for jobs in ways}
    seconds: dict[int, list[float]] = {jobs: [] for jobs in ways}
    for number in range(repeats):
        first = (number + 1) % len(ways)  # what the first run alone reads from disk never speaks for several at once
        for jobs in ways[first:] + ways[:first]:
            tell(f"{_name(jobs)}, round {number + 1} of {repeats}")
            seconds[jobs].append(_seconds([*selection, *given, *chosen[jobs]], threads, _name(jobs)))
    return Found(
        tuple(seconds[1]),
        tuple(
            AtOnce(jobs, tuple(chosen[jobs]), tuple(seconds[jobs]), spread(seconds[1], seconds[jobs]))
            for jobs in ways[1:]
        ),
    )


def _name(jobs: int) -> str:
    return "one after another" if jobs == 1 else f"{jobs} at once"


def _seconds(arguments: Sequence[str], threads: int, name: str) -> float:
    """How long a `bench run` takes, in a results folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-perf-") as folder:
        results = Path(folder) / "results"
        began = time.perf_counter()
        try:
            python([*BENCH, "run", "--quiet", *arguments, "--results", str(results)], threads, results=results)
        except BenchError as error:
            raise type(error)(f"{name}: {error}") from error
        return time.perf_counter() - began
