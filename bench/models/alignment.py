"""How alike the features of two networks are: unbiased linear CKA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-6  # of a kernel's squared norm: keeps the square root differentiable at 0


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
