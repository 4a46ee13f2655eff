"""A command of `bench` with a clock in it: `python -m bench.perf.phases OUT.json CLOCK BEGAN run --method …`.

Started in a process of its own by `bench.perf.whole`. At every moment exactly one phase runs: a function that belongs
to a phase stops the clock of its caller's, so that the seconds add up to the whole.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START, PLAN, ESTIMATE, DATA = "CLI start and imports", "configuration and plan", "time estimate", "data"
TRAINING, ATTACKS, MATRIX = "training", "attacks", "matrix"
JUDGING, RECORDS, INGEST, TABLE, HEATMAP = "judging", "records", "ingest", "table", "heatmap"
PHASES = (START, PLAN, ESTIMATE, DATA, TRAINING, ATTACKS, MATRIX, JUDGING, RECORDS, INGEST, TABLE, HEATMAP)
WORK = (TRAINING, ATTACKS, MATRIX)  # training steps and attack passes; everything else is overhead


@dataclass(frozen=True)
class Mark:
    """A function, as its callers find it, and the phase it belongs to; inside of the phases `where` another one."""

    module: str
    name: str
    phase: str
    where: tuple[tuple[str, str], ...] = ()


_MATRIX = "bench.evaluation.measure.transferability"
MARKS = (
    Mark("bench.cli.run", "choose", PLAN),
    Mark("bench.jobs.plan", "make_plan", PLAN),
    Mark("bench.cli.run", "_expectation", ESTIMATE),
    Mark("bench.jobs.ensembles", "load_splits", DATA),
    Mark("bench.training.trainer", "batches", DATA),
    Mark("bench.training.trainer", "Trainer._epoch", TRAINING),
    Mark("bench.training.trainer", "Trainer._accuracy", JUDGING),
    Mark("bench.training.trainer", "Trainer._save", RECORDS),
    Mark("bench.evaluation.measure", "clean", JUDGING),
    Mark("bench.evaluation.measure", "robust_accuracy", JUDGING),
    Mark("bench.evaluation.measure", "transferability", JUDGING),
    Mark("bench.evaluation.blackbox", "craft", JUDGING),
    Mark("bench.evaluation.blackbox", "judge", JUDGING),
    Mark("bench.evaluation.measure", "attack_images", ATTACKS, ((_MATRIX, MATRIX),)),
    Mark("bench.evaluation.blackbox", "attack_images", ATTACKS),
    Mark("bench.attacks.judge", "predictions", JUDGING),
    Mark("bench.jobs.executors.inline", "carry_out", RECORDS),
    Mark("bench.cli.options", "open_database", INGEST),
    Mark("bench.store.ingest", "load_published", INGEST),
    Mark("bench.store.ingest", "sync", INGEST),
    Mark("bench.store.ingest", "ingest_run", INGEST),
    Mark("bench.store.ingest", "ingest_evaluation", INGEST),
    Mark("bench.store.ingest", "ingest_failure", INGEST),
    Mark("bench.cli.run", "_report", TABLE),
    Mark("bench.report.heatmap", "save_heatmap", HEATMAP),
)


class Phases:
    """Seconds of each phase, of which one always runs; the first is `START`, and it began `since` on the clock."""

    def __init__(self, now: Callable[[], float], since: float) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._now, self._last = now, since
        self._stack = [("", START)]
        self._thread = threading.get_ident()

    def enter(self, name: str, phase: str) -> None:
        """`name`, of `phase`, begins."""
        self._tick()
        self._stack.append((name, phase))

    def leave(self) -> None:
        """What was entered last ends."""
        self._tick()
        self._stack.pop()

    def end(self) -> None:
        """Take the rest; nothing is measured any more, whatever Python still does on its way out."""
        self._tick()
        self._thread = -1

    def within(self, name: str) -> bool:
        """Whether `name` has been entered and not left."""
        return any(name == other for other, _ in self._stack)

    def here(self) -> bool:
        """Whether this is the thread that is measured."""
        return threading.get_ident() == self._thread

    def _tick(self) -> None:
        now = self._now()
        self.seconds[self._stack[-1][1]] += now - self._last
        self._last = now

    def wrapped(self, function: Callable[..., Any], mark: Mark) -> Callable[..., Any]:
        """`function`, timed as `mark` says; of a function that returns an iterator also its steps."""
        name = f"{mark.module}.{mark.name}"

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.here():
                return function(*args, **kwargs)
            phase = next((other for outer, other in mark.where if self.within(outer)), mark.phase)
            self.enter(name, phase)
            try:
                result = function(*args, **kwargs)
            finally:
                self.leave()
            return self._stepwise(result, name, phase) if isinstance(result, Iterator) else result

        return timed

    def _stepwise(self, iterator: Iterator[Any], name: str, phase: str) -> Iterator[Any]:
        while True:
            self.enter(name, phase)
            try:
                value = next(iterator)
            except StopIteration:
                return
            finally:
                self.leave()
            yield value

    def watch_imports(self) -> None:
        """From now on, what is imported in the middle of a phase counts as `START`."""
        bring, module = builtins.__import__, importlib.import_module

        def imported(name: str, *args: Any, **kwargs: Any) -> Any:
            if not self.here():
                return bring(name, *args, **kwargs)
            self.enter("import", START)
            try:
                return bring(name, *args, **kwargs)
            finally:
                self.leave()

        builtins.__import__ = imported
        importlib.import_module = self.wrapped(module, Mark("importlib", "import_module", START))


def apply(phases: Phases) -> None:
    """Put the clock into every function of `MARKS`.

    Raises:
        AttributeError: one of them is not there any more.
    """
    for mark in MARKS:
        owner: Any = importlib.import_module(mark.module)
        *path, last = mark.name.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, phases.wrapped(getattr(owner, last), mark))


def _run(out: str, clock: str, began: str, *arguments: str) -> int:
    """Carry out a command of `bench`; write the seconds of its phases to `out`."""
    own = clock == "process"
    phases = Phases(time.process_time if own else time.perf_counter, 0.0 if own else float(began))
    phases.watch_imports()
    from bench.cli import main

    apply(phases)
    code = main.run(arguments)
    phases.end()
    Path(out).write_text(json.dumps(phases.seconds), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(_run(*sys.argv[1:]))
