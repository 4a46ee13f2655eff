"""CW: the smallest ℓ2 change that misleads, as far as the weight c of misleading goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.base import Attack
from bench.attacks.losses import CONFIDENCE, OnAims, cw
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem

BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8
INSIDE = 0.999999  # pixels at 0 and 1 have no finite pre-image; Carlini's own factor
PROGRESS = 0.9999  # an image stops when its mean loss in a tenth of the steps is above this share of the tenth before


@dataclass(frozen=True, kw_only=True)
class Minimising(Attack):
    """Attacks without a ball: minimise distance + c·max(margin + confidence, 0), margin on the fused output.

    Args:
        steps: number of iterations.
        rate: learning rate.
        confidence: by how much the wrong class should lead, inside the loss. Where the margin is one of
            log-probabilities (probability rules) it is in nats.
        confident: whether only images that lead by `confidence` count as found, as attack libraries have it. It
            chooses among the iterates under `last` only; the harness asks for misclassification alone.
    """

    budget_name: ClassVar[str] = "c"
    norm: ClassVar[str | None] = None
    takes_targets: ClassVar[bool] = True

    steps: int = 1000
    rate: float = 0.01
    confidence: float = CONFIDENCE
    confident: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "steps")
        if self.rate <= 0:
            raise BenchError(f"rate, the learning rate, is above 0, not {self.rate}")
        at_least(0, self, "confidence")

    @property
    def objective(self) -> OnAims:
        """Minus the hinge of fused outputs: 0 where the wrong class leads by `confidence`."""
        return OnAims(cw, (self.confidence,))

    def found(self, problem: Problem, scores: Tensor) -> Tensor:
        """Which images, bool [b], count as misled for fused outputs [b, classes]."""
        return problem.loss(scores, self.objective) == 0 if self.confident else problem.fooled(scores)


@dataclass(frozen=True, kw_only=True)
class CW(Minimising):
    """Carlini and Wagner 2017: ‖x' − x‖₂² + c·hinge in tanh space with Adam, c fixed.

    Official settings (TRS paper): 1000 iterations of Adam .01, confidence .1, one search step (c is the budget).

    x' = (tanh w + 1) / 2. An image is broken as soon as a misclassified iterate is found. Under `last` the result is
    the misclassified iterate nearest in ℓ2, or the last iterate where there is none; under `first_success` broken
    images leave at the first, so that distances are upper bounds. Adam works pixel by pixel and every image stops on
    its own, so that nothing depends on the batch.

    Args:
        early_stop: whether an image stops when its mean loss has not fallen from one tenth of the steps to the next.
            (Of the mean, since Adam swings around the boundary: its lowest or latest loss says little.)
    """

    early_stop: bool = True

    def run(self, problem: Problem) -> Tensor:
        """`steps` passes forwards and backwards for each image that neither breaks nor stops early."""
        best_of_all, c = problem.stop == "last", problem.budget
        # sigmoid(2w) = (tanh(w) + 1) / 2, without the rounding of 1 + tanh near black
        w = torch.logit(0.5 + INSIDE * (problem.images - 0.5)) / 2
        first, second = torch.zeros_like(w), torch.zeros_like(w)
        total = torch.zeros_like(w[:, 0, 0, 0])  # of the losses in this tenth of the steps, and in the one before
        before = torch.full_like(total, torch.inf)
        nearest = before.clone()
        best = problem.images
        x = best
        window = max(1, self.steps // 10)
        for step in range(1, self.steps + 1):
            x = torch.sigmoid(2 * w)
            answer = problem.ask(x, self.objective)
            change = x - problem.images
            distance = change.flatten(1).square().sum(1)
            if best_of_all:
                closer = self.found(problem, answer.scores) & (distance < nearest)
                nearest = torch.where(closer, distance, nearest)
                best = torch.where(closer.view(-1, 1, 1, 1), x, best)
            total += distance - c * answer.losses
            slope = (2 * change - c * answer.gradient) * (2 * x * torch.sigmoid(-2 * w))
            x, w, first, second, total, before, nearest, best, slope = problem.drop_broken(
                x, w, first, second, total, before, nearest, best, slope
            )
            if self.early_stop and step % window == 0:
                stuck = total > PROGRESS * before
                before, total = total, torch.zeros_like(total)
                if bool(stuck.any()):
                    x, w, first, second, total, before, nearest, best, slope = problem.settle(
                        stuck, _best(x, best, nearest), x, w, first, second, total, before, nearest, best, slope
                    )
            if not len(x):
                return x
            first.mul_(BETA1).add_(slope, alpha=1 - BETA1)
            second.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
            root = second.sqrt().div_(math.sqrt(1 - BETA2**step)).add_(ADAM_EPS)
            w.addcdiv_(first, root, value=-self.rate / (1 - BETA1**step))
        return _best(x, best, nearest)


def _best(x: Tensor, best: Tensor, nearest: Tensor) -> Tensor:
    """The nearest misclassified iterate, or `x` where there was none (never the clean image: it transfers nothing)."""
    return torch.where(nearest.isfinite().view(-1, 1, 1, 1), best, x)
