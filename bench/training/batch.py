"""What a method's loss is given at each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """One training batch, on the device of the members.

    On a GPU steps are recorded and replayed (`bench.training.captured`). What differs from step to step a loss then
    asks for by `number`, `drawn`, `choice`, `uniform` and `others`, in the same order in each step; a loss that reads
    `epoch`, `progress` or `generator` itself is not recorded.

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

    def number(self, of: Callable[[Batch], float]) -> float | Tensor:
        """A number that may change from step to step, a weight or a radius: what `of` makes of this batch.

        In recorded steps a tensor without dimensions, of the images' type. Numbers are not made of each other, so that
        they are rounded once: `batch.number(lambda at: 3 * ramp(at.progress))` rather than three times a number.
        """
        return of(self)

    def drawn(self, of: Callable[[Batch], Tensor]) -> Tensor:
        """A tensor that `of` makes of this batch, say from its `generator`; of the same shape in each step."""
        return of(self)

    def choice(self, of: Callable[[Batch], T]) -> T:
        """Something on which it depends what is computed, a layer say: what `of` makes of this batch.

        The same throughout an epoch. Each choice has a recording of its own.
        """
        return of(self)

    def first(self, count: int) -> Batch:
        """The first `count` images as a batch of their own."""
        others, parts = self.others, (self.images, self.labels, self.indices)
        images, labels, indices = (part[:count] for part in parts)
        return replace(self, images=images, labels=labels, indices=indices, others=lambda: others()[:count])

    def uniform(self, like: Tensor, radius: float | Tensor) -> Tensor:
        """Uniform noise in [-radius, radius], shaped as `like`."""
        shape, device, dtype = like.shape, like.device, like.dtype
        noise = self.drawn(lambda at: torch.rand(shape, generator=at.generator, device=device, dtype=dtype))
        return (2 * noise - 1) * radius


def is_class(labels: Tensor, classes: int) -> Tensor:
    """Bool [B, classes], true at the label of each image. Unlike `one_hot` it does not wait for the device."""
    return labels.unsqueeze(1) == torch.arange(classes, device=labels.device)
