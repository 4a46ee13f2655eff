"""What a selection needs, and what of it is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.files import write_json
from bench.core.identity import canonical, content_id
from bench.experiment import select
from bench.experiment.records import ForcedPassRecord, read_record
from bench.experiment.select import Selection
from bench.experiment.spec import OUTSIDE, Job, RunSpec
from bench.jobs.executors.task import lost
from bench.jobs.workplace import Workplace
from bench.store import queries, standing
from bench.store.database import Database

JobState = Literal["new", "done", "stale", "failed"]


@dataclass(frozen=True)
class Planned:
    """A job and what the store knows of it.

    `stale`: there is a result of an older version of the method, attack, trainer or evaluator. `failed`: the last
    attempt failed and `reason` says why. Both are done again.
    """

    job: Job
    state: JobState
    reason: str = ""
    attempt_id: str = ""
    """The attempt of a done job."""
    again: bool = False
    """Whether a done job is to be done again; the new attempt supersedes the old one when it is complete."""


@dataclass(frozen=True)
class Plan:
    """All jobs of a selection, each after those it needs."""

    planned: tuple[Planned, ...]

    @property
    def missing(self) -> tuple[Job, ...]:
        """The jobs to do."""
        return tuple(item.job for item in self.planned if item.state != "done" or item.again)

    @property
    def size(self) -> int:
        """How many jobs it has, done or not; what was trained elsewhere is no job of training."""
        return sum(item.job.evaluation is not None or item.job.run.plugin != OUTSIDE for item in self.planned)

    def count(self, state: JobState) -> int:
        """How many jobs are in `state`."""
        return sum(item.state == state for item in self.planned)

    def forced(self, superseded: Mapping[str, str]) -> Plan:
        """The plan that does again those done jobs whose attempt is still the one in `superseded`, by job id."""
        return Plan(
            tuple(
                replace(item, again=item.state == "done" and superseded.get(item.job.job_id) == item.attempt_id)
                for item in self.planned
            )
        )

    def failures_only(self) -> Plan:
        """The plan that does what failed before, what that needs and what it held up; all else that is new is left."""
        chosen = {item.job.job_id for item in self.planned if item.state == "failed"}
        for item in self.planned:  # in an order in which what is needed comes first
            if chosen.intersection(item.job.needs):
                chosen.add(item.job.job_id)
        for item in reversed(self.planned):
            if item.job.job_id in chosen:
                chosen.update(item.job.needs)
        return Plan(tuple(item for item in self.planned if item.state == "done" or item.job.job_id in chosen))


def feasible(
    plan: Plan, place: Workplace, loaded: Loaded, selection: Selection, db: Database
) -> tuple[Plan, list[str]]:
    """The plan without what needs weights from elsewhere that are not here, and a line for each of these ensembles.

    Raises:
        BenchError: then nothing is left to do.
    """
    lacking = {job.job_id: job.run for job in plan.missing if job.evaluation is None and job.run.plugin == OUTSIDE}
    if not lacking:
        return plan, []
    told = [_lacking(run, place, loaded, selection, db) for run in lacking.values()]
    out = set(lacking)
    for item in plan.planned:  # in an order in which what is needed comes first
        if out.intersection(item.job.needs):
            out.add(item.job.job_id)
    left = Plan(tuple(item for item in plan.planned if item.job.job_id not in out))
    if not left.missing:
        raise BenchError("; ".join(told))
    return left, told


def _lacking(run: RunSpec, place: Workplace, loaded: Loaded, selection: Selection, db: Database) -> str:
    # torch, which a plan that is only shown does not need
    from bench.jobs.ensembles import measured_before, mend, weights_fault

    here = place.run(run.run_id).record.is_file()
    fault = "damaged" if here and weights_fault(run, place) == "damaged" else "not here"
    if run.method in selection.methods:
        again = mend(run, place, asked=selection, changes=loaded.changes, precision=loaded.precision)
    else:  # a surrogate: of it nothing was asked but its weights
        again = mend(run, place, **measured_before(db, run.run_id))
    return f"{run.label} was trained elsewhere and its weights are {fault}; {again}"


class ForcedPass:
    """One pass of `--force` over a plan: what it supersedes is kept in a file until all of it is done.

    So the same command goes on with an interrupted pass instead of starting it anew.

    Args:
        training: whether the runs measured are trained again too; what was trained elsewhere, and what only lends
            its weights to others, never is.
    """

    def __init__(self, plan: Plan, place: Workplace, *, training: bool) -> None:
        measured = {
            item.job.run.run_id
            for item in plan.planned
            if item.job.evaluation is not None and item.job.evaluation.kind != "craft"
        }
        retrained = {run_id for run_id in measured if training}
        name = content_id([training, sorted(item.job.job_id for item in plan.planned)])
        self._file = place.results / "again" / f"pass-{name}.json"
        self.superseded: dict[str, str] = (
            read_record(ForcedPassRecord, self._file).root
            if self._file.exists()
            else {
                item.job.job_id: item.attempt_id
                for item in plan.planned
                if item.state == "done"
                and item.job.run.run_id in (measured if item.job.evaluation else retrained)
                and (item.job.evaluation or item.job.run.weights is None)
            }
        )

    def begin(self) -> None:
        """Keep the pass."""
        write_json(self._file, self.superseded)

    def end(self) -> None:
        """Everything is done."""
        self._file.unlink(missing_ok=True)


def make_plan(
    loaded: Loaded, selection: Selection, db: Database, place: Workplace, *, training_only: bool = False
) -> Plan:
    """The jobs of a selection, joined with what the store has.

    Args:
        training_only: only those that train its runs and what these need.
    """
    if training_only:
        runs = {needed.run_id: needed for run in select.runs(loaded, selection) for needed in (*run.prerequisites, run)}
        return plan_of([Job(run=run) for run in runs.values()], db, place)
    return plan_of(jobs_of(loaded, selection), db, place)


def check_data(plan: Plan, place: Workplace, loaded: Loaded, selection: Selection) -> None:
    """Missing data is reported before anything starts.

    Raises:
        BenchError: a data set of a missing job is not there.
    """
    from bench.jobs import ensembles  # torch, which a plan that is only shown does not need

    for run in {job.run.run_id: job.run for job in plan.missing}.values():
        ensembles.splits_of(run, place, limit=select.test_limit(loaded, selection))


def check_networks(plan: Plan, place: Workplace) -> None:
    """A model that is not there, or not for these images, is reported before anything starts.

    Raises:
        BenchError: no run of a missing job can be built; where one can, what is wrong with others is theirs to record.
    """
    from bench.jobs import ensembles

    refused: list[BenchError] = []
    for run in {job.run.run_id: job.run for job in plan.missing}.values():
        if run.weights is not None:  # trained elsewhere: it was built before
            return
        try:
            ensembles.check_network(run, place)
        except BenchError as error:
            refused.append(error)
        except Exception:  # whatever it is, it is the job's failure to record, not a reason to start nothing
            return
        else:
            return
    if refused:
        raise refused[0]


def jobs_of(loaded: Loaded, selection: Selection) -> list[Job]:
    """The jobs of a selection, each once and after those it needs.

    Raises:
        BenchError: an unknown name, a setting that does not fit, or a run that is named as its own surrogate.
    """
    jobs: dict[str, Job] = {}
    for run in select.runs(loaded, selection):
        for needed in (*run.prerequisites, run):
            jobs.setdefault(needed.run_id, Job(run=needed))
        for evaluation in select.evaluations(loaded, selection, run):
            if any(_are_one(run, source) for source in evaluation.surrogates):
                raise BenchError(
                    f"{run.label} would be its own surrogate, which is no black box; name another in blackbox.method, "
                    "or leave it out"
                )
            for craft in evaluation.crafts:
                jobs.setdefault(craft.run.run_id, Job(run=craft.run))
                jobs.setdefault(craft.evaluation_id, Job(run=craft.run, evaluation=craft))
            for source in evaluation.surrogates:
                for needed in (*source.prerequisites, source):
                    jobs.setdefault(needed.run_id, Job(run=needed))
            jobs.setdefault(evaluation.evaluation_id, Job(run=run, evaluation=evaluation))
    return list(jobs.values())


def _are_one(run: RunSpec, other: RunSpec) -> bool:
    """Whether two runs are of one ensemble, as far as is known before either is trained."""
    return run.run_id == other.run_id or (run.weights is not None and run.weights == other.weights)


def unwatched(plan: Plan, db: Database) -> list[str]:
    """Labels of runs that are trained, but not under every attack that is to watch them."""
    asked = {item.job.run.run_id: item.job.run for item in plan.planned if item.state == "done" and not item.again}
    asked = {run_id: run for run_id, run in asked.items() if run.monitor}
    found = queries.curves(db, run_ids=list(asked)) if asked else {}

    def measured(run_id: str) -> set[str]:
        return {_content_of(each) for epoch in found.get(run_id, ()) for each in epoch.monitored or ()}

    return [
        run.label
        for run_id, run in asked.items()
        if not {_content_of(monitor.content) for monitor in run.monitor} <= measured(run_id)
    ]


def _content_of(monitor: Mapping[str, Any]) -> str:
    return canonical({name: monitor.get(name) for name in ("plugin", "settings", "budget_name", "budget")})


def plan_of(jobs: Sequence[Job], db: Database, place: Workplace) -> Plan:
    """Jobs, each after those it needs, joined with what the store has."""
    run_ids = {job.run.run_id for job in jobs}
    families = {job.run.family_id for job in jobs}
    runs = queries.runs(db, family_ids=families)
    evaluations = queries.evaluations(db, family_ids=families)
    weights = {row.run_id: row.weights_digest for row in runs}
    done = {row.run_id: row.attempt_id for row in runs} | {
        row.evaluation_id: row.attempt_id
        for row in evaluations
        if not standing.on_other_weights(row.weights_digest, weights.get(row.run_id))
    }
    older_runs = {(row.family_id, row.seed) for row in runs}
    older_rows = {(row.family_id, row.seed, row.attack_key) for row in evaluations}
    failed = {row.job_id: row.error for row in queries.failures(db, run_ids=run_ids) if not row.done}

    def state(job: Job) -> Planned:
        run, evaluation = job.run, job.evaluation
        if job.job_id in done:
            return Planned(job, "done", attempt_id=done[job.job_id])
        if job.job_id in failed:
            return Planned(job, "failed", failed[job.job_id])
        if evaluation is None:
            stale = (run.family_id, run.seed) in older_runs
        else:
            stale = (run.family_id, run.seed, evaluation.attack_key) in older_rows
        return Planned(job, "stale" if stale else "new")

    planned = [state(job) for job in jobs]
    # A result in the database whose weights (or crafted images) are gone, deleted or made on another machine, can be
    # looked at, but nothing new can be measured on it: it is work to do again. What needs others comes after them.
    needed: set[str] = set()
    for index in reversed(range(len(planned))):
        item = planned[index]
        if item.state == "done" and item.job.job_id in needed and (gone := lost(item.job, place)):
            item = planned[index] = Planned(item.job, "new", gone)
        if item.state != "done":
            needed.update(item.job.needs)
    return Plan(tuple(planned))
