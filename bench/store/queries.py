"""Questions to the database, answered with plain rows; needs neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import aliased

from bench.core import bits
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.store.answers import (
    AttemptRow,
    Bools,
    CurveRow,
    EvaluationRow,
    FailureRow,
    MemberRow,
    Outcomes,
    ReferenceRow,
    RunRow,
    Totals,
    TransferBits,
)
from bench.store.database import Database, Query
from bench.store.lookup import find
from bench.store.schema import (
    ENSEMBLE,
    Attack,
    Blackbox,
    CleanRow,
    Curve,
    Environment,
    Evaluation,
    Job,
    Member,
    Outcome,
    Reference,
    Run,
    Transfer,
)

__all__ = [
    "Selection", "blackbox", "clean_rows", "configs", "curve", "environment", "evaluation_counts", "evaluations",
    "failures", "find", "find_run", "members", "outcomes", "references", "runs", "totals", "transfer",
]  # fmt: skip

Selection = str | int | Collection[str] | Collection[int] | None
"""One value, several, or None for no restriction."""


def runs(
    db: Database,
    *,
    dataset: Selection = None,
    method: Selection = None,
    plugin: Selection = None,
    model: Selection = None,
    recipe: Selection = None,
    seed: Selection = None,
    family_ids: Selection = None,
    run_ids: Selection = None,
) -> list[RunRow]:
    """Runs that satisfy every restriction given, by dataset, method, model, recipe, seed and start."""
    columns = [getattr(Run, name) for name in RunRow.__dataclass_fields__]
    chosen = {"dataset": dataset, "method": method, "plugin": plugin, "model": model, "recipe": recipe, "seed": seed}
    query = select(*columns).order_by(Run.dataset, Run.method, Run.model, Run.recipe, Run.seed, Run.started, Run.run_id)
    for name, value in (*chosen.items(), ("family_id", family_ids), ("run_id", run_ids)):
        query = _among(query, getattr(Run, name), value)
    return [RunRow(**row) for row in db.rows(query)]


def configs(db: Database, *, plugin: str) -> list[dict[str, Any]]:
    """The complete specs (`RunSpec` as JSON) of the runs of a plug-in, oldest first."""
    query = select(Run.config).where(Run.plugin == plugin).order_by(Run.started, Run.run_id)
    return [row["config"] for row in db.rows(query)]


def evaluations(
    db: Database,
    *,
    family_ids: Selection = None,
    attack_keys: Selection = None,
    run_ids: Selection = None,
    evaluation_ids: Selection = None,
    kinds: Selection = None,
    attack: Selection = None,
    dataset: Selection = None,
) -> list[EvaluationRow]:
    """Evaluations that satisfy every restriction given, by dataset, method, seed, attack and budget; no bits."""
    from_run = {"family_id", "method", "dataset", "model", "recipe", "training_limit", "members", "fusion", "seed"}
    from_run |= {"method_version", "trainer_version"}
    from_attack = {"protocol_id", "plugin", "settings", "budget_name", "budget", "stop"}
    columns: list[Any] = [Run.plugin.label("method_plugin")]
    for name in EvaluationRow.__dataclass_fields__:
        if name != "method_plugin":
            owner = Run if name in from_run else Attack if name in from_attack else Evaluation
            columns.append(getattr(owner, name))
    query = (
        select(*columns)
        .join(Run, Run.run_id == Evaluation.run_id)
        .join(Attack, Attack.attack_key == Evaluation.attack_key)
        .order_by(Run.dataset, Run.method, Run.seed, Evaluation.attack, Attack.budget, Evaluation.evaluation_id)
    )
    for column, value in (
        (Run.family_id, family_ids),
        (Evaluation.attack_key, attack_keys),
        (Evaluation.run_id, run_ids),
        (Evaluation.evaluation_id, evaluation_ids),
        (Evaluation.kind, kinds),
        (Evaluation.attack, attack),
        (Run.dataset, dataset),
    ):
        query = _among(query, column, value)
    return [EvaluationRow(**row) for row in db.rows(query)]


def evaluation_counts(db: Database) -> dict[str, int]:
    """How many evaluations each run has, by run id; runs without any are left out."""
    query = select(Evaluation.run_id, func.count().label("number")).group_by(Evaluation.run_id)
    return {row["run_id"]: row["number"] for row in db.rows(query)}


def outcomes(db: Database, evaluation_ids: Iterable[str]) -> dict[str, Outcomes]:
    """Per-image outcomes by evaluation id; ids that are not there are left out."""
    query = select(Outcome.evaluation_id, Outcome.clean_bits, Outcome.robust_bits, Evaluation.n)
    query = query.join(Evaluation, Evaluation.evaluation_id == Outcome.evaluation_id)
    return {
        row["evaluation_id"]: Outcomes(
            clean=bits.unpack(row["clean_bits"], row["n"]),
            robust=None if row["robust_bits"] is None else bits.unpack(row["robust_bits"], row["n"]),
        )
        for row in db.rows(_among(query, Outcome.evaluation_id, list(evaluation_ids)))
    }


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
    """The matrix of a transfer evaluation, for `bench.evaluation.rates.transfer_rates`.

    Raises:
        BenchError: the evaluation is unknown or no transfer matrix.
    """
    n = _images(db, evaluation_id)
    query = select(Transfer.source, Transfer.target, Transfer.bits).where(Transfer.evaluation_id == evaluation_id)
    cells = db.rows(query)
    if not cells:
        raise BenchError(f"evaluation {short(evaluation_id)} is no transferability matrix")
    clean = clean_rows(db, evaluation_id)
    missed = np.zeros((len(clean) - 1, len(clean), n), dtype=bool)
    for cell in cells:
        missed[cell["source"], cell["target"]] = bits.unpack(cell["bits"], n)  # ENSEMBLE, -1, is the last column
    return TransferBits(clean=clean, missed=missed)


def blackbox(db: Database, evaluation_id: str) -> list[AttemptRow]:
    """The attempts of a black-box evaluation, by surrogate, loss and restart.

    Raises:
        BenchError: the evaluation is unknown.
    """
    n = _images(db, evaluation_id)
    query = select(Blackbox.surrogate, Blackbox.loss, Blackbox.restart, Blackbox.bits)
    query = query.where(Blackbox.evaluation_id == evaluation_id)
    query = query.order_by(Blackbox.surrogate, Blackbox.loss, Blackbox.restart)
    return [AttemptRow(**row | {"bits": bits.unpack(row["bits"], n)}) for row in db.rows(query)]


def find_run(db: Database, prefix: str) -> RunRow:
    """The one run whose id begins with `prefix`.

    Raises:
        BenchError: none or several do; the message lists candidates.
    """
    return runs(db, run_ids=find(db, prefix, ("run",)).id)[0]


def curve(db: Database, run_id: str) -> list[CurveRow]:
    """The epochs of a run's training, in order."""
    columns = [getattr(Curve, name) for name in CurveRow.__dataclass_fields__]
    query = select(*columns).where(Curve.run_id == run_id).order_by(Curve.position)
    return [CurveRow(**row) for row in db.rows(query)]


def members(db: Database, run_id: str) -> list[MemberRow]:
    """The networks of a run's ensemble, in order."""
    query = select(Member.number, Member.parameters, Member.weight).where(Member.run_id == run_id)
    return [MemberRow(**row) for row in db.rows(query.order_by(Member.number))]


def environment(db: Database, environment_id: str) -> dict[str, Any]:
    """The record of software and hardware with this id.

    Raises:
        BenchError: there is none.
    """
    rows = db.rows(select(Environment.record).where(Environment.environment_id == environment_id))
    if not rows:
        raise BenchError(f"there is no environment {environment_id} in database {db}")
    record: dict[str, Any] = rows[0]["record"]
    return record


def failures(db: Database, *, run_ids: Selection = None, family_ids: Selection = None) -> list[FailureRow]:
    """The latest failed attempt of each job that no done attempt followed, latest first."""
    # Correlated, so that the index on status and job finds them: failures are few, jobs may be many.
    done, other = aliased(Job), aliased(Job)
    finished = select(func.max(done.started)).where(done.status == "done", done.job_id == Job.job_id).scalar_subquery()
    later = or_(other.started > Job.started, and_(other.started == Job.started, other.attempt_id > Job.attempt_id))
    newer = select(other.attempt_id).where(other.status == "failed", other.job_id == Job.job_id, later).exists()
    columns = [getattr(Job, name) for name in FailureRow.__dataclass_fields__ if name != "done"]
    query = (
        select(*columns, finished.is_not(None).label("done"))
        .where(Job.status == "failed", ~newer, or_(finished.is_(None), finished < Job.started))
        .order_by(Job.started.desc(), Job.attempt_id)
    )
    query = _among(_among(query, Job.run_id, run_ids), Job.family_id, family_ids)
    return [FailureRow(**row | {"done": bool(row["done"])}) for row in db.rows(query)]


def references(db: Database, *, dataset: Selection = None, method: Selection = None) -> list[ReferenceRow]:
    """Published values, by source, dataset, method, attack and budget."""
    query = select(*[getattr(Reference, name) for name in ReferenceRow.__dataclass_fields__])
    query = query.order_by(Reference.source, Reference.dataset, Reference.method, Reference.attack, Reference.budget)
    query = _among(_among(query, Reference.dataset, dataset), Reference.method, method)
    return [ReferenceRow(**row) for row in db.rows(query)]


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


def _among(query: Query, column: Any, value: Selection) -> Query:
    if value is None:
        return query
    return query.where(column.in_([value] if isinstance(value, str | int) else list(value)))
