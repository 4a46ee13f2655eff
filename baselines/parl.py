"""PARL: members whose first convolutions respond differently, in their outputs and in their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

STILL = 1e-4  # standard deviation below which a unit says nothing: it is far below any that matters
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Parl(Method):
    """PARL: pairwise cosine of weight gradients times correlation of outputs of the first convolutions; majority vote.

    Shukla and others, "Guardian of the ensembles: introducing pairwise adversarially robust loss for resisting
    adversarial attacks in DNN ensembles", WACV 2025, as in its public code. No image is attacked:

        mean_k CE_k + γ/L · (Σ_l Σ_pairs cos_l) · (Σ_l Σ_pairs corr_l),  l = 1 … L

    cos_l is the signed cosine of two members' gradients of the sum of convolution l's output with respect to the
    weights of convolutions 1 to l (the lengths below the fraction are taken for constants), corr_l Pearson's
    correlation of two members' outputs of convolution l over the batch, unit by unit, averaged over the units.

    Official settings: γ .25, L 5, Adam 1e-3, ×.1 at 25 and 40 of 50 epochs, batch 64; 3 × a ResNet-20 of its own
    (biases, no batch normalisation after the first convolution nor in shortcuts). The code divides the covariance by B
    and the deviations by B − 1, which makes its correlation (B − 1)/B of Pearson's, and picks its epoch on test images:
    here the last one counts.

    Args:
        gamma: γ.
        layers: L, or as many as there are. Convolutions of 1×1 pixels, as in shortcuts, are left out.
    """

    fusion: ClassVar[str] = "majority_vote"

    gamma: float = 0.25
    layers: int = 5

    def __post_init__(self) -> None:
        at_least(0, self, "gamma")
        at_least(1, self, "layers")

    def over_members(self, losses: Tensor) -> Tensor:
        """Their mean."""
        return losses.mean()

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`, and `parallel`, the product of the two sums times γ/L."""
        logits, outputs, gradients = zip(*(responses(each, batch.images, self.layers) for each in members), strict=True)
        units = [[standardised(output) for output in each] for each in outputs]
        pairs = list(combinations(range(len(members)), 2))
        cosines = [
            a @ b / ((a.norm() * b.norm()).detach() + TINY)
            for i, j in pairs for a, b in zip(gradients[i], gradients[j], strict=True)
        ]  # fmt: skip
        correlations = [(a * b).mean() for i, j in pairs for a, b in zip(units[i], units[j], strict=True)]
        cross_entropy = torch.nn.functional.cross_entropy
        return {
            "ce": self.over_members(torch.stack([cross_entropy(one, batch.labels) for one in logits])),
            "parallel": self.gamma / len(units[0]) * torch.stack(cosines).sum() * torch.stack(correlations).sum(),
        }


def responses(member: nn.Module, images: Tensor, layers: int) -> tuple[Tensor, Sequence[Tensor], list[Tensor]]:
    """Logits; outputs [B, …] of the first convolutions; gradients [D_l] of the sum of each, towards the weights so far.

    Raises:
        BenchError: there is no convolution of more than a pixel.
    """
    from bench.models.passes import fast_passes

    seen: list[tuple[Tensor, Tensor]] = []

    def keep(layer: Any, _: Any, output: Tensor) -> None:
        seen.append((layer.weight, output))

    wide = [part for part in member.modules() if isinstance(part, torch.nn.Conv2d) and max(part.kernel_size) > 1]
    if not wide:
        raise BenchError("parl compares convolutions, and this network has none of more than a pixel")
    with ExitStack() as stack, fast_passes([member], twice=True):
        for part in wide:
            stack.callback(part.register_forward_hook(keep).remove)
        logits, grad = member(images), torch.autograd.grad
        weights, outputs = zip(*seen[:layers], strict=True)
        found = [grad(each.sum(), weights[: place + 1], create_graph=True) for place, each in enumerate(outputs)]
    return logits, outputs, [torch.cat([each.flatten() for each in gradients]) for gradients in found]


def standardised(output: Tensor) -> Tensor:
    """[B, units] of mean 0 and variance 1 over the batch; a unit that stands still stays near 0."""
    flat = output.flatten(1)
    flat = flat - flat.mean(0)
    return flat / flat.square().mean(0).clamp_min(STILL**2).sqrt()
