"""APGD: projected gradient ascent with momentum that halves its own step size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.base import Attack
from bench.attacks.rivals import TARGETS, check_targets, each_rival
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem

MOMENTUM = 0.75  # share of the new direction; the rest is that of the last move


def checkpoints(steps: int) -> list[int]:
    """After how many of the steps the step size is looked at (Croce and Hein 2020, section 3).

    ⌈p_j·steps⌉ with p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j − p_{j−1} − .03, .06), as long as p_j ≤ 1. For 100
    steps: 22, 41, 57, 70, 80, 87, 93, 99. In whole percents, so that no rounding moves one. (The authors' code rounds
    down where 100 does not divide: other checkpoints for other numbers of steps.)
    """
    percents, width = [22], 22
    while True:
        width = max(width - 3, 6)
        if percents[-1] + width > 100:
            return sorted({-(-percent * steps // 100) for percent in percents})
        percents.append(percents[-1] + width)


def momentum_step(
    problem: Problem, x: Tensor, old: Tensor, gradient: Tensor, length: Tensor | float, share: float
) -> Tensor:
    """z = P(x + length·d), then P(x + share·(z − x) + (1 − share)·(x − old)); P projects into the ball.

    The direction d is the sign of the gradient in the ℓ∞ ball, the gradient over its norm in the ℓ2 ball.
    """
    direction = gradient / _norms(gradient) if problem.norm == "l2" else gradient.sign()
    z = _inside(problem, x + length * direction)
    if share == 1:
        return z
    return _inside(problem, x + share * (z - x) + (1 - share) * (x - old))


def surface_start(problem: Problem, name: object = "start") -> Tensor:
    """Noise scaled to reach the surface of the ball, clipped to [0, 1]; `name` of the random numbers.

    Uniform noise in the ℓ∞ ball, normal noise in the ℓ2 ball.
    """
    if problem.norm == "l2":
        noise = problem.normal(name)
        return (problem.images + problem.budget * noise / _norms(noise)).clamp(0, 1)
    noise = problem.uniform(name)
    reach = noise.flatten(1).abs().amax(1).clamp_min(1e-12)
    return problem.project(problem.images + problem.budget * noise / reach.view(-1, 1, 1, 1))


def _inside(problem: Problem, x: Tensor) -> Tensor:
    """`x` in the ball; in ℓ2 clipped to [0, 1] last, as in AutoAttack's code, where other attacks clip first."""
    if problem.norm != "l2":
        return problem.project(x)
    change = x - problem.images
    length = _norms(change)
    return (problem.images + change / length * length.clamp_max(problem.budget)).clamp(0, 1)


def _norms(change: Tensor) -> Tensor:
    """ℓ2 norm of each image, [b, 1, 1, 1], never 0."""
    lengths: Tensor = change.flatten(1).norm(dim=1)
    return lengths.view(-1, 1, 1, 1) + 1e-12


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD, Croce and Hein 2020, Algorithm 1.

    The step starts at 2ε. At each checkpoint it is halved for an image, and the image goes back to its best point,
    where at most `rho` of the steps since the last checkpoint raised the loss, or where neither step size nor best loss
    changed since then. Everything is kept image by image. Returns the point of the highest loss.

    Steps are counted as in the authors' code (fra31/auto-attack a392200), which differs from Algorithm 1 in three
    places: "at most" where that says "fewer than"; the first step raises the loss where it makes it positive; the step
    after a return raises it where it beats the point that was left, not the best one.

    Args:
        steps: number of steps; one pass forwards and backwards each, and one more for the start.
        rho: share of steps that have to raise the loss.
        restarts: independent random starts.
    """

    loss: ClassVar[str]
    takes_targets: ClassVar[bool] = True
    version: ClassVar[int] = 2  # counts the steps that raise the loss as the authors' code does

    steps: int = 100
    rho: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "steps")
        if not 0 <= self.rho <= 1:
            raise BenchError(f"rho, a share of steps, is between 0 and 1, not {self.rho}")

    def run(self, problem: Problem) -> Tensor:
        """Ascent from a random start; broken images leave under `first_success`."""
        return self.climb(problem)

    def climb(self, problem: Problem, start: object = "start", curve: bool | str = True) -> Tensor:
        """One ascent: the point of the highest loss of each image still held.

        Args:
            start: name of the random numbers of the first point.
            curve: as for `Problem.gradient`.
        """
        x = surface_start(problem, start)
        answer = problem.ask(x, self.loss, curve=curve)
        gradient, value = answer.gradient, answer.losses
        old, best, best_gradient, best_value, checked = x, x, gradient, value, value
        step = torch.full_like(value, 2 * problem.budget, dtype=x.dtype)
        rises, before = torch.zeros_like(value), torch.zeros_like(value)
        halved = torch.ones_like(value, dtype=torch.bool)  # nothing can be concluded before the first checkpoint
        looks, last = checkpoints(self.steps), 0
        for index in range(1, self.steps + 1):
            x, old, gradient, best, best_gradient, before, best_value, checked, step, rises, halved = (
                problem.drop_broken(
                    x, old, gradient, best, best_gradient, before, best_value, checked, step, rises, halved
                )
            )
            if not len(x):
                return x
            share = 1.0 if index == 1 else MOMENTUM
            x, old = momentum_step(problem, x, old, gradient, step.view(-1, 1, 1, 1), share), x
            if index < self.steps or problem.eot > 1:
                answer = problem.ask(x, self.loss, curve=curve)
                gradient, value = answer.gradient, answer.losses
            else:  # no step follows: its gradient would be thrown away
                value = problem.loss(problem.scores(x), self.loss)
            rises += value > before
            before = value
            better = value > best_value
            best = torch.where(better.view(-1, 1, 1, 1), x, best)
            best_gradient = torch.where(better.view(-1, 1, 1, 1), gradient, best_gradient)
            best_value = torch.where(better, value, best_value)
            if index in looks:
                stalled = ~halved & (best_value <= checked)
                halved = (rises <= self.rho * (index - last)) | stalled
                checked, last = best_value, index
                rises = torch.zeros_like(rises)
                step = torch.where(halved, step / 2, step)
                x = torch.where(halved.view(-1, 1, 1, 1), best, x)
                gradient = torch.where(halved.view(-1, 1, 1, 1), best_gradient, gradient)
        return best


@dataclass(frozen=True, kw_only=True)
class APGDCE(APGD):
    """Auto-PGD on the cross-entropy in the ℓ∞ ball, Croce and Hein 2020.

    Official settings (AutoAttack's code, which the TRS paper used): 100 steps, first step 2ε, momentum .75, ρ .75.
    """

    loss: ClassVar[str] = "ce"


@dataclass(frozen=True, kw_only=True)
class APGDCEL2(APGDCE):
    """Auto-PGD on the cross-entropy in the ℓ2 ball, Croce and Hein 2020.

    Official settings (AutoAttack's code): as for the ℓ∞ ball.
    """

    norm: ClassVar[str | None] = "l2"


@dataclass(frozen=True, kw_only=True)
class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio of the fused output in the ℓ∞ ball, Croce and Hein 2020.

    Official settings (AutoAttack's code, which the TRS paper used): 100 steps, first step 2ε, momentum .75, ρ .75.

    The fused output of a probability rule (`mean_probability`, votes) is log-probabilities: the ratio is taken of
    these, never of probabilities; of logits where the rule sums or averages logits. Needs three classes or more; with
    targets four.
    """

    loss: ClassVar[str] = "dlr"


@dataclass(frozen=True, kw_only=True)
class APGDT(APGD):
    """Auto-PGD on targeted DLR in the ℓ∞ ball, led to nine likely wrong classes in turn (APGD-T), Croce and Hein 2020.

    Official settings (AutoAttack's code): nine targets, those ranked 2 to 10 by the scores of the clean image, with one
    run of 100 steps each, as `apgd_dlr` otherwise. An image is done as soon as any wrong class is given. Needs four
    classes or more; with C < 10 classes there are C − 1 targets.

    Args:
        target_classes: the most targets for an image.
    """

    loss: ClassVar[str] = "dlr"
    takes_targets: ClassVar[bool] = False
    ends_at_success: ClassVar[bool] = True

    target_classes: int = TARGETS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_targets(self.target_classes)

    @property
    def passes(self) -> int:
        """All targets."""
        return self.steps * self.target_classes

    def run(self, problem: Problem) -> Tensor:
        """An ascent for each target; images that break leave for good."""
        return each_rival(problem, self.target_classes, lambda name: self.climb(problem, ("start", name), name))


@dataclass(frozen=True, kw_only=True)
class APGDTL2(APGDT):
    """Auto-PGD on targeted DLR in the ℓ2 ball, led to nine likely wrong classes in turn (APGD-T), Croce and Hein 2020.

    Official settings (AutoAttack's code): as for the ℓ∞ ball.
    """

    norm: ClassVar[str | None] = "l2"
