"""IR: adversarial images that transfer, by making the parts of the change interact less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.attacks.iterative import PGD
from bench.attacks.losses import OnAims, ce, margin, over
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem


@dataclass(frozen=True, kw_only=True)
class IR(PGD):
    """Interaction-reduced attack, Wang et al. 2021 (ICLR); the TRS paper's "IRA".

    Official settings: none are known for small images. Published for 224 pixels: 100 PGD steps, λ 1, cells of 14 pixels
    (16 × 16), 32 of the 256 cells in a sample, 32 samples a step (65 passes). Here: 50 steps of ε/10, cells of 2 pixels
    below 16 pixels and of 4 from there (4 × 4 at 8, 7 × 7 at 28, 8 × 8 at 32 pixels), an eighth of them in a sample as
    published, 4 samples a step (9 passes), λ .1: on small networks larger ones weaken the images everywhere.

    Ascends CE − λ·I with I the mean over samples S of v(δ) − v(δ without S) − v(δ in S only) + v(0), where v is the
    score of the best other class at x + δ less that of the label (with targets: of the target). The cells of a sample
    are drawn once a step for all images of the set.

    Args:
        strength: λ, the weight of the interaction.
        samples: samples of cells a step; each costs two passes.
        share: share of the cells in a sample.
    """

    strength: float = 0.1
    samples: int = 4
    share: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss != "ce":
            raise BenchError(f"loss: ir ascends the cross-entropy less the interaction, never {self.loss}")
        if self.strength < 0:
            raise BenchError(f"strength, the weight of the interaction, is at least 0, not {self.strength}")
        at_least(1, self, "samples")
        if not 0 < self.share < 1:
            raise BenchError(f"share, of the cells, is above 0 and below 1, not {self.share}")

    def slope(self, problem: Problem, x: Tensor, step: int) -> Tensor:
        """Gradient of CE − λ·I at `x`; v(0) does not depend on it and is left out."""

        answer = problem.ask(x, OnAims(_whole, (self.strength,)))
        gradient = answer.gradient
        wrong = problem.targets
        if wrong is None:
            wrong = answer.scores.scatter(1, problem.labels[:, None], -torch.inf).argmax(1)
        for sample in range(self.samples):
            cells = cell_mask(problem.shared_uniform(("cells", step, sample), _cells(x)), x, self.share)

            def parts(point: Tensor, images: Tensor, labels: Tensor, wrong: Tensor, cells: Tensor) -> tuple[Tensor]:
                change = point - images
                within = torch.cat([images + change * cells, images + change * (1 - cells)])
                only, without = problem.network(within).chunk(2)
                return (over(only, labels, wrong) + over(without, labels, wrong),)

            rows = problem.images, problem.labels, wrong, cells.expand(len(x), -1, -1, -1)
            slope, _ = problem.ascend_by_rows(x, parts, rows, same="parts", passes=2, curve=False)
            gradient = gradient + slope * (self.strength / self.samples)
        return gradient


def _whole(scores: Tensor, labels: Tensor, targets: Tensor | None, strength: float) -> Tensor:
    """Cross-entropy less `strength` times the lead of the best other class, or of the target."""
    value = -margin(scores, labels) if targets is None else over(scores, labels, targets)
    return ce(scores, labels, targets) - strength * value


def _grid(images: Tensor) -> tuple[int, int]:
    height, width = images.shape[2:]
    size = 2 if min(height, width) < 16 else 4
    return -(-height // size), -(-width // size)


def _cells(images: Tensor) -> int:
    rows, columns = _grid(images)
    return rows * columns


def cell_mask(numbers: list[float], images: Tensor, share: float) -> Tensor:
    """1 in the chosen cells and 0 elsewhere, [1, 1, H, W]: the cells with the smallest of `numbers`, one a cell."""
    rows, columns = _grid(images)
    chosen = torch.tensor(numbers).argsort()[: max(1, round(share * rows * columns))]
    mask = torch.zeros(rows * columns).index_fill_(0, chosen, 1.0).view(1, 1, rows, columns)
    return torch.nn.functional.interpolate(mask, size=images.shape[2:], mode="nearest").to(images)
