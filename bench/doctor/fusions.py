"""What a fusion rule makes of logits: of several numbers of members and classes, of huge ones, of one image alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bench.doctor.rules import Checks, Rule, judged, random_state, seen, world
from bench.models.fusion import FusionRule

SIZES = ((2, 10), (3, 10), (5, 7))  # members, classes
IMAGES = 6
HUGE = 1e4


@dataclass(frozen=True)
class FusionTrials:
    """A rule, and one of the numbers of members and classes that it is tried on."""

    rule: FusionRule
    members: int
    classes: int

    @cached_property
    def logits(self) -> Tensor:
        """float32 [members, IMAGES, classes]."""
        with world("logits", self.members, self.classes):
            return 3 * torch.randn(self.members, IMAGES, self.classes)

    @property
    def weights(self) -> Tensor | None:
        """Unequal ones that sum to 1, where the rule needs some."""
        if self.rule.takes_weights != "must":
            return None
        numbers = torch.arange(1.0, self.members + 1)
        return numbers / numbers.sum()

    def fuse(self, logits: Tensor) -> Tensor:
        """What the rule makes of a copy of the logits."""
        return self.rule.fuse(logits.clone(), self.weights)

    @cached_property
    def fused(self) -> Tensor:
        return self.fuse(self.logits)

    @property
    def told(self) -> str:
        return f"of {self.members} members and {self.classes} classes"


def _output(trials: FusionTrials) -> str:
    fused, wanted = trials.fused, (IMAGES, trials.classes)
    if not isinstance(fused, Tensor) or fused.shape != wanted or fused.dtype != torch.float32:
        return f"{trials.told} fuse gives {seen(fused)}, not a tensor {wanted} of torch.float32 as the logits are"
    return "" if bool(fused.isfinite().all()) else f"{trials.told} outputs are NaN or infinite"


def _in_place(trials: FusionTrials) -> str:
    given = trials.logits.clone()
    trials.rule.fuse(given, trials.weights)
    return "" if torch.equal(given, trials.logits) else "fuse changes the logits that it is given; work on a copy"


def _huge(trials: FusionTrials) -> str:
    logits = (HUGE * trials.logits.sign()).requires_grad_()
    fused = trials.rule.fuse(logits, trials.weights)
    (gradient,) = torch.autograd.grad(fused[:, 0].sum(), logits, allow_unused=True)
    fine = bool(fused.isfinite().all()) and (gradient is None or bool(gradient.isfinite().all()))
    told = f"logits of ±{HUGE:g} give NaN or infinite outputs or gradients; use log_softmax and logsumexp"
    return "" if fine else told


def _repeats(trials: FusionTrials) -> str:
    before = random_state()
    with world("fuse"):
        first, second = trials.fuse(trials.logits), trials.fuse(trials.logits)
        drawn = torch.rand(1)
    with world("fuse"):
        untouched = torch.equal(drawn, torch.rand(1))
    if not torch.equal(first, second):
        told = "a rule that draws a member says draws_a_member = True and gives the most probable class"
        return f"two passes over the same logits differ: {told}"
    return "" if untouched and before == random_state() else "fuse draws from a global generator"


def _alone(trials: FusionTrials) -> str:
    alone = torch.cat([trials.fuse(trials.logits[:, index : index + 1]) for index in range(IMAGES)])
    fine = torch.allclose(alone, trials.fused, rtol=1e-5, atol=1e-5)
    return "" if fine else "an image comes out otherwise alone than in a batch; no statistics over the batch"


def _normalised(trials: FusionTrials) -> str:
    if not trials.rule.is_log_probability:
        return ""
    sums = trials.fused.exp().sum(1)
    fine = torch.allclose(sums, torch.ones(IMAGES), atol=1e-4)
    told = "say is_log_probability = False, or end with log_softmax(1)"
    return "" if fine else f"outputs are no log-probabilities: their exponentials sum to {float(sums[0]):.3g}; {told}"


def _gradient(trials: FusionTrials) -> str:
    logits = trials.logits.clone().requires_grad_()
    fused = trials.rule.fuse(logits, trials.weights)
    told = "attacks need one; give that of a smooth rule where yours counts, and say so in the docstring"
    if not fused.requires_grad:
        return f"no gradient leads from the output to the members' logits: {told}"
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(fused, fused.argmin(1)), logits)
    dead = ~gradient.abs().sum(2).sum(0).gt(0)
    return f"the gradient is zero for {int(dead.sum())} of {IMAGES} images: {told}" if bool(dead.any()) else ""


OUTPUT = "gives an output an image"
RULES: tuple[Rule[FusionTrials], ...] = (
    Rule(OUTPUT, _output, lambda trials: f"{seen(trials.fused)} {trials.told}"),
    Rule("leaves logits alone", _in_place, after=(OUTPUT,)),
    Rule("is the same in each pass", _repeats, after=(OUTPUT,)),
    Rule("judges each image by itself", _alone, after=(OUTPUT, "is the same in each pass")),
    Rule("says what it gives", _normalised, after=(OUTPUT,)),
    Rule("has a gradient", _gradient, after=(OUTPUT,)),
    Rule("stands huge logits", _huge, after=(OUTPUT, "has a gradient")),
)


def checks(rule: FusionRule) -> Checks:
    """Whether a rule keeps what every rule keeps, on the first number of members where it does not, if any."""
    sizes = [size for size in SIZES if size[0] >= rule.minimum_members] or [(rule.minimum_members, SIZES[0][1])]
    found = [list(judged(RULES, FusionTrials(rule, *size))) for size in sizes]
    yield from next((each for each in found if not all(check.ok for check in each)), found[0])
