"""From files to rows: one short transaction a file, twice is once, done beats failed."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, FromClause, Table, delete, exists, insert, select, update

from bench.core.errors import BenchError
from bench.core.files import atomic
from bench.core.identity import canonical, content_id
from bench.store import schema
from bench.store.database import Database, StoreError
from bench.store.published import load_published
from bench.store.records import EvaluationRecord, FailureRecord, RunRecord, read_record
from bench.store.rows import Children, Row, curve_rows, outcome_rows

__all__ = [
    "Counts", "StoreError", "ingest_evaluation", "ingest_failure", "ingest_run", "load_published", "rebuild", "sync",
]  # fmt: skip

RUN_FILE = "run.json"
CURVE_FILE = "train.jsonl"
EVALUATIONS = "evaluations"
FAILURES = "failures"


def ingest_run(db: Database, folder: Path) -> str:
    """Take in `run.json` and `train.jsonl` of a run's folder; returns the run id.

    Raises:
        BenchError: a file is missing or damaged; the message names it and the fault.
    """
    path = folder / RUN_FILE
    record = read_record(RunRecord, path)
    if folder.name != record.run_id:
        raise BenchError(f"{path} is damaged: it is of run {record.run_id}, its folder is of {folder.name}")
    curve = curve_rows(folder / CURVE_FILE, record.run_id)
    values = record.model_dump(exclude={"format", "parameters", "environment"})
    limit, precision = record.training.get("limit"), record.training.get("precision")
    if not (limit is None or type(limit) is int) or not (precision is None or type(precision) is str):
        raise BenchError(f"{path} is damaged: training.limit {limit!r} or training.precision {precision!r}")
    weights = record.fusion_weights or itertools.repeat(None, record.members)
    members = [
        {"run_id": record.run_id, "number": number, "parameters": parameters, "weight": weight}
        for number, (parameters, weight) in enumerate(zip(record.parameters, weights, strict=True))
    ]
    with _file(db, path) as connection:
        values |= {
            "training_limit": limit,
            "precision": precision,
            "environment_id": _environment(connection, record.environment),
        }
        _put(connection, schema.Run, values, {schema.Member: members, schema.Curve: curve})
        _done(connection, "train", record.run_id, record.run_id, values)
    return record.run_id


def ingest_evaluation(db: Database, path: Path) -> str:
    """Take in one file of `evaluations/`; returns the evaluation id. The run must have been taken in before.

    Raises:
        BenchError: the file is missing or damaged, or its run is unknown; the message names it and the fault.
    """
    record = read_record(EvaluationRecord, path)
    if path.stem != record.evaluation_id:
        raise BenchError(f"{path} is damaged: it holds evaluation {record.evaluation_id}, by its name another")
    attack: Row = {
        "plugin": record.plugin,
        "settings": json.loads(canonical(record.settings)),
        "budget_name": record.budget_name,
        "budget": record.budget,
        "stop": record.stop,
    }
    attack |= {"attack_key": record.attack_key, "protocol_id": content_id(attack)}
    with _file(db, path) as connection:
        run = connection.execute(select(schema.Run.family_id).where(schema.Run.run_id == record.run_id)).one_or_none()
        if run is None:
            raise BenchError(f"{path}: its run {record.run_id} is not in the database; is its {RUN_FILE} damaged?")
        _attack(connection, attack, path)
        values = {key: value for key, value in dict(record).items() if key in schema.Evaluation.__table__.columns}
        values |= {"image_limit": record.limit, "environment_id": _environment(connection, record.environment)}
        _put(connection, schema.Evaluation, values, outcome_rows(record))
        _done(connection, record.kind, record.evaluation_id, record.run_id, values | {"family_id": run.family_id})
    return record.evaluation_id


def ingest_failure(db: Database, path: Path) -> str:
    """Take in one file of `failures/`; returns the attempt id. An attempt known to be done stays done.

    Raises:
        BenchError: the file is missing or damaged; the message names it and the fault.
    """
    record = read_record(FailureRecord, path)
    if path.stem != record.attempt_id:
        raise BenchError(f"{path} is damaged: it is of attempt {record.attempt_id}, by its name of another")
    values = record.model_dump(exclude={"format", "environment"})
    with _file(db, path) as connection:
        job = schema.Job.__table__
        status = connection.scalar(select(job.c.status).where(job.c.attempt_id == record.attempt_id))
        if status != "done":
            environment_id = _environment(connection, record.environment)
            _put_job(connection, values | {"status": "failed", "environment_id": environment_id})
    return record.attempt_id


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was taken in, and one line for each file that could not be (it names the file and the fault)."""

    runs: int = 0
    evaluations: int = 0
    failures: int = 0
    references: int = 0
    damaged: tuple[str, ...] = ()


def sync(db: Database, runs_root: Path) -> Counts:
    """Take in the files below `runs_root` whose ids the database lacks (a driver was killed before it could).

    Only names are compared, so 100,000 known files cost little; a damaged file is reported and skipped. Before the
    first run there is no such folder, and nothing to take in.
    """
    if not runs_root.is_dir():
        return Counts()
    with db.read() as connection:
        known = {
            *connection.scalars(select(schema.Run.run_id)),
            *connection.scalars(select(schema.Evaluation.evaluation_id)),
            *connection.scalars(select(schema.Job.attempt_id)),
        }
    return _take_in(db, runs_root, known)


def rebuild(db_path: Path | str, runs_root: Path, published_folder: Path) -> Counts:
    """Make the database at `db_path` anew from the files of all runs and the published tables.

    A SQLite file is made beside the old one and renamed over it at the end; in PostgreSQL all rows are replaced in one
    transaction. A rebuild that fails or is killed leaves the old database as it was. No other process should write.

    Raises:
        BenchError: the database cannot be written, or `runs_root` is no folder; damaged files are counted instead.
    """
    if not runs_root.is_dir():
        raise BenchError(f"there is no folder of runs {runs_root}; nothing to rebuild from")
    target = Database(db_path)
    if target.path is None:
        with target.open(create=True), target.batch():
            with target.write() as connection:
                for table in reversed(schema.Base.metadata.sorted_tables):
                    if table is not schema.Meta.__table__:
                        connection.execute(delete(table))
            return _fill(target, runs_root, published_folder)
    if target.path.is_dir():
        raise BenchError(f"database {target.path} is a folder; give a file")
    try:
        with atomic(target.path) as temporary:
            try:
                with Database(temporary).open(create=True) as fresh, fresh.batch():
                    counts = _fill(fresh, runs_root, published_folder)
            finally:
                _drop_log(temporary)
            # The log of the old file must not be replayed into the new one.
            _drop_log(target.path)
    except OSError as error:
        raise BenchError(f"cannot write database {target.path}: {error.strerror}") from error
    return counts


def _fill(db: Database, runs_root: Path, published_folder: Path) -> Counts:
    counts = _take_in(db, runs_root, set())
    return dataclasses.replace(counts, references=load_published(db, published_folder))


def _drop_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _take_in(db: Database, runs_root: Path, known: set[str]) -> Counts:
    """Ingest every file whose id is not `known`: of each run first the run itself, then what refers to it."""
    damaged: list[str] = []
    done = {"run": 0, "evaluation": 0, "failure": 0}

    def take(what: str, ingest: Callable[[Database, Path], str], path: Path) -> None:
        try:
            ingest(db, path)
            done[what] += 1
        except StoreError:  # the file is not to blame
            raise
        except BenchError as error:
            damaged.append(str(error))

    for folder in sorted(path for path in runs_root.iterdir() if path.is_dir()):
        if folder.name not in known and (folder / RUN_FILE).exists():
            take("run", ingest_run, folder)
        for path in _unknown(folder / EVALUATIONS, known):
            take("evaluation", ingest_evaluation, path)
        for path in _unknown(folder / FAILURES, known):
            take("failure", ingest_failure, path)
    return Counts(runs=done["run"], evaluations=done["evaluation"], failures=done["failure"], damaged=tuple(damaged))


def _unknown(folder: Path, known: set[str]) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if path.stem not in known]


@contextlib.contextmanager
def _file(db: Database, path: Path) -> Iterator[Connection]:
    """A write transaction whose faults name the file they come from."""
    try:
        with db.write() as connection:
            yield connection
    except BenchError as fault:
        if str(path) in str(fault):
            raise
        raise type(fault)(f"cannot take in {path}: {fault}") from fault


def _done(connection: Connection, kind: str, job_id: str, run_id: str, values: Row) -> None:
    """Note the attempt that a file speaks of as the done attempt of its job."""
    names = ("attempt_id", "family_id", "started", "seconds", "environment_id")
    nothing = dict.fromkeys(("describe", "error", "error_type", "traceback"))
    row = {name: values[name] for name in names} | nothing
    _put_job(connection, row | {"job_id": job_id, "kind": kind, "run_id": run_id, "status": "done"})


def _put_job(connection: Connection, row: Row) -> None:
    """Insert an attempt in the place of an older record of it and, when done, of the job's older done attempt.

    The files hold one done attempt of a job, the latest: so does the database. An environment that nothing names any
    more goes with the rows that named it.
    """
    job = _table(schema.Job.__table__)
    replaced = job.c.attempt_id == row["attempt_id"]
    if row["status"] == "done":
        replaced |= (job.c.job_id == row["job_id"]) & (job.c.status == "done")
    environments = set(connection.scalars(select(job.c.environment_id).where(replaced)))
    if environments:
        connection.execute(delete(job).where(replaced))
    connection.execute(insert(job), row)
    environment = _table(schema.Environment.__table__)
    for old in environments - {row["environment_id"]}:
        users = (schema.Run, schema.Evaluation, schema.Job)
        if not any(connection.scalar(select(exists().where(user.environment_id == old))) for user in users):
            connection.execute(delete(environment).where(environment.c.environment_id == old))


def _attack(connection: Connection, row: Row, path: Path) -> None:
    attack = schema.Attack.__table__
    known = connection.scalar(select(attack.c.protocol_id).where(attack.c.attack_key == row["attack_key"]))
    if known is None:
        connection.execute(insert(_table(attack)), row)
    elif known != row["protocol_id"]:
        raise BenchError(f"{path} is damaged: attack_key {row['attack_key']} stands for another attack in the database")


def _environment(connection: Connection, record: Row) -> str:
    record = json.loads(canonical(record))
    key = content_id(record)
    table = schema.Environment.__table__
    if connection.scalar(select(table.c.environment_id).where(table.c.environment_id == key)) is None:
        connection.execute(insert(_table(table)), {"environment_id": key, "record": record})
    return key


def _put(connection: Connection, model: type[schema.Base], row: Row, children: Children) -> None:
    """Insert `row` and its children, or bring the row of the same key up to it and replace its children.

    Other rows that refer to it stay as they are.
    """
    table = _table(model.__table__)
    (key,) = table.primary_key.columns
    old = connection.execute(update(table).where(key == row[key.name]), row).rowcount
    if not old:
        connection.execute(insert(table), row)
    for child, rows in children.items():
        part = _table(child.__table__)
        if old:
            connection.execute(delete(part).where(part.c[key.name] == row[key.name]))
        if rows:
            connection.execute(insert(part), rows)


def _table(source: FromClause) -> Table:
    assert isinstance(source, Table)
    return source
