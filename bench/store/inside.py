"""What evaluations hold in other tables, counted by the database: whether it fits what their rows say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, case, func, literal, select

from bench.core.numbers import ENSEMBLE
from bench.store.schema import CleanRow, Evaluation, Outcome, Run, Transfer
from bench.store.sound import evaluation_named, set_aside

if TYPE_CHECKING:
    from bench.store.database import Database


SPOILT = 10**6  # more than any matrix has cells of


def _members(column: Any, *, ensemble: bool) -> ColumnElement[bool]:
    return and_(column >= (ENSEMBLE if ensemble else 0), column < Run.members)


def _fits(column: Any) -> ColumnElement[bool]:
    """Whether bits are of n images."""
    size = func.length(column)
    return and_(8 * size >= Evaluation.n, 8 * size < Evaluation.n + 8)


def _of_matrix(table: Any, *whose: ColumnElement[bool]) -> ColumnElement[int]:
    """How many sound rows a matrix has in a table, a negative number where one is not; 0 of any other evaluation."""
    each = case((and_(_fits(table.bits), *whose), 1), else_=-SPOILT)
    counted = select(func.coalesce(func.sum(each), 0)).where(table.evaluation_id == Evaluation.evaluation_id)
    return case((Evaluation.kind == "transfer", counted.correlate(Evaluation, Run).scalar_subquery()), else_=literal(0))


COLUMNS = (
    func.length(Outcome.clean_bits).label("clean_size"),
    func.length(Outcome.robust_bits).label("robust_size"),
    func.substr(Outcome.clean_bits, func.length(Outcome.clean_bits), 1).label("clean_last"),
    func.substr(Outcome.robust_bits, func.length(Outcome.robust_bits), 1).label("robust_last"),
    _of_matrix(CleanRow, _members(CleanRow.target, ensemble=True)).label("clean_rows"),
    _of_matrix(Transfer, _members(Transfer.source, ensemble=False), _members(Transfer.target, ensemble=True)).label(
        "cells"
    ),
)
"""To be selected beside the columns of an evaluation joined with its run and, from outside, its outcome."""


def whole(db: Database, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, without `COLUMNS`, whose outcomes are all there; others are set aside and told."""
    names = [column.name for column in COLUMNS]
    for row in rows:
        found = {name: row.pop(name) for name in names}
        why = _lacking(row, found)
        if why:
            set_aside(db, evaluation_named(row), why)
        else:
            yield row


def _lacking(row: dict[str, Any], found: dict[str, Any]) -> str:
    n, members = row["n"], row["members"]  # of a sound run
    if not isinstance(n, int) or n < 1 or members < 1:
        return ""  # the check of the row itself says so
    size = (n + 7) // 8
    if found["clean_size"] != size:
        return f"its outcomes are not those of {n} images"
    if (row["n_robust"] is None) != (found["robust_size"] is None) or found["robust_size"] not in (None, size):
        return f"its outcomes after the attack are not those of {n} images"
    beyond = (1 << (8 * size - n)) - 1  # bits of the last byte that stand for no image
    for last in (found["clean_last"], found["robust_last"]):
        if not isinstance(last, bytes | memoryview | None):
            return "its outcomes are not bits"
        if last is not None and last[0] & beyond:
            return f"its outcomes are of more than {n} images"
    if row["kind"] == "transfer" and found["clean_rows"] != members + 1:
        return f"clean outcomes of other networks than {members} members and the ensemble, or of other images"
    if row["kind"] == "transfer" and found["cells"] != members * (members + 1):
        return f"its cells are not the {members * (members + 1)} of a matrix of {members} members"
    return ""
