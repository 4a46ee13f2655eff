"""How long missing work will take on this machine: from earlier runs of the same kind, else from a few timed steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.jobs.probe import Probe, Span
from bench.store import queries

if TYPE_CHECKING:
    from bench.experiment.spec import EvaluationSpec, Job, RunSpec
    from bench.jobs.plan import Plan
    from bench.jobs.workplace import Workplace
    from bench.store.database import Database

KNOWN = 0.1  # share of a job after which it says itself how long it takes
LONG = 600.0  # seconds beyond which people want to be told of a shorter way


@dataclass(frozen=True)
class Estimate:
    """Expected seconds of jobs.

    Attacks that are done with an image when it breaks take least if all break at once, most if none does.
    """

    jobs: tuple[Job, ...]
    spans: Mapping[str, Span]
    """By the id of the job."""
    unknown: tuple[str, ...] = ()
    """Methods of which no step could be timed; their job will say why."""

    @property
    def training(self) -> float:
        """Of all trainings, one after another."""
        return sum(self.spans[job.job_id].high for job in self.jobs if job.evaluation is None)

    @property
    def attacks(self) -> Span:
        """Of all measurements, one after another."""
        spans = [self.spans[job.job_id] for job in self.jobs if job.evaluation is not None]
        return Span(sum(span.low for span in spans), sum(span.high for span in spans))

    def total(self, slots: int = 1) -> Span:
        """Until the last of the jobs ends, so many of them at once."""
        return Span(*(_until_all_end(self.jobs, {key: span[at] for key, span in self.spans.items()}, slots)
                      for at in (0, 1)))  # fmt: skip


def _until_all_end(jobs: Iterable[Job], seconds: Mapping[str, float], slots: int) -> float:
    """The longest chain of jobs that need each other, or the share of each slot: whichever is more."""
    ends: dict[str, float] = {}
    for job in jobs:  # in an order in which what is needed comes first
        ends[job.job_id] = seconds[job.job_id] + max((ends.get(needed, 0.0) for needed in job.needs), default=0.0)
    return max([sum(seconds[key] for key in ends) / slots, *ends.values()])


class Outlook:
    """The time left, from an estimate and from what the jobs that ended took."""

    def __init__(self, estimate: Estimate, slots: int) -> None:
        self.jobs = estimate.jobs
        self._expected = {key: sum(span) / 2 for key, span in estimate.spans.items()}
        self._slots = slots
        self._undone = {job.job_id: job for job in estimate.jobs}
        self._taken: dict[bool, list[float]] = {True: [0.0, 0.0], False: [0.0, 0.0]}

    def ended(self, job: Job, seconds: float | None) -> None:
        """A job is over; `seconds` that it took, None where it was not done here."""
        self._undone.pop(job.job_id, None)
        if seconds is not None and (expected := self._expected.get(job.job_id)):
            taken = self._taken[job.evaluation is None]
            taken[0] += seconds
            taken[1] += expected

    def left(self, under_way: Mapping[str, tuple[float, float]]) -> float:
        """Seconds until all is done; of each job that has begun, by its label, its share in [0, 1] and its seconds."""
        taken = {kind: list(sums) for kind, sums in self._taken.items()}
        for job in self._undone.values():
            share, seconds = under_way.get(job.label, (0.0, 0.0))
            if share:
                taken[job.evaluation is None][0] += seconds
                taken[job.evaluation is None][1] += share * self._expected[job.job_id]

        def rest(job: Job) -> float:
            share, seconds = under_way.get(job.label, (0.0, 0.0))
            if share > KNOWN:
                return seconds * (1 - share) / share
            spent, expected = taken[job.evaluation is None]
            return self._expected[job.job_id] * (spent / expected if expected else 1.0) * (1 - share)

        rests = {key: rest(job) for key, job in self._undone.items()}
        return _until_all_end(self._undone.values(), rests, self._slots)


def from_earlier(plan: Plan, db: Database) -> dict[str, float | None]:
    """Seconds that each missing job should take, from finished ones of the same kind; None where there is none.

    Only what was measured here counts. Of the same kind is another seed of the same cell, else a training of the same
    method, data set and model (scaled by epochs and images), or a measurement with the same attack on as many members
    of the same model (by images).
    """
    missing = plan.missing
    datasets = {job.run.dataset for job in missing}
    attacks = {job.evaluation.attack for job in missing if job.evaluation}
    runs, evaluations = defaultdict(list), defaultdict(list)
    for row in queries.runs(db, dataset=datasets):
        if row.provenance == "measured":
            runs[row.plugin, row.dataset, row.model, row.members].append(row)
    for found in queries.evaluations(db, dataset=datasets, attack=attacks) if attacks else ():
        if found.provenance == "measured":
            evaluations[found.kind, found.attack, found.dataset, found.model, found.members].append(found)

    def training(run: RunSpec) -> float | None:
        like = runs[run.plugin, run.dataset, run.model, run.members]
        same = [row.seconds for row in like if row.family_id == run.family_id]
        if same:
            return sum(same) / len(same)
        limit, epochs = run.training.limit, run.training.epochs
        scaled = [
            row.seconds
            * epochs
            / row.training["epochs"]
            * ((limit or 0) / row.training_limit if row.training_limit else 1)
            for row in like
            if (row.training_limit is None) == (limit is None) and row.training.get("epochs")
        ]
        return sum(scaled) / len(scaled) if scaled else None

    def measuring(evaluation: EvaluationSpec) -> float | None:
        run, limit = evaluation.run, evaluation.limit
        like = evaluations[evaluation.kind, evaluation.attack, run.dataset, run.model, run.members]
        exact = [row for row in like if row.attack_key == evaluation.attack_key]
        best = [row for row in exact if row.family_id == run.family_id] or exact
        times = [row.seconds for row in best]
        if not best and limit:
            times = [row.seconds / row.n * limit for row in like if row.settings == evaluation.settings and row.n]
        return sum(times) / len(times) if times else None

    known: dict[tuple[str, str], float | None] = {}  # the seeds of a cell take the same time
    for job in missing:
        key = (job.run.family_id, job.evaluation.attack_key if job.evaluation else "")
        if key not in known:
            known[key] = measuring(job.evaluation) if job.evaluation else training(job.run)
    return {
        job.job_id: known[job.run.family_id, job.evaluation.attack_key if job.evaluation else ""] for job in missing
    }


def estimate(plan: Plan, earlier: Mapping[str, float | None], place: Workplace) -> Estimate:
    """Expected time for the missing jobs of a plan: what `from_earlier` knows of them, else from timed steps.

    Steps are timed for a while on a batch, or on 32 images of it where they are slow, and scaled by their number.

    Raises:
        BenchError: no run of the plan can be built (a network for other images, say).
    """
    unknown: dict[str, None] = {}
    refused: list[BenchError] = []
    probes: dict[str, Probe] = {}

    def timed(job: Job) -> Span:
        run = job.run
        try:
            if run.family_id not in probes:
                probes[run.family_id] = Probe(run, place)
            probe = probes[run.family_id]
            if job.evaluation is not None:
                return probe.attack(job.evaluation)
            seconds = probe.training()
        except BenchError as error:
            refused.append(error)
        except Exception:  # whatever it is, it is the job's failure to record, not a reason to start nothing
            pass
        else:
            return Span(seconds, seconds)
        unknown[run.method] = None
        return Span(0.0, 0.0)

    spans: dict[str, Span] = {}
    for job in plan.missing:
        known = earlier[job.job_id]
        if job.kind == "clean":
            spans[job.job_id] = Span(0.0, 0.0)
        else:
            spans[job.job_id] = timed(job) if known is None else Span(known, known)
    if refused and len(unknown) == len({job.run.method for job in plan.missing}):
        raise refused[0]  # nothing could be done at all: a mistake in the selection
    return Estimate(plan.missing, spans, tuple(unknown))


def spoken(seconds: float) -> str:
    """`0.4 s`, `40 s`, `12 min`, `3 h 20 min`, `2 days 4 h`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"


def range_spoken(span: Span) -> str:
    """`about 3 min`, or `3 to 5 min` where the two differ by a tenth or more."""
    low, high = (spoken(value) for value in span)
    if span.high <= 1.1 * span.low or low == high:
        return f"about {high}"
    number, _, unit = low.partition(" ")
    return f"{number if high.partition(' ')[2] == unit else low} to {high}"
