"""The training step of the public TRS code, written again from its description: what ours is timed against.

As there: everything eager and in training mode; the inner search builds parameter gradients that nobody reads and never
clears its buffer; each term makes its own passes, so the clean half of the batch is differentiated twice; a last pass
over the clean batch watches the accuracy; pairs (0,1), (0,2), (1,2) are written out, so there are three members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.methods.trs import Trs
from bench.training.method import Batch

PAIRS = ((0, 1), (0, 2), (1, 2))
FLOOR = 1e-8


@dataclass(frozen=True)
class AuthorsStep:
    """One step on a batch: three networks in training mode, their optimiser, and the settings of `trs_official`."""

    members: Sequence[nn.Module]
    optimizer: torch.optim.Optimizer
    settings: Trs

    def __post_init__(self) -> None:
        if len(self.members) != 3:
            raise BenchError(f"the public TRS code has its three pairs written out; it takes 3 members, not "
                             f"{len(self.members)}")  # fmt: skip

    def __call__(self, batch: Batch) -> Tensor:
        """Update the members; the value of the loss before the update, a scalar."""
        size = len(batch.labels)
        half = size // 2
        images = batch.images.clone().requires_grad_()
        cross_entropy, gradients = self.differentiate(images, batch.labels)
        cosine: Tensor | float = 0.0
        for i, j in PAIRS:
            cosine = cosine + self.cosine(gradients[i], gradients[j]).abs().mean() / 3

        points = self.search(batch, batch.images[half:], batch.labels[half:])
        mixed = torch.cat([batch.images[:half], points]).requires_grad_()
        _, steep = self.differentiate(mixed, batch.labels)
        smooth = 2 * torch.stack([gradient.square().sum(1).mean() for gradient in steep]).sum() / 3

        loss = torch.stack(cross_entropy).sum() + self.settings.lambda_a * cosine + self.settings.lambda_b * smooth
        for member in self.members:
            member(images)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def cosine(self, a: Tensor, b: Tensor) -> Tensor:
        """[B] of gradients [B, D], as torch's `cosine_similarity` gives it: of today, or of before 1.12."""
        if self.settings.cosine_floor == "each":
            return torch.nn.functional.cosine_similarity(a, b, eps=FLOOR)
        lengths: Tensor = a.norm(dim=1) * b.norm(dim=1)
        return (a * b).sum(1) / lengths.clamp_min(FLOOR)

    def differentiate(self, images: Tensor, labels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Each member's mean cross-entropy, and its gradients [B, D] with respect to the images."""
        losses, gradients = [], []
        for member in self.members:
            loss = torch.nn.functional.cross_entropy(member(images), labels)
            (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
            losses.append(loss)
            gradients.append(gradient.flatten(1))
        return losses, gradients

    def search(self, batch: Batch, images: Tensor, labels: Tensor) -> Tensor:
        """Support points of `images`: sign steps along the sum of all gradients so far."""
        trs = self.settings
        radius = trs.delta_start + (trs.delta_end - trs.delta_start) * batch.epoch / batch.epochs
        low, high = (images - radius).clamp_min(0), (images + radius).clamp_max(1)
        points = (images + batch.uniform(images, radius)).clamp(0, 1).requires_grad_()
        for _ in range(trs.steps):
            _, gradients = self.differentiate(points, labels)
            torch.stack([gradient.square().sum() for gradient in gradients]).sum().backward()  # type: ignore[no-untyped-call]
            assert points.grad is not None
            with torch.no_grad():
                points.copy_((points + radius * trs.rel_step * points.grad.sign()).clamp(low, high))
        return points.detach()
