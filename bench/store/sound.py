"""The second line of defence: rows that cannot be what a job wrote are set aside, with one line each.

Files are checked when they are taken in; but a database may hold rows of an older bench, or of anybody's hand. Readers
ask through here, so that one bad row costs one line of warning and nothing else.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from bench.core.identity import short

if TYPE_CHECKING:
    from bench.store.database import Database

log = logging.getLogger(__name__)

R = TypeVar("R")
NameOfRow = Callable[[dict[str, Any]], str]


def sound(db: Database, kind: type[R], rows: Iterable[dict[str, Any]], named: NameOfRow) -> list[R]:
    """The rows as objects of `kind`, a class of `typed_rows`; those that do not fit are set aside, with a warning.

    Args:
        named: what a row is, with its id: `run 4f0c1a…`.
    """
    rows = list(rows)
    if not rows:
        return []
    from bench.store.checks import fault_in  # pydantic takes a while

    found = []
    for row in rows:
        if why := fault_in(kind, row):
            set_aside(db, named(row), why)
        else:
            found.append(kind(**row))
    return found


def set_aside(db: Database, name: str, why: str) -> None:
    """Say once for each opening of the database what is left out, and what to do about it."""
    if name not in db.set_aside:
        db.set_aside.add(name)
        log.warning(
            "%s is damaged in database %s and left out: %s; `bench db rebuild` takes it from its file again%s",
            name, db, why, _or_delete(name),
        )  # fmt: skip


def run_named(row: dict[str, Any]) -> str:
    """`run 4f0c1a… of trs`."""
    return f"run {short(str(row['run_id']))} ({row['method']} on {row['dataset']})"


def evaluation_named(row: dict[str, Any]) -> str:
    """`evaluation 77ab09… (pgd)`."""
    return f"evaluation {short(str(row['evaluation_id']))} ({row['attack']})"


def _or_delete(name: str) -> str:
    what, identifier, *_ = name.split()
    return f", `bench db delete {identifier}` removes it" if what in ("run", "evaluation") else ""


def columns(kind: Any) -> list[str]:
    """The names of a row's fields."""
    return [field.name for field in dataclasses.fields(kind)]
