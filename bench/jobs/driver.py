"""The driver: gives missing jobs to an executor, takes what they leave into the database, goes on after failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.core.errors import BenchError, JobError
from bench.core.files import read_json
from bench.experiment.spec import Job
from bench.jobs import journal
from bench.jobs.executors import Executor, Finished
from bench.jobs.executors.task import Task, done_attempt, fail, record_path
from bench.jobs.locks import Locks, Owner
from bench.jobs.outcome import in_words
from bench.jobs.plan import Plan
from bench.jobs.workplace import Workplace
from bench.store import ingest
from bench.store.database import Database, StoreError

TICK = 0.5  # seconds between looks at the locks of others and at Ctrl-C
ELSEWHERE = "another driver"
TRIES = 2  # how often a job whose process dies is started


class WorkerDiedError(JobError):
    """The process that did a job is gone without a word (killed, out of memory, segmentation fault)."""


@dataclass
class Summary:
    """What became of the missing jobs."""

    done: list[Job] = field(default_factory=list)
    failed: list[tuple[Job, str]] = field(default_factory=list)
    blocked: list[Job] = field(default_factory=list)
    """Not started, since a job they need failed."""
    left: list[Job] = field(default_factory=list)
    """Not done because of a stop (Ctrl-C, `--fail-fast`); the same command does them."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed and not self.blocked


class Watcher(Protocol):
    """Who is told what the driver does."""

    def finished(self, job: Job, error: str | None, where: str, result: str) -> None:
        """A job ended, with its error if it failed, else what came out in a few words ("" where none say it)."""

    def waiting(self, others: dict[str, int]) -> None:
        """How many of our jobs are being done by each of other living owners."""

    def note(self, text: str) -> None:
        """One line that people should see."""


class Driver:
    """Does the missing jobs of a plan.

    Each job is locked while it is under way. One that another driver has locked is waited for, and what that one left
    is taken in instead of doing it again.

    Args:
        fail_fast: start nothing more after the first failure.
        stopping: asked every half second; when it says so, nothing more is started and the executor is asked to stop.
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        db: Database,
        place: Workplace,
        *,
        watcher: Watcher,
        fail_fast: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._executor = executor
        self._db = db
        self._place = place
        self._watcher = watcher
        self._fail_fast = fail_fast
        self._stopping = stopping
        self._superseded = {item.job.job_id: item.attempt_id for item in plan.planned if item.again}
        self._waiting = list(plan.missing)
        self._undone = {job.job_id for job in self._waiting}
        self._lost: set[str] = set()
        self._retries: list[Task] = []
        self._under_way: dict[str, Task] = {}
        self._others: dict[str, Owner] = {}
        self._looked = 0.0
        self._failures: dict[str, set[Path]] = {}
        self.summary = Summary()

    def drive(self) -> Summary:
        """Do the jobs; one that fails stops only those that need it.

        The executor is cancelled and all locks are given up when this ends, however it ends; whatever is finished by
        then is in the database.
        """
        stopped = False
        with Locks(self._place.locks) as self._locks:
            try:
                while self._waiting or self._retries or self._under_way:
                    if not stopped and (self._stopping() or (self._fail_fast and self.summary.failed)):
                        stopped = True
                        self._executor.stop()
                    if stopped and not self._under_way:
                        break
                    if not stopped:
                        self._drop_blocked()
                        self._start()
                    self._take_next()
            finally:
                self._executor.cancel()
        self.summary.left += [*self._waiting, *(task.job for task in self._retries)]
        return self.summary

    def _drop_blocked(self) -> None:
        for job in [job for job in self._waiting if self._lost.intersection(job.needs)]:
            self._waiting.remove(job)
            self._lost.add(job.job_id)
            self.summary.blocked.append(job)

    def _start(self) -> None:
        """Submit what is ready, as far as there are slots and nobody else is at it."""
        for task in list(self._retries):
            if len(self._under_way) < self._executor.slots:
                self._retries.remove(task)
                self._submit(task)
        look = time.monotonic() - self._looked >= TICK
        if look:
            self._looked = time.monotonic()
        for job in [job for job in self._waiting if not self._undone.intersection(job.needs)]:
            if len(self._under_way) >= self._executor.slots:
                break
            if job.job_id in self._others and not look:
                continue
            held = self._locks.acquire(job.job_id)
            if isinstance(held, Owner):
                if job.job_id not in self._others:
                    self._failures[job.job_id] = self._failure_files(job)
                self._others[job.job_id] = held
                continue
            self._waiting.remove(job)
            self._others.pop(job.job_id, None)
            journal.settle(self._db, self._place, job.job_id)  # of one that died since our start
            if (found := self._left_by_others(job)) is None or not self._end(found):
                self._submit(Task(job, supersedes=self._superseded.get(job.job_id, ""), token=held.token))
        if look:
            owners = [str(owner) for owner in self._others.values()]
            self._watcher.waiting({owner: owners.count(owner) for owner in owners})

    def _submit(self, task: Task) -> None:
        self._under_way[task.job.job_id] = task
        self._executor.submit(task)

    def _take_next(self) -> None:
        if not self._under_way:
            if self._waiting or self._retries:
                time.sleep(TICK / 5)
            return
        finished = self._executor.next_completed(TICK)
        if finished is None:
            return
        task = self._under_way.pop(finished.task.job.job_id)
        # Who ends a run ends its processes, one after the other: what dies then was interrupted, and has not failed.
        if finished.state == "stopped" or (finished.state == "died" and self._stopping()):
            journal.settle(self._db, self._place, task.job.job_id)
            self.summary.left.append(task.job)
            self._locks.release(task.job.job_id)
        elif finished.state == "died":
            self._mourn(task, finished)
        else:
            self._end(finished)

    def _mourn(self, task: Task, finished: Finished) -> None:
        """Record the failed attempt of a process that died; do the job once more, elsewhere where that is possible."""
        journal.settle(self._db, self._place, task.job.job_id)
        path = fail(task.job, self._place, WorkerDiedError(f"its process died: {finished.note}"))
        if task.tries >= TRIES:
            self._end(Finished(task, "failed", str(path), finished.where))
            return
        ingest.ingest_failure(self._db, path)
        self._watcher.note(f"{task.job.label}: its process died ({finished.note}); it is done once more")
        self._retries.append(Task(task.job, task.tries + 1, task.supersedes, finished.where, task.token))

    def _end(self, finished: Finished) -> bool:
        """Take in what a job left, then let others have its lock; False for a damaged record of another driver."""
        job = finished.task.job
        error = self._take_in(job, finished)
        if error is not None and finished.state == "done" and finished.where == ELSEWHERE:
            return False
        self._locks.release(job.job_id)
        if error is None:
            self._undone.discard(job.job_id)
            self.summary.done.append(job)
        else:
            self._lost.add(job.job_id)
            self.summary.failed.append((job, error))
        result = "" if error is not None else in_words(Path(finished.note))
        self._watcher.finished(job, error, finished.where, result)
        return True

    def _take_in(self, job: Job, finished: Finished) -> str | None:
        """Ingest the file of a finished job; the error if it failed."""
        path = Path(finished.note)
        try:
            if finished.state == "failed":
                ingest.ingest_failure(self._db, path)
                journal.settle(self._db, self._place, job.job_id)
                return str(read_json(path)["error"])
            ingest.ingest_file(self._db, path)
            journal.forget(self._db, self._place, job.job_id)
        except StoreError:
            raise
        except BenchError as error:
            return f"its record was refused: {error}"
        return None

    def _left_by_others(self, job: Job) -> Finished | None:
        """What another driver made of a job since our plan: its record, or its failure while we waited."""
        attempt_id = done_attempt(job, self._place)
        if attempt_id and attempt_id != self._superseded.get(job.job_id):
            return Finished(Task(job), "done", str(record_path(job, self._place)), ELSEWHERE)
        if job.job_id in self._failures:
            for path in sorted(self._failure_files(job) - self._failures.pop(job.job_id)):
                if _failed_job(path) == job.job_id:
                    return Finished(Task(job), "failed", str(path), ELSEWHERE)
        return None

    def _failure_files(self, job: Job) -> set[Path]:
        return set(self._place.run(job.run.run_id).failures())


def _failed_job(path: Path) -> str:
    """The job that a failure is of; empty for a damaged file."""
    try:
        return str(read_json(path)["job_id"])
    except (BenchError, KeyError, TypeError):
        return ""
