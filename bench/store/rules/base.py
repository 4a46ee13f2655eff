"""What a check is, and how one is declared: its words beside its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from bench.core import registry
from bench.core.errors import BenchError
from bench.store.typed_rows import EvaluationRow

Severity = Literal["invalid", "suspect", "note"]
Rows = Sequence[EvaluationRow]


@dataclass(frozen=True)
class Flag:
    """What may be wrong with a result.

    Attributes:
        id: short name, as in `--json` and in the database of a site.
        severity: `invalid` (the number means nothing), `suspect` (it may be too high or too low), or `note` (it is
            what it says, and a reader should know more).
        when: when it is raised.
        explanation: what that may mean, and what to do.
        needs: names of `NEEDS`: what must have been measured for the rule to say anything.
        decisive: whether a run is believed only where this was looked at.
        source: where the check is from.
    """

    id: str
    severity: Severity
    when: str
    explanation: str
    needs: tuple[str, ...] = ()
    decisive: bool = False
    source: str = "bench"


OfOne = Callable[[EvaluationRow], Iterator[str]]
OfRun = Callable[[Rows], Iterator[tuple[EvaluationRow, str]]]
OfCell = Callable[[Rows], str]
Lacking = Callable[[Rows], Iterator[str]]
FLAGS: dict[str, Flag] = {}
NEEDS: dict[str, Lacking] = {}
"""What a check can need → why the results of one run do not have it, a reason each; nothing where they have."""
ONE: dict[str, OfOne] = {}
RUN: dict[str, OfRun] = {}
CELL: dict[str, OfCell] = {}
R = TypeVar("R", OfOne, OfRun, OfCell)


def rule(
    where: dict[str, R], identifier: str, severity: Severity, when: str, explanation: str, *,
    needs: tuple[str, ...] = (), decisive: bool = False, source: str = "bench",
) -> Callable[[R], R]:  # fmt: skip
    """A flag beside its rule, which yields the evidence where it is raised."""

    def added(function: R) -> R:
        FLAGS[identifier] = Flag(identifier, severity, when, explanation, needs, decisive, source)
        where[identifier] = function
        return function

    return added


def need(name: str) -> Callable[[Lacking], Lacking]:
    """What checks can need, beside the rule that says why it is lacking."""

    def added(function: Lacking) -> Lacking:
        NEEDS[name] = function
        return function

    return added


def robust(row: EvaluationRow) -> float:
    """The share of all images that stand."""
    assert row.n_robust is not None
    return row.n_robust / row.n


def told(row: EvaluationRow) -> str:
    """An attack and what it leaves, as evidence says it."""
    return f"{row.label}: {100 * robust(row):.1f} %"


def trait(plugin: str, name: str) -> Any:
    """A class attribute of an attack; None where its package is gone."""
    try:
        get: Callable[..., Any] = getattr
        return get(registry.load("attacks", plugin), name, None)
    except BenchError:
        return None


def white_box(rows: Rows) -> list[EvaluationRow]:
    """The attacks that say something about masked gradients: not those without any, or led to a class (harder)."""
    return [
        row
        for row in rows
        if row.kind == "attack" and row.targets is None and row.n_robust is not None
        and trait(row.plugin, "norm") == "linf" and trait(row.plugin, "needs_gradient")
    ]  # fmt: skip
