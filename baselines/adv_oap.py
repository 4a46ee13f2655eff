"""AdvOAP: adversarially trained members whose wrong guesses are pushed apart and spread over all classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.baselines.adp import OFFSET, volume, wrong_classes
from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.adversary import pgd
from bench.training.batch import is_class
from bench.training.gradients import pass_again
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class AdvOap(Method):
    """AdvOAP: adversarial training with orthogonal, evenly spread predictions of the wrong classes.

    Guo, Qian, Gao and Zhou, "On the diversity of adversarial ensemble learning", ICML 2025, as its public code has it.
    x_k are PGD images of member k alone, p̂_k its probabilities there of the wrong classes, scaled to sum 1, P̂ all N:

        Σ_k CE(f_k(x_k), y) − α · mean_x log det(P̂P̂ᵀ + 1e-6·I) − β · mean_x H(mean_k p̂_k),
        H(p̄) = −Σ over wrong classes of (p̄ + 1e-6)·log p̄

    A member is in eval mode while it is attacked and in training mode where it learns. Mean of logits.

    Official settings: ε 8/255, 10 steps of 2/255 as the README says (the code exchanges the settings of training and
    test: `steps` 20, `step` 1/255); α .2 and β 10 of the released weights, 8 × ResNet-20 without normalisation (the
    code's default α is .5, the README's command has 3 members); SGD .1, momentum .9, weight decay 5e-4, batch 256, 250
    epochs along a cosine. (Fashion-)MNIST: 3 members, ε .2 (.05), steps of ε/5, SGD .01, batch 512, 60 epochs.

    Args:
        alpha: weight of the log-determinant.
        beta: weight of the entropy.
        eps: radius of the ℓ∞ ball, in units of the [0, 1] pixel range.
        step: length of a sign step, likewise.
        steps: number of steps, from a uniform random start.
        running_statistics: "public": the clean batch passes each member too, after its attacked images, to watch its
            accuracy, and BatchNorm's running statistics see it; "needed": they see the attacked images alone.
    """

    fusion: ClassVar[str] = "mean_logits"

    alpha: float = 0.2
    beta: float = 10.0
    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10
    running_statistics: Literal["public", "needed"] = "public"

    def __post_init__(self) -> None:
        at_least(0, self, "alpha", "beta", "eps", "step")
        at_least(1, self, "steps")

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`, `log_det` times −α, `entropy` times −β."""
        labels = batch.labels
        attack = partial(pgd, radius=self.eps, step=self.step, steps=self.steps, noise=batch, evaluated=True)
        images = [attack([member], batch.images, labels) for member in members]
        logits = torch.stack([member(x) for member, x in zip(members, images, strict=True)])
        if self.running_statistics == "public":
            pass_again(members, batch.images)
        wrong, cross_entropy = wrong_classes(logits, labels), torch.nn.functional.cross_entropy
        return {
            "ce": torch.stack([cross_entropy(one, labels) for one in logits]).sum(),
            "log_det": -self.alpha * volume(wrong).mean().to(logits.dtype),
            "entropy": -self.beta * spread(wrong, labels).mean().to(logits.dtype),
        }


def spread(wrong: Tensor, labels: Tensor) -> Tensor:
    """[B]: the entropy H above, from the members' probabilities of the wrong classes [N, B, C]."""
    mean = wrong.mean(0)
    true = is_class(labels, wrong.shape[2])
    value = (mean + OFFSET) * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    return -value.masked_fill(true, 0).sum(1)
