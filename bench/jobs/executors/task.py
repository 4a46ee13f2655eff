"""What an executor is given, and how it is carried out wherever that is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import environment
from bench.core.errors import BenchError, JobError
from bench.core.files import read_json
from bench.core.progress import Progress
from bench.experiment.folder import RUNS, TRAINED
from bench.experiment.spec import Job
from bench.jobs import journal
from bench.jobs.journal import Intent
from bench.jobs.workplace import Workplace
from bench.store.standing import on_other_weights


@dataclass(frozen=True)
class Task:
    """One attempt at a job."""

    job: Job
    tries: int = 1
    """How often the job was started for this, this time included."""
    supersedes: str = ""
    """The id of the done attempt that this one is to supersede, when the job is done again."""
    avoid: str = ""
    """The slot or machine where an earlier attempt died."""
    token: str = ""
    """The driver's lock of the job, with which a worker that outlives the driver takes it over."""


class Stopped(BaseException):
    """A task ended early because it was asked to; no failure, so no `Exception`."""


class Stoppable(Progress):
    """Passes progress on, and stops the work at the end of an epoch (its checkpoint is written then) when asked to."""

    def __init__(self, inner: Progress, asked: Callable[[], bool]) -> None:
        self._inner = inner
        self._asked = asked

    def job(self, label: str) -> None:
        """A job starts."""
        self._inner.job(label)

    def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
        """An epoch is over and saved.

        Raises:
            Stopped: this was the current step.
        """
        self._inner.epoch(record, epochs=epochs)
        if self._asked():
            raise Stopped

    def step(self, *, epoch: int, epochs: int, share: float) -> None:
        """Within an epoch."""
        self._inner.step(epoch=epoch, epochs=epochs, share=share)

    def images(self, done: int, total: int, *, standing: int | None = None, share: float | None = None) -> None:
        """Progress of an attack."""
        self._inner.images(done, total, standing=standing, share=share)

    def note(self, text: str) -> None:
        """One line that people should see."""
        self._inner.note(text)


class Relay(Progress):
    """Sends progress elsewhere as (method, positional, named arguments), the frequent kinds not too often."""

    def __init__(self, send: Callable[[str, tuple[Any, ...], dict[str, Any]], object], *, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._last = 0.0

    def job(self, label: str) -> None:
        """A job starts."""
        self._send("job", (label,), {})

    def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
        """An epoch is over."""
        self._send("epoch", (record,), {"epochs": epochs})

    def step(self, *, epoch: int, epochs: int, share: float) -> None:
        """Within an epoch."""
        self._seldom("step", (), {"epoch": epoch, "epochs": epochs, "share": share})

    def images(self, done: int, total: int, *, standing: int | None = None, share: float | None = None) -> None:
        """Progress of an attack."""
        self._seldom("images", (done, total), {"standing": standing, "share": share})

    def note(self, text: str) -> None:
        """One line that people should see."""
        self._send("note", (text,), {})

    def _seldom(self, method: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self._send(method, given, named)


def record_path(job: Job, place: Workplace) -> Path:
    """The file that says that a job is done."""
    if job.evaluation is None:
        return place.run(job.run.run_id).record
    return place.run(job.run.run_id).evaluation(job.evaluation.evaluation_id)


def lost(job: Job, place: Workplace) -> str:
    """What of a done job others cannot use any more; empty when all is there and, of weights, as it was written."""
    run = job.run
    if job.evaluation is None:
        from bench.jobs.ensembles import weights_fault

        fault = weights_fault(run, place)
        return f"its weights are {fault}" if fault else ""
    if job.evaluation.kind == "craft":
        folder = place.run(run.run_id).crafted(job.evaluation.evaluation_id)
        files = [f"{name}-{restart}.safetensors" for name in job.evaluation.settings["attacks"]
                 for restart in range(job.evaluation.settings["restarts"])]  # fmt: skip
        if not all((folder / file).exists() for file in files):
            return "its images are gone"
    return ""


def done_attempt(job: Job, place: Workplace) -> str:
    """The id of the attempt that the files of a job are of; empty when it is not done.

    Nor is it where what others need of it is gone, or where it was measured on other weights than the run has.
    """
    path = record_path(job, place)
    if not path.exists() or lost(job, place):
        return ""
    try:
        record = read_json(path)
        if job.evaluation is not None:
            own = read_json(place.run(job.run.run_id).record).get("weights_digest")
            if on_other_weights(record.get("weights_digest"), own):
                return ""
        return str(record["attempt_id"])
    except (BenchError, KeyError, TypeError):
        return ""


def intent_of(job: Job, place: Workplace) -> Intent:
    """That the record of a job is taken in, whichever there is."""
    return Intent(takes_in=(place.within(record_path(job, place)),))


def carry_out(task: Task, place: Workplace, progress: Progress) -> tuple[bool, Path]:
    """Do a task; a training that supersedes another is done beside it and takes its place when it is complete.

    Where the job has a record, the database knows its id, and nobody would miss the new one if we and the driver were
    killed: then an intent stands in the journal, which the driver takes away when it has taken the record in.

    Returns:
        Whether it succeeded, and the file that says so.
    """
    from bench.jobs import work

    run_id = task.job.run.run_id
    intent = intent_of(task.job, place)
    if record_path(task.job, place).exists():
        journal.note(place, task.job.job_id, intent)
    if not task.supersedes or task.job.evaluation is not None:
        return work.perform(task.job, place, progress)
    beside = dataclasses.replace(place, again=(run_id,))
    ok, path = work.perform(task.job, beside, progress)
    if not ok:
        target = place.run(run_id).failure(path.stem)
        target.parent.mkdir(parents=True, exist_ok=True)
        return False, path.replace(target)
    again, first = beside.run(run_id), place.run(run_id)
    before, after = (read_json(part.record) for part in (first, again))
    digest = before.get("weights_digest")
    if digest is not None and digest != after.get("weights_digest") and first.weights.exists():
        told = environment.other_weights(before.get("environment") or {}, after.get("environment") or {})
        error = JobError(
            f"{told}, so the recorded evaluations are of other weights; they stay, the new ones are in {again.path}; "
            f"delete {first.path} and `bench db rebuild` to start over"
        )
        return False, fail(task.job, place, error)
    moves = [(f"again/{run_id}/{name}", f"{RUNS}/{run_id}/{name}") for name in TRAINED]
    journal.note(place, run_id, intent.model_copy(update={"moves": tuple(moves)}))
    for source, goal in moves:
        (place.results / source).replace(place.results / goal)
    return True, first.record


def fail(job: Job, place: Workplace, error: Exception) -> Path:
    """Write the failure record of an attempt that could not write its own."""
    from bench.jobs import ensembles, work

    return work.record_failure(job, place, error, ensembles.now(), 0.0)
