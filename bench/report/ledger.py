"""A whole database as boards and pages need it: runs, light rows of evaluations, what each is worth, and the boards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.experiment.protocols import standards
from bench.report import boards
from bench.report.boards import Board
from bench.store import queries, standing
from bench.store.database import Database
from bench.store.flags import AuditVerdict, Raised
from bench.store.provenance import together
from bench.store.schema import Evaluation, Job, Reference, Run
from bench.store.scores import Score, light, scores
from bench.store.standing import Standing, Standings
from bench.store.typed_rows import EvaluationRow, FailureRow, Provenance, RunRow

SEVERITIES = ("invalid", "suspect", "note")
TOGETHER = 300  # runs looked at together, so that many thousands fit into memory


@dataclass(frozen=True)
class Ledger:
    """All runs and evaluations, sorted so that equal databases give equal ledgers.

    Attributes:
        of_run: the evaluations of each run, without their measurements.
        standings: what each run and evaluation is worth, and the flags.
        failures: run id → failed jobs without a result.
        boards: every board that has an entry.
    """

    runs: dict[str, RunRow]
    of_run: dict[str, list[EvaluationRow]]
    standings: Standings
    failures: dict[str, list[FailureRow]]
    boards: list[Board]

    @property
    def evaluations(self) -> Iterable[EvaluationRow]:
        """Every evaluation, run by run."""
        return (row for rows in self.of_run.values() for row in rows)

    def flags(self, run_id: str, rows: Iterable[EvaluationRow] | None = None) -> list[tuple[EvaluationRow, Raised]]:
        """The flags of a run, or of some of its evaluations, invalid ones first, notes last."""
        found = [
            (row, item)
            for row in (self.of_run[run_id] if rows is None else rows)
            for item in self.standings.raised.get(row.evaluation_id, ())
        ]
        return sorted(found, key=lambda each: (SEVERITIES.index(each[1].flag.severity), each[1].flag.id))

    def source(self, run_id: str) -> Provenance:
        """Where the numbers of a run come from: those that count, or where none does all."""
        rows = self.of_run[run_id]
        counted = self.standings.current(rows) or rows
        return together(self.runs[run_id].provenance, (row.provenance for row in counted))


def read(db: Database, loaded: Loaded) -> Ledger:
    """Read the ledger: one pass over runs, evaluations, outcomes and failures."""
    declared = standards(loaded)
    families = dict.fromkeys(run.family_id for run in queries.runs(db))
    runs: dict[str, RunRow] = {}
    of_run: dict[str, list[EvaluationRow]] = {}
    of_runs: dict[str, Standing] = {}
    of_evaluations: dict[str, Standing] = {}
    raised: dict[str, tuple[Raised, ...]] = {}
    verdicts: dict[str, AuditVerdict] = {}
    scored: list[Score] = []
    for part in _portions(list(families)):
        measured = standing.read(db, family_ids=part)
        rows: dict[str, list[EvaluationRow]] = {run.run_id: [] for run in measured.runs}
        for row in sorted(measured.rows, key=_order):
            rows[row.run_id].append(light(row))
        runs |= {run.run_id: run for run in measured.runs}
        of_run |= rows
        of_runs |= {run.run_id: measured.standings.of(run.run_id) for run in measured.runs}
        of_evaluations |= measured.standings.evaluations
        raised |= measured.standings.raised
        verdicts |= measured.standings.verdicts
        scored += scores(db, declared, measured.runs, rows, measured.standings)
    order = sorted(runs, key=lambda key: (runs[key].dataset, runs[key].method, runs[key].seed, key))
    failures: dict[str, list[FailureRow]] = {}
    for failure in sorted(queries.failures(db), key=lambda item: (item.started, item.attempt_id)):
        if not failure.done:
            failures.setdefault(str(failure.run_id), []).append(failure)
    return Ledger(
        runs={key: runs[key] for key in order},
        of_run={key: of_run[key] for key in order},
        standings=Standings(of_runs, of_evaluations, raised, verdicts),
        failures=failures,
        boards=boards.boards(scored, declared),
    )


def mark(db: Database) -> tuple[Any, ...]:
    """What changes whenever a result is taken in or found again: attempts, published values, what is re-measured."""
    query = select(func.count(Job.attempt_id), func.max(Job.started), func.count(func.distinct(Job.job_id)))
    counts = [select(func.count(Reference.reference_id))]
    counts += [select(func.count()).where(kind.provenance == "re-measured") for kind in (Run, Evaluation)]
    with db.read() as connection:
        return (*connection.execute(query).one(), *(connection.scalar(count) for count in counts))


def test_images(dataset: str, loaded: Loaded) -> int | None:
    """The number of a data set's test images, where its plug-in is installed and says it."""
    try:
        found = loaded.dataset(dataset).test_images if dataset in loaded.config.datasets else None
    except BenchError:
        return None
    return int(found) if found else None


def _order(row: EvaluationRow) -> tuple[Any, ...]:
    return row.kind, row.attack, row.budget is not None, row.budget or 0.0, row.evaluation_id


def _portions(families: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(families), TOGETHER):
        yield families[start : start + TOGETHER]
