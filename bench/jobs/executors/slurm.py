"""Chunks of jobs as Slurm allocations, by submitit; the results folder lies on a disk that all nodes share.

A worker takes its jobs' locks over from the driver and outlives it: the same command, given again, waits for what is
still running and takes its results in. An allocation that Slurm requeues (preempted, out of time, its node lost) goes
on with the first job that is not done, from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import submitit

from bench.core.device import set_threads
from bench.core.errors import BenchError
from bench.core.files import read_json, write_json
from bench.core.numbers import read_whole
from bench.core.progress import Progress
from bench.jobs.executors import Finished, Setting
from bench.jobs.executors.task import Stoppable, Stopped, Task, carry_out, done_attempt, record_path
from bench.jobs.locks import Locks, Owner
from bench.jobs.workplace import Workplace

POLL = 1.0  # seconds between two looks at the files of allocations
CHUNK = 4
ALLOCATIONS = 16
MINUTES = 240  # of an allocation; what is not done by then is requeued and goes on from its checkpoint
REQUEUES = 1000
GRACE = 5.0  # seconds that an outcome may take to appear on this machine after its allocation has ended
PLAIN = ("timeout_min", "mem_gb", "gpus_per_node", "cpus_per_task", "name")  # submitit's own names
ALIASES = {"time": "timeout_min", "mem": "mem_gb", "gpus": "gpus_per_node", "cpus": "cpus_per_task"}


@dataclasses.dataclass
class Allocation:
    """A submitted chunk, and which of its tasks have not ended."""

    chunk: Chunk
    job: Any
    open: dict[str, Task]
    seen: float = 0.0
    """When Slurm was last asked for it."""
    over: float | None = None
    """When it was first found to have ended."""

    def has_ended(self) -> bool:
        """Whether nothing more can come of it; asked of Slurm every few seconds only."""
        now = time.monotonic()
        if self.over is None and now - self.seen >= GRACE:
            self.seen = now
            if not _state(self.job):
                self.over = now
        return self.over is not None and now - self.over >= GRACE


class Slurm:
    """Slurm allocations, each of which does several jobs one after another."""

    here = False

    def __init__(self, setting: Setting) -> None:
        setting.check("slurm", "workers", "chunk", more=None)
        self._place = dataclasses.replace(
            setting.place, results=setting.place.results.absolute(), data=setting.place.data.absolute()
        )
        self._threads = setting.threads
        self._chunk = setting.chunk or CHUNK
        self._most = setting.workers or ALLOCATIONS
        self._folder = self._place.results / "slurm"
        self._buffer: list[Task] = []
        self._allocations: list[Allocation] = []
        self._stopping = False
        self._ended: list[Finished] = []
        self._submitit = _submitit(setting, self._folder)

    @property
    def slots(self) -> int:
        """Enough to fill all allocations."""
        return self._most * self._chunk

    def submit(self, task: Task) -> None:
        """Remember the task; it is sent with others once the driver has given all it can."""
        self._buffer.append(task)

    def next_completed(self, timeout: float) -> Finished | None:
        """Send what has gathered, and look for outcomes."""
        deadline = time.monotonic() + timeout
        while True:
            if not self._stopping:
                self._send()
            finished = self._ended.pop() if self._ended else next(self._outcomes(), None)
            if finished is not None:
                return finished
            if time.monotonic() >= deadline:
                return None
            time.sleep(max(0.0, min(POLL, deadline - time.monotonic())))

    def stop(self) -> None:
        """Ask running allocations to end after their step; take back those that wait in Slurm's queue."""
        self._stopping = True
        self._ended += [Finished(task, "stopped") for task in self._buffer]
        self._buffer.clear()
        for allocation in self._allocations:
            allocation.chunk.stop_file.parent.mkdir(parents=True, exist_ok=True)
            allocation.chunk.stop_file.touch()
            if _state(allocation.job) == "PENDING":
                allocation.job.cancel()
                self._ended += [Finished(task, "stopped") for task in allocation.open.values()]
                allocation.open.clear()

    def cancel(self) -> None:
        """Cancel all allocations that have not ended."""
        for allocation in self._allocations:
            if allocation.open:
                allocation.job.cancel()
        self._allocations.clear()
        self._buffer.clear()

    def _send(self) -> None:
        self._allocations = [allocation for allocation in self._allocations if allocation.open]
        while self._buffer and len(self._allocations) < self._most:
            tasks, self._buffer = self._buffer[: self._chunk], self._buffer[self._chunk :]
            chunk = Chunk(uuid.uuid4().hex[:12], tuple(tasks), self._place, self._threads, self._folder)
            try:
                job = self._submitit.submit(chunk)
            except (submitit.core.utils.FailedJobError, OSError) as error:
                raise BenchError(f"Slurm refused a job: {str(error).strip().rpartition(chr(10))[2]}") from error
            self._allocations.append(Allocation(chunk, job, {task.job.job_id: task for task in tasks}))

    def _outcomes(self) -> Iterator[Finished]:
        for allocation in self._allocations:
            over = bool(allocation.open) and allocation.has_ended()
            for job_id, task in list(allocation.open.items()):
                path = allocation.chunk.outcome_file(task)
                if path.exists():
                    outcome = read_json(path)
                    del allocation.open[job_id]
                    if outcome["state"] == "broken":
                        raise BenchError(outcome["note"])
                    yield Finished(task, outcome["state"], outcome["note"], f"slurm {allocation.job.job_id}")
                elif over:
                    # The tasks after the one that was being done have not begun: they are sent again as they are.
                    del allocation.open[job_id]
                    self._buffer += allocation.open.values()
                    allocation.open.clear()
                    yield Finished(task, "died", f"its allocation ended; log: {allocation.job.paths.stderr}")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What runs in an allocation; pickled by submitit, called again after a requeue."""

    key: str
    tasks: tuple[Task, ...]
    place: Workplace
    threads: int | None
    folder: Path

    @property
    def stop_file(self) -> Path:
        """When it is there, tasks are to end after their current step."""
        return self.folder / self.key / "stop"

    def outcome_file(self, task: Task) -> Path:
        """Says how a task ended."""
        return self.folder / self.key / f"{task.job.job_id}-{task.tries}.json"

    def __call__(self) -> int:
        """Do the tasks that have not ended; the number done."""
        set_threads(self.place.device, self.threads)
        with Locks(self.place.locks, task=self.key) as locks:
            for task in self.tasks:
                if not self.outcome_file(task).exists():
                    state, note = self._do(task, locks)
                    locks.release(task.job.job_id)
                    write_json(self.outcome_file(task), {"state": state, "note": note})
        return len(self.tasks)

    def checkpoint(self) -> Any:
        """Asked by submitit before Slurm stops the allocation: the same again in a new one."""
        return submitit.helpers.DelayedSubmission(self)

    def _do(self, task: Task, locks: Locks) -> tuple[str, str]:
        if self.stop_file.exists():
            return "stopped", ""
        held = locks.acquire(task.job.job_id, consent=task.token)
        if isinstance(held, Owner):
            return "stopped", f"{held} has taken it over"
        attempt_id = done_attempt(task.job, self.place)
        if attempt_id and attempt_id != task.supersedes:
            return "done", str(record_path(task.job, self.place))
        try:
            ok, path = carry_out(task, self.place, Stoppable(Progress(), self.stop_file.exists))
        except Stopped:
            return "stopped", ""
        except OSError as error:
            return "broken", f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        return "done" if ok else "failed", str(path)


def _state(job: Any) -> str:
    """`PENDING`, `RUNNING` …, empty for a job that has ended; `UNKNOWN` while Slurm does not answer.

    The queue is asked, and not the accounting, which many small clusters do not have.
    """
    if not isinstance(job, submitit.SlurmJob):
        return "" if job.done() else "RUNNING"
    asked = subprocess.run(["squeue", "-h", "-o", "%T", "-j", job.job_id], capture_output=True, text=True, check=False)
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return "UNKNOWN"
    return asked.stdout.strip()


def _submitit(setting: Setting, folder: Path) -> Any:
    """submitit's executor with the options of the command line.

    Raises:
        BenchError: no Slurm here, or an option that it does not know.
    """
    more = dict(setting.more)
    cluster = more.pop("cluster", "slurm")
    options: dict[str, Any] = {"name": "bench", "cpus_per_task": setting.threads or 1, "timeout_min": MINUTES}
    if setting.place.device.startswith("cuda"):
        options["gpus_per_node"] = 1
    for key, value in more.items():
        name = ALIASES.get(key, key)
        name = name if name in PLAIN or name.startswith("slurm_") else f"slurm_{name}"
        try:
            options[name] = read_whole(value)
        except ValueError:  # text is what most of them take
            options[name] = value
    try:
        made = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster, slurm_max_num_timeout=REQUEUES)
        made.update_parameters(**options)
    except RuntimeError as error:
        raise BenchError(f"there is no Slurm here (sbatch is not found): {error}") from error
    except (NameError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise BenchError(f"Slurm options: {line}; give --executor-option KEY=VALUE as for sbatch") from error
    return made
