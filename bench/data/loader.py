"""Batches of a device-resident image set: no worker processes, one transfer of random numbers an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from bench.core.lazy import torch
from bench.data.base import unit

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.augment import Augmentation
    from bench.data.base import ImageSet

SMALLEST = 4  # batch statistics mean nothing on one image, and unbiased HSIC needs four


class ImageBatch(NamedTuple):
    """`x` float32 [b, C, H, W] in [0, 1], `y` int64 [b], `indices` int64 [b] into the image set; on its device."""

    x: Tensor
    y: Tensor
    indices: Tensor


def spans(n: int, batch_size: int) -> list[slice]:
    """0 … n cut into batches; a last one of fewer than 4 images joins the one before it.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"a batch needs 1 image or more, not {batch_size}")
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] < min(SMALLEST, batch_size):
        del starts[-1]
    return [slice(start, stop) for start, stop in zip(starts, [*starts, n][1:], strict=True)]


def batches(
    images: ImageSet,
    *,
    batch_size: int,
    generator: torch.Generator | None = None,
    augment: Augmentation | None = None,
) -> Iterator[ImageBatch]:
    """One epoch over `images`.

    With a CPU `generator` the order is shuffled and `augment` draws from it, once for the whole epoch: the same seed
    gives the same batches on every device, and the same augmented images at every batch size. Without one the images
    come in their order.

    Raises:
        ValueError: `batch_size` is not positive, or `augment` is given without a generator.
    """
    if augment is not None and generator is None:
        raise ValueError("augmentation needs a generator")
    cuts = spans(len(images), batch_size)
    if generator is None:
        order = torch.arange(len(images), device=images.device)
    else:
        order = torch.randperm(len(images), generator=generator).to(images.device, non_blocking=True)
    draws = augment.draw(len(images), generator).to(images.device) if augment and generator else None

    def epoch() -> Iterator[ImageBatch]:
        for cut in cuts:
            indices = order[cut]
            pixels = images.images[cut if generator is None else indices]
            if augment is not None and draws is not None:
                pixels = augment.apply(pixels, draws.part(cut))
            yield ImageBatch(unit(pixels), images.labels[indices], indices)

    return epoch()
