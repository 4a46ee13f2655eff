"""Where jobs run. The seam is the same for all: slots, submit, next_completed, stop, cancel.

The built-in ones (`inline`, `local`, `ray`, `slurm`) and a stranger's are found through the entry points of the group
`bench.executors`; each is a class that is called with a `Setting`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from bench.core.errors import BenchError, unknown_name
from bench.core.progress import Progress
from bench.core.release import extra
from bench.jobs.executors.task import Task
from bench.jobs.workplace import Workplace

GROUP = "bench.executors"


class Finished(NamedTuple):
    """A task that ended.

    `done` and `failed` left a file: a record, or a failure. `died`: its process is gone and left nothing; `note` says
    how. `stopped`: it ended early because it was asked to, and goes on where it stopped when it is done again.
    """

    task: Task
    state: Literal["done", "failed", "died", "stopped"]
    note: str = ""
    """The path of the file, or how the process died."""
    where: str = ""
    """The slot or machine, so that a second attempt can be made elsewhere."""


class Executor(Protocol):
    """Runs tasks somewhere. Jobs are submitted only when those they need are done."""

    here: bool
    """Whether jobs run on this machine, with its data and device."""

    @property
    def slots(self) -> int:
        """How many tasks may be under way at once."""

    def submit(self, task: Task) -> None:
        """Accept a task; returns at once."""

    def next_completed(self, timeout: float) -> Finished | None:
        """Wait for a submitted task to end, for `timeout` seconds or until one that runs here has ended."""

    def stop(self) -> None:
        """Ask what is under way to end after its current step: the epoch of a training, else the whole job."""

    def cancel(self) -> None:
        """End what is under way at once, and give all resources back; what was finished stays."""


class Reports(Protocol):
    """What executors tell a person: the progress of each task under way, by slot."""

    def of(self, slot: str) -> Progress:
        """Where the progress of the task in `slot` goes."""


@dataclass(frozen=True)
class Setting:
    """What an executor is made from: the folders and device, who is told, and the options of the command line."""

    place: Workplace
    reports: Reports
    stopping: Callable[[], bool] = lambda: False
    """Whether people want everything to end after its current step; `stop` says the same to executors that wait."""
    gpus: tuple[str, ...] = ()
    per_gpu: int = 1
    workers: int | None = None
    threads: int | None = None
    """CPU threads of each worker."""
    address: str | None = None
    chunk: int | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    """`--executor-option KEY=VALUE`, for what one executor alone understands."""

    def check(self, executor: str, *options: str, more: Collection[str] | None = ()) -> None:
        """Refuse what `executor` does not understand, lest it be ignored.

        Args:
            options: the fields that it understands.
            more: the keys of `--executor-option` that it understands, None for any.

        Raises:
            BenchError: something else was given.
        """
        for name, default in (("gpus", ()), ("per_gpu", 1), ("workers", None), ("address", None), ("chunk", None)):
            if name not in options and getattr(self, name) != default:
                raise BenchError(f"--{name.replace('_', '-')} is not for the executor {executor!r}")
        for name in self.more:
            if more is not None and name not in more:
                raise unknown_name("executor option", name, more)


class ExecutorClass(Protocol):
    """A class of executors."""

    here: bool

    def __call__(self, setting: Setting, /) -> Executor:
        """An executor that is ready for tasks.

        Raises:
            BenchError: what it needs is not there, or an option is not for it.
        """


def executor_class(name: str) -> ExecutorClass:
    """The class of the executor called `name`.

    Raises:
        BenchError: there is none of this name, or a package it needs is not installed.
    """
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise unknown_name("executor", name, found)
    try:
        loaded: ExecutorClass = found[name].load()
    except ImportError as error:
        raise BenchError(f"executor {name!r} needs a package that is missing ({error}): {_install(name)}") from error
    return loaded


def _install(name: str) -> str:
    return extra(name) if name in ("ray", "slurm") else "install what it needs"
