"""Ids by their first digits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from bench.core.errors import BenchError
from bench.core.identity import ID_LENGTH, short
from bench.store.answers import Found
from bench.store.database import Database, Query
from bench.store.schema import Evaluation, Run


def find(db: Database, prefix: str, kinds: tuple[str, ...] = ("run", "evaluation")) -> Found:
    """The one run or evaluation (of `kinds`) whose id begins with `prefix`.

    Raises:
        BenchError: none or several do; the message lists candidates.
    """
    what = " or ".join(kinds)
    wanted = prefix.strip().lower()
    if not wanted or len(wanted) > ID_LENGTH or set(wanted) - set("0123456789abcdef"):
        raise BenchError(
            f"{prefix!r} is no id of a {what}: give its first hexadecimal digits, as `bench list runs` shows"
        )
    found: list[tuple[Found, str]] = []
    for kind, key in (("run", Run.run_id), ("evaluation", Evaluation.evaluation_id)):
        if kind not in kinds:
            continue
        query: Query = select(key.label("id"), Run.run_id, Run.method, Run.dataset, Run.seed)
        if kind == "evaluation":
            query = query.add_columns(Evaluation.attack).join(Run, Run.run_id == Evaluation.run_id)
        # A range uses the index of the primary key in every database, where LIKE may not.
        for row in db.rows(query.where(key >= wanted, key < wanted + "g").order_by(key).limit(6)):
            found.append(
                (
                    Found(
                        kind=kind,
                        id=row["id"],
                        run_id=row["run_id"],
                        label=f"{row['method']} on {row['dataset']}, seed {row['seed']}",
                    ),
                    _label(row),
                )
            )
    if len(found) == 1:
        return found[0][0]
    if found:
        listed = ", ".join(label for _, label in found[:5]) + (" …" if len(found) > 5 else "")
        raise BenchError(f"{prefix!r} is ambiguous, type more of: {listed}")
    latest = select(Run.run_id.label("id"), Run.method, Run.dataset, Run.seed).order_by(Run.started.desc()).limit(3)
    known = ", ".join(_label(row) for row in db.rows(latest))
    raise BenchError(f"no {what} begins with {prefix!r}; {f'latest runs: {known}' if known else 'there is none yet'}")


def _label(row: dict[str, Any]) -> str:
    attack = f"{row['attack']} on " if "attack" in row else ""
    return f"{short(row['id'])} ({attack}{row['method']}, {row['dataset']}, seed {row['seed']})"
