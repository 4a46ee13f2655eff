"""ADP: adaptive diversity promoting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.batch import is_class
from bench.training.compiled import passed
from bench.training.method import Batch, Method
from bench.training.streams import abreast

if TYPE_CHECKING:
    from torch import Tensor, nn

OFFSET = 1e-6  # on the diagonal of the Gram matrix, as in the public codes


@dataclass(frozen=True, kw_only=True)
class Adp(Method):
    """Adaptive diversity promoting: entropy of the mean prediction and volume of the non-maximal ones.

    Pang, Xu, Du, Chen and Zhu, "Improving adversarial robustness via promoting ensemble diversity", ICML 2019:
    Σ_k CE_k − α·H(mean_k p_k) − β·log det(MᵀM + 1e-6·I), where the columns of M are the members' probability vectors
    without the true class, each of ℓ2 length 1.

    Official settings: α 2, β .5; Adam 1e-3, eps 1e-7, weight decay 1e-4, batch 128, 200 epochs, ×.1 at 100 and 150
    (DVERGE's public code, taken here); ADP's own paper: batch 64, 40 epochs on MNIST, 180 on CIFAR.

    Args:
        alpha: weight of the entropy.
        beta: weight of the log-determinant.
    """

    replayable: ClassVar[bool] = True

    alpha: float = 2.0
    beta: float = 0.5

    def __post_init__(self) -> None:
        at_least(0, self, "alpha", "beta")

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`, `entropy` times −α, `log_det` times −β."""
        logits = torch.stack(abreast(lambda member: passed(member, batch.images), members, batch.images))
        cross_entropy = torch.nn.functional.cross_entropy
        return {
            "ce": torch.stack([cross_entropy(one, batch.labels) for one in logits]).sum(),
            "entropy": -self.alpha * entropy(logits).mean(),
            "log_det": -self.beta * log_det(logits, batch.labels).mean().to(logits.dtype),
        }


def entropy(logits: Tensor) -> Tensor:
    """[B]: Shannon entropy in nats of the members' mean softmax, from logits [N, B, C]."""
    mean = logits.softmax(2).mean(0)
    tiny = torch.finfo(mean.dtype).tiny
    return -(mean * mean.clamp_min(tiny).log()).sum(1)


def log_det(logits: Tensor, labels: Tensor) -> Tensor:
    """[B], float64: log det(MᵀM + 1e-6·I) from logits [N, B, C] and labels int64 [B]."""
    return volume(torch.nn.functional.normalize(wrong_classes(logits, labels), dim=2))


def wrong_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """[N, B, C], float64: the members' probabilities of the wrong classes, of sum 1; 0 at the true class.

    A softmax over these classes points the same way as the probabilities without the true class and cannot vanish.
    """
    true = is_class(labels, logits.shape[2])
    return logits.double().masked_fill(true, -torch.inf).softmax(2)


def volume(rows: Tensor) -> Tensor:
    """[B]: log det(RRᵀ + 1e-6·I) of each image's rows, one a member, from [N, B, C].

    For float64: members that agree give eigenvalues near the offset, far below the rounding of float32.
    """
    rows = rows.transpose(0, 1)
    gram = rows @ rows.transpose(1, 2)
    offset = OFFSET * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    value: Tensor = torch.linalg.slogdet(gram + offset)[1]
    return value
