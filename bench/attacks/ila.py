"""ILA: adversarial images that transfer, by pushing an intermediate layer further along a guide's direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.attacks.iterative import Iterative
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least

if TYPE_CHECKING:
    from torch import Tensor

    from bench.attacks.problem import Problem


@dataclass(frozen=True, kw_only=True)
class ILA(Iterative):
    """Intermediate level attack (projection loss), Huang et al. 2019; the TRS paper's "ILA".

    Official settings: none are known for small images. Published: I-FGSM for the guide, then 10 steps, on the layer
    that a search over all layers finds best, mostly in the middle. Here: a guide of 10 BIM steps of ε/10, then 50
    steps of ε/10 from the image itself, on the middle one of the points before a nonlinearity (the second convolution
    of three for digits_cnn and LeNet, the middle block for a ResNet).

    With F_k the features of member k and x_g the guide's image, the steps ascend the sum over members of
    ⟨F_k(x') − F_k(x), F_k(x_g) − F_k(x)⟩ / ‖F_k(x_g) − F_k(x)‖², so that each member's guide counts 1. Only the guide's
    points are judged iterates.

    Args:
        guide_steps: steps of the guide.
        depth: the layer, as a share of the points from the first (0) to the last before the logits (1).
    """

    asks_members: ClassVar[bool] = True

    guide_steps: int = 10
    depth: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "guide_steps")
        if not 0 <= self.depth <= 1:
            raise BenchError(f"depth, a share of the layers, is between 0 and 1, not {self.depth}")

    def run(self, problem: Problem) -> Tensor:
        """The guide, then the steps on the features."""
        from bench.models.features import features_at

        step = self.rel_step * problem.budget
        guide = problem.images
        for _ in range(self.guide_steps):
            guide, gradient = problem.drop_broken(guide, problem.gradient(guide, self.loss, curve="guide"))
            if not len(guide):
                return guide
            guide = problem.project(guide + step * gradient.sign())
        points = [(member, self._point(member, guide)) for member in problem.members]

        def features(x: Tensor) -> list[Tensor]:
            return [features_at(member, point, x).flatten(1) for member, point in points]

        with torch.no_grad():
            clean = features(problem.images)
            aims = [there - here for there, here in zip(features(guide), clean, strict=True)]
        problem.forwards += 2 * len(guide)
        aims = [aim / aim.square().sum(1, keepdim=True).clamp_min(1e-12) for aim in aims]

        def projection(x: Tensor) -> Tensor:
            moved = zip(features(x), clean, aims, strict=True)
            return torch.stack([((there - here) * aim).sum(1) for there, here, aim in moved]).sum(0)

        x = problem.images
        for _ in range(self.steps):
            x = problem.project(x + step * problem.ascend(x, projection)[0].sign())
        return x

    def _point(self, member: torch.nn.Module, images: Tensor) -> str:
        from bench.models.features import LOGITS, pre_activation_points

        channels, height, width = images.shape[1:]
        points = [point for point in pre_activation_points(member, (channels, height, width)) if point != LOGITS]
        if not points:
            raise BenchError("ila needs a network with a nonlinearity that is a module; this one has none")
        return points[round(self.depth * (len(points) - 1))]
