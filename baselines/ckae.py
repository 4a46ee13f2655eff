"""CKAE: members whose features are unlike by centred kernel alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import torch
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

TINY = 1e-6  # of a kernel's squared norm: keeps the square root differentiable at 0


@dataclass(frozen=True, kw_only=True)
class Ckae(Method):
    """CKA ensemble: cross-entropy plus the linear CKA of the members' penultimate features.

    mean_k CE_k + λ · mean over pairs of max(CKA(Z_i, Z_j), 0), Z_k the inputs of member k's last linear layer,
    CKA(Z, Z') = HSIC(ZZᵀ, Z'Z'ᵀ) / sqrt(HSIC(ZZᵀ, ZZᵀ)·HSIC(Z'Z'ᵀ, Z'Z'ᵀ)) (Kornblith et al., "Similarity of neural
    network representations revisited", ICML 2019) with the unbiased estimate of HSIC on a mini-batch (Nguyen et al.,
    "Do wide and deep networks learn the same things?", 2020, equation 3; batches of 4 or more).

    Official settings: unknown; no formula of CKAE is published, this is our reading of the TRS paper's citation. Our
    choices: λ = 1, penultimate features, float32. The unbiased estimate can be negative: it is clamped at 0 inside the
    square root, and only a positive CKA is penalised.

    Args:
        strength: λ, weight of the mean CKA over pairs.
    """

    replayable: ClassVar[bool] = True

    strength: float = 1.0

    def over_members(self, losses: Tensor) -> Tensor:
        """Their mean."""
        return losses.mean()

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`, and `cka` times λ."""
        from bench.models.features import PENULTIMATE, capture

        losses, penultimate = [], []
        for member in members:
            with capture(member, [PENULTIMATE]) as features:
                logits = member(batch.images)
            losses.append(torch.nn.functional.cross_entropy(logits, batch.labels))
            penultimate.append(features[PENULTIMATE])
        # HSIC is a difference of large sums: passes may be in bfloat16, it may not.
        with torch.autocast(batch.images.device.type, enabled=False):
            kernels = [centred_kernel(each.to(batch.images.dtype)) for each in penultimate]
            pairs = [cka(a, b).clamp_min(0) for a, b in combinations(kernels, 2)]
        return {"ce": self.over_members(torch.stack(losses)), "cka": self.strength * torch.stack(pairs).mean()}


def centred_kernel(features: Tensor) -> Tensor:
    """Linear kernel of features [n, …], [n, n], zero on the diagonal and scaled to length 1.

    The features are centred first. In exact arithmetic the estimate is the same; in float32 the large common part of
    features after a ReLU would swamp it.
    """
    flat = features.flatten(1)
    flat = flat - flat.mean(0)
    kernel = (flat @ flat.T) * (1 - torch.eye(len(flat), device=flat.device, dtype=flat.dtype))
    length: Tensor = kernel.norm()
    return kernel / length.clamp_min(torch.finfo(flat.dtype).tiny ** 0.5)


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased HSIC of two kernels [n, n] whose diagonals are zero (Song et al. 2012), n ≥ 4."""
    n = len(first)
    product = (first * second).sum()
    sums = first.sum() * second.sum() / ((n - 1) * (n - 2))
    cross = first.sum(0) @ second.sum(0) * 2 / (n - 2)
    return (product + sums - cross) / (n * (n - 3))


def cka(first: Tensor, second: Tensor) -> Tensor:
    """CKA of two kernels as `centred_kernel` gives them, about [−1, 1]; 0 where one has no structure."""
    scale = TINY / len(first) ** 2
    lengths = hsic(first, first).clamp_min(0) * hsic(second, second).clamp_min(0)
    return hsic(first, second) / (lengths + scale**2).sqrt()
