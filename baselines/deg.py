"""DEG, dispersed ensemble gradients, and PDD, features that are sorted out between the members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.models.running import frozen_statistics
from bench.training.dropout import Masks, keep_chances, masked_heads
from bench.training.gradients import cosines, losses_and_gradients
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Deg(Method):
    """DEG: members whose loss gradients disperse, by the signed cosine of every pair.

    Huang, Ke, Wang, Wang, Shen and Liu, "Adversarial defense by diversified simultaneous training of deep ensembles",
    AAAI 2021: mean_k CE_k + λ · Σ_{i<j} mean_x cos(g_i, g_j), g_k the gradient of member k's cross-entropy with respect
    to the image. Where GAL takes the logarithm of a sum over pairs of exp(cos), this is their plain sum.

    Official settings (public code): λ .01, 3 × ResNet-18, SGD .02, momentum .9, weight decay 5e-4, batch 64, the rate
    along a cosine to 1e-4; 40 epochs on Fashion-MNIST, 150 on CIFAR-100. The code keeps the epoch that is best on the
    test images; here it is the last.

    Args:
        strength: λ, weight of the sum of cosines.
    """

    strength: float = 0.01

    def __post_init__(self) -> None:
        at_least(0, self, "strength")

    def over_members(self, losses: Tensor) -> Tensor:
        """Their mean."""
        return losses.mean()

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`, and `cosine` times λ."""
        images = batch.images.detach().requires_grad_()
        losses, gradients = losses_and_gradients(members, images, batch.labels)
        return {
            "ce": self.over_members(torch.stack(losses)) / len(batch.labels),
            "cosine": self.strength * cosines(gradients).mean(1).sum(),
        }


@dataclass(frozen=True, kw_only=True)
class DegPdd(Deg):
    """DEG with PDD: in training each member keeps the features of a range of values of its own, and few others.

    As `deg`, with priority diversified dropout before the last layer. Of an image, the features of all members are
    sorted into bins of equal width between the smallest and the largest. The fullest bin belongs to member 1, the next
    to member 2 and so on. A member keeps a feature that lies in its own bin with probability `kept`, another one with
    `others` · (1 − the share of the member's features that lie in the same bin). Nothing is rescaled, and nothing is
    dropped in evaluation. Among bins that are equally full the lower counts as the fuller (in the public code, chance).

    Official settings: 10 bins (20 for five members), .9 and .1; the rest as for `deg`.

    Args:
        bins: number of bins, at least one a member.
        kept, others: the probabilities.
    """

    bins: int = 10
    kept: float = 0.9
    others: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "bins")
        if not 0 <= self.others <= 1 or not 0 <= self.kept <= 1:
            raise BenchError(f"kept and others are probabilities, not {self.kept} and {self.others}")

    def fit(self, trainer: Trainer) -> None:
        """One phase, with the masks."""
        with masked_heads(list(trainer.ensemble.members)) as masked:
            trainer.train("joint", partial(self.loss, masked=masked))

    def loss(self, members: Sequence[nn.Module], batch: Batch, masked: Masks | None = None) -> dict[str, Tensor]:
        """`ce`, and `cosine` times λ, of the masked members; outside of `fit` the masks are put on for the call."""
        if len(members) > self.bins:
            raise BenchError(f"{len(members)} members need as many bins or more, not {self.bins}")
        if masked is None:
            with masked_heads(members) as own:
                return self.loss(members, batch, own)
        masked.masks = None
        with torch.no_grad(), frozen_statistics(members):
            for member in members:
                member(batch.images)
        chances = keep_chances(torch.stack(masked.seen), bins=self.bins, kept=self.kept, others=self.others)
        drawn = torch.rand(chances.shape, generator=batch.generator, device=chances.device)
        masked.masks = (drawn < chances).to(batch.images.dtype)
        return super().loss(members, batch)
