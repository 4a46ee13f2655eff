"""CKAE: members whose features are unlike by centred kernel alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.models.alignment import centred_kernel, cka
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn


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

    def __post_init__(self) -> None:
        at_least(0, self, "strength")

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
