"""What follows from rows and the installed versions, written down for SQL: standings, scores, names of recipes.

Whoever changes a run or an evaluation marks the run as pending in the same transaction; the next writer brings the
tables up to date. They are made anew as a whole where other versions or other protocols are installed than they were
made with, so a database that grew file by file equals one that was rebuilt.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, Text, cast, delete, insert, select, text, update

from bench.core import strict_json
from bench.core.identity import content_id
from bench.core.terms import USING_SURROGATES
from bench.experiment.names import claimed, told_today
from bench.experiment.protocols import Standard
from bench.store import schema, standing
from bench.store.database import Database
from bench.store.scores import Score, light, recipe_class, scores
from bench.store.standing import surrogates

CHUNK = 200  # families looked at together, so that many thousands fit into memory; keys of one query
KEY = "derived"


def mark(connection: Connection, run_id: str) -> None:
    """Note that the standings and scores of a run, and of those that it tells something about, are to be made anew.

    Each note is a row of its own: writers do not wait for one another, and who brings the tables up to date removes
    only what it has seen.
    """
    connection.execute(insert(_table(schema.Pending)), {"stamp": uuid.uuid4().hex, "run_id": run_id})


def refresh(db: Database, standards: Sequence[Standard]) -> None:
    """Bring standings and scores up to date with rows, installed versions and protocols; nothing where they are.

    Raises:
        BenchError: the database cannot be written.
    """
    today = _digest(db, standards)
    pending = {row["stamp"]: row["run_id"] for row in db.rows(select(schema.Pending.stamp, schema.Pending.run_id))}
    if _known(db) != today:
        _rename(db)
        families = _families(db)
    elif pending:
        families = _families_of(db, set(pending.values()))
    else:
        return
    for part in _parts(families):
        with db.batch():  # nobody changes between what is read and what is written of it
            measured = standing.read(db, family_ids=part)
            rows: dict[str, list[Any]] = {run.run_id: [] for run in measured.runs}
            for row in measured.rows:
                rows[row.run_id].append(light(row))
            found = list(scores(db, standards, measured.runs, rows, measured.standings))
            with db.write() as connection:
                _replace(connection, [run.run_id for run in measured.runs], _standings(measured), map(_score, found))
    with db.write() as connection:
        table, meta = _table(schema.Pending), _table(schema.Meta)
        for stamps in _parts(pending):
            connection.execute(delete(table).where(table.c.stamp.in_(stamps)))
        connection.execute(delete(meta).where(meta.c.key == KEY))
        connection.execute(insert(meta), {"key": KEY, "value": today})


def _digest(db: Database, standards: Sequence[Standard]) -> str:
    """What tables follow from beside the rows: installed versions of all that is stored, protocols, aliases."""
    installed = standing.Installed()
    parts: set[str] = {"trainer", "evaluator"}
    run, attack = schema.Run, schema.Attack
    for row in db.rows(select(cast(run.versions, Text).label("versions")).distinct()):  # JSON knows no equality
        parts |= _parts_of(row["versions"])
    parts |= {f"attacks/{row['plugin']}" for row in db.rows(select(attack.plugin).distinct())}
    protocols = [[one.label, one.standard_id, one.seeds] for one in standards]
    names = [] if db.names is None else sorted(map(list, db.names.aliases.items()))
    return content_id([sorted((part, installed.version(part)) for part in parts), protocols, names])


def _rename(db: Database) -> None:
    """Store runs under the names that their recipes have here, so that SQL finds all runs of a recipe by one."""
    run = _table(schema.Run)
    for (dataset, alias), name in (db.names.aliases if db.names is not None else {}).items():
        for old, new in ((alias, name), (claimed(alias), claimed(name))):
            found = db.rows(select(run.c.run_id).where(run.c.dataset == dataset, run.c.recipe == old))
            for part in _parts(row["run_id"] for row in found):
                with db.batch(), db.write() as connection:
                    for row in db.rows(select(run.c.run_id, run.c.config).where(run.c.run_id.in_(part))):
                        config = row["config"]
                        values = {"config": told_today(db.names, config)} if isinstance(config, dict) else {}
                        this = run.c.run_id == row["run_id"]
                        connection.execute(update(run).where(this).values(recipe=new, **values))


def _parts_of(versions: Any) -> set[str]:
    """The parts that a column `versions` names; none of a damaged one."""
    try:
        found = strict_json.parse(versions)
    except (TypeError, ValueError):
        return set()
    return set(found) if isinstance(found, dict) else set()


def _known(db: Database) -> str | None:
    meta = schema.Meta
    found = db.rows(select(meta.value).where(meta.key == KEY))
    return found[0]["value"] if found else None


def _families(db: Database) -> list[str]:
    query = select(schema.Run.family_id).distinct().order_by(schema.Run.family_id)
    return [row["family_id"] for row in db.rows(query)]


def _families_of(db: Database, run_ids: set[str]) -> list[str]:
    """The families of these runs, and those that were attacked with images made on one of them."""
    run, evaluation, attack = schema.Run, schema.Evaluation, schema.Attack
    found = {
        row["family_id"]
        for part in _parts(sorted(run_ids))
        for row in db.rows(select(run.family_id).where(run.run_id.in_(part)).distinct())
    }
    attacked = (
        select(run.family_id, attack.settings)
        .join(evaluation, evaluation.run_id == run.run_id)
        .join(attack, attack.attack_key == evaluation.attack_key)
        .where(evaluation.kind.in_(USING_SURROGATES))
    )
    found |= {row["family_id"] for row in db.rows(attacked) if run_ids.intersection(surrogates(row["settings"]))}
    return sorted(found)


def _parts(keys: Iterable[str]) -> Iterator[list[str]]:
    waiting = iter(keys)
    while part := list(islice(waiting, CHUNK)):
        yield part


def _standings(measured: standing.Measured) -> Iterator[dict[str, Any]]:
    for run in measured.runs:
        worth = measured.standings.of(run.run_id)
        if not worth.is_current:
            yield {"id": run.run_id, "kind": "run", "run_id": run.run_id, "state": worth.state, "why": [*worth.why]}
    for row in measured.rows:
        worth = measured.standings.of(row.evaluation_id)
        if not worth.is_current:
            yield {
                "id": row.evaluation_id, "kind": "evaluation", "run_id": row.run_id, "state": worth.state,
                "why": [*worth.why],
            }  # fmt: skip


def _score(score: Score) -> dict[str, Any]:
    standard = score.standard
    return {
        "run_id": score.run.run_id,
        "protocol": standard.name,
        "version": standard.version,
        "eps": standard.eps,
        "standard_id": standard.standard_id,
        "recipes": recipe_class(score.run),
        "n": len(score.robust),
        "n_clean": int(score.clean.sum()),
        "n_robust": int(score.robust.sum()),
        "n_lowest": int(score.lowest.sum()),
        "seeds_demanded": standard.seeds,
        "n_lacking": len(score.lacking),
        "lacking": [part.label for part in score.lacking],
    }


def _replace(
    connection: Connection, run_ids: list[str], standings: Iterable[dict[str, Any]], found: Iterable[dict[str, Any]]
) -> None:
    if connection.dialect.name == "postgresql":  # SQLite's transactions that write are alone from their start
        connection.execute(text("LOCK TABLE standing IN SHARE ROW EXCLUSIVE MODE"))
    run = schema.Run
    here = set(connection.scalars(select(run.run_id).where(run.run_id.in_(run_ids))))  # others have gone meanwhile
    for model, every in ((schema.Standing, standings), (schema.Score, found)):
        table = _table(model)
        connection.execute(delete(table).where(table.c.run_id.in_(run_ids)))
        rows = [row for row in every if row["run_id"] in here]
        if rows:
            connection.execute(insert(table), rows)


def _table(model: type[schema.Base]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table
