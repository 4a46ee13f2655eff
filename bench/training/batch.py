"""What a method's loss is given at each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One training batch, on the device of the members.

    Attributes:
        images: float [B, C, H, W] in [0, 1], augmented.
        labels: int64 [B].
        indices: int64 [B], positions in the training set (for per-image weights).
        epoch: 0-based epoch of this phase.
        epochs: number of epochs of this phase.
        progress: share of the phase that is over, in [0, 1).
        generator: random numbers of this epoch, on the images' device.
        others: gives [B, C, H, W] images drawn from the training set independently of `images` and augmented like
            them; the same ones however often it is called in one step.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    epoch: int
    epochs: int
    progress: float
    generator: torch.Generator
    others: Callable[[], Tensor]

    def uniform(self, like: Tensor, radius: float) -> Tensor:
        """Uniform noise in [-radius, radius], shaped as `like`."""
        noise = torch.rand(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)
        return (2 * noise - 1) * radius
