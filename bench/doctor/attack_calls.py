"""What each call of an attack keeps to: its budget, its word, and its hands off what is not its own."""

from __future__ import annotations

from bench.attacks.ball import TOLERANCE
from bench.doctor.attack_watch import Call
from bench.doctor.rules import Rule, listed

FEW = 4  # rows that a dry pass of the attack's own may take uncounted


def _budget(call: Call) -> str:
    ball = {"linf": "the ℓ∞ ball of its budget or of ", "l2": "the ℓ2 ball of its budget or of ", None: ""}
    where = ball[call.attack.norm] + "[0, 1]"
    told = f"run returns images {call.outside:.2g} outside of {where}; return problem.project(x)"
    return told if call.outside > TOLERANCE else ""


def _moved(call: Call) -> str:
    told = f"all {call.images} images came back unchanged, each of which a step along the gradient moves"
    return "" if call.moved or not call.settled else told


def _touched(call: Call) -> str:
    told = f"run changes {listed(call.touched)} of the problem; work on copies (x = x + step, not x += step)"
    return told if call.touched else ""


def _left(call: Call) -> str:
    told = f"{'; '.join(call.left)}; run gives the model back as it was: evaluation mode, no gradients, same weights"
    return told if call.left else ""


def _random(call: Call) -> str:
    told = "run draws from or seeds the global generators; take random numbers from problem.uniform() or normal()"
    return "" if call.random else told


def _direct(call: Call) -> str:
    if call.direct and not call.attack.asks_members:
        return (
            f"{call.direct} images went through problem.model or its members directly, uncounted and in float32 "
            "whatever the precision; use problem.scores, ask or gradient, problem.network inside problem.ascend, or "
            "say asks_members = True"
        )
    if call.settled and call.attack.asks_members and not call.direct:
        return "it says asks_members = True and asks none of them; leave that out, it forbids other precisions"
    return ""


def _counted(call: Call) -> str:
    """Passes that `problem` does not know of; more may be counted than were seen (a pass that is broken off)."""
    slack = max(FEW, call.images // 2)
    pairs = (("forwards", call.forwards, call.counted_forwards), ("backwards", call.backwards, call.counted_backwards))
    for name, found, counted in pairs:
        if found > counted + slack:
            return (
                f"{found} images went {name} through the model and {counted} were counted; ask through problem.scores, "
                "ask or gradient, and give problem.ascend its passes"
            )
    return ""


def _gradient(call: Call) -> str:
    used = call.backwards > 0 or call.counted_backwards > 0
    if used and not call.attack.needs_gradient:
        return "it says needs_gradient = False and differentiates the model; say True"
    if call.settled and call.attack.needs_gradient and not used:
        return "it says needs_gradient = True and takes no gradient; say needs_gradient: ClassVar[bool] = False"
    return ""


def _iterative(call: Call) -> str:
    gradients, scores = call.points
    if not call.settled:
        return ""
    if not call.attack.iterative and gradients > 1:
        return f"it says iterative = False and takes gradients at {gradients} points; say True"
    if call.attack.iterative and max(gradients, scores) <= 1 and call.counted_forwards:
        return "it says iterative = True and asks at one point only; say iterative: ClassVar[bool] = False"
    return ""


LEFT, DIRECT, MOVED = "leaves the model as it was", "asks through the problem", "moves the images"
RULES: tuple[Rule[Call], ...] = (
    Rule(MOVED, _moved),
    Rule("keeps its budget and [0, 1]", _budget),
    Rule("leaves images and labels as they are", _touched),
    Rule(LEFT, _left),
    Rule("leaves the global random state alone", _random, after=(LEFT,)),
    Rule(DIRECT, _direct),
    Rule("has its passes counted", _counted, after=(LEFT, DIRECT)),
    Rule("says whether it needs gradients", _gradient, after=(DIRECT,)),
    Rule("says whether it is iterative", _iterative, after=(MOVED, DIRECT)),
)
