"""The run or evaluation that the first digits of an id stand for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from bench.core.errors import BenchError
from bench.core.identity import ID_LENGTH, short
from bench.experiment.labels import run_label
from bench.store.database import Database, Query
from bench.store.schema import Evaluation, Job, Run
from bench.store.typed_rows import Match

KINDS = ("run", "evaluation", "failure")


def find(db: Database, prefix: str, kinds: tuple[str, ...] = ("run", "evaluation")) -> Match:
    """The one run or evaluation (of `kinds`) whose id begins with `prefix`; kind `failure`: what failed instead.

    Raises:
        BenchError: none or several do; the message lists candidates, or says what else the id is of.
    """
    what = " or ".join(kind for kind in kinds if kind != "failure")
    wanted = prefix.strip().lower()
    if not wanted or len(wanted) > ID_LENGTH or set(wanted) - set("0123456789abcdef"):
        raise BenchError(
            f"{prefix!r} is not an id of a {what}: give its first hexadecimal digits, as `bench list runs` shows"
        )
    found = _begun(db, wanted, kinds)
    if len(found) == 1:
        return found[0][0]
    if found:
        raise BenchError(f"{prefix!r} is ambiguous, type more of: {_listed(found)}")
    if others := _begun(db, wanted, tuple(kind for kind in KINDS if kind not in kinds)):
        raise BenchError(_other(prefix, what, others))
    latest = select(Run.run_id.label("id"), Run.method, Run.dataset, Run.seed).order_by(Run.started.desc()).limit(3)
    last = ", ".join(_label(row) for row in db.rows(latest))
    raise BenchError(f"no {what} begins with {prefix!r}; {f'latest runs: {last}' if last else 'there is none yet'}")


def _begun(db: Database, wanted: str, kinds: tuple[str, ...]) -> list[tuple[Match, str]]:
    """Everything of these kinds whose id begins so, with its label; of many a few."""
    found: list[tuple[Match, str]] = []
    for kind, key in (("run", Run.run_id), ("evaluation", Evaluation.evaluation_id)):
        if kind not in kinds:
            continue
        query: Query = select(key.label("id"), Run.run_id, Run.method, Run.dataset, Run.seed, Run.members)
        if kind == "evaluation":
            query = query.add_columns(Evaluation.attack).join(Run, Run.run_id == Evaluation.run_id)
        # A range uses the index of the primary key in every database, where LIKE may not.
        for row in db.rows(query.where(key >= wanted, key < wanted + "g").order_by(key).limit(6)):
            item = Match(kind=kind, id=row["id"], run_id=row["run_id"], label=_subject(row))
            found.append((item, _label(row)))
    if "failure" in kinds:
        known = {item.id for item, _ in found}
        failures = select(Job.job_id.label("id"), Job.run_id, Job.describe).where(Job.status == "failed")
        failures = failures.where(Job.run_id.is_not(None), Job.job_id >= wanted, Job.job_id < wanted + "g")
        for row in db.rows(failures.order_by(Job.job_id, Job.started.desc())):
            if row["id"] not in known:
                known.add(row["id"])
                told = {"attack": None, **(row["describe"] or {}), "id": row["id"]}
                item = Match(kind="failure", id=row["id"], run_id=row["run_id"], label=_subject(told))
                found.append((item, _label(told)))
    return found


def _other(prefix: str, what: str, others: list[tuple[Match, str]]) -> str:
    """What to say where nothing that is wanted begins so, and something else does."""
    (item, label), *more = others
    if more:
        return f"no {what} begins with {prefix!r}, but {others[0][0].kind}s do: {_listed(others)}"
    if item.kind == "failure":
        return f"{prefix} failed, so nothing is stored of it; `bench show {prefix}` says why"
    if item.kind == "run":
        return f"{prefix} is a run: {label}; `bench show {prefix}` lists the ids of its evaluations"
    return f"{prefix} is an evaluation: {label}; give the id of its run: {short(item.run_id)}"


def _listed(found: list[tuple[Match, str]]) -> str:
    return ", ".join(label for _, label in found[:5]) + (" …" if len(found) > 5 else "")


def _label(row: dict[str, Any]) -> str:
    attack = f"{row['attack']} on " if row.get("attack") else ""
    return f"{short(row['id'])} ({attack}{row.get('method')}, {row.get('dataset')}, seed {row.get('seed')})"


def _subject(row: dict[str, Any]) -> str:
    return run_label(*(row.get(name) for name in ("method", "dataset", "seed", "members")))
