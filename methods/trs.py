"""TRS and its two variants without the min-max term: Cos-only, Cos-ℓ2, TRS.

Yang et al., "TRS: Transferability Reduced Ensemble via Promoting Gradient Diversity and Model Smoothness",
NeurIPS 2021, §3. With g_k the gradient of member k's own cross-entropy with respect to the image:

    mean_k CE_k(x) + mean over pairs (i, j) of [ λa·|cos(g_i(x), g_j(x))| + λb·L_smooth(i, j) ]

    Cos-only  L_smooth = 0
    Cos-ℓ2    L_smooth = ‖g_i(x)‖₂ + ‖g_j(x)‖₂
    TRS       L_smooth = max over ‖x̂ − x‖∞ ≤ δ of (‖g_i(x̂)‖₂ + ‖g_j(x̂)‖₂)                       (equation 1)

`terms="official"` computes what the authors' public code computes instead: gradients of the batch-mean loss, squared
norms, cross-entropy summed over members, torch's floored cosine, norms over the clean first half and the support
points of the second, an inner search that follows the sign of the sum of its gradients so far, training-mode
BatchNorm everywhere. There λb's term is nearly inert: each squared norm is divided by B².

The floor is no detail. torch's `cosine_similarity` divided by max(‖a‖·‖b‖, 1e-8) when the code was written, by
max(‖a‖, 1e-8)·max(‖b‖, 1e-8) since 1.12. Of trained LeNets' gradients, divided by a batch of 128, 69 % of the pairs lie
below the first: there the "cosine" is a dot product times 1e8, a penalty on the size of gradients. The same code gives
the loss 3.24 under the old rule and 7.28 under the new one (`cosine_floor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import added, at_least
from bench.training.gradients import (
    TORCH_FLOOR,
    cosines,
    coupled,
    frozen_statistics,
    loss_and_gradient,
    losses_and_gradients,
    norms,
    pass_again,
    search_mode,
)
from bench.training.method import Batch, Method
from bench.training.streams import abreast

if TYPE_CHECKING:
    from torch import Tensor, nn

Terms = Literal["paper", "official"]


@dataclass(frozen=True, kw_only=True)
class CosOnly(Method):
    """Gradient cosine only: TRS with λb = 0.

    Official settings: λa as for TRS (published 10 MNIST, 40 CIFAR; ours 2), training as for TRS.

    Args:
        lambda_a: λa, weight of the mean absolute cosine over images and pairs.
        terms: "paper" or "official" (module docstring).
        ramp: share of the training over which the weights grow linearly from 0; 0 for none.
        cosine_floor: in official terms what torch keeps from 0 in the cosine: "product", the product of the two norms,
            as before torch 1.12 and in the authors' year; "each", each norm, as since. The paper's terms have no floor.
    """

    version: ClassVar[int] = 1
    replayable: ClassVar[bool] = True
    lambda_a: float = 2.0
    terms: Terms = "paper"
    ramp: float = 0.2
    cosine_floor: Literal["product", "each"] = added("product")

    def __post_init__(self) -> None:
        if self.terms != "official" and self.cosine_floor != "product":
            raise BenchError("cosine_floor is of the authors' code, the paper's cosine has no floor: leave it out, or "
                             'set terms = "official"')  # fmt: skip
        if not 0 <= self.ramp <= 1:
            raise BenchError(f"ramp is a share of the training, from 0 to 1, not {self.ramp}")
        at_least(0, self, "lambda_a")

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`, `cosine` (times λa) and, in the variants that have it, `norm` (times λb)."""
        size, official = len(batch.labels), self.terms == "official"
        support = self.support_points(members, batch) if self.searches_first else None
        images = batch.images.detach().requires_grad_()
        losses, gradients = losses_and_gradients(members, images, batch.labels)
        cross_entropy = torch.stack(losses).sum() / size
        terms = {
            "ce": cross_entropy if official else cross_entropy / len(members),
            "cosine": batch.number(lambda at: self.lambda_a * self.grown(at)) * self.cosine(gradients).abs().mean(),
        }
        smooth = self.smoothness(members, batch, gradients, support)
        if smooth is not None:
            terms["norm"] = batch.number(self.grown) * smooth
        return terms

    def grown(self, batch: Batch) -> float:
        """The share of their weights that the terms have by now."""
        return min(1.0, batch.progress / self.ramp) if self.ramp else 1.0

    def over_members(self, losses: Tensor) -> Tensor:
        """Their mean; in official terms their sum."""
        return losses.sum() if self.terms == "official" else losses.mean()

    def cosine(self, gradients: Sequence[Tensor]) -> Tensor:
        """[pairs, B]: the signed cosine of each pair's gradients, N × [B, D]; in official terms with torch's floor."""
        if self.terms == "official":
            scale = 1 / len(gradients[0])
            return cosines(gradients, scale=scale, floor=TORCH_FLOOR, each=self.cosine_floor == "each")
        return cosines(gradients)

    @property
    def searches_first(self) -> bool:
        """Whether support points are searched before the pass over the clean batch."""
        return True

    def support_points(self, members: Sequence[nn.Module], batch: Batch) -> Tensor | None:
        """Where the norm term is taken, when not at the images themselves."""
        return None

    def smoothness(
        self, members: Sequence[nn.Module], batch: Batch, gradients: Sequence[Tensor], support: Tensor | None
    ) -> Tensor | None:
        """The weighted norm term; `gradients` are those at the clean images, N × [B, D]."""
        return None


@dataclass(frozen=True, kw_only=True)
class CosL2(CosOnly):
    """Gradient cosine and gradient norms at the image itself: TRS without the min-max.

    Official settings: λa, λb as for TRS; what the authors' launcher trains as shipped.

    Args:
        lambda_b: λb, weight of the mean over pairs of the two members' gradient norms.
    """

    replayable: ClassVar[bool] = True

    lambda_b: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "lambda_b")

    def smoothness(
        self, members: Sequence[nn.Module], batch: Batch, gradients: Sequence[Tensor], support: Tensor | None
    ) -> Tensor:
        """λb times the pair average of the norms at the clean images."""
        return self.lambda_b * self.pair_average(torch.stack([self.magnitude(g) for g in gradients])).mean()

    def magnitude(self, gradients: Tensor) -> Tensor:
        """[B] per image from [B, D]: the norm; in official terms the squared norm of the batch-mean loss's gradient."""
        if self.terms == "official":
            return gradients.square().sum(1) / len(gradients) ** 2
        return norms(gradients)

    @staticmethod
    def pair_average(values: Tensor) -> Tensor:
        """Mean over pairs (i, j) of v_i + v_j, for v of shape [N, ...]: 2/N times the sum."""
        return 2 * values.mean(0)


@dataclass(frozen=True, kw_only=True)
class Trs(CosL2):
    """Gradient cosine and worst gradient norms within an ℓ∞ ball (min-max smoothness).

    Official settings: λa, λb 10, 10 (MNIST), 40, 2.5 (CIFAR-10); δ .1→.2 and .01→.03; 6 sign steps of δ/3;
    3 × ResNet-20, Adam 1e-3, eps 1e-7, weight decay 1e-4, batch 128, 120 epochs, ×.1 every 40.

    Args:
        delta_start: δ in the first epoch, in [0, 1] units of the image; it grows linearly with the epoch,
            δ0 + (δM − δ0)·epoch/epochs, epochs counted from 0: δM is never quite reached.
        delta_end: δM.
        steps: sign steps of the inner search, from a uniform random start, clipped to [0, 1].
        support: "shared": one x̂ per image that maximises the sum over all members; "pair": one for each pair.
        support_fraction: share of the batch whose x̂ is searched; the norm term is averaged over those images.
        rel_step: length of a sign step as a share of δ, above 0; 1/3 in the authors' code (the paper's I.5 varies it).
        running_statistics: which passes BatchNorm's running statistics see, and in which order. "needed": those that
            the terms need, the search first. "public", for official terms: those of the authors' code: the clean batch,
            the search, the mixed batch, and the clean batch once more, by which that code watches its accuracy.
            Training does not depend on it; predictions afterwards do.
    """

    replayable: ClassVar[bool] = True

    delta_start: float = 0.1
    delta_end: float = 0.2
    steps: int = 6
    support: Literal["shared", "pair"] = "shared"
    support_fraction: float = 0.5
    rel_step: float = added(1 / 3)
    running_statistics: Literal["needed", "public"] = added("needed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.support_fraction <= 1:
            raise BenchError(f"support_fraction is a share of the batch, in (0, 1], not {self.support_fraction}")
        at_least(0, self, "delta_start", "delta_end")
        at_least(1, self, "steps")
        if self.rel_step <= 0:
            raise BenchError(f"rel_step, the search's step as a share of δ, is above 0, not {self.rel_step}")
        if self.running_statistics == "public" and self.terms != "official":
            raise BenchError('running_statistics = "public" is of the authors\' code: leave it out, or set '
                             'terms = "official"')  # fmt: skip
        if self.terms == "official" and (self.support != "shared" or self.support_fraction != 0.5):
            raise BenchError('terms = "official" shares the support points and searches half of the batch: leave '
                             'support = "shared" and support_fraction = 0.5')  # fmt: skip

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`, `cosine` (times λa) and `norm` (times λb)."""
        terms = super().loss(members, batch)
        if self.running_statistics == "public":
            pass_again(members, batch.images)
        return terms

    @property
    def searches_first(self) -> bool:
        """The authors' code searches after its pass over the clean batch."""
        return self.running_statistics != "public"

    def support_points(self, members: Sequence[nn.Module], batch: Batch) -> Tensor:
        """[S, P, C, H, W]: for S groups of members (one, or each pair) the P searched points.

        They belong to the last P images of the batch; with official terms P = B − ⌊B/2⌋.
        """
        size = len(batch.labels)
        searched = size - size // 2 if self.terms == "official" else max(1, round(size * self.support_fraction))
        images, labels = batch.images[-searched:].detach(), batch.labels[-searched:]
        return torch.stack([self._search(group, images, labels, batch) for group in self._groups(members)])

    def radius(self, batch: Batch) -> float:
        """δ of this epoch."""
        return self.delta_start + (self.delta_end - self.delta_start) * batch.epoch / batch.epochs

    def smoothness(
        self, members: Sequence[nn.Module], batch: Batch, gradients: Sequence[Tensor], support: Tensor | None
    ) -> Tensor:
        """λb times the pair average of the norms at the support points."""
        if support is None:
            support = self.support_points(members, batch)
        searched = support.shape[1]
        if self.terms == "official":

            def magnitudes(known: tuple[nn.Module, Tensor]) -> Tensor:
                member, clean = known
                kept = 0 if coupled(member) else len(clean) - searched  # images whose gradient is known already
                points = torch.cat([batch.images[kept:-searched].detach(), support[0]]).requires_grad_()
                found = loss_and_gradient(member, points, batch.labels[kept:])[1]
                return self.magnitude(torch.cat([clean[:kept], found]))

            values = abreast(magnitudes, list(zip(members, gradients, strict=True)), support, *gradients)
            return self.lambda_b * self.pair_average(torch.stack(values)).mean()
        labels, sums = batch.labels[-searched:], []
        with frozen_statistics(members):  # the running statistics are those of clean images
            for group, points in zip(self._groups(members), support, strict=True):
                points = points.detach().requires_grad_()
                values = [norms(found) for found in losses_and_gradients(group, points, labels)[1]]
                sums.append(self.pair_average(torch.stack(values)).mean())
        return self.lambda_b * torch.stack(sums).mean()

    def _groups(self, members: Sequence[nn.Module]) -> list[Sequence[nn.Module]]:
        """The members that share a support point; for a pair, the pair average is the sum of both norms."""
        return [members] if self.support == "shared" else [list(pair) for pair in combinations(members, 2)]

    def _search(self, members: Sequence[nn.Module], images: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Sign ascent on the norm term within δ of `images` and [0, 1]."""
        official, radius = self.terms == "official", batch.number(self.radius)
        low, high = (images - radius).clamp_min(0), (images + radius).clamp_max(1)
        points = (images + batch.uniform(images, radius)).clamp(0, 1)
        total = torch.zeros_like(points)
        # For 1/3 bit by bit the δ/3 that it was before it could be set.
        length = batch.number(lambda at: self.radius(at) / (1 / self.rel_step))
        with search_mode(members, statistics=official):
            for _ in range(self.steps):
                points.requires_grad_()
                ascended = [self.magnitude(found).sum() for found in losses_and_gradients(members, points, labels)[1]]
                (gradient,) = torch.autograd.grad(torch.stack(ascended).sum(), points)
                # The authors' code never clears its buffer: step k follows the sum of the gradients so far.
                total = total + gradient if official else gradient
                points = (points.detach() + length * total.sign()).clamp(low, high)
        return points.detach()
