"""FAB-T: steps onto the linearised boundary of a target class, kept near the clean image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.base import Attack
from bench.attacks.losses import OnAims, over
from bench.attacks.rivals import TARGETS, check_targets, each_rival
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem


@dataclass(frozen=True, kw_only=True)
class FABT(Attack):
    """Targeted fast adaptive boundary attack (FAB-T) in the ℓ∞ ball, Croce and Hein 2020 (ICML), Algorithm 1.

    Official settings (AutoAttack's code): nine targets, those ranked 2 to 10 by the scores of the clean image, with one
    run of 100 steps each from the clean image, α_max .1, η 1.05, β .9.

    A minimum-norm attack: each step goes η times the way to where the scores of label and target, linearised at the
    point, are equal, and a share α of the point is replaced by the same seen from the clean image; where a wrong class
    is given, the change is then shortened to β of itself. Points outside the ball count for nothing; an image is done
    at the first inside it that is misclassified. Of images that stand the last point is returned, moved into the ball.

    Args:
        steps: number of steps; a pass forwards and backwards and another forwards each.
        target_classes: the most targets for an image; with C classes there are at most C − 1.
        alpha_max: largest share of the step that leads from the clean image.
        eta: overshoot across the boundary.
        beta: share of the change that stays after a success.
    """

    ends_at_success: ClassVar[bool] = True

    steps: int = 100
    target_classes: int = TARGETS
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_targets(self.target_classes)
        at_least(1, self, "steps")
        if not 0 <= self.alpha_max <= 1:
            raise BenchError(f"alpha_max, a share, is between 0 and 1, not {self.alpha_max}")
        if self.eta < 1:
            raise BenchError(f"eta, the overshoot, is at least 1, not {self.eta}")
        if not 0 < self.beta <= 1:
            raise BenchError(f"beta, a share, is above 0 and at most 1, not {self.beta}")

    @property
    def passes(self) -> int:
        """All targets."""
        return self.steps * self.target_classes

    def run(self, problem: Problem) -> Tensor:
        """A search for each target; images that break leave for good."""
        return each_rival(problem, self.target_classes, lambda _: self.search(problem))

    def search(self, problem: Problem) -> Tensor:
        """Steps towards the classes of `problem.aims`."""
        x = problem.images
        for _ in range(self.steps):
            answer = problem.ask(x, OnAims(over), judged=False, curve=False)
            x = self.step(x, problem.images, answer.gradient, answer.losses)
            fooled = problem.fooled(problem.scores(x)).view(-1, 1, 1, 1)
            x = torch.where(fooled, problem.images + self.beta * (x - problem.images), x)
            (x,) = problem.drop_broken(x)
            if not len(x):
                return x
        return problem.project(x)

    def step(self, x: Tensor, images: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        """The next point, [b, C, H, W], for `value` [b] and `gradient` at `x` of what is to become 0."""
        point, origin, normal = x.flatten(1), images.flatten(1), gradient.flatten(1)
        offset = (normal * point).sum(1) - value
        change = to_hyperplane(
            torch.cat([point, origin]), normal.repeat(2, 1), offset.repeat(2), norm=self.norm or "linf"
        )
        length = change.norm(dim=1, p=2 if self.norm == "l2" else torch.inf).clamp_min(1e-8)
        (from_here, from_origin), (short, long) = change.chunk(2), length.chunk(2)
        share = (short / (short + long)).clamp_max(self.alpha_max)[:, None]
        moved: Tensor = (1 - share) * (point + self.eta * from_here) + share * (origin + self.eta * from_origin)
        return moved.clamp(0, 1).view_as(x)


@dataclass(frozen=True, kw_only=True)
class FABTL2(FABT):
    """Targeted fast adaptive boundary attack (FAB-T) in the ℓ2 ball, Croce and Hein 2020 (ICML), Algorithm 1.

    Official settings (AutoAttack's code): as for the ℓ∞ ball.
    """

    norm: ClassVar[str | None] = "l2"


def to_hyperplane(points: Tensor, normals: Tensor, offsets: Tensor, *, norm: str) -> Tensor:
    """The smallest change d [b, D] in `norm` with ⟨normal, point + d⟩ = offset and point + d in [0, 1].

    Where the box holds no such point, the change into the corner nearest to the hyperplane.

    Every coordinate moves at its speed (1 for ℓ∞, |normal| for ℓ2) until it meets the end of [0, 1]; the time at which
    the hyperplane is met follows from these ends in order, since between two of them the way left shrinks evenly.

    Args:
        points: [b, D] in [0, 1].
        normals: [b, D].
        offsets: [b].
        norm: "linf" or "l2".
    """
    gap = (normals * points).sum(1) - offsets
    weights = normals.abs()
    direction = -normals.sign() * gap.sign()[:, None]
    room = torch.where(direction > 0, 1 - points, points)
    speed = weights if norm == "l2" else torch.ones_like(weights)
    ends, order = (room / speed.clamp_min(1e-12)).sort(1)
    rates = (weights * speed).gather(1, order)
    moving = rates.flip(1).cumsum(1).flip(1)  # rate of those that have not met their end, just before each end
    stopped = (rates * ends).cumsum(1) - rates * ends
    place = (stopped + moving * ends < gap.abs()[:, None]).sum(1, keepdim=True)
    last = place.clamp_max(points.shape[1] - 1)
    time = (gap.abs()[:, None] - stopped.gather(1, last)) / moving.gather(1, last).clamp_min(1e-30)
    time = torch.where(place > last, 1e30, time)
    return direction * torch.minimum(time * speed, room)
