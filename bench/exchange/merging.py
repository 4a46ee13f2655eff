"""Another database's rows into ours: what we have stays, what we lack is added, a result beats a failure.

Rows of another database are no more to be trusted than files of somebody else: the records that they were made of are
put together again and come in through the same door.
"""

from __future__ import annotations

import base64
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, insert, select

from bench.core import strict_json
from bench.core.config import defaults
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.experiment.folder import RUNS
from bench.experiment.names import AS_RECORDED, Namer
from bench.experiment.records import EvaluationRecord, RunRecord
from bench.experiment.spec import FORMAT
from bench.store import door, ingest, schema
from bench.store.child_rows import DatabaseRow, curve_rows_of
from bench.store.database import Database
from bench.store.put import put_evaluation, put_failure, put_run, stored_run

CHUNK = 500  # keys of one query: SQLite takes no more than some thousand values


@dataclass(frozen=True)
class Merged:
    """How many rows were new; `left_out` has a line for each result that was refused or is of other weights."""

    runs: int
    evaluations: int
    attempts: int
    left_out: tuple[str, ...]


def merge_from(db: Database, other: str) -> tuple[Merged, tuple[str, ...]]:
    """Merge a database (file or URL) or the records of a results folder into `db`.

    Returns:
        What was new, and a line for each damaged file of the folder.

    Raises:
        BenchError: `other` is none of these.
    """
    path = Path(other)
    if "://" not in other and path.is_dir():
        runs = path / RUNS if (path / RUNS).is_dir() else path
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "other.db"
            counts = ingest.rebuild(file, runs, defaults("published"), db.names or AS_RECORDED)
            with Database(file).open() as theirs:
                return merge(db, theirs), counts.damaged
    if path.is_file() and zipfile.is_zipfile(path):
        raise BenchError(f"{other} is an archive: `bench db import {other}`")
    with Database(other).open() as theirs:
        return merge(db, theirs), ()


def merge(ours: Database, theirs: Database) -> Merged:
    """Add to `ours` what only `theirs` has, in one transaction: all or nothing; what is refused is left out.

    Rows only: the files of the runs stay where they are. Of a run that both have with different weights the
    evaluations are not mixed: theirs are left out.

    Raises:
        BenchError: one key stands for two attacks, or a database fails.
    """
    if ours.path is not None and theirs.path is not None and ours.path.resolve() == theirs.path.resolve():
        raise BenchError(f"{theirs} is the database itself; name another one to merge into it")
    with theirs.read() as source, ours.write() as target:
        return _Merge(source, target, ours.names or AS_RECORDED, str(theirs)).all()


class _Merge:
    def __init__(self, source: Connection, target: Connection, names: Namer, where: str) -> None:
        self._source, self._target, self._names, self._where = source, target, names, where
        self._left: list[str] = []

    def all(self) -> Merged:
        source, target = self._source, self._target
        run, evaluation, job = (_table(model) for model in (schema.Run, schema.Evaluation, schema.Job))
        our_runs, their_runs = (_pairs(at, run.c.run_id, run.c.weights_digest) for at in (target, source))
        clash = {key for key, digest in their_runs.items() if digest and our_runs.get(key) and our_runs[key] != digest}
        known = _keys(target, evaluation.c.evaluation_id)
        theirs = _pairs(source, evaluation.c.evaluation_id, evaluation.c.run_id)
        attempts = _keys(target, job.c.attempt_id)

        runs = self._runs([key for key in their_runs if key not in our_runs])
        allowed = our_runs.keys() | runs
        evaluations = self._evaluations(
            [key for key, of in theirs.items() if key not in known and of in allowed and of not in clash]
        )
        failed = [
            row.attempt_id
            for row in source.execute(select(job.c.attempt_id, job.c.run_id).where(job.c.status == "failed"))
            if row.attempt_id not in attempts and row.run_id not in clash
        ]
        added = len(runs) + evaluations + self._failures(failed)
        _published(source, target)
        lost = {of for key, of in theirs.items() if key not in known and of in clash}
        told = [f"run {short(key)} is here with other weights; its evaluations are left out" for key in sorted(lost)]
        return Merged(len(runs), evaluations, added, (*told, *self._left))

    def _runs(self, keys: list[str]) -> set[str]:
        """Take in runs; returns those that came in."""
        done = set()
        run = _table(schema.Run)
        for rows in _rows(self._source, run, run.c.run_id, keys):
            ids = [row["run_id"] for row in rows]
            members, curves = (self._parts(model, "run_id", ids) for model in (schema.Member, schema.Curve))
            environments = self._named(schema.Environment, "environment_id", rows)
            for row in rows:
                where = f"{self._where}, run {_shown(row['run_id'])}"
                value = {name: row[name] for name in RunRecord.model_fields if name in row} | {
                    "format": 1,
                    "parameters": [part["parameters"] for part in _sorted(members[row["run_id"]], "number")],
                    "environment": environments.get(row["environment_id"], {}).get("record"),
                }
                try:
                    _check(value, where)
                    checked = door.check_run(value, where, row["run_id"])
                    curve = curve_rows_of(_sorted(curves[row["run_id"]], "position"), row["run_id"], where)
                except BenchError as error:
                    self._left.append(str(error))
                else:
                    put_run(self._target, checked, curve, self._names, provenance="imported")
                    done.add(row["run_id"])
        return done

    def _evaluations(self, keys: list[str]) -> int:
        """Take in evaluations; returns how many came in."""
        done = 0
        evaluation = _table(schema.Evaluation)
        for rows in _rows(self._source, evaluation, evaluation.c.evaluation_id, keys):
            ids = [row["evaluation_id"] for row in rows]
            outcomes, clean, cells, others, tries = (
                self._parts(model, "evaluation_id", ids)
                for model in (
                    schema.Outcome, schema.CleanRow, schema.Transfer, schema.OtherTransfer, schema.Blackbox,
                )
            )  # fmt: skip
            attacks = self._named(schema.Attack, "attack_key", rows)
            environments = self._named(schema.Environment, "environment_id", rows)
            for row in rows:
                key = row["evaluation_id"]
                where = f"{self._where}, evaluation {_shown(key)}"
                attack, (bits,) = attacks.get(row["attack_key"], {}), outcomes[key] or ({},)
                known = {**attack, **row}
                value = {name: known[name] for name in EvaluationRecord.model_fields if name in known} | {
                    "format": FORMAT,
                    "limit": row["image_limit"],
                    "environment": environments.get(row["environment_id"], {}).get("record"),
                    **{name: _text(bits.get(name)) for name in ("clean_bits", "robust_bits")},
                    "clean_rows": [_bits(part) for part in clean[key]],
                    "cells": [_bits(part) for part in cells[key]],
                    "other_cells": [_bits(part) for part in others[key]],
                    "attempts": [_bits(part) for part in tries[key]],
                }
                try:
                    _check(value, where)
                    run = stored_run(self._target, row["run_id"], where)
                    assert run is not None
                    checked = door.check_evaluation(value, where, key, run)
                except BenchError as error:
                    self._left.append(str(error))
                else:
                    put_evaluation(self._target, checked, self._names, where, provenance="imported")
                    done += 1
        return done

    def _failures(self, keys: list[str]) -> int:
        """Take in failed attempts; returns how many came in."""
        done = 0
        job = _table(schema.Job)
        for rows in _rows(self._source, job, job.c.attempt_id, keys):
            environments = self._named(schema.Environment, "environment_id", rows)
            for row in rows:
                where = f"{self._where}, attempt {_shown(row['attempt_id'])}"
                environment = environments.get(row["environment_id"], {}).get("record")
                value = {**row, "format": 1, "environment": environment}
                try:
                    _check(value, where)
                    record = door.check_failure(value, where, row["attempt_id"], None)
                except BenchError as error:
                    self._left.append(str(error))
                else:
                    done += put_failure(self._target, record)
        return done

    def _named(self, model: type[schema.Base], key: str, rows: Iterable[DatabaseRow]) -> dict[str, DatabaseRow]:
        """The rows of `model` that `rows` name by `key`."""
        table = _table(model)
        named = {row[key] for row in rows}
        found = self._source.execute(select(table).where(table.c[key].in_(named))).mappings()
        return {row[key]: dict(row) for row in found}

    def _parts(self, model: type[schema.Base], key: str, ids: list[str]) -> defaultdict[str, list[DatabaseRow]]:
        """The rows of `model` that belong to these ids."""
        table = _table(model)
        found: defaultdict[str, list[DatabaseRow]] = defaultdict(list)
        for row in self._source.execute(select(table).where(table.c[key].in_(ids))).mappings():
            found[row[key]].append(dict(row))
        return found


def _check(value: Mapping[str, Any], where: str) -> None:
    try:
        strict_json.check(value)
    except ValueError as error:
        raise door.refused(where, str(error)) from error


def _bits(row: DatabaseRow) -> DatabaseRow:
    return {**row, **{name: _text(row[name]) for name in ("bits", "classes") if name in row}}


def _text(bits: Any) -> Any:
    return base64.b64encode(bits).decode("ascii") if isinstance(bits, bytes) else None


def _sorted(rows: list[DatabaseRow], key: str) -> list[DatabaseRow]:
    """In the order of a number; as they come where it is none (SQLite keeps any type in any column)."""
    return sorted(rows, key=lambda row: row[key] if isinstance(row[key], int) else -1)


def _shown(identifier: Any) -> str:
    return door.clean_line(short(str(identifier)))


def _published(source: Connection, target: Connection) -> None:
    """Published values are not mixed: theirs only where there are none."""
    table = _table(schema.Reference)
    if target.execute(select(table.c.reference_id).limit(1)).first() is None:
        rows = [dict(row) for row in source.execute(select(table)).mappings()]
        if rows:
            target.execute(insert(table), rows)


def _rows(source: Connection, table: Table, column: Any, keys: Iterable[str]) -> Iterator[list[DatabaseRow]]:
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
