"""Random crop with zero padding and mirror, on a whole batch at once, on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bench.core.errors import BenchError
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from bench.data.base import Dataset


class AugmentationDraws(NamedTuple):
    """The random choices for n images: crop offsets `down`, `right` int64 [n] in 0 … 2·padding, `flip` bool [n]."""

    down: Tensor
    right: Tensor
    flip: Tensor

    def to(self, device: torch.device | str) -> AugmentationDraws:
        """The same choices on `device`."""
        return AugmentationDraws(*(part.to(device, non_blocking=True) for part in self))

    def part(self, index: slice) -> AugmentationDraws:
        """The choices for some of the images."""
        return AugmentationDraws(*(part[index] for part in self))


@dataclass(frozen=True)
class Augmentation:
    """Each image is padded with `padding` black pixels, cut back to its size at its own offset, and mirrored or not.

    The published CIFAR recipe: padding 4, mirror with probability one half.

    Raises:
        BenchError: negative padding.
    """

    padding: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise BenchError(f"crop padding must be 0 or more pixels, not {self.padding}")

    @classmethod
    def published(cls, dataset: Dataset | type[Dataset]) -> Augmentation | None:
        """The augmentation of the published recipes for a data set; `None` where there is none."""
        return cls(dataset.crop_padding, dataset.mirror) if dataset.crop_padding or dataset.mirror else None

    def draw(self, n: int, generator: torch.Generator) -> AugmentationDraws:
        """Random choices for `n` images from a CPU generator, so that every device sees the same ones."""
        offsets = torch.randint(2 * self.padding + 1, (2, n), generator=generator)
        flip = torch.rand(n, generator=generator) < 0.5 if self.mirror else torch.zeros(n, dtype=torch.bool)
        return AugmentationDraws(offsets[0], offsets[1], flip)

    def apply(self, images: Tensor, draws: AugmentationDraws) -> Tensor:
        """`images` [b, C, H, W] of any type, cropped and mirrored as `draws` (of b images, same device) says."""
        channels, height, width = images.shape[1:]
        across = torch.arange(width, device=images.device)
        across = torch.where(draws.flip[:, None], width - 1 - across, across) + draws.right[:, None]
        down = torch.arange(height, device=images.device) + draws.down[:, None]
        padded = torch.nn.functional.pad(images, (self.padding,) * 4)
        index = down[:, :, None] * (width + 2 * self.padding) + across[:, None, :]
        flat = index.flatten(1)[:, None].expand(-1, channels, -1)
        return padded.flatten(2).gather(2, flat).view(images.shape)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """`images` [b, C, H, W] augmented by fresh draws from the CPU `generator`."""
        return self.apply(images, self.draw(len(images), generator).to(images.device))
