"""GAL: gradient alignment loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import added, at_least
from bench.training.gradients import TORCH_FLOOR, cosines, losses_and_gradients, pass_again
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Gal(Method):
    """Gradient alignment: members whose loss gradients point in different directions (signed cosine).

    Kariyappa and Qureshi, "Improving adversarial robustness of ensembles with diversity training", 2019:
    mean_k CE_k + λ · mean_x log Σ_{i<j} exp(cos(g_i, g_j)), g_k the gradient of member k's cross-entropy with respect
    to the image. Every ReLU is a leaky one of slope .1, in training and afterwards, so that gradients are not sparse.
    Each training image gets Gaussian noise with some probability (not clipped to [0, 1], as in the public code).

    Official settings: λ .5, noise σ .045 with probability .5; Adam 1e-3, eps 1e-7, weight decay 1e-4, batch 128, 200
    epochs, ×.1 at 100 and 150 (DVERGE's public code).

    Args:
        strength: λ, weight of the coherence term.
        noise: σ, in units of the [0, 1] pixel range.
        noise_share: probability of the noise, an image.
        cosine_floor: "none", the paper's cosine; "product", that of the public code, which takes it of gradients
            divided by B and keeps the product of the norms above 1e-8 (torch before 1.12); "each", that of the same
            code under torch since, which keeps each norm above 1e-8.
        running_statistics: "public": BatchNorm's running statistics see the batch twice, since the public code makes a
            pass of its own for the cross-entropy; "needed": once. Training does not depend on it; predictions
            afterwards do. Version 1 did the latter.
    """

    version: ClassVar[int] = 2
    activation: ClassVar[str] = "leaky_relu"
    replayable: ClassVar[bool] = True

    strength: float = 0.5
    noise: float = 0.045
    noise_share: float = 0.5
    cosine_floor: Literal["none", "product", "each"] = added("none")
    running_statistics: Literal["public", "needed"] = added("public")

    def __post_init__(self) -> None:
        at_least(0, self, "strength", "noise")
        if not 0 <= self.noise_share <= 1:
            raise BenchError(f"noise_share is in [0, 1], not {self.noise_share}")

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`, and `coherence` times λ."""
        images = self.noisy(batch).requires_grad_()
        losses, gradients = losses_and_gradients(members, images, batch.labels)
        if self.running_statistics == "public":
            pass_again(members, images)
        return {
            "ce": self.over_members(torch.stack(losses)) / len(batch.labels),
            "coherence": self.strength * self.cosine(gradients).logsumexp(0).mean(),
        }

    def over_members(self, losses: Tensor) -> Tensor:
        """Their mean."""
        return losses.mean()

    def cosine(self, gradients: Sequence[Tensor]) -> Tensor:
        """[pairs, B]: the signed cosine of each pair's gradients, N × [B, D]."""
        if self.cosine_floor == "none":
            return cosines(gradients)
        return cosines(gradients, scale=1 / len(gradients[0]), floor=TORCH_FLOOR, each=self.cosine_floor == "each")

    def noisy(self, batch: Batch) -> Tensor:
        """The images, each with noise or without."""
        images = batch.images.detach()
        shape, device = images.shape, images.device
        normal = batch.drawn(lambda at: torch.randn(shape, generator=at.generator, device=device))
        share = batch.drawn(lambda at: torch.rand(shape[0], generator=at.generator, device=device))
        return images + self.noise * normal * (share < self.noise_share).view(-1, 1, 1, 1)
