"""Options about where jobs run, and what Ctrl-C does while they run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.cli.parameters import JOBS, Integer
from bench.core import numbers
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console

    from bench.jobs.driver import Summary
    from bench.jobs.estimate import Outlook
    from bench.jobs.executors import Reports, Setting
    from bench.jobs.plan import Plan
    from bench.jobs.workplace import Workplace
    from bench.store.database import Database

F = TypeVar("F", bound=Callable[..., Any])
EXECUTOR_OPTIONS = ("executor", "gpus", "per_gpu", "workers", "address", "chunk", "executor_option")


class Gpus(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """`0,1`, or GPU ids as CUDA has them."""

    name = "gpus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The GPUs as a tuple."""
        if isinstance(value, tuple):
            return value
        parts = tuple(part.strip() for part in str(value).split(","))
        if not all(parts) or len(set(parts)) < len(parts):
            self.fail(f"{value!r} is not a list of GPUs; write 0 or 0,1", param, ctx)
        return parts


def executor_options(function: F) -> F:
    """`--executor` and what belongs to it."""
    for option in reversed(
        (
            click.option("--executor", metavar="NAME", envvar="BENCH_EXECUTOR", show_envvar=True,
                         help="Where jobs run: inline (this process), local (a process a slot), ray, slurm, or one of "
                         "a plug-in.  [default: local on a CPU and with --gpus, else inline]"),
            click.option("--gpus", type=Gpus(), default=(), help="GPUs for local, such as 0,1."),
            click.option("--per-gpu", type=JOBS, help="Jobs at once on each GPU (local, ray).  [default: what `bench "
                         "perf jobs` found best on this kind of GPU (local); 1]"),
            click.option("--workers", type=JOBS, help="Jobs at once on CPUs (local, ray, slurm).  [default: as many "
                         "as cores and free memory allow]"),
            click.option("--address", help="Of an existing Ray cluster; `auto` finds the one here."),
            click.option("--chunk", type=Integer(1, numbers.MOST), help="Jobs in one Slurm allocation.  [default: 4]"),
            click.option("--executor-option", multiple=True, metavar="KEY=VALUE",
                         help="For one executor alone, such as partition=gpu or time=120 (minutes) for slurm."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def check_options(executor_option: tuple[str, ...]) -> None:
    """Each `--executor-option` has a key and a value.

    Raises:
        BenchError: one has not.
    """
    for part in executor_option:
        if not part.partition("=")[0] or "=" not in part:
            raise BenchError(f"--executor-option {part!r} has no value; write KEY=VALUE, e.g. partition=gpu")


def setting_of(
    place: Workplace, reports: Reports, interrupts: Interrupts, *, executor_option: tuple[str, ...], **options: Any
) -> Setting:
    """The options as an executor takes them, once they are checked (`check_options`)."""
    from bench.jobs.executors import Setting

    more = {key: value for key, _, value in (part.partition("=") for part in executor_option)}
    options["per_gpu"] = options["per_gpu"] or 1
    return Setting(place, reports, stopping=lambda: interrupts.asked, more=more, **options)


def drive_here(
    plan: Plan, base: Database, place: Workplace, out: Console, interrupts: Interrupts, *, threads: int | None = None,
    outlook: Outlook | None = None,
) -> Summary:  # fmt: skip
    """Do what is missing of a plan in this process, with its progress on `out`; `outlook` knows the time left."""
    from bench.jobs.display import Display
    from bench.jobs.driver import Driver
    from bench.jobs.executors import Setting
    from bench.jobs.executors.inline import Inline

    with Display(len(plan.missing), out, jobs=plan.missing) as display:
        display.outlook = outlook
        executor = Inline(Setting(place, display, stopping=lambda: interrupts.asked, threads=threads))
        return Driver(plan, executor, base, place, watcher=display, stopping=lambda: interrupts.asked).drive()


class Interrupts:
    """Ctrl-C (or SIGTERM) once asks for an end after the current step; twice ends at once."""

    def __init__(self, quiet: bool) -> None:
        self.asked = False
        self._quiet = quiet
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self.renew()
        return self

    def renew(self) -> None:
        """Handle the signals again, after a library (Ray) has put its own handlers in our place."""
        for number in self._before:
            signal.signal(number, self._asked)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self.__exit__()
            if callable(before := self._before[number]):  # the next one is to end even what puts things in order
                before(number, frame)
            raise KeyboardInterrupt
        self.asked = True
        if not self._quiet:
            # The display may be in the middle of printing: write past it.
            os.write(2, b"\nStopping after the current epoch or measurement; Ctrl-C again stops at once.\n")
