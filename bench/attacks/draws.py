"""The random numbers of an evaluation, by image: which others are in the batch, or still attacked, changes none."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core import seeds

GOLDEN = 0x9E3779B97F4A7C15  # odd, so that the seeds of different images differ


class Draws:
    """Random numbers for the images of an evaluation set, each image with a stream of its own.

    A draw depends on the axes, its name and the image's position in the set: batch size, device, and which images
    are still attacked change nothing.
    """

    def __init__(self, axes: tuple[object, ...], shape: tuple[int, ...]) -> None:
        self.axes = axes
        self.shape = shape
        self._generator = torch.Generator()

    def take(self, kind: str, name: object, rows: Tensor) -> Tensor:
        """The draw `name` for the images at `rows`: `kind` "uniform" (in [-1, 1)) or "normal"."""
        base = seeds.derive(*self.axes, kind, name)
        draw = torch.rand if kind == "uniform" else torch.randn
        values = torch.empty(len(rows), *self.shape)
        for place, row in enumerate(rows.tolist()):
            self._generator.manual_seed((base + row * GOLDEN) % 2**63)
            draw(self.shape, generator=self._generator, out=values[place])
        return (values * 2 - 1 if kind == "uniform" else values).to(rows.device)

    def shared(self, name: object, size: int) -> list[float]:
        """`size` uniform numbers in [0, 1), the same for every image of the set."""
        return torch.rand(size, generator=seeds.generator(*self.axes, "shared", name)).tolist()
