"""Another database's rows into ours: what we have stays, what we lack is added, a result beats a failure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select

from bench.core.errors import BenchError
from bench.core.identity import short
from bench.store import schema
from bench.store.database import Database

CHUNK = 500  # keys of one query: SQLite takes no more than some thousand values
_PARTS_OF_RUN = (schema.Member, schema.Curve)
_PARTS_OF_EVALUATION = (schema.Outcome, schema.CleanRow, schema.Transfer, schema.Blackbox)


@dataclass(frozen=True)
class Merged:
    """How many rows were new; `left_out` has a line for each run whose evaluations are of other weights."""

    runs: int
    evaluations: int
    attempts: int
    left_out: tuple[str, ...]


def merge(ours: Database, theirs: Database) -> Merged:
    """Add to `ours` what only `theirs` has, in one transaction: all or nothing.

    Rows only: the files of the runs stay where they are. Of a run that both have with different weights the
    evaluations are not mixed: theirs are left out.

    Raises:
        BenchError: one key stands for two attacks, or a database fails.
    """
    if ours.path is not None and theirs.path is not None and ours.path.resolve() == theirs.path.resolve():
        raise BenchError(f"{theirs} is the database itself; name another one to merge into it")
    with theirs.read() as source, ours.write() as target:
        return _merge(source, target)


def _merge(source: Connection, target: Connection) -> Merged:
    run, evaluation, job = (_table(model) for model in (schema.Run, schema.Evaluation, schema.Job))
    our_runs, their_runs = (_pairs(at, run.c.run_id, run.c.weights_digest) for at in (target, source))
    clash = {key for key, digest in their_runs.items() if digest and our_runs.get(key) and our_runs[key] != digest}
    known = _keys(target, evaluation.c.evaluation_id)
    theirs = _pairs(source, evaluation.c.evaluation_id, evaluation.c.run_id)
    attempts = _keys(target, job.c.attempt_id)
    new_runs = [key for key in their_runs if key not in our_runs]
    new_evaluations = [key for key, of in theirs.items() if key not in known and of not in clash]
    results = {*new_runs, *new_evaluations}

    for rows in _rows(source, run, run.c.run_id, new_runs):
        _add_named(source, target, schema.Environment, "environment_id", rows)
        target.execute(insert(run), rows)
    _copy_parts(source, target, _PARTS_OF_RUN, "run_id", new_runs)
    for rows in _rows(source, evaluation, evaluation.c.evaluation_id, new_evaluations):
        _add_named(source, target, schema.Environment, "environment_id", rows)
        _add_named(source, target, schema.Attack, "attack_key", rows, must_equal="protocol_id")
        target.execute(insert(evaluation), rows)
    _copy_parts(source, target, _PARTS_OF_EVALUATION, "evaluation_id", new_evaluations)

    added = 0
    wanted = [
        row.attempt_id
        for row in source.execute(select(job.c.attempt_id, job.c.job_id, job.c.run_id, job.c.status))
        if (row.job_id in results if row.status == "done" else row.attempt_id not in attempts)
        and row.run_id not in clash
    ]
    for rows in _rows(source, job, job.c.attempt_id, wanted):
        _add_named(source, target, schema.Environment, "environment_id", rows)
        target.execute(delete(job).where(job.c.attempt_id.in_([row["attempt_id"] for row in rows])))
        target.execute(insert(job), rows)
        added += len(rows)
    _published(source, target)
    lost = {of for key, of in theirs.items() if key not in known and of in clash}
    told = tuple(f"run {short(key)} is here with other weights; its evaluations are left out" for key in sorted(lost))
    return Merged(len(new_runs), len(new_evaluations), added, told)


def _add_named(
    source: Connection,
    target: Connection,
    model: type[schema.Base],
    key: str,
    rows: Iterable[dict[str, Any]],
    must_equal: str | None = None,
) -> None:
    """Add the rows of `model` that `rows` name by `key`, where they are not there yet."""
    table = _table(model)
    named = {row[key] for row in rows}
    have = {row[key]: row for row in target.execute(select(table).where(table.c[key].in_(named))).mappings()}
    for row in source.execute(select(table).where(table.c[key].in_(named))).mappings():
        if row[key] not in have:
            target.execute(insert(table), dict(row))
        elif must_equal and have[row[key]][must_equal] != row[must_equal]:
            raise BenchError(f"{key} {row[key]} stands for another {table.name} in the other database; one is damaged")


def _copy_parts(
    source: Connection, target: Connection, models: Iterable[type[schema.Base]], key: str, ids: list[str]
) -> None:
    for model in models:
        table = _table(model)
        for rows in _rows(source, table, table.c[key], ids):
            target.execute(insert(table), rows)


def _published(source: Connection, target: Connection) -> None:
    """Published values are not mixed: theirs only where there are none."""
    table = _table(schema.Reference)
    if target.execute(select(table.c.reference_id).limit(1)).first() is None:
        rows = [dict(row) for row in source.execute(select(table)).mappings()]
        if rows:
            target.execute(insert(table), rows)


def _rows(source: Connection, table: Table, column: Any, keys: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows whose `column` is among `keys`, some keys at a time; never an empty list."""
    pending = iter(keys)
    while part := list(islice(pending, CHUNK)):
        found = [dict(row) for row in source.execute(select(table).where(column.in_(part))).mappings()]
        if found:
            yield found


def _keys(at: Connection, column: Any) -> set[str]:
    return set(at.scalars(select(column)))


def _pairs(at: Connection, key: Any, value: Any) -> dict[str, Any]:
    return {row[0]: row[1] for row in at.execute(select(key, value).order_by(key))}


def _table(model: type[schema.Base]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table
