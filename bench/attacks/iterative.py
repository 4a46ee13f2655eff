"""Iterative gradient attacks in a ball: BIM, PGD (ℓ∞ and ℓ2), MIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.base import Attack
from bench.core.errors import BenchError, unknown_name
from bench.core.lazy import torch
from bench.core.settings import added, at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem

NAMED = ("ce", "cw", "dlr", "members_ce")  # losses that iterative attacks ascend


@dataclass(frozen=True, kw_only=True)
class Iterative(Attack):
    """Projected gradient ascent on the cross-entropy; with targets, descent on that of the target.

    Args:
        steps: number of steps.
        rel_step: length of a step as a share of ε.
        loss: that is ascended: cross-entropy, CW margin or DLR of the fused output, or `members_ce`, the mean of the
            members' own cross-entropies (each member counts alike, whatever its weight in the fusion).
        restarts: independent random starts.
    """

    takes_targets: ClassVar[bool] = True

    steps: int = 50
    rel_step: float = 0.1
    loss: str = added("ce")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "steps")
        if self.loss not in NAMED:
            raise unknown_name("loss", self.loss, NAMED)
        if self.rel_step <= 0:
            raise BenchError(f"rel_step, the step as a share of ε, is above 0, not {self.rel_step}")

    def start(self, problem: Problem) -> Tensor:
        """The first iterate; the image itself unless a subclass draws one."""
        return problem.images

    def direction(self, gradient: Tensor) -> Tensor:
        """The step of unit length along a gradient [b, C, H, W]."""
        return gradient.sign()

    def slope(self, problem: Problem, x: Tensor, step: int) -> Tensor:
        """What step number `step` (from 0) ascends at `x`: a gradient [b, C, H, W]."""
        return problem.gradient(x, self.loss)

    def run(self, problem: Problem) -> Tensor:
        """`steps` steps of `rel_step`·ε, each projected; broken images leave under `first_success`."""
        length = self.rel_step * problem.budget
        x = self.start(problem)
        for step in range(self.steps):
            x, gradient = problem.drop_broken(x, self.slope(problem, x, step))
            if not len(x):
                return x
            x = problem.project(x + length * self.direction(gradient))
        return x


@dataclass(frozen=True, kw_only=True)
class BIM(Iterative):
    """Basic iterative method: small sign steps from the image itself, Kurakin et al. 2017.

    Official settings (TRS paper): 50 steps of ε/50.
    """

    rel_step: float = 0.02


@dataclass(frozen=True, kw_only=True)
class PGD(Iterative):
    """Projected gradient descent in the ℓ∞ ball from a uniform random start, Madry et al. 2018.

    Official settings (TRS paper): 50 steps of ε/10, one start (5 in the strong column).
    """

    def start(self, problem: Problem) -> Tensor:
        """Uniform in the ball, clipped to [0, 1]."""
        return problem.project(problem.images + problem.budget * problem.uniform())


@dataclass(frozen=True, kw_only=True)
class PGDCW(PGD):
    """Projected gradient descent on the CW margin (confidence .1) in the ℓ∞ ball, from a uniform random start.

    Official settings (TRS paper, black-box suite): 50 steps of ε/10. The best other class is masked with −∞; the
    authors' mask is 0, which beats every log-probability.
    """

    loss: str = added("cw")


@dataclass(frozen=True, kw_only=True)
class PGDL2(Iterative):
    """Projected gradient descent in the ℓ2 ball from a uniform random start.

    Official settings: none; the student report that uses it states no ε. 50 steps of ε/10 along the normalised
    gradient.
    """

    norm: ClassVar[str | None] = "l2"
    version: ClassVar[int] = 2  # clips to [0, 1] before it projects

    def start(self, problem: Problem) -> Tensor:
        """Uniform in the ball: a normal direction, and a radius whose D-th power is uniform; clipped to [0, 1]."""
        normal = problem.normal().flatten(1)
        dimension = normal.shape[1]
        share = (problem.uniform("radius").flatten(1)[:, 0] + 1) / 2
        radius = problem.budget * share ** (1 / dimension)
        direction = normal / normal.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return problem.project(problem.images + (direction * radius[:, None]).view_as(problem.images))

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient over its ℓ2 norm; zero where the gradient is zero."""
        length: Tensor = gradient.flatten(1).norm(dim=1).clamp_min(1e-30)
        return gradient / length.view(-1, *[1] * (gradient.dim() - 1))


@dataclass(frozen=True, kw_only=True)
class MIM(Iterative):
    """Momentum iterative method: sign of the accumulated ℓ1-normalised gradient, Dong et al. 2018.

    Official settings (TRS paper): 50 steps of ε/10 from the image itself, decay 1.

    Args:
        decay: factor of the momentum at each step.
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "decay")

    def run(self, problem: Problem) -> Tensor:
        """Sign steps along the momentum; broken images leave under `first_success`."""
        length = self.rel_step * problem.budget
        x = problem.images
        momentum = torch.zeros_like(x)
        for step in range(self.steps):
            x, gradient, momentum = problem.drop_broken(x, self.slope(problem, x, step), momentum)
            if not len(x):
                return x
            size = gradient.flatten(1).abs().sum(1).clamp_min(1e-30)
            momentum = self.decay * momentum + gradient / size.view(-1, *[1] * (x.dim() - 1))
            x = problem.project(x + length * momentum.sign())
        return x
