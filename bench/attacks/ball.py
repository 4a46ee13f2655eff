"""The ball of a budget around an image, cut to [0, 1]: the way into it, and how far outside something lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-5  # rounding that an iterate may be outside the ball and still count as inside
ROUNDING = 1e-4  # an attack's result may be this far outside by rounding; it is moved back


def project(x: Tensor, images: Tensor, budget: float | Tensor, norm: str | None) -> Tensor:
    """`x` [b, C, H, W] moved into [0, 1] and into the ball around `images` of radius `budget` in `norm`.

    Args:
        budget: in units of the [0, 1] pixel range; of no effect without a norm.
        norm: "linf", "l2", or None where there is no ball.
    """
    if norm == "linf":
        return torch.clamp(x, (images - budget).clamp_min(0), (images + budget).clamp_max(1))
    if norm == "l2":
        # Clipped first: what [0, 1] takes away then uses nothing of the radius. Scaling leads back towards an image in
        # [0, 1], so it stays there; the last clamp is for rounding.
        change = x.clamp(0, 1) - images
        length = change.flatten(1).norm(dim=1).clamp_min(1e-12)
        factor = (budget / length).clamp_max(1).view(-1, *[1] * (x.dim() - 1))
        moved: Tensor = (images + change * factor).clamp(0, 1)
        return moved
    return x.clamp(0, 1)


def excess(x: Tensor, images: Tensor, budget: float, norm: str | None) -> Tensor:
    """How far each image of `x` lies outside [0, 1] or the ball, [b]; 0 or less inside, infinite for NaN.

    Arguments as for `project`.
    """
    flat = x.flatten(1)
    outside = torch.maximum(-flat.amin(1), flat.amax(1) - 1)
    change = (x - images).flatten(1)
    if norm == "linf":
        outside = torch.maximum(outside, change.abs().amax(1) - budget)
    elif norm == "l2":
        outside = torch.maximum(outside, change.norm(dim=1) - budget)
    return torch.where(flat.isfinite().all(1), outside, torch.inf)
