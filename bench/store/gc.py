"""Rows that can go: attempts that a result superseded, stale evaluations, what nothing refers to; and deletion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select

from bench.core.terms import USING_SURROGATES
from bench.store import derived, queries, schema
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow

CHUNK = 500


@dataclass(frozen=True)
class FailedAttempt:
    """A failed attempt."""

    attempt_id: str
    run_id: str | None
    label: str


def superseded(db: Database) -> list[FailedAttempt]:
    """Failed attempts at jobs that were done later; nothing shows them any more."""
    job = schema.Job
    done = select(job.job_id, func.max(job.started).label("started")).where(job.status == "done").group_by(job.job_id)
    later = done.subquery()
    query = (
        select(job.attempt_id, job.run_id, job.kind, job.error)
        .join(later, and_(later.c.job_id == job.job_id, later.c.started >= job.started))
        .where(job.status == "failed")
        .order_by(job.attempt_id)
    )
    return [FailedAttempt(row["attempt_id"], row["run_id"], f"{row['kind']}: {row['error']}") for row in db.rows(query)]


def stale_evaluations(db: Database) -> list[tuple[EvaluationRow, str]]:
    """Evaluations that are stale or superseded, each with the reason, as `bench.store.derived` last wrote them down."""
    table = schema.Standing
    query = select(table.id, table.why).where(table.kind == "evaluation", table.state.in_(("stale", "superseded")))
    why = {row["id"]: row["why"] for row in db.rows(query.order_by(table.id))}
    rows = [row for part in _parts(why) for row in queries.evaluations(db, evaluation_ids=part)]
    return [(row, _in_words(why[row.evaluation_id])) for row in rows]


def _in_words(why: Any) -> str:
    return "; ".join(map(str, why)) if isinstance(why, list) else "its reasons are damaged"


def attempts_at(db: Database, job_id: str) -> list[FailedAttempt]:
    """The failed attempts at one job."""
    return _failed(db, schema.Job.job_id == job_id)


def attempts_of(db: Database, run_id: str) -> list[FailedAttempt]:
    """The failed attempts at a run's training and evaluations."""
    return _failed(db, schema.Job.run_id == run_id)


def _failed(db: Database, condition: ColumnElement[bool]) -> list[FailedAttempt]:
    job = schema.Job
    query = select(job.attempt_id, job.run_id, job.kind, job.error).where(condition, job.status == "failed")
    return [FailedAttempt(row["attempt_id"], row["run_id"], f"{row['kind']}: {row['error']}") for row in db.rows(query)]


def needed_by(db: Database, run_id: str) -> list[str]:
    """The runs that were trained with the help of this one, or attacked with images made on it."""
    trained = select(schema.Run.run_id, schema.Run.requires).where(schema.Run.run_id != run_id)
    names = {row["run_id"] for row in db.rows(trained) if run_id in _values(row["requires"])}
    attacked = (
        select(schema.Evaluation.run_id, schema.Attack.settings)
        .join(schema.Attack, schema.Attack.attack_key == schema.Evaluation.attack_key)
        .where(schema.Evaluation.kind.in_(USING_SURROGATES), schema.Evaluation.run_id != run_id)
    )
    names |= {row["run_id"] for row in db.rows(attacked) if run_id in _values(row["settings"], "surrogates")}
    return sorted(names)


def _values(column: Any, name: str | None = None) -> list[Any]:
    """The values of a JSON column, or those under a name of it; none where another's hand put something else."""
    inner = column if name is None or not isinstance(column, dict) else column.get(name)
    return list(inner.values()) if isinstance(inner, dict) else list(inner) if isinstance(inner, list) else []


def delete_runs(db: Database, run_ids: Iterable[str]) -> None:
    """Remove runs with everything that speaks of them."""
    evaluation, job, run = (_table(model) for model in (schema.Evaluation, schema.Job, schema.Run))
    with db.write() as connection:
        for part in _parts(run_ids):
            families = select(run.c.family_id).where(run.c.run_id.in_(part))
            for run_id in {*part, *connection.scalars(select(run.c.run_id).where(run.c.family_id.in_(families)))}:
                derived.mark(connection, run_id)
            connection.execute(delete(evaluation).where(evaluation.c.run_id.in_(part)))
            connection.execute(delete(job).where(or_(job.c.run_id.in_(part), job.c.job_id.in_(part))))
            connection.execute(delete(run).where(run.c.run_id.in_(part)))
        _orphans(connection)


def delete_evaluations(db: Database, evaluation_ids: Iterable[str]) -> None:
    """Remove evaluations with their outcomes and all attempts at them."""
    evaluation, job, worth = (_table(model) for model in (schema.Evaluation, schema.Job, schema.Standing))
    with db.write() as connection:
        for part in _parts(evaluation_ids):
            for run_id in connection.scalars(
                select(evaluation.c.run_id).distinct().where(evaluation.c.evaluation_id.in_(part))
            ):
                derived.mark(connection, run_id)
            connection.execute(delete(evaluation).where(evaluation.c.evaluation_id.in_(part)))
            connection.execute(delete(worth).where(worth.c.id.in_(part)))
            connection.execute(delete(job).where(job.c.job_id.in_(part)))
        _orphans(connection)


def delete_attempts(db: Database, attempt_ids: Iterable[str]) -> None:
    """Remove failed attempts."""
    job = _table(schema.Job)
    with db.write() as connection:
        for part in _parts(attempt_ids):
            connection.execute(delete(job).where(job.c.attempt_id.in_(part), job.c.status == "failed"))
        _orphans(connection)


def _orphans(connection: Connection) -> None:
    """Remove environments and attacks that nothing names any more."""
    environment, attack = _table(schema.Environment), _table(schema.Attack)
    users = [select(model.environment_id) for model in (schema.Run, schema.Evaluation, schema.Job)]
    key = environment.c.environment_id
    connection.execute(delete(environment).where(and_(*(key.not_in(query) for query in users))))
    connection.execute(delete(attack).where(attack.c.attack_key.not_in(select(schema.Evaluation.attack_key))))


def _parts(keys: Iterable[str]) -> Iterator[list[str]]:
    pending = iter(keys)
    while part := list(islice(pending, CHUNK)):
        yield part


def _table(model: type[schema.Base]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table
