"""TRS combined with adversarial training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import torch
from bench.methods.trs import Trs
from bench.training.adversary import pgd
from bench.training.method import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class TrsAt(Trs):
    """TRS with the cross-entropy on PGD images of the ensemble (TRS + adversarial training).

    Yang et al., TRS, NeurIPS 2021, appendix I.2: mean_k CE_k(x̂) with x̂ the PGD images of the whole ensemble, as in
    `at_ensemble`, plus the two terms of `trs`, which stay where they are: cosine at the clean images, norms at the
    support points. BatchNorm's running statistics see clean and attacked images.

    Official settings: ε 8/255, 10 steps of 2/255 (CIFAR-10), .2 (MNIST); the rest as for `trs`.

    Args:
        attack_eps: radius of the ℓ∞ ball, in units of the [0, 1] pixel range.
        attack_step: length of a sign step.
        attack_steps: number of steps.
    """

    replayable: ClassVar[bool] = True

    attack_eps: float = 8 / 255
    attack_step: float = 2 / 255
    attack_steps: int = 10

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """The terms of `trs`, with `ce` on the attacked images."""
        terms = super().loss(members, batch)
        images = pgd(
            members,
            batch.images,
            batch.labels,
            radius=self.attack_eps,
            step=self.attack_step,
            steps=self.attack_steps,
            noise=batch,
        )
        cross_entropy = torch.nn.functional.cross_entropy
        losses = torch.stack([cross_entropy(member(images), batch.labels) for member in members])
        terms["ce"] = losses.sum() if self.terms == "official" else losses.mean()
        return terms
