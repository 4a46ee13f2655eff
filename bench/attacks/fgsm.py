"""FGSM: one step along the sign of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.base import Attack

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """Fast gradient sign method: x + ε·sign(∇ CE), Goodfellow et al. 2015.

    Official settings: none but ε.
    """

    iterative: ClassVar[bool] = False
    takes_targets: ClassVar[bool] = True

    def run(self, problem: Problem) -> Tensor:
        """One step of ε from the image itself."""
        x = problem.images
        return problem.project(x + problem.budget * problem.gradient(x).sign())
