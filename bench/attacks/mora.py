"""MORA: an attack that weighs the members of an ensemble by how much each still moves the prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.apgd import MOMENTUM, momentum_step, surface_start
from bench.attacks.base import Attack
from bench.attacks.losses import ce
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem
    from bench.models.ensemble import Ensemble

LARGEST_LEAD = 10.0  # members' logits are divided so that none leads by more: a saturated softmax has no gradient


@dataclass(frozen=True, kw_only=True)
class MORA(Attack):
    """Model-reweighing attack on an ensemble in the ℓ∞ ball, Yu, Gao and Xu 2022 (NeurIPS).

    Official settings: 100 sign steps from a random start, step 2ε with cosine decay, momentum .75, cross-entropy, one
    run for each blend .5, 0, .25, .75, 1 (here: restarts), temperature .2 (probabilities) and .8 (votes).

    The loss is the cross-entropy of (1 − s)·fused/lead + s·Σ_k w_k z_k / Σ_k w_k with blend s, z_k the members'
    logits, and `lead` how far the best fused score leads the second. A member that is wrong already has weight 0 (but
    where all are, none). The others' weight is the derivative of the fused log-probability margin of the best other
    class c with respect to the member's own logit of c, p_kc·((1 − p_kc)/P_c + p_ky/P_y), with p_k the softmax of
    temperature·z_k and P their mean, times the member's weight in the fusion. For `sum_logits` and `mean_logits` that
    derivative is the fusion's weight, and wrong members stay in. The authors' code differs from this formula in the
    sign of a term where the label leads, which the derivation does not have; we follow the formula.

    Their targeted runs (one for each other class) are left out: `apgd_dlr` with targets is that.

    Args:
        steps: number of steps.
        temperature: factor of the logits inside the weights; by the fusion rule when not given.
        blends: s of each restart, in turn.
        restarts: runs, each with a random start and a blend of its own.
    """

    asks_members: ClassVar[bool] = True

    steps: int = 100
    temperature: float | None = None
    blends: tuple[float, ...] = (0.5, 0.0, 0.25, 0.75, 1.0)
    restarts: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "steps")
        if not self.blends or not all(0 <= blend <= 1 for blend in self.blends):
            raise BenchError(f"blends are one or more numbers between 0 and 1, not {self.blends}")
        if self.temperature is not None and self.temperature < 0:
            raise BenchError(f"temperature is at least 0, not {self.temperature}")

    def run(self, problem: Problem) -> Tensor:
        """Sign steps with momentum; broken images leave under `first_success`."""
        ensemble, blend = problem.ensemble, self.blends[problem.restart % len(self.blends)]

        def evaluate(point: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            logits = ensemble.member_logits(point)
            fused = ensemble.fuse(logits)
            return ce(self.surrogate(ensemble, logits, fused, labels, blend), labels), fused

        x = old = surface_start(problem)
        for step in range(self.steps):
            gradient, _, fused = problem.ascend_by_rows(x, evaluate, (problem.labels,), same=("mora", blend))
            problem.judge(x, fused)
            x, old, gradient = problem.drop_broken(x, old, gradient)
            if not len(x):
                return x
            length = problem.budget * (1 + math.cos(math.pi * step / self.steps))
            x, old = momentum_step(problem, x, old, gradient, length, MOMENTUM if step else 1.0), x
        return x

    def surrogate(self, ensemble: Ensemble, logits: Tensor, fused: Tensor, labels: Tensor, blend: float) -> Tensor:
        """Scores [b, classes] to attack in the place of the fused output, for members' logits [N, b, classes]."""
        with torch.no_grad():
            lead = _lead(fused).clamp_min(1e-12)
            scale = (_lead(logits).amax(0) / LARGEST_LEAD).clamp_min(1)
            weights = self.weights(ensemble, logits, fused, labels)
            weights = weights / weights.sum(0).clamp_min(1e-30)
        members = (weights * logits).sum(0) / scale
        return (1 - blend) * fused / lead + blend * members

    def weights(self, ensemble: Ensemble, logits: Tensor, fused: Tensor, labels: Tensor) -> Tensor:
        """Weight of each member for each image, [N, b, 1], for members' logits and fused outputs."""
        share = torch.ones_like(logits[:, :, :1])
        if ensemble.weights is not None:
            share = share * ensemble.weights.to(logits)[:, None, None]
        if not ensemble.output_is_log_probability:
            return share
        temperature = (0.8 if ensemble.rule.is_vote else 0.2) if self.temperature is None else self.temperature
        own = labels[:, None]
        other = fused.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
        probabilities = (temperature * logits).softmax(2)
        whole = (share * probabilities).sum(0) / share.sum(0)
        right, wrong = (probabilities.gather(2, index.expand(len(logits), -1, -1)) for index in (own, other))
        derivative = wrong * ((1 - wrong) / whole.gather(1, other) + right / whole.gather(1, own))
        correct = (logits.argmax(2) == labels).unsqueeze(2)
        correct |= ~correct.any(0, keepdim=True)
        return share * derivative * correct


def _lead(scores: Tensor) -> Tensor:
    """How far the best score leads the second, [..., 1]."""
    best = scores.topk(2, dim=-1).values
    return best[..., :1] - best[..., 1:]
