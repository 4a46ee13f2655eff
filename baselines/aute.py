"""AUTE: members aligned with their peers, which unlearn what they are sure of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.adversary import pgd
from bench.training.batch import is_class
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Aute(Method):
    """AUTE: adversarial training where members follow their peers and unlearn what they are sure of.

    Huang, Su, Gao, Liu and Huang, "AUTE: peer-alignment and self-unlearning boost adversarial robustness for training
    ensemble models", AAAI 2025, as in its public code. On PGD images x̂ of the whole ensemble member k minimises

        mean_x w·[CE(f_k(x̂), y) − log(1.0001 − q)] + β · mean_x (1 − p_y)·KL(p̄ ‖ p)

    with p its probabilities there, q the largest of a wrong class, p̄ the mean of the other members' probabilities
    (detached), and d = p_y less the second largest of p where it is right, 0 where it is wrong; w = 1 − d where d ≤ m,
    and −γ·d where it is sure, which unlearns. Weights are differentiated as well. β grows linearly with the epoch
    between two shares of the training. The members are in training mode while they are attacked.

    Official settings: γ .01, m .01, β 1 (CIFAR-100: m .6, β 3), from epoch 40 to 80 of 120; ε 8/255, 6 steps of 2/255;
    SGD .1, momentum .9, weight decay 5e-4, batch 256, ×.1 at 80 and 100; 3 × ResNet-20 without normalisation. There
    the members step one after another on one batch, so that a peer may be a step ahead, and the passes of attack and
    peers move BatchNorm's running statistics too; here all step at once, and these see each member's x̂ once.

    Args:
        gamma: γ, how much is unlearned.
        margin: m, above which a member is sure.
        beta: β in the end.
        ramp_start, ramp_end: shares of the epochs between which β grows from 0.
        unlearned: "all": by every member alike; "by_index": γ times the member's index, as the public code has it, so
            that the first member unlearns nothing and the third twice as much as the second.
        eps: radius of the ℓ∞ ball, in units of the [0, 1] pixel range.
        step: length of a sign step, likewise.
        steps: number of steps, from a uniform random start.
    """

    gamma: float = 0.01
    margin: float = 0.01
    beta: float = 1.0
    ramp_start: float = 1 / 3
    ramp_end: float = 2 / 3
    unlearned: Literal["all", "by_index"] = "all"
    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 6

    def __post_init__(self) -> None:
        at_least(0, self, "gamma", "margin", "beta", "eps", "step")
        at_least(1, self, "steps")
        if not 0 <= self.ramp_start < self.ramp_end <= 1:
            told = f"not {self.ramp_start} and {self.ramp_end}"
            raise BenchError(f"ramp_start and ramp_end are shares of the epochs, the first the smaller one, {told}")

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """Sums over members: `ce`, of what is learned; `unlearned`; `peers` times β."""
        labels, passed = batch.labels, (batch.epoch + 1) / batch.epochs
        images = pgd(members, batch.images, labels, radius=self.eps, step=self.step, steps=self.steps, noise=batch)
        logs = [member(images).log_softmax(1) for member in members]
        learned, unlearned = zip(*(self.boosted(log, labels, index) for index, log in enumerate(logs)), strict=True)
        terms = {"ce": torch.stack(learned).sum(), "unlearned": torch.stack(unlearned).sum()}
        if share := min(max((passed - self.ramp_start) / (self.ramp_end - self.ramp_start), 0.0), 1.0):
            terms["peers"] = self.beta * share * torch.stack(peers(logs, labels)).sum()
        return terms

    def boosted(self, log: Tensor, labels: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The two parts of the first mean above, from a member's log-probabilities [B, C] and its index."""
        p, true = log.exp(), is_class(labels, log.shape[1])
        hardest = p.masked_fill(true, 0).amax(1)
        own = p.gather(1, labels[:, None]).squeeze(1)
        sure = (own - p.topk(2, dim=1).values[:, 1]) * (p.argmax(1) == labels)
        loss = torch.nn.functional.nll_loss(log, labels, reduction="none") - (1.0001 - hardest).log()
        gamma = self.gamma * (index if self.unlearned == "by_index" else 1)
        known = sure > self.margin
        return ((1 - sure) * loss * ~known).mean(), (-gamma * sure * loss * known).mean()


def peers(logs: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
    """The second mean above for each member, from all members' log-probabilities N × [B, C]."""
    found = []
    for index, log in enumerate(logs):
        others = torch.stack([other.detach() for place, other in enumerate(logs) if place != index])
        mean = others.logsumexp(0) - math.log(len(others))
        distance = torch.nn.functional.kl_div(log, mean, reduction="none", log_target=True).sum(1)
        found.append(((1 - log.gather(1, labels[:, None]).squeeze(1).exp()) * distance).mean())
    return found
