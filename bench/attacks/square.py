"""Square: random search with squares, without any gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.base import Attack
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries
TILES = 5  # in a row and in a column of the ℓ2 start


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack in the ℓ∞ ball, Andriushchenko et al. 2020 (ECCV), Algorithms 1 and 2.

    Official settings (AutoAttack's code): 5,000 queries after the start, p .8, margin loss.

    The start is vertical stripes of ±ε, one a column and channel. Each query adds ±2ε, one sign a channel, to a square
    window of the best image so far, and keeps it where that lowers the margin of the label over the best other class;
    an image is done when it is misclassified. The window covers the share p of the image; p is halved after 10, 50,
    200, 500, 1000, 2000, 4000, 6000 and 8000 queries, whatever their number. As in that code a window never touches
    the last row and column, unless it is as large as the image. Window and signs of a query are drawn once for all
    images of the set, the stripes for each image.

    Args:
        queries: passes forwards after the start.
        p_init: share of the image in the first windows.
    """

    needs_gradient: ClassVar[bool] = False
    takes_targets: ClassVar[bool] = True
    ends_at_success: ClassVar[bool] = True

    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "queries")
        if not 0 < self.p_init <= 1:
            raise BenchError(f"p_init, a share of the image, is above 0 and at most 1, not {self.p_init}")

    @property
    def passes(self) -> int:
        """A query is a pass forwards, about a third of one with its gradient."""
        return -(-self.queries // 3)

    def run(self, problem: Problem) -> Tensor:
        """Random search from `start`; broken images leave under either rule of stopping."""
        channels = problem.images.shape[1]
        numbers = problem.shared_uniform("squares", self.queries * (5 + channels))
        x = self.start(problem)
        signs = _signs(2 * torch.tensor(numbers).view(self.queries, -1)[:, 5:] - 1).to(x)
        best = problem.loss(problem.scores(x), "lead")
        for query in range(self.queries):
            x, best = problem.drop_broken(x, best)
            if not len(x):
                return x
            drawn = numbers[query * (5 + channels) : (query + 1) * (5 + channels)]
            new = self.propose(problem, x, query, drawn[:5], signs[query].view(1, -1, 1, 1))
            value = problem.loss(problem.scores(new), "lead")
            better = value > best
            x = torch.where(better.view(-1, 1, 1, 1), new, x)
            best = torch.where(better, value, best)
        return x

    def start(self, problem: Problem) -> Tensor:
        """Vertical stripes: ±ε in each column and channel."""
        return problem.project(problem.images + problem.budget * _signs(problem.uniform("stripes")[:, :, :1]))

    def propose(self, problem: Problem, x: Tensor, query: int, drawn: list[float], sign: Tensor) -> Tensor:
        """The image to ask next, [b, C, H, W].

        Args:
            query: its number, from 0.
            drawn: five numbers in [0, 1), of which windows are made.
            sign: −1 or 1 for each channel, [1, C, 1, 1].
        """
        height, width = x.shape[2:]
        size = min(max(1, self._side(query, height, width)), height, width)
        rows, columns = _window(drawn[:2], size, height, width)
        new = x.clone()
        new[:, :, rows, columns] += 2 * problem.budget * sign
        return problem.project(new)

    def _side(self, query: int, height: int, width: int) -> int:
        """Side of a square with the query's share of the pixels, rounded."""
        share = self.p_init / 2 ** sum(query > after for after in HALVED_AFTER)
        return round(math.sqrt(share * height * width))


@dataclass(frozen=True, kw_only=True)
class SquareL2(Square):
    """Square attack in the ℓ2 ball, Andriushchenko et al. 2020 (ECCV), Algorithms 1 and 3.

    Official settings (AutoAttack's code): as for the ℓ∞ ball.

    The start is 5 × 5 tiles of pyramids, scaled to ε, with a sign for each image, channel and tile. Each query takes
    the change out of one window, of odd side and at least 3 pixels, and gives its length, and what of ε is not used, to
    a pair of pyramids in another. Windows and signs of a query are drawn once for all images of the set.
    """

    norm: ClassVar[str | None] = "l2"

    def start(self, problem: Problem) -> Tensor:
        """Tiles of pyramids over the image, ε long."""
        images = problem.images
        height, width = images.shape[2:]
        side = max(1, height // TILES)
        first = max(0, (height - side * TILES) // 2)
        signs = _signs(problem.uniform("tiles"))
        turned = iter(problem.shared_uniform("turned", (height // side) * (width // side)))
        change = torch.zeros_like(images)
        for row in range(first, first + side * (height // side), side):
            for column in range(first, first + side * (width // side), side):
                tile = pyramids(side, turned=next(turned) > 0.5).to(images)
                room = change[:, :, row : row + side, column : column + side]
                if room.numel():
                    room += tile[: room.shape[2], : room.shape[3]] * signs[:, :, row : row + 1, column : column + 1]
        return _scaled(problem, change)

    def propose(self, problem: Problem, x: Tensor, query: int, drawn: list[float], sign: Tensor) -> Tensor:
        """The image to ask next, [b, C, H, W]; arguments as for `Square.propose`."""
        images, (channels, height, width) = problem.images, x.shape[1:]
        size = max(3, self._side(query, height, width))
        size = min(size + 1 - size % 2, height, width)
        into, out_of = _window(drawn[:2], size, height, width), _window(drawn[2:4], size, height, width)
        change = x - images
        length = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        both = torch.zeros_like(change[:1, :1])
        both[:, :, into[0], into[1]] = 1
        both[:, :, out_of[0], out_of[1]] = 1
        held = (change * both).square().sum((2, 3), keepdim=True)
        old = change[:, :, into[0], into[1]]
        new = pyramids(size, turned=drawn[4] > 0.5).to(x) * sign + old / (1e-12 + _length(old))
        unused = (problem.budget**2 - length.square()).clamp_min(0)
        new = new / (1e-12 + _length(new)) * (unused / channels + held).sqrt()
        change[:, :, out_of[0], out_of[1]] = 0
        change[:, :, into[0], into[1]] = new
        return _scaled(problem, change)


@cache
def pyramids(side: int, *, turned: bool) -> Tensor:
    """A pyramid above one below zero, side by side when `turned`; [side, side], of length 1; not to be written into."""
    half = side // 2
    change: Tensor = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)])
    change = change / change.norm()
    return change.T if turned else change


def _pyramid(height: int, width: int) -> Tensor:
    """Layers of growing rectangles around the middle, the k-th 1/k² high, [height, width], of length 1."""
    change = torch.zeros(height, width)
    row, column = height // 2, width // 2
    for layer in range(max(row, column) + 1):
        rows = slice(max(row - layer, 0), min(row + layer + 1, height))
        columns = slice(max(column - layer, 0), min(column + layer + 1, width))
        change[rows, columns] += 1 / (layer + 1) ** 2
    scaled: Tensor = change / change.norm().clamp_min(1e-12)
    return scaled


def _window(drawn: list[float], size: int, height: int, width: int) -> tuple[slice, slice]:
    row, column = int(drawn[0] * (height - size)), int(drawn[1] * (width - size))
    return slice(row, row + size), slice(column, column + size)


def _signs(numbers: Tensor) -> Tensor:
    """−1 below zero, else 1: never 0."""
    return torch.where(numbers < 0, -1.0, 1.0)


def _length(change: Tensor) -> Tensor:
    """ℓ2 norm of each image's channels, [b, C, 1, 1]."""
    return change.square().sum((2, 3), keepdim=True).sqrt()


def _scaled(problem: Problem, change: Tensor) -> Tensor:
    length = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return problem.project(problem.images + problem.budget * change / (length + 1e-12))
