"""Flags: reasons to doubt a result, found anew each time from what jobs stored; and the verdict on a run.

A flag is a query over measurements and counts (`bench.store.rules`), so that one can be added or corrected without
running anything again. An `invalid` result enters no mean; a `suspect` one is shown with †; a `note` says more of a
number and is no doubt about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.store.rules import compared as _compared  # noqa: F401 - its rules join the tables below
from bench.store.rules import deep as _deep  # noqa: F401
from bench.store.rules import single as _single  # noqa: F401
from bench.store.rules.base import BALL, CELL, NEEDS, ONE, RUN, Flag, Rows, weigh
from bench.store.rules.base import FLAGS as FLAGS
from bench.store.rules.deep import is_gradient_free as is_gradient_free
from bench.store.typed_rows import EvaluationRow

Opinion = Literal["believed", "doubtful", "not checked enough"]


class Raised(NamedTuple):
    """A flag and the numbers that raised it; `taken_in` names the attack on the ensemble that is as strong, if any."""

    flag: Flag
    evidence: str
    taken_in: str = ""


Flagged = dict[str, tuple[Raised, ...]]


@dataclass(frozen=True)
class AuditVerdict:
    """Whether the robust accuracy of a run is to be believed; `why` is the evidence, a sentence each.

    Of a run that is believed: which of its numbers are too high, and which attack has taken that in.
    """

    opinion: Opinion
    why: tuple[str, ...] = ()


def alone(row: EvaluationRow) -> tuple[Raised, ...]:
    """The flags that an evaluation raises by itself; only these can say that a number means nothing."""
    return tuple(Raised(FLAGS[name], evidence) for name, rule in ONE.items() for evidence in rule(row))


def together(rows: Iterable[EvaluationRow]) -> Flagged:
    """The flags that come of comparing results, by evaluation; those without any are left out.

    Compared are results of the same run, or of the same family for seeds, in the same precision. `rows` are those that
    count (`bench.store.standing`): an older version's number says nothing about today's.
    """
    found: dict[str, list[Raised]] = defaultdict(list)
    by_run: dict[str, list[EvaluationRow]] = defaultdict(list)
    by_cell: dict[tuple[str, str, str], list[EvaluationRow]] = defaultdict(list)
    for row in rows:
        by_run[row.run_id].append(row)
        if row.n_robust is not None and row.kind not in ("craft", "judged"):
            by_cell[row.family_id, row.attack_key, row.images_digest].append(row)
    for group in by_run.values():
        for name, of_run in RUN.items():
            for row, evidence in of_run(group):
                found[row.evaluation_id].append(Raised(FLAGS[name], evidence))
        for name, of_ball in BALL.items():
            for stronger in of_ball(group):
                against, taken_in = weigh(group, stronger)
                for row in against:
                    found[row.evaluation_id].append(Raised(FLAGS[name], stronger.evidence, taken_in))
    for group in by_cell.values():
        for name, of_cell in CELL.items():
            if evidence := of_cell(group):
                for row in group:
                    found[row.evaluation_id].append(Raised(FLAGS[name], evidence))
    return {key: tuple(raised) for key, raised in found.items()}


def is_invalid(raised: Iterable[Raised]) -> bool:
    """Whether one of the flags says that the number means nothing."""
    return any(item.flag.severity == "invalid" for item in raised)


def doubts(raised: Iterable[Raised]) -> list[Raised]:
    """Those of the flags that cast doubt on a number; the others are notes."""
    return [item for item in raised if item.flag.severity != "note"]


def unchecked(rows: Rows) -> list[str]:
    """What could not be looked at for the rows of one run, a line for each reason: `flag, flag: why`."""
    return [f"{', '.join(names)}: {reason}" for reason, names in _lacking(rows, FLAGS.values()).items()]


def not_looked_for(rows: Rows) -> list[str]:
    """The flags that could not be looked for in the rows of one run, each once and in the order of `FLAGS`."""
    lacking = {name for names in _lacking(rows, FLAGS.values()).values() for name in names}
    return [name for name in FLAGS if name in lacking]


def _lacking(rows: Rows, wanted: Iterable[Flag]) -> dict[str, list[str]]:
    """Why flags could not be looked for → which."""
    reasons: dict[str, list[str]] = {}
    for flag in wanted:
        for name in flag.needs:
            for reason in NEEDS[name](rows):
                reasons.setdefault(reason, []).append(flag.id)
    return reasons


def verdict(rows: Rows, raised: Flagged) -> AuditVerdict:
    """Whether the robust accuracy of one run is to be believed.

    *Doubtful*: a flag casts doubt on its attacks in a ball, or on what else the audit measured. (CW and EAD have no
    ball, and so no radius to be robust in; a flag on them stands on their row alone. So does one that says that another
    attack is stronger, where an attack on the ensemble has taken that in: the lowest number is sound.) *Believed*: none
    does, and all that is decisive was looked at. *Not checked enough*: anything else.

    Args:
        rows: the evaluations of the run that count.
        raised: their flags.
    """
    against: dict[tuple[str, str], None] = {}
    too_high: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for row in rows:
        if row.kind != "craft" and row.budget_name != "c":
            for item in doubts(raised.get(row.evaluation_id, ())):
                if item.taken_in:
                    too_high[item.flag.id, item.taken_in][row.label] = None
                else:
                    against[item.flag.id, item.evidence] = None
    if against:
        return AuditVerdict("doubtful", tuple(f"{name}: {evidence}" for name, evidence in against))
    lacking = _lacking(rows, (flag for flag in FLAGS.values() if flag.decisive))
    if lacking:
        return AuditVerdict("not checked enough", tuple(f"{', '.join(names)}: {why}" for why, names in lacking.items()))
    return AuditVerdict(
        "believed",
        tuple(
            f"{name}: {', '.join(labels)} too high; {taken_in} has taken it in"
            for (name, taken_in), labels in too_high.items()
        ),
    )
