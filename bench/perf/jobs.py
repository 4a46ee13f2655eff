"""Several jobs at once on one device: the time of the same `bench run` one job after another over theirs."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.core.errors import BenchError, JobError
from bench.core.files import read_json
from bench.core.machine import cores
from bench.experiment.spec import Job
from bench.perf.timing import Clock, Spread, alternate, spread

ON_GPU = (2, 4)  # jobs at once on a GPU, unless told otherwise
# What a user may have set for every command: a measurement names its own, and must not get into a real database.
UNSET = ("BENCH_DB", "BENCH_RESULTS", "BENCH_DEVICE", "BENCH_EXECUTOR")


@dataclass(frozen=True)
class AtOnce:
    """`jobs` at once.

    Attributes:
        seconds: wall-clock time of the command in each round.
        ratio: the time of one job after another over this, round by round; more than 1 is faster.
    """

    jobs: int
    seconds: tuple[float, ...]
    ratio: Spread


@dataclass(frozen=True)
class Throughput:
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
    if on_gpu(device):
        return ON_GPU
    return tuple(2**power for power in range(1, (cores() // threads).bit_length())) or (2,)


def on_gpu(device: str) -> bool:
    """Whether jobs that share `device` share a GPU, not a CPU.

    Raises:
        BenchError: no jobs can share such a device.
    """
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
    commands: Mapping[int, Sequence[str]], *, threads: int, repeats: int, tell: Callable[[str], None]
) -> Throughput:  # fmt: skip
    """Carry out each command `repeats` times from nothing, in turns.

    The time is that of the whole command, its start and its table included, so that what workers need to start is too.

    Args:
        commands: jobs at once → the `bench run` that does so many; 1 and at least one more.
        threads: CPU threads of each job.

    Raises:
        BenchError: a run failed; the message says with how many jobs at once and is otherwise its own.
    """
    ways = sorted(commands)
    ways = [*ways[1:], 1]  # what the first run alone reads from disk never speaks for several at once
    with tempfile.TemporaryDirectory(prefix="bench-perf-") as folder:
        works = {_name(jobs): partial(_run, commands[jobs], threads, Path(folder), _name(jobs)) for jobs in ways}
        seconds = alternate(works, repeats=repeats, clock=Clock(), tell=tell)
    alone = seconds[_name(1)]
    several = ((jobs, seconds[_name(jobs)]) for jobs in ways[:-1])
    return Throughput(tuple(alone), tuple(AtOnce(jobs, tuple(taken), spread(alone, taken)) for jobs, taken in several))


def _name(jobs: int) -> str:
    return "one after another" if jobs == 1 else f"{jobs} at once"


def _run(command: Sequence[str], threads: int, folder: Path, name: str) -> None:
    """Carry out a `bench run` into a new results folder below `folder`.

    Raises:
        BenchError: its exit code is not 0; a `JobError` where it is 1.
    """
    results = Path(tempfile.mkdtemp(dir=folder))
    environment = {key: value for key, value in os.environ.items() if key not in UNSET}
    environment |= {"OMP_NUM_THREADS": str(threads), "NO_COLOR": "1", "BENCH_RESULTS": str(results)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("Error: ")] or _failures(results) or lines
        kind = JobError if done.returncode == 1 else BenchError
        told = said[-1].removeprefix("Error: ") if said else "a job failed; the same `bench run` says why"
        raise kind(f"{name}: {told}")


def _failures(results: Path) -> list[str]:
    """Why jobs failed, a line each; the last is reported."""
    errors = [str(read_json(path)["error"]).splitlines() for path in sorted(results.glob("runs/*/failures/*.json"))]
    return [f"a job failed: {lines[0] if lines else 'no reason was recorded'}" for lines in errors]
