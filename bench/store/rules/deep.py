"""What `bench audit --deep` looks at: gradients, an attack's way, planted images, members, Square."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from bench.core.identity import canonical, short
from bench.experiment.measurements import expected_accuracy
from bench.store.rules.base import (
    BALL,
    RUN,
    Rows,
    Severity,
    Stronger,
    against_gradients,
    ball,
    need,
    robust,
    rule,
    stages,
    through_members,
    told,
    trait,
    white_box,
)
from bench.store.typed_rows import EvaluationRow

FEW = 0.05  # of the images looked at: more of them speak against a run
KINKS = 0.1  # the same where a bend of a piecewise linear network is taken for a fault now and then
UNSTABLE = 0.3  # mean relative change of the margin within half the radius
UNFINISHED = 0.25  # of the images that stand against PGD
PLANTED = 0.5  # of the planted images; sound digits networks lose up to a quarter, and the authors ask for .95
LEAST = 10  # planted images, for a share to say something
WARNED = 0.002  # of all images: AutoAttack's limit for what Square breaks beside the gradient attacks
STRONGER = 0.01  # of all images, and at least three of them: what members or Square may break beside gradients
TARGETED = 0.1  # of all images: what targeted attacks may break beside untargeted ones
WEAK = 0.06  # of all images: what the cross-check may break beside the best attack of the run
MORE = 0.02  # of all images: what more steps and restarts may break
THREE = 3  # images at least, so that one of few makes no case
WHOLE = 1.0  # a radius that holds every image
DEAD = 1e-6  # of the longest gradient of a term

PINTOR = "Pintor et al. 2022"
AUTOATTACK = "AutoAttack, Croce and Hein 2020"
CARLINI = "Carlini et al. 2019"
Found = Iterator[tuple[EvaluationRow, str]]


def _deep(rows: Rows) -> str:
    run = short(rows[0].run_id) if rows else "RUN"
    return f"`bench audit {run} --deep` looks at it"


def _probe(name: str, words: str) -> None:
    @need(name)
    def lacking(rows: Rows) -> Iterator[str]:
        if not any(row.kind == "audit" and row.plugin == name for row in rows):
            yield f"{words} ({_deep(rows)})"


_probe("gradients", "gradients were not looked at")
_probe("planted", "no image was planted")
_probe("loss_terms", "the terms of the loss were not looked at")


@need("crosscheck")
def _crosscheck(rows: Rows) -> Iterator[str]:
    if not any("square" in stages(row) and len(stages(row)) > 3 for row in rows):
        yield f"images made on the members were not tried ({_deep(rows)})"


@need("without gradients")
def _without_gradients(rows: Rows) -> Iterator[str]:
    if not any(is_gradient_free(row) for row in rows):
        yield f"no attack without gradients was run ({_deep(rows)}; `--attack square` is one)"


@need("unbounded")
def _unbounded(rows: Rows) -> Iterator[str]:
    if not any(row.budget is not None and row.budget >= WHOLE for row in white_box(rows)):
        yield f"no attack was run with a radius of 1 ({_deep(rows)})"


@need("more steps")
def _more_steps(rows: Rows) -> Iterator[str]:
    if not any(len(group) > 1 for group in _by_effort(rows)):
        yield f"no attack was run with more steps or restarts too ({_deep(rows)})"


def is_gradient_free(row: EvaluationRow) -> bool:
    """Whether an attack without gradients is among what was run."""
    if row.kind != "attack" or row.budget_name != "eps":
        return False
    return "square" in stages(row) or trait(row.plugin, "needs_gradient") is False


def _after(row: EvaluationRow, last: str) -> float:
    """The share of all images that the stages up to the last leave."""
    found = stages(row)
    later = list(found)[list(found).index(last) + 1 :]
    return robust(row) + sum(found[name] for name in later) / row.n


Counts = dict[str, int]
Means = dict[str, float]
Evidence = Callable[[Counts, Means, int], str]


def probe_rule(
    probe: str, identifier: str, severity: Severity, when: str, explanation: str, **more: Any
) -> Callable[[Evidence], Evidence]:
    """As `rule` of a run, of what one kind of look found: its counts, means and number of images give the evidence.

    Where there is evidence it is raised on the look and on the attacks that it casts doubt on.
    """

    def added(evidence: Evidence) -> Evidence:
        @rule(RUN, identifier, severity, when, explanation, needs=(probe,), **more)
        def found(rows: Rows) -> Found:
            for row in rows:
                if row.kind == "audit" and row.plugin == probe:
                    counts: dict[str, Any] = row.measurements.get("counts") or {}
                    means: dict[str, Any] = row.measurements.get("means") or {}
                    images = row.measurements.get("images") or 0
                    seen = evidence(defaultdict(int, counts), defaultdict(float, means), images)
                    if seen:
                        yield row, seen
                        for other in white_box(rows):
                            if other.budget == row.budget:
                                yield other, seen

        return evidence

    return added


def _many(what: str, count: int, images: int, most: float) -> str:
    return f"{what} of {count} of {images} images" if count > most * images else ""


# ---- gradients


@probe_rule(
    "gradients", "unavailable-gradients", "suspect",
    "the gradient is zero or not finite at more than 5 % of the images",
    "Whoever follows it goes nowhere: quantisation, a saturated softmax or sigmoid, a cut in the graph. Attacks that "
    "use it say nothing.", decisive=True, source=f"{PINTOR}; {AUTOATTACK}",
)  # fmt: skip
def _unavailable(counts: Counts, _: Means, images: int) -> str:
    return (
        _many("zero gradient of the cross-entropy", counts["zero_ce"], images, FEW)
        or _many("zero gradient of the DLR loss", counts["zero_dlr"], images, FEW)
        or _many("gradient that is not finite", counts["not_finite"], images, 0)
    )


@probe_rule(
    "gradients", "not-a-gradient", "suspect",
    "the gradient is not the slope of the output, at more than 10 % of the images",
    "What is followed is a substitute (a straight-through estimate, a part cut from the graph) or the output is rough. "
    "The attack climbs something else than the loss.", decisive=True, source="bench",
)  # fmt: skip
def _not_a_gradient(counts: Counts, _: Means, images: int) -> str:
    return _many("finite difference that is another", counts["not_derivative"], images, KINKS)


@probe_rule(
    "gradients", "precision-decides", "suspect", "the gradient is another in float64, at more than 5 % of the images",
    "The float32 gradient is rounding, as behind a saturated softmax.", source=CARLINI,
)  # fmt: skip
def _precision(counts: Counts, _: Means, images: int) -> str:
    return _many("gradient that is another in float64", counts["precision"], images, FEW)


@probe_rule(
    "gradients", "depends-on-others", "suspect",
    "an image gets another output in another batch, or when a gradient is asked for",
    "The output is no function of the image alone: what the attack saw is not what is judged, or the reverse.",
    decisive=True, source="bench",
)  # fmt: skip
def _depends(counts: Counts, _: Means, images: int) -> str:
    return _many("another output in another batch", counts["batch"], images, 0.02) or _many(
        "another output when a gradient is asked for", counts["mode"], images, 0.02
    )


@probe_rule(
    "gradients", "output-is-probability", "suspect",
    "the fused output is probabilities instead of logits or log-probabilities",
    "Losses take the softmax once more, and gradients all but vanish.", source=AUTOATTACK,
)  # fmt: skip
def _probability(counts: Counts, _: Means, images: int) -> str:
    return _many("output between 0 and 1 of sum 1", counts["probability"], images, FEW)


@probe_rule(
    "gradients", "gradient-at-inference", "suspect", "the network takes gradients within a pass forwards",
    "Defences that optimise at test time need attacks made for them.", source=AUTOATTACK,
)  # fmt: skip
def _at_inference(_: Counts, means: Means, __: int) -> str:
    return f"{means['inner_gradients']:.0f} in one pass" if means["inner_gradients"] else ""


@probe_rule(
    "gradients", "few-classes", "note", "there are fewer than four classes",
    "Targeted DLR losses need four; APGD-T and AutoAttack were not run.", source=AUTOATTACK,
)  # fmt: skip
def _few_classes(_: Counts, means: Means, __: int) -> str:
    return f"{means['classes']:.0f} classes" if 0 < means["classes"] < 4 else ""


@probe_rule(
    "gradients", "one-member-holds-all", "note",
    "one member holds over 90 % of the gradient, on more than half of the images",
    "An attack on the ensemble is one on that member alone; images made on the others should be tried, as the "
    "cross-check does.", source="bench",
)  # fmt: skip
def _one_member(counts: Counts, means: Means, images: int) -> str:
    return (
        _many("one member's gradient is almost all", counts["one_member"], images, 0.5)
        and f"{counts['one_member']} of {images} images; {100 * means['largest_share']:.0f} % in the mean"
    )


# ---- the loss, and an attack's way


@probe_rule(
    "gradients", "unstable-predictions", "suspect",
    "the margin changes by over 30 % in the mean within half the radius",
    "The loss is rough or random: its gradient says little about what lies a step away.", source=PINTOR,
)  # fmt: skip
def _unstable(_: Counts, means: Means, __: int) -> str:
    return f"by {100 * means['instability']:.0f} %" if means["instability"] > UNSTABLE else ""


@probe_rule(
    "gradients", "silent-success", "note",
    "PGD's last point stands where an earlier one did not, on more than 5 % of the images",
    "Results under the rule `last` miss these; `first_success` counts them.", source=PINTOR,
)  # fmt: skip
def _silent(counts: Counts, _: Means, images: int) -> str:
    return _many("silent success", counts["silent"], images, FEW)


@probe_rule(
    "gradients", "unfinished-optimisation", "suspect",
    "PGD's best loss still rises over its last ten steps by 5 % of its whole rise, on more than a quarter of the "
    "images that stand",
    "The attack has not converged; more steps would lower the robust accuracy.", source=PINTOR,
)  # fmt: skip
def _unfinished(counts: Counts, _: Means, images: int) -> str:
    return (
        _many("rise at the end", counts["unfinished"], counts["standing"], UNFINISHED)
        if counts["unfinished"] > 0.02 * images
        else ""
    )


@probe_rule(
    "gradients", "noise-as-strong", "suspect",
    "one of 20 random corners of the ball has a loss as high as PGD's best point, or PGD never raised the loss, on "
    "more than 5 % of the images",
    "The attack is no better than noise there: its gradient leads nowhere.", decisive=True, source=CARLINI,
)  # fmt: skip
def _noise(counts: Counts, _: Means, images: int) -> str:
    return _many("noise as strong as PGD", counts["noise"], images, FEW) or _many(
        "loss that PGD never raised", counts["flat"], images, FEW
    )


# ---- the active test


@probe_rule(
    "planted", "planted-missed", "suspect", "the attack finds fewer than half of the planted adversarial images",
    "An adversarial image is there for certain, and the attack does not find it: it is not fit for this network. (With "
    "fewer than ten planted images nothing is said.)", decisive=True, source="Zimmermann et al. 2022",
)  # fmt: skip
def _planted(counts: Counts, _: Means, __: int) -> str:
    if counts["set_up"] < LEAST or counts["found"] >= PLANTED * counts["set_up"]:
        return ""
    return f"{counts['found']} of {counts['set_up']} found, {counts['random']} by 200 random points"


# ---- other attacks on the same network


@rule(
    RUN, "unbounded-stands", "suspect", "more than 1 % of the images stand against an attack with a radius of 1",
    "Every image lies in that ball; an attack that cannot break all of them is at fault.",
    needs=("unbounded",), decisive=True, source=f"{PINTOR}; {CARLINI}",
)  # fmt: skip
def _stands(rows: Rows) -> Found:
    for row in white_box(rows):
        if row.budget is not None and row.budget >= WHOLE and trait(row.plugin, "iterative") and robust(row) > 0.01:
            yield row, told(row)
            for other in white_box(rows):
                if other.plugin == row.plugin and other.budget < WHOLE:  # type: ignore[operator]
                    yield other, told(row)


@rule(
    BALL, "more-steps-lower", "suspect",
    "more steps or restarts of the same attack break over 2 % of all images more, and three or more",
    "The attack had not converged; the number is too high by that.", needs=("more steps",), source=CARLINI,
)  # fmt: skip
def _more(rows: Rows) -> Iterator[Stronger]:
    for group in _by_effort(rows):
        best = group[-1]
        for row in group[:-1]:
            if _effort(row) < _effort(best) and _beyond(row, best, MORE):
                evidence = f"{told(row)}; with {_effort(best):,} steps in all {100 * robust(best):.1f} %"
                yield Stronger(best, best.plugin, robust(best), MORE, [row], evidence)


def _beyond(weak: EvaluationRow, strong: EvaluationRow, most: float) -> bool:
    """Whether one attack leaves more images than another, of the same set: over a share of all, and three or more."""
    more = (weak.n_robust or 0) - (strong.n_robust or 0)
    return more >= THREE and more > most * weak.n


def _effort(row: EvaluationRow) -> int:
    restarts = row.settings.get("restarts", 1)
    return (row.steps or 0) * (restarts if type(restarts) is int else 1)


def _by_effort(rows: Rows) -> list[list[EvaluationRow]]:
    """White-box attacks that differ in nothing but steps and restarts, the least effort first."""
    groups: dict[Any, list[EvaluationRow]] = defaultdict(list)
    for row in white_box(rows):
        rest = {name: value for name, value in row.settings.items() if name not in ("steps", "restarts", "rel_step")}
        if row.steps:
            groups[row.plugin, canonical(rest), row.budget, row.stop, row.precision, row.images_digest].append(row)
    return [sorted(group, key=_effort) for group in groups.values()]


@rule(
    BALL, "members-stronger", "suspect",
    "images made on the members' plain mean, or on one member, break over 1 % of all images that gradients of the "
    "ensemble leave",
    "The rule of fusion hides the gradient, not the weakness: a transfer is stronger than the white-box attack.",
    needs=("crosscheck",), decisive=True, source="Fort and Lakshminarayanan 2024, and what broke it; bench",
)  # fmt: skip
def _members(rows: Rows) -> Iterator[Stronger]:
    for row in rows:
        through = {name: broken for name, broken in stages(row).items() if through_members(name)}
        count = sum(through.values())
        if count >= THREE and count > STRONGER * row.n:
            seen = ", ".join(f"{name} {broken}" for name, broken in through.items() if broken)
            evidence = f"{count} of {row.n} images: {seen}"
            yield Stronger(row, "member", _after(row, [*through][-1]), STRONGER, ball(rows, row), evidence)


def _without_gradient(rows: Rows) -> Iterator[tuple[EvaluationRow, int, str]]:
    """Of each attack without gradients: how many images it breaks that gradients leave, and the evidence."""
    for row in rows:
        if "square" in (found := stages(row)):
            yield row, found["square"], f"{found['square']} of {row.n} images"
        elif is_gradient_free(row) and trait(row.plugin, "norm") == "linf" and row.n_robust is not None:
            same = [other for other in ball(rows, row) if other.images_digest == row.images_digest]
            if same:
                best = min(same, key=against_gradients)
                yield row, round(row.n * against_gradients(best)) - row.n_robust, f"{told(row)}, {told(best)}"


@rule(
    BALL, "gradient-free-stronger", "suspect",
    "Square breaks more than 1 % of all images, and three or more, that gradient attacks leave",
    "It needs no gradient: theirs is masked.", needs=("without gradients",), decisive=True,
    source=f"bench, after {AUTOATTACK}",
)  # fmt: skip
def _free(rows: Rows) -> Iterator[Stronger]:
    for row, broken, evidence in _without_gradient(rows):
        if broken >= THREE and broken > STRONGER * row.n:
            yield Stronger(row, "square", robust(row), STRONGER, ball(rows, row), evidence)


@rule(
    RUN, "gradient-free-adds", "note",
    "Square breaks more than .2 % of all images, and two or more, that gradient attacks leave",
    "AutoAttack warns of it. This number has taken it in; those of gradient attacks are too high by that.",
    needs=("without gradients",), source=AUTOATTACK,
)  # fmt: skip
def _adds(rows: Rows) -> Found:
    for row, broken, evidence in _without_gradient(rows):
        if broken >= 2 and broken > WARNED * row.n:
            yield row, evidence


@rule(
    BALL, "targeted-disagrees", "suspect",
    "attacks led to a class break over 10 % of all images that the untargeted attack leaves",
    "One of the losses is masked: an untargeted attack has every class to choose from.",
    needs=("crosscheck",), source="bench",
)  # fmt: skip
def _targeted(rows: Rows) -> Iterator[Stronger]:
    for row in rows:
        broken = stages(row).get("apgd_t", 0)
        if broken >= THREE and broken > TARGETED * row.n:
            evidence = f"APGD-T breaks {broken} of {row.n} images after APGD-CE"
            yield Stronger(row, "apgd_t", _after(row, "apgd_t"), TARGETED, ball(rows, row), evidence)


@rule(
    BALL, "attacks-too-weak", "suspect",
    "the cross-check leaves over 6 % of all images less than the strongest attack on the ensemble beside it",
    "The attacks of the run are not fit for this network (a loss that hardly depends on the image, say): what they "
    "leave is no robustness. The lowest known value counts.", needs=("crosscheck",), decisive=True, source="bench",
)  # fmt: skip
def _too_weak(rows: Rows) -> Iterator[Stronger]:
    for row in rows:
        if row.plugin != "crosscheck" or row.n_robust is None:
            continue
        others = [
            other
            for other in ball(rows, row)
            if other.plugin != row.plugin and other.images_digest == row.images_digest
        ]
        best = min(others, key=robust, default=None)
        if best is not None and _beyond(best, row, WEAK):
            yield Stronger(row, row.plugin, robust(row), WEAK, [best], f"{told(best)}, {told(row)}")


@rule(
    RUN, "expected-lower", "suspect",
    "of an ensemble that draws a member, the expected accuracy is lower than that of its most probable prediction by "
    "more than a point",
    "A prediction is that of one member: the expected accuracy is what an attacker meets.",
    source="Dbouk and Shanbhag 2022",
)  # fmt: skip
def _expected(rows: Rows) -> Found:
    drawn: dict[Any, list[tuple[float, EvaluationRow]]] = defaultdict(list)
    for row in rows:
        if row.kind != "attack" or row.n_robust is None:
            continue
        expected = expected_accuracy(row.kind, row.measurements, row.n)
        if expected is not None:
            drawn[row.budget_name, row.budget, row.images_digest].append((expected, row))
    for group in drawn.values():
        least, lowest = min(group, key=lambda each: each[0])
        for _, row in group:
            if robust(row) > least + 0.01:
                yield row, f"{told(row)}; expected under {lowest.attack} {100 * least:.1f} %"


# ---- training


@rule(
    RUN, "idle-loss-term", "note", "a term of the method's own loss has no gradient when training ends",
    "What the method adds had no effect at the end: it is a plain ensemble there.", needs=("loss_terms",),
)  # fmt: skip
def _idle(rows: Rows) -> Found:
    for row in rows:
        if row.kind == "audit" and row.plugin == "loss_terms":
            means = row.measurements.get("means") or {}
            for name, share in means.items():
                if share <= DEAD:
                    yield row, f"{name}: {share:.1g} of the longest gradient of a term"
