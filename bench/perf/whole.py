"""A whole `bench run` split into phases, and how long commands take to start: everything in processes of its own."""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.perf.imports import Package, packages
from bench.perf.phases import PHASES, WORK
from bench.perf.processes import BENCH, python
from bench.perf.timing import Spread, spread

SLOW = 20.0  # milliseconds from which on the imports of a package are told
NOTHING = "python -c pass"


@dataclass(frozen=True)
class Phase:
    """A phase of the run: `seconds` (median of the rounds), `share` of the whole, whether it is overhead."""

    name: str
    seconds: float
    share: float
    overhead: bool


@dataclass(frozen=True)
class Start:
    """A command: its time over that of Python doing nothing."""

    command: str
    ratio: Spread


@dataclass(frozen=True)
class Whole:
    """A run.

    Attributes:
        overhead: share of everything but training steps and attack passes.
        starts: commands on the finished results, over `python -c pass`.
        imports: for `bench run` and each command, the packages whose modules take `SLOW` milliseconds or more.
        clock: what the seconds are.
    """

    phases: tuple[Phase, ...]
    seconds: float
    overhead: float
    starts: tuple[Start, ...]
    imports: dict[str, tuple[Package, ...]]
    clock: str


def measure(
    selection: Sequence[str], given: Sequence[str], *, threads: int, device: str, repeats: int, starts: int,
    tell: Callable[[str], None],
) -> Whole:  # fmt: skip
    """`bench run` with the options `selection` (what) and `given` (where), `repeats` times from nothing.

    With one CPU thread, seconds are the processor time of the process and its threads, otherwise wall-clock time.
    `starts` times each command is started on the results; with 0 its imports are left out too.

    Raises:
        BenchError: the run failed; the message is its own.
    """
    own = threads == 1 and device == "cpu"
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-perf-") as folder:
        for number in range(repeats):
            tell(f"bench run, round {number + 1} of {repeats}")
            results = Path(folder) / f"results{number}"
            out = Path(folder) / "phases.json"
            where = ["--results", str(results), "--threads", str(threads), "--device", device, *given]
            began = str(time.perf_counter())
            clocked = ["-m", "bench.perf.phases", str(out), "process" if own else "wall", began]
            told = python([*clocked, "run", "--quiet", *selection, *where], threads, imports=True, results=results)
            rounds.append(json.loads(out.read_text(encoding="utf-8")))
        commands = _commands(selection, where)
        imports = {"bench run": _slow(told)}
        for name, arguments in commands.items() if starts else ():
            tell(f"imports of {name}")
            imports[name] = _slow(python(arguments, threads, imports=True))
        seconds = _starts({NOTHING: ["-c", "pass"], **commands}, threads, starts, own, tell=tell)
    median = {name: statistics.median(found[name] for found in rounds) for name in PHASES}
    total = sum(median.values())
    phases = tuple(Phase(name, median[name], median[name] / total, name not in WORK) for name in PHASES)
    return Whole(
        phases=phases,
        seconds=total,
        overhead=sum(phase.share for phase in phases if phase.overhead),
        starts=tuple(Start(name, spread(seconds[name], seconds[NOTHING])) for name in commands if starts),
        imports=imports,
        clock="processor time" if own else "wall-clock time",
    )


def _commands(selection: Sequence[str], where: Sequence[str]) -> dict[str, list[str]]:
    """Commands that a user waits for, on the results of the run."""
    results = list(where[:2])
    return {
        "bench --help": [*BENCH, "--help"],
        "bench status": [*BENCH, "status", *selection, *results],
        "bench table": [*BENCH, "table", *selection, *results],
        "bench run (nothing to do)": [*BENCH, "run", *selection, *where],
    }


def _slow(told: str) -> tuple[Package, ...]:
    return tuple(package for package in packages(told.splitlines()) if package.milliseconds >= SLOW)


def _starts(
    commands: dict[str, list[str]], threads: int, repeats: int, own: bool, *, tell: Callable[[str], None]
) -> dict[str, list[float]]:
    """Seconds of each command, in turns, each round beginning with another."""
    names = list(commands)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        tell(f"start times, round {number + 1} of {repeats}")
        first = number % len(names)
        for name in names[first:] + names[:first]:
            before = _clock(own)
            python(commands[name], threads)
            seconds[name].append(_clock(own) - before)
    return seconds


def _clock(own: bool) -> float:
    """Processor time of the processes started so far, or wall-clock time."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime if own else time.perf_counter()
