"""What one evaluation says of itself; of these alone some say that a number means nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.core.statistics import is_guess
from bench.store.rules.base import ONE, Rows, need, pixels, rule, trait
from bench.store.typed_rows import EvaluationRow

EXCESS = 1e-4  # outside the ball or [0, 1] by more than rounding
SHARE = 0.01  # of the attacked images
ENOUGH = 200  # images that tell a guess from a weak classifier
LAST, RISE = 0.1, 0.1  # in the last tenth of the steps the loss rises by more than a tenth of its whole rise


@need("attack")
def _attack(rows: Rows) -> Iterator[str]:
    if not any(row.kind == "attack" for row in rows):
        yield "no attack was run"


@rule(
    ONE, "outside-budget", "invalid", "an adversarial image lies outside the ball or [0, 1]",
    "The attack used more than its budget; the robust accuracy is too low.",
    needs=("attack",),
)  # fmt: skip
def _outside_budget(row: EvaluationRow) -> Iterator[str]:
    for which, part in _parts(row):
        if (excess := part.get("largest_excess") or 0.0) > EXCESS:
            yield f"{which}outside by {excess:.2g}"


@rule(
    ONE, "not-finite", "invalid", "a loss was NaN or infinite",
    "Images whose loss is not a number were not attacked; the robust accuracy is too high.",
    needs=("attack",),
)  # fmt: skip
def _not_finite(row: EvaluationRow) -> Iterator[str]:
    for which, part in _parts(row):
        if (bad := _first_bad(part)) is not None:
            yield f"{which}loss is not finite at step {bad}"


@rule(
    ONE, "robust-above-clean", "invalid", "more images are right after the attack than before",
    "An image that is wrong when clean was counted as robust.",
)  # fmt: skip
def _robust_above_clean(row: EvaluationRow) -> Iterator[str]:
    if row.n_robust is not None and row.n_robust > row.n_clean:
        yield f"{row.n_robust} of {row.n} right after the attack, {row.n_clean} before"


@rule(
    ONE, "guesses", "invalid", "of 200 images or more no more are right before the attack than guessing gets",
    "The ensemble has not learned, or its weights were read wrongly: one answer for every image stands against every "
    "attack, which says nothing of robustness.",
)  # fmt: skip
def _guesses(row: EvaluationRow) -> Iterator[str]:
    classes = trait(row.dataset, "classes", kind="datasets")
    if row.kind not in ("attack", "blackbox") or row.n < ENOUGH or not isinstance(classes, int) or classes < 2:
        return
    if row.n_clean <= 2 * row.n / classes and is_guess(row.n_clean, row.n, 1 / classes):
        yield f"{row.n_clean} of {row.n} right before the attack, {classes} classes"


@rule(
    ONE, "zero-gradient", "suspect", "the gradient is exactly zero on more than 1 % of the attacked images",
    "Gradient masking: quantisation or a saturated softmax stops gradient attacks. Try apgd_dlr, cw, mora and "
    "the black-box suite.",
    needs=("attack",),
)  # fmt: skip
def _zero_gradient(row: EvaluationRow) -> Iterator[str]:
    yield from _many(row, "zero_gradients")


@rule(
    ONE, "unmoved", "suspect", "the attack left more than 1 % of the attacked images as they were",
    "These images were not attacked at all; the robust accuracy is too high.",
    needs=("attack",),
)  # fmt: skip
def _unmoved(row: EvaluationRow) -> Iterator[str]:
    yield from _many(row, "unmoved")


@rule(
    ONE, "still-rising", "suspect", "over the last tenth of the steps the loss rises by a tenth of its whole rise",
    "The attack has not converged; more steps would lower the robust accuracy.",
    needs=("attack",),
)  # fmt: skip
def _still_rising(row: EvaluationRow) -> Iterator[str]:
    for which, part in _finite(row):
        rises = (stage + rise for stage, values in _stages(part) if (rise := _rise(row, values)))
        if (first := next(rises, None)) is not None:
            yield which + first


@rule(
    ONE, "one-step", "note", "no image that CW broke lies farther in ℓ2 than one step of its optimiser reaches",
    "The weight c may be too small to matter: where two steps (--set attacks.cw.steps=2) break as many, the row "
    "measures Adam's first step, which is as long for every c.",
    needs=("attack",),
)  # fmt: skip
def _one_step(row: EvaluationRow) -> Iterator[str]:
    # Adam's first step is `rate` a pixel in w, whatever the slope; x = (tanh w + 1) / 2 moves by half of it at most.
    rate = row.settings.get("rate")
    if row.plugin != "cw" or not isinstance(rate, int | float) or not (d := pixels(row)):
        return
    reach = rate / 2 * math.sqrt(d)
    for which, part in _parts(row):
        found = part.get("distances") or {}
        if (lengths := found.get("l2")) and lengths["max"] <= reach:
            broken, farthest = found["broken"], lengths["max"]
            yield f"{which}{broken} images broken, the farthest at {farthest:.3g}; one step reaches {reach:.3g}"


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
