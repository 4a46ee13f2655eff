"""DI²-FGSM: gradients through random resizing and padding, for adversarial images that transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.attacks.iterative import MIM
from bench.core.errors import BenchError
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DI2FGSM(MIM):
    """Diverse inputs with momentum (M-DI²-FGSM), Xie et al. 2019; the TRS paper's "DI2-SGSM".

    Official settings: none are known for small images. Published for 299 pixels: probability .5, a size drawn from 299
    to 329, padded with zeros to 330 at a random place, decay 1. Here, since small networks take one size only: a size
    drawn from ⌊.9·S⌋ to S − 1 (7 of 8; 25–27 of 28; 28–31 of 32 pixels), the same ratio, padded to S; 50 steps of ε/10.

    Size, place and whether to transform at all are drawn once a step for all images of the set. A point seen through a
    transformation is no judged iterate.

    Args:
        probability: of transforming the images at a step.
        smallest: smallest size as a share of the image's.
    """

    probability: float = 0.5
    smallest: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.probability <= 1:
            raise BenchError(f"probability is between 0 and 1, not {self.probability}")
        if not 0 < self.smallest < 1:
            raise BenchError(f"smallest, a share of the image's size, is above 0 and below 1, not {self.smallest}")

    def slope(self, problem: Problem, x: Tensor, step: int) -> Tensor:
        """The gradient at `x`, seen through this step's transformation."""
        chance, size, top, left = problem.shared_uniform(("diversity", step), 4)
        if chance >= self.probability:
            return problem.gradient(x, self.loss)

        def evaluate(point: Tensor) -> Tensor:
            return problem.valued(resize_and_pad(point, self.smallest, size, top, left), self.loss)[1]

        return problem.ascend(x, evaluate)[0]


def resize_and_pad(images: Tensor, smallest: float, size: float, top: float, left: float) -> Tensor:
    """Images [b, C, H, W], made smaller (bilinear) and padded with zeros to [b, C, H, W].

    Args:
        smallest: smallest size as a share of the image's.
        size, top, left: in [0, 1): where between the smallest and the largest (one pixel less than the image's) the
            size lies, and where the small image lies within the large one.
    """
    small = []
    for side in images.shape[2:]:
        least = max(1, min(int(smallest * side), side - 1))
        small.append(least + int(size * (side - least)))
    space = [side - length for side, length in zip(images.shape[2:], small, strict=True)]
    above, before = int(top * (space[0] + 1)), int(left * (space[1] + 1))
    resized = torch.nn.functional.interpolate(images, size=small, mode="bilinear", align_corners=False)
    return torch.nn.functional.pad(resized, [before, space[1] - before, above, space[0] - above])
