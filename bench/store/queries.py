"""Questions to the database, answered with plain rows; needs neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import aliased

from bench.core import bits
from bench.core.bits import Bools
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.numbers import ENSEMBLE
from bench.core.traces import relative
from bench.experiment.names import recipe_today, told_today
from bench.store import inside
from bench.store.database import Database, Query, StoreError
from bench.store.ids import find
from bench.store.schema import (
    Attack,
    Blackbox,
    CleanRow,
    Curve,
    Environment,
    Evaluation,
    Job,
    Member,
    OtherTransfer,
    Outcome,
    Reference,
    Run,
    Transfer,
)
from bench.store.sound import columns as columns_of
from bench.store.sound import evaluation_named, run_named, set_aside, sound
from bench.store.typed_rows import (
    BlackboxRow,
    CellRow,
    CurveRow,
    EvaluationRow,
    FailureRow,
    MemberRow,
    OtherBits,
    OtherCellRow,
    Outcomes,
    ReferenceRow,
    RunRow,
    Totals,
    TransferBits,
)

AnyRow = TypeVar("AnyRow", RunRow, EvaluationRow)

MANY = 400  # ids in one query: SQLite allows a limited number of parameters
_RUNS = select(*[getattr(Run, name) for name in columns_of(RunRow)])

OneOrMany = str | int | Collection[str] | Collection[int] | None
"""One value, several, or None for no restriction."""


def runs(
    db: Database,
    *,
    dataset: OneOrMany = None,
    method: OneOrMany = None,
    plugin: OneOrMany = None,
    model: OneOrMany = None,
    seed: OneOrMany = None,
    family_ids: OneOrMany = None,
    run_ids: OneOrMany = None,
) -> list[RunRow]:
    """Runs that satisfy every restriction given, by dataset, method, model, recipe, seed and start."""
    chosen = {"dataset": dataset, "method": method, "plugin": plugin, "model": model, "seed": seed}
    query = _RUNS.order_by(Run.dataset, Run.method, Run.model, Run.recipe, Run.seed, Run.started, Run.run_id)
    for name, value in (*chosen.items(), ("family_id", family_ids), ("run_id", run_ids)):
        query = _among(query, getattr(Run, name), value)
    return [_today(db, row) for row in sound(db, RunRow, db.rows(query), run_named)]


def configs(db: Database, *, plugin: str) -> list[dict[str, Any]]:
    """The complete specs (`RunSpec` as JSON) of the runs of a plug-in, oldest first."""
    query = select(Run.config, Run.run_id, Run.method, Run.dataset).where(Run.plugin == plugin)
    rows = db.rows(query.order_by(Run.started, Run.run_id))
    return [row["config"] for row in rows if _is_spec(db, row)]


def evaluations(
    db: Database,
    *,
    family_ids: OneOrMany = None,
    run_ids: OneOrMany = None,
    evaluation_ids: OneOrMany = None,
    attack: OneOrMany = None,
    dataset: OneOrMany = None,
) -> list[EvaluationRow]:
    """Evaluations that satisfy every restriction given, by dataset, method, seed, attack and budget; no bits.

    Those whose outcomes are not there, or not of as many images as the row says, and those of a damaged run are set
    aside too: whoever asks for the bits of a row finds them.
    """
    from_run = {"family_id", "method", "dataset", "model", "recipe", "training_limit", "members", "fusion", "seed"}
    from_run |= {"method_version", "trainer_version"}
    from_attack = set(Attack.__table__.columns.keys()) - {"attack_key"}
    columns: list[Any] = [Run.plugin.label("method_plugin")]
    for name in columns_of(EvaluationRow):
        if name != "method_plugin":
            owner = Run if name in from_run else Attack if name in from_attack else Evaluation
            columns.append(getattr(owner, name))
    query = (
        select(*columns, *inside.COLUMNS)
        .join(Run, Run.run_id == Evaluation.run_id)
        .join(Attack, Attack.attack_key == Evaluation.attack_key)
        .join(Outcome, Outcome.evaluation_id == Evaluation.evaluation_id, isouter=True)
        .order_by(Run.dataset, Run.method, Run.seed, Evaluation.attack, Attack.budget, Evaluation.evaluation_id)
    )
    for column, value in (
        (Run.family_id, family_ids),
        (Evaluation.run_id, run_ids),
        (Evaluation.evaluation_id, evaluation_ids),
        (Evaluation.attack, attack),
        (Run.dataset, dataset),
    ):
        query = _among(query, column, value)
    rows = db.rows(query)
    known = _sound_runs(db, {row["run_id"] for row in rows})
    whole = inside.whole(db, (row for row in rows if row["run_id"] in known))
    return [_today(db, row) for row in sound(db, EvaluationRow, whole, evaluation_named)]


def evaluation_counts(db: Database) -> dict[str, int]:
    """How many evaluations each run has, by run id; runs without any are left out."""
    query = select(Evaluation.run_id, func.count().label("number")).group_by(Evaluation.run_id)
    return {row["run_id"]: row["number"] for row in db.rows(query)}


def outcomes(db: Database, evaluation_ids: Iterable[str]) -> dict[str, Outcomes]:
    """Per-image outcomes by evaluation id; ids that are not there, or whose bits are damaged, are left out."""
    query = select(Outcome.evaluation_id, Outcome.clean_bits, Outcome.robust_bits, Evaluation.n)
    query = query.join(Evaluation, Evaluation.evaluation_id == Outcome.evaluation_id)
    found = {}
    for row in db.rows(_among(query, Outcome.evaluation_id, list(evaluation_ids))):
        try:
            found[row["evaluation_id"]] = Outcomes(
                clean=bits.unpack(row["clean_bits"], row["n"]),
                robust=None if row["robust_bits"] is None else bits.unpack(row["robust_bits"], row["n"]),
            )
        except BenchError as error:
            set_aside(db, f"evaluation {short(row['evaluation_id'])}", str(error))
    return found


def clean_rows(db: Database, evaluation_id: str) -> Bools:
    """Correct clean images [N+1, n] of a clean or transfer evaluation, the ensemble last.

    Raises:
        BenchError: the evaluation is unknown or stored no such rows.
    """
    n = _images(db, evaluation_id)
    query = select(CleanRow.target, CleanRow.bits).where(CleanRow.evaluation_id == evaluation_id)
    found = sorted(db.rows(query), key=lambda row: (row["target"] == ENSEMBLE, row["target"]))
    if not found:
        raise BenchError(f"evaluation {short(evaluation_id)} holds no outcomes of single members")
    return np.stack([bits.unpack(row["bits"], n) for row in found])


def transfer(db: Database, evaluation_id: str) -> TransferBits:
    """The matrix of a transfer evaluation, for `bench.store.rates.transfer_rates`.

    Raises:
        BenchError: the evaluation is unknown or no transfer matrix.
    """
    n = _images(db, evaluation_id)
    query = select(Transfer.source, Transfer.target, Transfer.bits, Transfer.classes)
    cells = db.rows(query.where(Transfer.evaluation_id == evaluation_id))
    if not cells:
        raise BenchError(f"evaluation {short(evaluation_id)} is not a transferability matrix")
    clean = clean_rows(db, evaluation_id)
    missed = np.zeros((len(clean) - 1, len(clean), n), dtype=bool)
    for cell in cells:
        missed[cell["source"], cell["target"]] = bits.unpack(cell["bits"], n)  # ENSEMBLE, -1, is the last column
    classes = None
    if all(cell["classes"] is not None for cell in cells):
        classes = np.zeros(missed.shape, dtype=np.int64)
        for cell in cells:
            classes[cell["source"], cell["target"]] = bits.unpack_classes(cell["classes"], n)
    return TransferBits(clean=clean, missed=missed, classes=classes, others=_others(db, evaluation_id, clean.shape))


def _others(db: Database, evaluation_id: str, shape: tuple[int, ...]) -> dict[str, OtherBits]:
    """The rows of a matrix whose sources are no members, each with outcomes of this shape [N+1, n].

    Raises:
        BenchError: one is not whole.
    """
    table, n = OtherTransfer, shape[1]
    query = select(table.source, table.target, table.bits, table.classes).where(table.evaluation_id == evaluation_id)
    found: dict[str, dict[int, tuple[Any, Any]]] = {}
    for cell in db.rows(query.order_by(table.source, table.target)):
        row = bits.unpack(cell["bits"], n), bits.unpack_classes(cell["classes"], n)
        found.setdefault(cell["source"], {})[cell["target"]] = row
    targets = [*range(shape[0] - 1), ENSEMBLE]
    if any(set(row) != set(targets) for row in found.values()):
        raise BenchError(f"evaluation {short(evaluation_id)}: a row of its matrix is not whole")
    return {
        source: OtherBits(
            missed=np.stack([row[target][0] for target in targets]),
            classes=np.stack([row[target][1] for target in targets]),
        )
        for source, row in found.items()
    }


def transfers(db: Database, evaluation_ids: Iterable[str]) -> dict[str, TransferBits]:
    """Matrices by evaluation id; those that are damaged are set aside."""
    found = {}
    for evaluation_id in evaluation_ids:
        try:
            found[evaluation_id] = transfer(db, evaluation_id)
        except StoreError:
            raise
        except BenchError as error:
            set_aside(db, f"evaluation {short(evaluation_id)}", str(error))
    return found


def cells(db: Database, *, run_ids: OneOrMany = None) -> list[CellRow]:
    """The counts of all cells of matrices, by evaluation, source and target."""
    query = select(*[getattr(Transfer, name) for name in columns_of(CellRow)])
    query = query.join(Evaluation, Evaluation.evaluation_id == Transfer.evaluation_id)
    query = query.order_by(Transfer.evaluation_id, Transfer.source, Transfer.target)
    rows = db.rows(_among(query, Evaluation.run_id, run_ids))
    return sound(db, CellRow, rows, lambda row: f"a cell of evaluation {short(row['evaluation_id'])}")


def clean_counts(db: Database, *, run_ids: OneOrMany = None) -> dict[str, dict[int, int]]:
    """Correct clean images by evaluation id and target (−1 the ensemble), where an evaluation has them."""
    query = select(CleanRow.evaluation_id, CleanRow.target, CleanRow.n_correct)
    query = query.join(Evaluation, Evaluation.evaluation_id == CleanRow.evaluation_id).order_by(CleanRow.target)
    found: dict[str, dict[int, int]] = {}
    for row in db.rows(_among(query, Evaluation.run_id, run_ids)):
        if type(row["n_correct"]) is int:
            found.setdefault(row["evaluation_id"], {})[row["target"]] = row["n_correct"]
    return found


def other_cells(db: Database, *, run_ids: OneOrMany = None) -> list[OtherCellRow]:
    """The counts of the cells whose sources are no members, by evaluation, source and target."""
    table = OtherTransfer
    query = select(*[getattr(table, name) for name in columns_of(OtherCellRow)])
    query = query.join(Evaluation, Evaluation.evaluation_id == table.evaluation_id)
    rows = db.rows(_among(query.order_by(table.evaluation_id, table.source, table.target), Evaluation.run_id, run_ids))
    return sound(db, OtherCellRow, rows, lambda row: f"a cell of evaluation {short(row['evaluation_id'])}")


def blackbox(db: Database, evaluation_id: str) -> list[BlackboxRow]:
    """The attacks of a black-box evaluation, by surrogate, attack and restart.

    Raises:
        BenchError: the evaluation is unknown.
    """
    n = _images(db, evaluation_id)
    query = select(Blackbox.surrogate, Blackbox.attack, Blackbox.restart, Blackbox.bits)
    query = query.where(Blackbox.evaluation_id == evaluation_id)
    query = query.order_by(Blackbox.surrogate, Blackbox.attack, Blackbox.restart)
    found = []
    for row in db.rows(query):
        try:
            found.append(BlackboxRow(**row | {"bits": bits.unpack(row["bits"], n)}))
        except BenchError as error:
            set_aside(db, f"start {row['restart']} of {row['attack']} in evaluation {short(evaluation_id)}", str(error))
    return found


def find_run(db: Database, prefix: str) -> RunRow:
    """The one run whose id begins with `prefix`.

    Raises:
        BenchError: none or several do (the message lists candidates), or its row is damaged.
    """
    found = find(db, prefix, ("run",))
    for row in runs(db, run_ids=found.id):
        return row
    raise _damaged("run", found.id)


def find_evaluation(db: Database, evaluation_id: str) -> EvaluationRow:
    """The evaluation with this id.

    Raises:
        BenchError: there is none, or its row is damaged.
    """
    for row in evaluations(db, evaluation_ids=evaluation_id):
        return row
    raise _damaged("evaluation", evaluation_id)


def curves(db: Database, *, run_ids: OneOrMany = None) -> dict[str, list[CurveRow]]:
    """The epochs of trainings, in order, by run id; runs without any are left out."""
    columns = [getattr(Curve, name) for name in columns_of(CurveRow)]
    query = select(Curve.run_id, *columns).order_by(Curve.run_id, Curve.position)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in db.rows(_among(query, Curve.run_id, run_ids)):
        found.setdefault(row.pop("run_id"), []).append(row)
    return {run_id: sound(db, CurveRow, rows, _epoch_of(run_id)) for run_id, rows in found.items()}


def _epoch_of(run_id: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: f"epoch {row['phase']} {row['epoch']} of run {short(run_id)}"


def curve(db: Database, run_id: str) -> list[CurveRow]:
    """The epochs of a run's training, in order."""
    return curves(db, run_ids=run_id).get(run_id, [])


def members(db: Database, run_id: str) -> list[MemberRow]:
    """The networks of a run's ensemble, in order."""
    query = select(Member.number, Member.parameters, Member.weight).where(Member.run_id == run_id)
    name = f"run {short(run_id)}"
    rows = db.rows(query.order_by(Member.number))
    return sound(db, MemberRow, rows, lambda row: f"member {row['number']} of {name}")


def environment(db: Database, environment_id: str) -> dict[str, Any]:
    """The record of software and hardware with this id.

    Raises:
        BenchError: there is none.
    """
    from bench.store.checks import environment_fault

    rows = db.rows(select(Environment.record).where(Environment.environment_id == environment_id))
    if not rows:
        raise BenchError(f"there is no environment {environment_id} in database {db}")
    record = rows[0]["record"]
    if why := environment_fault(record):
        set_aside(db, f"environment {short(environment_id)}", why)
        return {}  # so that it stops no page and no card
    return dict(record)


def failures(db: Database, *, run_ids: OneOrMany = None, family_ids: OneOrMany = None) -> list[FailureRow]:
    """The latest failed attempt of each job that no done attempt followed, latest first."""
    # Correlated, so that the index on status and job finds them: failures are few, jobs may be many.
    done, other = aliased(Job), aliased(Job)
    finished = select(func.max(done.started)).where(done.status == "done", done.job_id == Job.job_id).scalar_subquery()
    later = or_(other.started > Job.started, and_(other.started == Job.started, other.attempt_id > Job.attempt_id))
    newer = select(other.attempt_id).where(other.status == "failed", other.job_id == Job.job_id, later).exists()
    columns = [getattr(Job, name) for name in columns_of(FailureRow) if name != "done"]
    query = (
        select(*columns, finished.is_not(None).label("done"))
        .where(Job.status == "failed", ~newer, or_(finished.is_(None), finished < Job.started))
        .order_by(Job.started.desc(), Job.attempt_id)
    )
    query = _among(_among(query, Job.run_id, run_ids), Job.family_id, family_ids)
    rows = [row | {"done": bool(row["done"])} for row in db.rows(query)]
    found = sound(db, FailureRow, rows, lambda row: f"failure {row['attempt_id']}")
    # Records of older versions, and of others, hold paths of the machines that they were made on.
    return [
        replace(
            row, error=relative(row.error), traceback=relative(row.traceback),
            describe=told_today(db.names, row.describe),
        )
        for row in found
    ]  # fmt: skip


def references(db: Database, *, dataset: OneOrMany = None) -> list[ReferenceRow]:
    """Published values, by source, dataset, method, attack and budget."""
    query = select(*[getattr(Reference, name) for name in columns_of(ReferenceRow)])
    query = query.order_by(Reference.source, Reference.dataset, Reference.method, Reference.attack, Reference.budget)
    query = _among(query, Reference.dataset, dataset)
    return sound(db, ReferenceRow, db.rows(query), lambda row: f"published value of {row['method']} ({row['source']})")


def totals(db: Database) -> Totals:
    """How much the database holds; failures as `failures` counts them."""
    counted = {"runs": Run.run_id, "evaluations": Evaluation.evaluation_id, "references": Reference.reference_id}
    with db.read() as connection:
        counts = {name: connection.scalar(select(func.count(column))) or 0 for name, column in counted.items()}
    return Totals(**counts, failures=len(failures(db)))


def _images(db: Database, evaluation_id: str) -> int:
    rows = db.rows(select(Evaluation.n).where(Evaluation.evaluation_id == evaluation_id))
    if not rows:
        raise BenchError(f"there is no evaluation {short(evaluation_id)} in database {db}")
    return int(rows[0]["n"])


def _today(db: Database, row: AnyRow) -> AnyRow:
    """The row under the name that its recipe has here."""
    name = recipe_today(db.names, row.dataset, row.recipe)
    return row if name == row.recipe else replace(row, recipe=name)


def _sound_runs(db: Database, run_ids: set[str]) -> set[str]:
    """Those of the runs whose rows are sound."""
    asked: Query = _RUNS if len(run_ids) > MANY else _RUNS.where(Run.run_id.in_(run_ids))
    return {row.run_id for row in sound(db, RunRow, db.rows(asked), run_named)} if run_ids else set()


def _is_spec(db: Database, row: dict[str, Any]) -> bool:
    config = row["config"]
    wanted: dict[str, type] = {"method": str, "dataset": str, "seed": int}
    right = isinstance(config, dict) and all(type(config.get(name)) is kind for name, kind in wanted.items())
    if not right:
        set_aside(db, run_named(row), "config: no specification of a run")
    return right


def _damaged(what: str, identifier: str) -> BenchError:
    return BenchError(
        f"the row of {what} {short(identifier)} is damaged; `bench db rebuild` takes it from its file again, "
        f"`bench db delete {short(identifier)}` removes it"
    )


def _among(query: Query, column: Any, value: OneOrMany) -> Query:
    if value is None:
        return query
    return query.where(column.in_([value] if isinstance(value, str | int) else list(value)))
