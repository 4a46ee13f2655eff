"""EAD: elastic-net attack, a sparse change by shrinkage and thresholding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.attacks.cw import Minimising
from bench.core.errors import BenchError
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem


def shrink(z: Tensor, images: Tensor, beta: float) -> Tensor:
    """The point of [0, 1] that minimises ½‖v − z‖₂² + β‖v − images‖₁, pixel by pixel (Chen et al. 2018, equation 5)."""
    change = z - images
    return (images + change.sign() * (change.abs() - beta).clamp_min(0)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class EAD(Minimising):
    """Elastic-net attack, Chen et al. 2018: c·hinge + ‖x' − x‖₂² + β‖x' − x‖₁ by FISTA, c fixed.

    Official settings (ADP's, which the TRS paper follows): 1000 iterations, rate .01 with square-root decay, β .01,
    elastic-net rule, confidence .1, one search step (c is the budget).

    A gradient step of c·hinge + ‖y − x‖₂² at the slack point y_k, then `shrink` by β itself (not by rate·β, as in the
    authors' code), then y = x_k + k/(k+3)·(x_k − x_{k−1}). Iterates x_k are judged, slack points are not: they may
    leave [0, 1]. Under `last` nothing stops early and the result is the misclassified iterate of the smallest
    β‖·‖₁ + ‖·‖₂², or the last iterate where there is none; under `first_success` broken images leave.

    Args:
        beta: weight of the ℓ1 distance.
    """

    beta: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise BenchError(f"beta, the weight of the l1 distance, is at least 0, not {self.beta}")

    def run(self, problem: Problem) -> Tensor:
        """In each step one pass forwards and backwards (at y_k) and one forwards (at x_k)."""
        best_of_all, c = problem.stop == "last", problem.budget
        x = slack = best = problem.images
        nearest = torch.full(x.shape[:1], torch.inf, device=x.device)
        for step in range(self.steps):
            answer = problem.ask(slack, self.objective, judged=False)
            rate = self.rate * (1 - step / self.steps) ** 0.5
            slope = 2 * (slack - problem.images) - c * answer.gradient
            new = shrink(slack - rate * slope, problem.images, self.beta)
            scores = problem.scores(new)
            slack = torch.lerp(new, x, -step / (step + 3))
            x = new
            if best_of_all:
                change = (x - problem.images).flatten(1)
                distance = self.beta * change.abs().sum(1) + change.square().sum(1)
                closer = self.found(problem, scores) & (distance < nearest)
                nearest = torch.where(closer, distance, nearest)
                best = torch.where(closer.view(-1, 1, 1, 1), x, best)
            x, slack, best, nearest = problem.drop_broken(x, slack, best, nearest)
            if not len(x):
                return x
        return torch.where(nearest.isfinite().view(-1, 1, 1, 1), best, x)
