"""Flags: reasons to doubt a result, found anew each time from what jobs stored.

A flag is a query over measurements and counts, so that one can be added or corrected without running anything again.
An `invalid` result enters no mean; a `suspect` one is shown with †.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

from bench.core import registry
from bench.core.errors import BenchError
from bench.core.identity import canonical
from bench.core.precision import USUAL, Precision, titled
from bench.store.typed_rows import EvaluationRow

EXCESS = 1e-4  # outside the ball or [0, 1] by more than rounding
SHARE = 0.01  # of the attacked images
NOISE = 0.005  # of all images: robust accuracy may rise by this much with ε
MASKING = 0.02  # of all images: by how much an iterative attack may be weaker than FGSM
CHANCE = 3.0  # standard errors that a share may differ by where one side is measured on a part of the images
LAST, RISE = 0.1, 0.1  # in the last tenth of the steps the loss rises by more than a tenth of its whole rise
SPREAD, POINTS = 0.1, 0.01  # standard deviation over seeds: share of the mean, and of all images


@dataclass(frozen=True)
class Flag:
    """What may be wrong with a result.

    Attributes:
        id: short name, as in `--json` and in the database of a site.
        severity: `invalid` (the number means nothing) or `suspect` (it may be too high or too low).
        when: when it is raised.
        explanation: what that may mean, and what to do.
    """

    id: str
    severity: Literal["invalid", "suspect"]
    when: str
    explanation: str


FLAGS: dict[str, Flag] = {}

Rows = Sequence[EvaluationRow]
OfOne = Callable[[EvaluationRow], Iterator[str]]
OfRun = Callable[[Rows], Iterator[tuple[EvaluationRow, str]]]
OfCell = Callable[[Rows], str]
_ONE: dict[str, OfOne] = {}
_RUN: dict[str, OfRun] = {}
_CELL: dict[str, OfCell] = {}
R = TypeVar("R", OfOne, OfRun, OfCell)


def _rule(
    where: dict[str, R], identifier: str, severity: Literal["invalid", "suspect"], when: str, explanation: str
) -> Callable[[R], R]:
    """A flag beside its rule, which yields the evidence where it is raised."""

    def added(rule: R) -> R:
        FLAGS[identifier] = Flag(identifier, severity, when, explanation)
        where[identifier] = rule
        return rule

    return added


class Raised(NamedTuple):
    """A flag and the numbers that raised it."""

    flag: Flag
    evidence: str


Flagged = dict[str, tuple[Raised, ...]]


def alone(row: EvaluationRow) -> tuple[Raised, ...]:
    """The flags that an evaluation raises by itself; only these can say that a number means nothing."""
    return tuple(Raised(FLAGS[name], evidence) for name, rule in _ONE.items() for evidence in rule(row))


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
        for name, of_run in _RUN.items():
            for row, evidence in of_run(group):
                found[row.evaluation_id].append(Raised(FLAGS[name], evidence))
    for group in by_cell.values():
        for name, of_cell in _CELL.items():
            if evidence := of_cell(group):
                for row in group:
                    found[row.evaluation_id].append(Raised(FLAGS[name], evidence))
    return {key: tuple(raised) for key, raised in found.items()}


def is_invalid(raised: Iterable[Raised]) -> bool:
    """Whether one of the flags says that the number means nothing."""
    return any(item.flag.severity == "invalid" for item in raised)


def unchecked(rows: Rows) -> list[str]:
    """What could not be looked at for the rows of one run, and why."""
    kinds = {row.kind for row in rows}
    reasons = []
    if "attack" not in kinds:
        reasons.append("attacks: none was run")
    clean = [row for row in rows if row.kind == "clean"]
    if not any("random_output" in row.measurements for row in clean):
        reasons.append("random-output: no clean evaluation measured it")
    if "blackbox" not in kinds:
        reasons.append("black-box-stronger: the black-box suite was not run (--suite figure2)")
    else:
        reasons += _not_beside_black_box(rows)
    attacks = [row for row in rows if row.kind == "attack"]
    with_fgsm = {row.precision for row in attacks if row.plugin == "fgsm"}
    for precision in dict.fromkeys(row.precision for row in attacks) or (USUAL,):
        if precision not in with_fgsm:
            reasons.append(titled("weaker-than-fgsm: FGSM was not run", precision))
    if not any(len(group) > 1 for group in _same_attack(rows).values()):
        reasons.append("rises-with-budget: no attack was run with two budgets")
    return reasons


def _not_beside_black_box(rows: Rows) -> list[str]:
    """Why no white-box attack can be held against the black-box suite, where they asked in another precision only."""
    suite = {row.precision for row in rows if row.kind == "blackbox"}
    asked = {row.precision for row in _white_box(rows)}
    if not asked or asked & suite:
        return []
    return [f"black-box-stronger: no white-box attack was run in {' or '.join(sorted(suite))}, as the suite is"]


# ---- one evaluation


@_rule(
    _ONE, "outside-budget", "invalid", "an adversarial image lies outside the ball or [0, 1]",
    "The attack used more than its budget; the robust accuracy is too low.",
)  # fmt: skip
def _outside_budget(row: EvaluationRow) -> Iterator[str]:
    for which, part in _parts(row):
        if (excess := part.get("largest_excess") or 0.0) > EXCESS:
            yield f"{which}outside by {excess:.2g}"


@_rule(
    _ONE, "not-finite", "invalid", "a loss was NaN or infinite",
    "Images whose loss is not a number were not attacked; the robust accuracy is too high.",
)  # fmt: skip
def _not_finite(row: EvaluationRow) -> Iterator[str]:
    for which, part in _parts(row):
        if (bad := _first_bad(part)) is not None:
            yield f"{which}loss is not finite at step {bad}"


@_rule(
    _ONE, "robust-above-clean", "invalid", "more images are right after the attack than before",
    "An image that is wrong when clean was counted as robust.",
)  # fmt: skip
def _robust_above_clean(row: EvaluationRow) -> Iterator[str]:
    if row.n_robust is not None and row.n_robust > row.n_clean:
        yield f"{row.n_robust} of {row.n} right after the attack, {row.n_clean} before"


@_rule(
    _ONE, "zero-gradient", "suspect", "the gradient is exactly zero on more than 1 % of the attacked images",
    "Gradient masking: quantisation or a saturated softmax stops gradient attacks. Try apgd_dlr, cw, mora and "
    "the black-box suite.",
)  # fmt: skip
def _zero_gradient(row: EvaluationRow) -> Iterator[str]:
    yield from _many(row, "zero_gradients")


@_rule(
    _ONE, "unmoved", "suspect", "the attack left more than 1 % of the attacked images as they were",
    "These images were not attacked at all; the robust accuracy is too high.",
)  # fmt: skip
def _unmoved(row: EvaluationRow) -> Iterator[str]:
    yield from _many(row, "unmoved")


@_rule(
    _ONE, "still-rising", "suspect", "over the last tenth of the steps the loss rises by a tenth of its whole rise",
    "The attack has not converged; more steps would lower the robust accuracy.",
)  # fmt: skip
def _still_rising(row: EvaluationRow) -> Iterator[str]:
    for which, part in _finite(row):
        rises = (stage + rise for stage, values in _stages(part) if (rise := _rise(row, values)))
        if (first := next(rises, None)) is not None:
            yield which + first


def _parts(row: EvaluationRow) -> list[tuple[str, Mapping[str, Any]]]:
    """What an attack measured, once for each network that it attacked, with words that name the network."""
    if row.kind == "transfer":
        return [(f"member {part['source'] + 1}: ", part) for part in row.measurements.get("sources", [])]
    return [("", row.measurements)] if row.kind == "attack" else []


def _finite(row: EvaluationRow) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts whose losses are all numbers; of the others no more is said than that (`not-finite`)."""
    return (each for each in _parts(row) if _first_bad(each[1]) is None)


def _many(row: EvaluationRow, key: str) -> Iterator[str]:
    for which, part in _finite(row):
        attacked, count = part.get("attacked") or 0, part.get(key) or 0
        if row.budget and attacked and count > SHARE * attacked:
            yield f"{which}{count} of {attacked} attacked images"


def _stages(part: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[float]]]:
    """The loss curve of each stage of an attack, with words that name it; most have one, and so have older records."""
    curve, start = part.get("loss_curve") or [], 0
    for name, steps in part.get("loss_stages") or [("", len(curve))]:
        yield f"{name}: " if name else "", curve[start : start + steps]
        start += steps


def _first_bad(part: Mapping[str, Any]) -> int | None:
    """The first step whose loss is not a number; None without any."""
    curve = enumerate(part.get("loss_curve") or [])
    return next((i for i, value in curve if not isinstance(value, (int, float)) or not math.isfinite(value)), None)


def _rise(row: EvaluationRow, curve: Sequence[float]) -> str:
    """Whether the loss is still rising at the end; the mean is over the images that still stand.

    Images leave when they break, with the largest losses: that lowers the mean, so a rise is a real one. An attack
    whose steps add up to no more than the radius (BIM) is at its end by construction and is not looked at.
    """
    length = row.settings.get("rel_step", math.inf)
    reach = (row.steps or 0) * length if isinstance(length, int | float) else math.inf
    if row.budget_name != "eps" or len(curve) < 20 or reach <= 1 + 1e-9:
        return ""
    window = max(1, round(LAST * len(curve)))
    last, before = statistics.fmean(curve[-2:]), statistics.fmean(curve[-2 - window : -window])
    whole = max(curve) - min(curve[: len(curve) // 2])
    if whole > 0 and last - before > RISE * whole and last > before * 1.01:
        return f"mean loss {before:.3g} → {last:.3g} over the last {window} of {len(curve)} steps"
    return ""


# ---- the evaluations of one run


@_rule(
    _RUN, "random-output", "suspect", "two passes over the same images give different outputs",
    "Attacks saw one random gradient a step. They need gradients of the mean over the randomness (EOT).",
)  # fmt: skip
def _random_output(rows: Rows) -> Iterator[tuple[EvaluationRow, str]]:
    random = max((row.measurements.get("random_output") or 0 for row in rows if row.kind == "clean"), default=0)
    for row in rows:
        if random and row.kind != "craft":
            yield row, f"{random} images get another output from a second pass"


@_rule(
    _RUN, "rises-with-budget", "suspect", "robust accuracy is higher at a larger budget, by more than .5 points",
    "A larger ball holds the smaller one, so the attack is at fault, often by masked gradients.",
)  # fmt: skip
def _rises_with_budget(rows: Rows) -> Iterator[tuple[EvaluationRow, str]]:
    for group in _same_attack(rows).values():
        for smaller, larger in pairwise(group):
            if _robust(larger) > _robust(smaller) + NOISE:
                yield larger, f"{_told(smaller)}, {_told(larger)}"


@_rule(
    _RUN, "weaker-than-fgsm", "suspect", "an iterative attack is weaker than FGSM at the same ε, by over 2 points",
    "Gradient masking: one long step works where many short ones are caught. Do not trust the iterative rows.",
)  # fmt: skip
def _weaker_than_fgsm(rows: Rows) -> Iterator[tuple[EvaluationRow, str]]:
    attacks = _white_box(rows)
    one_step = {_alike(row): row for row in attacks if row.plugin == "fgsm"}
    for row in attacks:
        fgsm = one_step.get(_alike(row))
        if fgsm and _trait(row.plugin, "iterative") and _robust(row) > _robust(fgsm) + MASKING:
            yield row, f"{_told(row)}, {_told(fgsm)}"


@_rule(
    _RUN, "black-box-stronger", "suspect", "images made on other networks do more harm than any white-box attack",
    "White-box attacks know more and must be stronger: their gradients are masked.",
)  # fmt: skip
def _black_box_stronger(rows: Rows) -> Iterator[tuple[EvaluationRow, str]]:
    white: dict[tuple[float | None, Precision], list[EvaluationRow]] = defaultdict(list)
    for row in _white_box(rows):
        white[row.budget, row.precision].append(row)
    for row in rows:
        if row.kind != "blackbox" or (row.budget, row.precision) not in white:
            continue
        best = min(white[row.budget, row.precision], key=_robust)
        if _robust(row) < _robust(best) - NOISE - _chance(row, best):
            on = "" if row.n == best.n else f", on {row.n:,} and on {best.n:,} images"
            evidence = f"{_told(row)}, {_told(best)}{on}"
            yield row, evidence
            yield best, evidence


def _white_box(rows: Rows) -> list[EvaluationRow]:
    """The attacks that say something about masked gradients: not those without any, or led to a class (harder)."""
    return [
        row
        for row in rows
        if row.kind == "attack" and row.targets is None
        and _trait(row.plugin, "norm") == "linf" and _trait(row.plugin, "needs_gradient")
    ]  # fmt: skip


def _alike(row: EvaluationRow) -> tuple[float | None, str, Precision]:
    """What a single step and many must share to be compared."""
    return row.budget, row.images_digest, row.precision


def _chance(row: EvaluationRow, best: EvaluationRow) -> float:
    """What two robust accuracies may differ by when they are not of the same images."""
    if row.images_digest == best.images_digest:
        return 0.0
    variance = sum(max(_robust(part) * (1 - _robust(part)), 1 / part.n) / part.n for part in (row, best))
    return CHANCE * math.sqrt(variance)


def _same_attack(rows: Rows) -> dict[Any, list[EvaluationRow]]:
    """Rows that differ in nothing but the budget, smallest first."""
    groups: dict[Any, list[EvaluationRow]] = defaultdict(list)
    for row in rows:
        if row.kind in ("attack", "blackbox") and row.n_robust is not None and row.budget is not None:
            key = (
                row.kind,
                row.plugin,
                canonical(row.settings),
                row.targets,
                row.precision,
                row.stop,
                row.images_digest,
            )
            groups[key].append(row)
    for group in groups.values():
        group.sort(key=lambda row: row.budget or 0.0)
    return groups


# ---- the seeds of one cell


@_rule(
    _CELL, "spread-over-seeds", "suspect", "the standard deviation over seeds is above 10 % of the mean (and 1 point)",
    "One training says little here; show several seeds.",
)  # fmt: skip
def _spread_over_seeds(rows: Rows) -> str:
    latest = {row.seed: _robust(row) for row in sorted(rows, key=lambda row: row.started)}
    if len(latest) < 2:
        return ""
    mean, deviation = statistics.fmean(latest.values()), statistics.stdev(latest.values())
    if deviation <= max(SPREAD * mean, POINTS):
        return ""
    return f"{100 * mean:.1f} ± {100 * deviation:.1f} % over {len(latest)} seeds"


def _robust(row: EvaluationRow) -> float:
    assert row.n_robust is not None
    return row.n_robust / row.n


def _told(row: EvaluationRow) -> str:
    return f"{row.label}: {100 * _robust(row):.1f} %"


def _trait(plugin: str, name: str) -> Any:
    """A class attribute of an attack; None where its package is gone."""
    try:
        get: Callable[..., Any] = getattr
        return get(registry.load("attacks", plugin), name, None)
    except BenchError:
        return None
