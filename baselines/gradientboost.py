"""GradientBoost: every member fits what the sum of the ones before it leaves over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.training.batch import Batch, is_class
from bench.training.method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class GradientBoost(Method):
    """Gradient boosting: each member fits the residual of the sum so far by least squares; sum of logits.

    Friedman, "Greedy function approximation: a gradient boosting machine", 2001, with networks in place of trees.
    F_0 = 0; member t minimises the batch mean of ‖y − softmax(F_{t−1}(x)) − f_t(x)‖² (y one-hot), the negative
    gradient of the cross-entropy; F_t = F_{t−1} + ν·f_t; the ensemble is softmax(F_N). Earlier members are frozen, in
    eval mode, and see the same augmented images.

    Official settings: unknown (the TRS paper gives none). Our choices: ν = 1, no line search.

    Args:
        shrinkage: ν.
        objective: "residual" as above, or "cross_entropy": member t minimises CE(F_{t−1} + ν·f_t, y) directly.
    """

    fusion: ClassVar[str] = "sum_logits"
    minimum_members: ClassVar[int] = 1
    remark: ClassVar[str] = "members 2 to N predict what the sum of the earlier ones leaves over, not the labels"
    replayable: ClassVar[bool] = True

    shrinkage: float = 1.0
    objective: Literal["residual", "cross_entropy"] = "residual"

    def __post_init__(self) -> None:
        if self.shrinkage <= 0:
            raise BenchError(f"shrinkage is above 0, not {self.shrinkage}")

    def fit(self, trainer: Trainer) -> None:
        """A phase a member."""
        members = list(trainer.ensemble.members)
        trainer.ensemble.set_fusion(self.fusion, [self.shrinkage] * len(members))
        for index in range(len(members)):
            loss = partial(self._stage, earlier=members[:index])
            trainer.train(f"member {index + 1}", loss, members=[index])

    def _stage(self, members: Sequence[nn.Module], batch: Batch, earlier: Sequence[nn.Module]) -> dict[str, Tensor]:
        output = members[0](batch.images)
        with torch.no_grad():
            so_far = torch.zeros_like(output)
            for member in earlier:
                so_far += self.shrinkage * member(batch.images)
        if self.objective == "cross_entropy":
            boosted = so_far + self.shrinkage * output
            return {"ce": torch.nn.functional.cross_entropy(boosted, batch.labels)}
        residual = is_class(batch.labels, output.shape[1]).to(output.dtype) - so_far.softmax(1)
        return {"squares": (residual - output).square().sum(1).mean()}
