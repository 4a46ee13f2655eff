"""MRBoost: every member learns the worst images of all members so far, to widen the margin of their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.adversary import pgd
from bench.training.batch import is_class
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class MrBoost(Method):
    """MRBoost: members one after another on PGD images of the ensemble so far; mean of logits.

    Zhang, Zhang, Courville, Bengio, Ravikumar and Suggala, "Building robust ensembles via margin boosting", ICML 2022,
    as in its public code. Earlier members are frozen, in eval mode. With f̄ the mean of the logits of members 1 to t, x̂
    maximises CE(f̄(x̂), y) within ε, and member t minimises CE(f̄(x̂), y). With `mce`, the margin-maximising cross-entropy,
    both add λ · mean over wrong classes c of −log softmax(−f̄)_c, and member t alone stands for f̄ where it learns.

    Official settings: ε 8/255, 10 steps of 2/255 from a start within ±ε/2, all members in eval mode meanwhile; λ 1; 5 ×
    ResNet-18 without normalisation; SGD .1, momentum .9, weight decay 5e-4, batch 128, 100 epochs, ×.1 at 50 and 75.

    Args:
        mce: λ, 0 for the plain cross-entropy.
        trained: whose logits are in the loss of member t: "mean", of members 1 to t; "member", its own.
        persistent: each member starts from the one before it (an option of the public code, off there).
        eps: radius of the ℓ∞ ball, in units of the [0, 1] pixel range.
        step: length of a sign step, likewise.
        steps: number of steps.
    """

    fusion: ClassVar[str] = "mean_logits"
    minimum_members: ClassVar[int] = 1
    remark: ClassVar[str] = "members 2 to N learn what fools the earlier ones, and are not attacked alone in training"

    mce: float = 0.0
    trained: Literal["mean", "member"] = "mean"
    persistent: bool = False
    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        at_least(0, self, "mce", "eps", "step")
        at_least(1, self, "steps")

    def fit(self, trainer: Trainer) -> None:
        """A phase a member."""
        members = list(trainer.ensemble.members)
        for index, member in enumerate(members):
            follow = partial(follow_on, member, members[index - 1]) if self.persistent and index else None
            loss = partial(self._stage, earlier=members[:index])
            trainer.train(f"member {index + 1}", loss, members=[index], before=follow)

    def _stage(self, members: Sequence[nn.Module], batch: Batch, earlier: Sequence[nn.Module]) -> dict[str, Tensor]:
        """`ce`, and `mce` times λ."""
        images = pgd(
            [*earlier, *members], batch.images, batch.labels, radius=self.eps, step=self.step, steps=self.steps,
            noise=batch, start=0.5, evaluated=True,
            objective=lambda logits, labels: margin_loss(logits.mean(0), labels, self.mce),
        )  # fmt: skip
        logits = members[0](images)
        if self.trained == "mean":
            with torch.no_grad():
                others = [member(images) for member in earlier]
            logits = torch.stack([logits, *others]).mean(0)
        terms = {"ce": torch.nn.functional.cross_entropy(logits, batch.labels)}
        return {**terms, "mce": self.mce * wrong_margin(logits, batch.labels)} if self.mce else terms


def follow_on(member: nn.Module, earlier: nn.Module, epoch: int) -> None:
    """Gives a member the weights of the one before it when its first epoch begins."""
    if epoch == 0:
        member.load_state_dict(earlier.state_dict())


def margin_loss(logits: Tensor, labels: Tensor, mce: float) -> Tensor:
    """CE + λ times `wrong_margin`, means over the batch, from logits [B, C]."""
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return loss + mce * wrong_margin(logits, labels) if mce else loss


def wrong_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch and the wrong classes c of −log softmax(−f)_c, from logits [B, C]."""
    values = -(-logits).log_softmax(1)
    true = is_class(labels, logits.shape[1])
    return values.masked_fill(true, 0).sum() / (len(labels) * (logits.shape[1] - 1))
