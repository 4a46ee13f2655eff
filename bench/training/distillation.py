"""Images led by a network's features: towards those of others (DVERGE, equation 1), or away from their own (FASTEN)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.lazy import torch
from bench.training.gradients import search_mode

if TYPE_CHECKING:
    from torch import Tensor, nn


def distilled(
    member: nn.Module, layer: str, images: Tensor, targets: Tensor, *, eps: float, steps: int, momentum: float = 1.0,
    pass_targets: bool = False,
) -> Tensor:  # fmt: skip
    """[B, C, H, W] within eps (ℓ∞) of `images` and in [0, 1], whose features at `layer` come near those of `targets`.

    Sign steps of eps/steps along gradients of ℓ1 length 1 with momentum, starting at `images`, in the mode that the
    member is in.

    Args:
        layer: a point of `bench.models.features.pre_activation_points`.
        pass_targets: pass `targets` through the member after the images at each step, not once before: the same
            features each time, but running statistics of BatchNorm see them.
    """
    from bench.models.features import features_at

    low, high = (images - eps).clamp_min(0), (images + eps).clamp_max(1)
    points, direction = images.detach(), torch.zeros_like(images)

    def target() -> Tensor:
        with torch.no_grad():
            return features_at(member, layer, targets)

    with search_mode([member], statistics=True):
        wanted = None if pass_targets else target()
        for _ in range(steps):
            points.requires_grad_()
            found = features_at(member, layer, points)
            if pass_targets or wanted is None:
                wanted = target()
            distance = torch.nn.functional.mse_loss(found, wanted)
            (gradient,) = torch.autograd.grad(distance, points)
            length = gradient.flatten(1).abs().sum(1).clamp_min(1e-12).view(-1, 1, 1, 1)
            direction = momentum * direction + gradient / length
            points = (points.detach() - eps / steps * direction.sign()).clamp(low, high)
    return points.detach()


def away(member: nn.Module, layer: str, images: Tensor, points: Tensor, eps: float) -> Tensor:
    """One sign step of `eps` from `points` away from the features of `images`, within eps of these and [0, 1].

    BatchNorm's running statistics see both.
    """
    from bench.models.features import features_at

    with search_mode([member], statistics=True):
        points.requires_grad_()
        found = features_at(member, layer, points)
        with torch.no_grad():
            wanted = features_at(member, layer, images)
        (gradient,) = torch.autograd.grad(torch.nn.functional.mse_loss(found, wanted), points)
    moved = points.detach() + eps * gradient.sign()
    return (images + (moved - images).clamp(-eps, eps)).clamp(0, 1)
