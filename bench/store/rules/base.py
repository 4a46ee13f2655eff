"""What a check is, and how one is declared: its words beside its rule."""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class Stronger:
    """An attack that breaks more than others in its ball leave standing.

    Attributes:
        by: the evaluation that shows it.
        attack: the plug-in or the stage that is stronger; evaluations of this plug-in cannot say that it is taken in.
        left: share of all images that it leaves.
        limit: by how much, as a share of all images, others may leave more.
        weak: the evaluations whose numbers it can speak against.
        evidence: the numbers, in words.
    """

    by: EvaluationRow
    attack: str
    left: float
    limit: float
    weak: Rows
    evidence: str


OfOne = Callable[[EvaluationRow], Iterator[str]]
OfRun = Callable[[Rows], Iterator[tuple[EvaluationRow, str]]]
OfBall = Callable[[Rows], Iterator[Stronger]]
OfCell = Callable[[Rows], str]
Lacking = Callable[[Rows], Iterator[str]]
FLAGS: dict[str, Flag] = {}
NEEDS: dict[str, Lacking] = {}
"""What a check can need → why the results of one run do not have it, a reason each; nothing where they have."""
ONE: dict[str, OfOne] = {}
RUN: dict[str, OfRun] = {}
BALL: dict[str, OfBall] = {}
CELL: dict[str, OfCell] = {}
R = TypeVar("R", OfOne, OfRun, OfBall, OfCell)
ROUNDING = 1e-9  # of a share: far less than one image


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


def pixels(row: EvaluationRow) -> int | None:
    """How many numbers an image has, d = C·H·W; None where no data set is registered under the name, or it may vary."""
    shape = trait(row.dataset, "shape", kind="datasets")
    return math.prod(shape) if isinstance(shape, tuple) else None


def trait(plugin: str, name: str, *, kind: str = "attacks") -> Any:
    """A class attribute of an attack, or of a plug-in of another kind; None where its package is gone."""
    try:
        get: Callable[..., Any] = getattr
        return get(registry.load(kind, plugin), name, None)
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


def ball(rows: Rows, row: EvaluationRow) -> list[EvaluationRow]:
    """The white-box attacks with the same radius and in the same precision, the row itself among them if it is one."""
    return [other for other in white_box(rows) if (other.budget, other.precision) == (row.budget, row.precision)]


def stages(row: EvaluationRow) -> dict[str, int]:
    """Of several attacks that follow each other: how many images each broke."""
    found = row.measurements.get("stages") or [] if row.kind == "attack" else []
    return {stage["attack"]: stage["broken"] for stage in found}


def through_members(stage: str) -> bool:
    """Whether a stage makes its images on the members instead of the ensemble."""
    return stage.startswith(("mean of", "member"))


def against_gradients(row: EvaluationRow) -> float:
    """The share of all images that an attack leaves by the gradients of the ensemble alone."""
    others = [count for name, count in stages(row).items() if name == "square" or through_members(name)]
    return robust(row) + sum(others) / row.n


def weigh(rows: Rows, found: Stronger) -> tuple[list[EvaluationRow], str]:
    """Which evaluations a stronger attack speaks against, and which attack on the ensemble has taken it in.

    It is taken in where another attack in the same ball leaves as little (within the limit) by the gradients of the
    ensemble: then numbers above it are too high, and the lowest of the run is not. Square and images made on members
    do not count here: where only they get so far, the gradients are masked, and even the row that they are part of
    may be too high. Shares are compared, whatever the number of images.

    Returns:
        The rows of `found.weak` that it speaks against, and the label of the attack; "" where nothing has taken it in.
    """
    most = found.left + found.limit + ROUNDING
    weak = [row for row in found.weak if against_gradients(row) > most]
    if not weak:
        return [], ""
    beside = [row for row in ball(rows, found.by) if row.plugin != found.attack]
    lowest = min(beside, key=against_gradients, default=None)
    if lowest is not None and against_gradients(lowest) <= most:
        return [row for row in weak if robust(row) > most], lowest.label
    return weak, ""
