"""Everything about some runs, read with a few queries for many of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from bench.core.terms import MATRICES
from bench.experiment.names import told_today
from bench.store import queries
from bench.store.database import Database, Query
from bench.store.images import ImageOutcomes
from bench.store.schema import Member, Run
from bench.store.typed_rows import EvaluationRow


@dataclass(frozen=True)
class Details:
    """What a page of a run shows, beside the ledger's rows."""

    config: dict[str, Any]
    evaluations: list[EvaluationRow]
    images: ImageOutcomes
    """Which images stand after its attacks."""
    members: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    cells: dict[str, list[dict[str, Any]]]
    """Counts of matrices by evaluation id."""
    other_cells: dict[str, list[dict[str, Any]]]
    """The same of sources that are no members."""
    clean: dict[str, dict[int, int]]
    """Correct clean images by evaluation id and target (−1 the ensemble)."""


def read(db: Database, run_ids: list[str]) -> dict[str, Details]:
    """Details by run id."""
    rows = queries.evaluations(db, run_ids=run_ids)
    attacks = [row.evaluation_id for row in rows if row.kind == "attack"]
    images = ImageOutcomes(db, attacks)
    config = {
        row["run_id"]: told_today(db.names, row["config"]) if isinstance(row["config"], dict) else {}
        for row in db.rows(select(Run.run_id, Run.config).where(Run.run_id.in_(run_ids)))
    }
    members = _by(
        "run_id", db, select(*Member.__table__.columns).where(Member.run_id.in_(run_ids)).order_by(Member.number)
    )
    curve = {run_id: [vars(row) for row in many] for run_id, many in queries.curves(db, run_ids=run_ids).items()}
    cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for cell in queries.cells(db, run_ids=run_ids):
        cells[cell.evaluation_id].append(vars(cell))
    others: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for other in queries.other_cells(db, run_ids=run_ids):
        others[other.evaluation_id].append(vars(other))
    clean = queries.clean_counts(db, run_ids=run_ids)
    own: dict[str, list[EvaluationRow]] = defaultdict(list)
    for row in rows:
        own[row.run_id].append(row)
    return {
        run_id: Details(
            config=config[run_id],
            evaluations=own[run_id],
            images=images,
            members=[row for row in members[run_id] if type(row["parameters"]) is int],
            curve=curve.get(run_id, []),  # none where it was trained elsewhere
            cells={
                r.evaluation_id: cells[r.evaluation_id]
                for r in own[run_id]
                if r.kind in MATRICES and len(cells[r.evaluation_id]) == r.members * (r.members + 1)
            },
            other_cells={r.evaluation_id: others[r.evaluation_id] for r in own[run_id]},
            clean={r.evaluation_id: clean[r.evaluation_id] for r in own[run_id] if r.evaluation_id in clean},
        )
        for run_id in run_ids
        if run_id in config
    }


def parameters(db: Database) -> dict[str, int]:
    """Parameters of all members together, by run id."""
    query = select(Member.run_id, func.sum(Member.parameters).label("total")).group_by(Member.run_id)
    return {row["run_id"]: row["total"] for row in db.rows(query) if type(row["total"]) is int}


def _by(key: str, db: Database, query: Query) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in db.rows(query):
        found[row[key]].append(row)
    return found
