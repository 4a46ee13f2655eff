"""ECE: the plain ensemble (ensemble cross-entropy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import torch
from bench.training.compiled import passed
from bench.training.method import Batch, Method
from bench.training.streams import abreast

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Ece(Method):
    """Plain ensemble: Σ_k CE_k, every member learns as if alone.

    The sum, not the mean: with SGD a mean would divide each member's learning rate by N.

    Official settings (DVERGE's public code): SGD .1, momentum .9, weight decay 1e-4, 200 epochs, ×.1 at 100 and 150,
    batch 128.
    """

    minimum_members: ClassVar[int] = 1
    replayable: ClassVar[bool] = True

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`: the sum over members of the batch mean of the cross-entropy."""
        cross_entropy = torch.nn.functional.cross_entropy
        losses = abreast(
            lambda member: cross_entropy(passed(member, batch.images), batch.labels), members, batch.images
        )
        return {"ce": torch.stack(losses).sum()}
