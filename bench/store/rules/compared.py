"""What the evaluations of one run say beside each other, and the seeds of one cell."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from bench.core.identity import canonical
from bench.core.precision import USUAL, Precision, titled
from bench.store.rules.base import BALL, CELL, RUN, Rows, Stronger, need, robust, rule, told, trait, white_box
from bench.store.typed_rows import EvaluationRow

NOISE = 0.005  # of all images: robust accuracy may rise by this much with ε
MASKING = 0.02  # of all images: by how much an iterative attack may be weaker than FGSM
AHEAD = 0.01  # of all images: the black-box suite is the worst of many attempts, a white-box attack is one
CHANCE = 3.0  # standard errors that a share may differ by where one side is measured on a part of the images
SPREAD, POINTS = 0.1, 0.01  # standard deviation over seeds: share of the mean, and of all images


@need("clean")
def _clean(rows: Rows) -> Iterator[str]:
    if not any(row.kind == "clean" and "random_output" in row.measurements for row in rows):
        yield "no clean evaluation measured it"


@need("blackbox")
def _blackbox(rows: Rows) -> Iterator[str]:
    suite = {row.precision for row in rows if row.kind == "blackbox"}
    if not suite:
        yield "the black-box suite was not run (--suite figure2)"
        return
    if white_box(rows) and not {row.precision for row in _iterative(rows)} & suite:
        yield f"no iterative white-box attack was run in {' or '.join(sorted(suite))}, as the suite is"


@need("fgsm")
def _fgsm(rows: Rows) -> Iterator[str]:
    attacks = [row for row in rows if row.kind == "attack"]
    there = {row.precision for row in attacks if row.plugin == "fgsm"}
    for precision in dict.fromkeys(row.precision for row in attacks) or (USUAL,):
        if precision not in there:
            yield titled("FGSM was not run", precision)


@need("two budgets")
def _two_budgets(rows: Rows) -> Iterator[str]:
    if not any(len(group) > 1 for group in _same_attack(rows).values()):
        yield "no attack was run with two budgets"


@rule(
    RUN, "random-output", "suspect", "two passes over the same images give different outputs",
    "Attacks saw one random gradient a step. They need gradients of the mean over the randomness (EOT).",
    needs=("clean",), decisive=True, source="Athalye et al. 2018",
)  # fmt: skip
def _random_output(rows: Rows) -> Iterator[tuple[EvaluationRow, str]]:
    random = max((row.measurements.get("random_output") or 0 for row in rows if row.kind == "clean"), default=0)
    for row in rows:
        if random and row.kind != "craft":
            yield row, f"{random} images get another output from a second pass"


@rule(
    RUN, "rises-with-budget", "suspect", "robust accuracy is higher at a larger budget, by more than .5 points",
    "A larger ball holds the smaller one, so the attack is at fault, often by masked gradients.",
    needs=("two budgets",), source="Carlini et al. 2019",
)  # fmt: skip
def _rises_with_budget(rows: Rows) -> Iterator[tuple[EvaluationRow, str]]:
    for group in _same_attack(rows).values():
        for smaller, larger in pairwise(group):
            if robust(larger) > robust(smaller) + NOISE:
                yield larger, f"{told(smaller)}, {told(larger)}"


@rule(
    BALL, "weaker-than-fgsm", "suspect", "an iterative attack is weaker than FGSM at the same ε, by over 2 points",
    "Gradient masking: one long step works where many short ones are caught. Do not trust the iterative rows.",
    needs=("fgsm",), source="Carlini et al. 2019",
)  # fmt: skip
def _weaker_than_fgsm(rows: Rows) -> Iterator[Stronger]:
    one_step = {_alike(row): row for row in white_box(rows) if row.plugin == "fgsm"}
    for row in _iterative(rows):
        if fgsm := one_step.get(_alike(row)):
            yield Stronger(fgsm, "fgsm", robust(fgsm), MASKING, [row], f"{told(row)}, {told(fgsm)}")


@rule(
    BALL, "black-box-stronger", "suspect",
    "images made on other networks break over 1 % of all images more than any iterative white-box attack",
    "White-box attacks know more and must be stronger: their gradients are masked. (FGSM, a single step, need not be.)",
    needs=("blackbox",), source="Athalye et al. 2018",
)  # fmt: skip
def _black_box_stronger(rows: Rows) -> Iterator[Stronger]:
    white: dict[tuple[float | None, Precision], list[EvaluationRow]] = defaultdict(list)
    for row in _iterative(rows):
        white[row.budget, row.precision].append(row)
    for row in rows:
        if row.kind != "blackbox" or (row.budget, row.precision) not in white:
            continue
        best = min(white[row.budget, row.precision], key=robust)
        on = "" if row.n == best.n else f", on {row.n:,} and on {best.n:,} images"
        evidence = f"{told(row)}, {told(best)}{on}"
        yield Stronger(row, "blackbox", robust(row), AHEAD + _chance(row, best), [best], evidence)


def _iterative(rows: Rows) -> list[EvaluationRow]:
    """The white-box attacks of many steps."""
    return [row for row in white_box(rows) if trait(row.plugin, "iterative")]


def _alike(row: EvaluationRow) -> tuple[float | None, str, Precision]:
    """What a single step and many must share to be compared."""
    return row.budget, row.images_digest, row.precision


def _chance(row: EvaluationRow, best: EvaluationRow) -> float:
    """What two robust accuracies may differ by when they are not of the same images."""
    if row.images_digest == best.images_digest:
        return 0.0
    variance = sum(max(robust(part) * (1 - robust(part)), 1 / part.n) / part.n for part in (row, best))
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


@rule(
    CELL, "spread-over-seeds", "note", "the standard deviation over seeds is above 10 % of the mean (and 1 point)",
    "One training says little here; show several seeds.",
)  # fmt: skip
def _spread_over_seeds(rows: Rows) -> str:
    latest = {row.seed: robust(row) for row in sorted(rows, key=lambda row: row.started)}
    if len(latest) < 2:
        return ""
    mean, deviation = statistics.fmean(latest.values()), statistics.stdev(latest.values())
    if deviation <= max(SPREAD * mean, POINTS):
        return ""
    return f"{100 * mean:.1f} ± {100 * deviation:.1f} % over {len(latest)} seeds"
