"""From checked records to rows: twice is once, a later attempt takes the place of the older, done beats failed."""

from __future__ import annotations

import itertools
import json

from sqlalchemy import Connection, FromClause, Table, delete, exists, insert, select, update

from bench.core.errors import BenchError
from bench.core.identity import canonical, content_id
from bench.experiment.names import Namer, told_today
from bench.experiment.records import FailureRecord
from bench.store import derived, schema
from bench.store.child_rows import Children, DatabaseRow, outcome_rows
from bench.store.door import CheckedEvaluation, CheckedRun, Known, known_run
from bench.store.standing import run_versions
from bench.store.typed_rows import Provenance


def put_run(
    connection: Connection,
    run: CheckedRun,
    curve: list[DatabaseRow],
    names: Namer,
    *,
    provenance: Provenance,
) -> None:
    """Rows of a run, under the names that its content has."""
    record = run.record
    found = names.run(run.spec)
    values = _of_columns(schema.Run, record.model_dump())
    words = {**found._asdict(), "recipe_changes": list(found.recipe_changes)}
    values |= words | {"config": {**told_today(names, record.config), **words}}
    weights = record.fusion_weights or itertools.repeat(None, record.members)
    members = [
        {"run_id": record.run_id, "number": number, "parameters": parameters, "weight": weight}
        for number, (parameters, weight) in enumerate(zip(record.parameters, weights, strict=True))
    ]
    values |= {
        "training_limit": run.spec.training.limit,
        "versions": run_versions(record.config, record.trainer_version, record.method_version),
        "provenance": provenance,
        "precision": run.spec.training.precision,
        "environment_id": _environment(connection, record.environment),
    }
    _put(connection, schema.Run, values, {schema.Member: members, schema.Curve: curve})
    derived.mark(connection, record.run_id)
    _done(connection, "train", record.run_id, record.run_id, values)


def stored_run(connection: Connection, run_id: str, where: str) -> Known | None:
    """What an evaluation is held against, of a run in the database; None where there is none.

    Raises:
        BenchError: the run was stored by another version of bench.
    """
    run = schema.Run
    query = select(run.config, run.weights_digest).where(run.run_id == run_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else known_run(row.config, row.weights_digest, where)


def put_evaluation(
    connection: Connection,
    evaluation: CheckedEvaluation,
    names: Namer,
    where: str,
    *,
    provenance: Provenance,
) -> None:
    """Rows of an evaluation, whose run is there.

    Raises:
        BenchError: its attack key stands for another attack in the database.
    """
    record = evaluation.record
    spec = evaluation.spec
    attack: DatabaseRow = {
        "plugin": spec.plugin,
        "settings": json.loads(canonical(spec.settings)),
        "budget_name": spec.budget_name,
        "budget": spec.budget,
        "stop": spec.stop,
    }
    later = spec.later()
    attack |= {"attack_key": record.attack_key, "setting_id": content_id(attack | later)}
    attack |= spec.asked()
    _attack(connection, attack, where)
    values = _of_columns(schema.Evaluation, dict(record))
    values |= {"attack": names.attack(spec), "image_limit": spec.limit, "split": spec.split}
    values |= {"environment_id": _environment(connection, record.environment), "provenance": provenance}
    _put(connection, schema.Evaluation, values, outcome_rows(record))
    derived.mark(connection, record.run_id)
    family_id = spec.run.family_id
    _done(connection, record.kind, record.evaluation_id, record.run_id, values | {"family_id": family_id})


def put_failure(connection: Connection, record: FailureRecord) -> bool:
    """The row of a failed attempt; one known to be done stays done. Returns whether it was put."""
    job = schema.Job.__table__
    status = connection.scalar(select(job.c.status).where(job.c.attempt_id == record.attempt_id))
    if status == "done":
        return False
    values = record.model_dump(exclude={"format", "environment"})
    _put_job(connection, values | {"status": "failed", "environment_id": _environment(connection, record.environment)})
    return True


def _of_columns(model: type[schema.Base], record: DatabaseRow) -> DatabaseRow:
    """The fields of a record that have columns of their own."""
    return {key: value for key, value in record.items() if key in model.__table__.columns}


def _done(connection: Connection, kind: str, job_id: str, run_id: str, values: DatabaseRow) -> None:
    """Note the attempt that a file speaks of as the done attempt of its job."""
    names = ("attempt_id", "family_id", "started", "seconds", "environment_id")
    nothing = dict.fromkeys(("describe", "error", "error_type", "traceback"))
    row = {name: values[name] for name in names} | nothing
    _put_job(connection, row | {"job_id": job_id, "kind": kind, "run_id": run_id, "status": "done"})


def _put_job(connection: Connection, row: DatabaseRow) -> None:
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


def _attack(connection: Connection, row: DatabaseRow, where: str) -> None:
    attack = schema.Attack.__table__
    known = connection.scalar(select(attack.c.setting_id).where(attack.c.attack_key == row["attack_key"]))
    if known is None:
        connection.execute(insert(_table(attack)), row)
    elif known != row["setting_id"]:
        raise BenchError(
            f"{where} is damaged: attack_key {row['attack_key']} stands for another attack in the database"
        )


def _environment(connection: Connection, record: DatabaseRow) -> str:
    record = json.loads(canonical(record))
    key = content_id(record)
    table = schema.Environment.__table__
    if connection.scalar(select(table.c.environment_id).where(table.c.environment_id == key)) is None:
        connection.execute(insert(_table(table)), {"environment_id": key, "record": record})
    return key


def _put(connection: Connection, model: type[schema.Base], row: DatabaseRow, children: Children) -> None:
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
