"""Adversarial images that somebody else made, judged on a stored run and stored as an evaluation of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from bench.core.errors import BenchError
from bench.core.numerics import numerics
from bench.core.progress import Progress
from bench.core.terms import Norm
from bench.data.base import test_subset
from bench.evaluation import judged
from bench.evaluation.judged import GivenImages
from bench.experiment.protocols import Standard
from bench.experiment.spec import EvaluationSpec, Job
from bench.jobs import journal
from bench.jobs.ensembles import dataset_of, splits_of
from bench.jobs.executors.task import done_attempt, intent_of
from bench.jobs.locks import Locks
from bench.jobs.measuring import evaluate
from bench.jobs.workplace import Workplace
from bench.store import door, ingest, queries, scores, standing
from bench.store.database import Database
from bench.store.door import CheckedRun
from bench.store.typed_rows import EvaluationRow


@dataclass(frozen=True)
class Submission:
    """What was said of the images of a file.

    Args:
        name: what tables and boards call them; the file's name unless given.
        norm: of the ball; None unless said.
        eps, c: the budget, one of them; with neither, and without `norm`, that which bench wrote beside images of its
            own.
    """

    file: Path
    name: str | None = None
    norm: Norm | None = None
    eps: float | None = None
    c: float | None = None


@dataclass(frozen=True)
class LowestKnown:
    """What images did to a run on one board: robust accuracy in percent; `before` them, with them, and the score."""

    board: str
    before: float
    now: float
    score: float


@dataclass(frozen=True)
class Verdict:
    """An evaluation of somebody's images; `before`: it was there already, and nothing was measured."""

    row: EvaluationRow
    before: bool
    lowest: tuple[LowestKnown, ...]


def judge(
    base: Database, place: Workplace, run_id: str, submission: Submission, standards: Sequence[Standard],
    progress: Progress,
) -> Verdict:  # fmt: skip
    """Judge the images on a run and store the outcome; the same images under the same threat are stored once.

    Args:
        base: open for writing.
        standards: what boards rank by.

    Raises:
        BenchError: the file is not readable, not of this run's test images, or outside the threat.
        JobError: the weights of the run are missing or damaged.
    """
    run = door.run_at(place.run(run_id).record)
    given = judged.read(submission.file)
    standards = [each for each in standards if each.dataset == run.record.dataset]
    limit = _limit(given, run, place, [each.limit for each in standards] + _measured(base, run_id))
    size = len(splits_of(run.spec, place, limit=None).test)
    given = judged.arranged(given, test_subset(run.spec.dataset_plugin, size, limit))
    norm, budget_name, budget = _threat(submission, given)
    name = submission.name or submission.file.name
    spec = EvaluationSpec.of_judged(
        run.spec, name, given.digest, norm=norm, budget_name=budget_name, budget=budget, limit=limit
    )
    job = Job(run=run.spec, evaluation=spec)
    lowest = _lowest(base, run_id, standards, without=spec.evaluation_id)
    with Locks(place.locks) as locks:
        locks.take(job.job_id, "judging these images")
        before = bool(done_attempt(job, place))
        if before:  # the digest is that of the images: what lies beside them in this file may still be wrong
            judged.check_beside(given, splits_of(run.spec, place, limit=limit).test)
        else:
            path = place.run(run_id).evaluation(spec.evaluation_id)
            if path.exists():  # of weights that the run has no more
                journal.note(place, job.job_id, intent_of(job, place))
            progress.job(job.label)
            with numerics(deterministic=place.is_deterministic):
                path = evaluate(spec, place, progress, given)
            ingest.ingest_evaluation(base, path)
            journal.forget(base, place, job.job_id)
    now = _lowest(base, run_id, standards)
    changes = tuple(
        LowestKnown(board, lowest[board][0], value, score)
        for board, (value, score) in now.items()
        if board in lowest and _counts(spec, board, standards)
    )
    return Verdict(queries.find_evaluation(base, spec.evaluation_id), before, changes)


def _measured(base: Database, run_id: str) -> list[int | None]:
    rows = queries.evaluations(base, run_ids=run_id)
    return [row.image_limit for row in rows if row.split == "test"]


def _limit(given: GivenImages, run: CheckedRun, place: Workplace, limits: Sequence[int | None]) -> int | None:
    """Which test images these are, by their number: those of a board, of what was measured on the run, or all.

    Raises:
        BenchError: none of these, images of another shape, or of the validation images.
    """
    dataset, name = dataset_of(run.spec), run.record.dataset
    if given.told.get("split", "test") != "test":
        raise BenchError(f"{given.file} holds {given.told['split']} images; judged are test images")
    size = len(splits_of(run.spec, place, limit=None).test)
    numbers = {size if limit is None else limit: limit for limit in (None, *limits) if limit is None or limit <= size}
    found = list(given.images.shape)
    if found[1:] == list(dataset.shape) and found[0] in numbers:
        return numbers[found[0]]
    counts = " or ".join(f"{number:,}" for number in sorted(numbers))
    raise BenchError(
        f"{given.file} holds images {found}; {name} takes [n, {', '.join(map(str, dataset.shape))}] with n = {counts}: "
        f"its test images as `bench show EVALUATION --export` writes them, in that order"
    )


def _threat(submission: Submission, given: GivenImages) -> tuple[Norm | None, str, float]:
    """Norm, name and size of the budget.

    Raises:
        BenchError: nobody says.
    """
    if submission.eps is not None:
        return submission.norm or "linf", "eps", submission.eps
    if submission.c is not None:
        return None, "c", submission.c
    told = given.told
    budget, norm = told.get("budget"), scores.norm(str(told.get("attack_plugin")))
    if submission.norm is None and isinstance(budget, float) and norm in (*get_args(Norm), None):
        return cast("Norm | None", norm), "eps" if told.get("budget_name") == "eps" else "c", budget
    raise BenchError(f"say within which budget the images of {given.file} lie: --eps 0.1 or 8/255 (--norm l2), or --c")


def _lowest(
    base: Database, run_id: str, standards: Sequence[Standard], *, without: str = ""
) -> dict[str, tuple[float, float]]:
    """Board → lowest known and score of a run, in percent, as if the evaluation `without` were not there."""
    measured = standing.read(base, run_ids=run_id)
    rows = [row for row in measured.rows if row.run_id == run_id and row.evaluation_id != without]
    found = scores.scores(base, standards, measured.runs, {run_id: rows}, measured.standings)
    return {each.standard.label: (100 * float(each.lowest.mean()), each.percent) for each in found}


def _counts(spec: EvaluationSpec, board: str, standards: Sequence[Standard]) -> bool:
    """Whether images can lower what is known on a board: those of its threat and of all its images."""
    standard = next(each for each in standards if each.label == board)
    inside = spec.budget_name == "eps" and spec.budget is not None and spec.budget <= standard.eps
    return inside and spec.settings["norm"] == standard.norm and bool(standard.limits([spec.limit]))
