"""BARRE: a randomised ensemble whose members come one after another, and the odds of drawing each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from bench.baselines.mrboost import follow_on, margin_loss
from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.adversary import pgd
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Barre(Method):
    """BARRE: boosting for an ensemble that answers with one member, drawn with odds that are trained too.

    Dbouk and Shanbhag, "On the robustness of randomized ensembles to adversarial perturbations", ICML 2023, as in its
    public code. Each member starts from the one before it; the earlier ones are frozen. With odds α and the loss of
    `mrboost` with λ, x̂ raises that of log Σ_k α_k p_k(x̂) over the members so far, all in eval mode, and the new one
    lowers that of its own logits. α is uniform at first. From the fourth member on, every ten epochs of the second half
    and at the end, projected subgradient steps lower the expected error under ARC.

    Official settings: 5 × ResNet-20 (padded shortcuts), ε 8/255, 10 steps of 2/255 from a start within ±ε/2, λ 1;
    ARC-10 on 4,096 training images, 10 steps of 10·learning rate/t; SGD .1, momentum .9, weight decay 5e-4, batch 256,
    100 epochs, ×.1 at 50 and 75. Its ARC draws the order of the members. It picks epochs by test images, we the last.

    Args:
        mce, rate: λ; length of the first step, in units of the learning rate.
        weighted_from: members from which on α is trained, every `every` epochs, by `rounds` steps on `judged` images.
        eps, step: radius of the ℓ∞ ball and length of a sign step, in units of the [0, 1] pixel range.
        steps: number of steps, and of ARC's rounds.
    """

    fusion: ClassVar[str] = "random_member"
    remark: ClassVar[str] = "members 2 to N start from the one before, and learn what fools the draw among all so far"

    mce: float = 1.0
    weighted_from: int = 4
    every: int = 10
    rounds: int = 10
    rate: float = 10.0
    judged: int = 4096
    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        at_least(0, self, "mce", "rate", "eps", "step")
        at_least(1, self, "weighted_from", "every", "rounds", "judged", "steps")

    def fit(self, trainer: Trainer) -> None:
        """A phase a member; α so far is in `trainer.memory`, so that a resumed run has the same."""
        ensemble, count, trained = trainer.ensemble, len(trainer.ensemble.members), False
        ensemble.set_fusion(self.fusion)
        for index in range(count):
            loss, before = partial(self._stage, trainer=trainer, index=index), partial(self._before, trainer, index)
            trained = trainer.train(f"member {index + 1}", loss, members=[index], before=before)
        if count >= self.weighted_from and (trained or trainer.continues):
            ensemble.set_fusion(self.fusion, self.better(trainer, count - 1, trainer.training.epochs - 1))

    def _before(self, trainer: Trainer, index: int, epoch: int) -> None:
        if index:
            follow_on(trainer.ensemble.members[index], trainer.ensemble.members[index - 1], epoch)
        past = epoch - trainer.training.epochs // 2
        if index + 1 >= self.weighted_from and past > 0 and past % self.every == 0:
            trainer.memory[f"odds.{index}"] = self.better(trainer, index, epoch)

    def _stage(self, members: Sequence[nn.Module], batch: Batch, trainer: Trainer, index: int) -> dict[str, Tensor]:
        alpha = odds(trainer, index).to(batch.images)[:, None, None]
        everyone, attack = [*trainer.ensemble.members[:index], *members], partial(pgd, start=0.5, evaluated=True)
        images = attack(
            everyone, batch.images, batch.labels, radius=self.eps, step=self.step, steps=self.steps, noise=batch,
            objective=lambda z, y: margin_loss((z.log_softmax(2) + alpha.log()).logsumexp(0), y, self.mce),
        )  # fmt: skip
        return {"mce": margin_loss(members[0](images), batch.labels, self.mce)}

    def better(self, trainer: Trainer, index: int, epoch: int) -> Tensor:
        """α of members 0 to `index`, float64, after subgradient steps at the learning rate of an epoch."""
        from bench.training.odds import descend
        from bench.training.optim import rate_at

        length = self.rate * rate_at(trainer.training, epoch, trainer.training.epochs)
        lengths = [length / (turn + 1) for turn in range(self.rounds)]
        members, images = trainer.ensemble.members[: index + 1], trainer.images.take(slice(0, self.judged))
        return descend(members, odds(trainer, index), images, eps=self.eps, steps=self.steps, lengths=lengths)


def odds(trainer: Trainer, index: int) -> Tensor:
    """α while the member `index` is trained: what was found last, or uniform."""
    return trainer.memory.get(f"odds.{index}", torch.full((index + 1,), 1 / (index + 1), dtype=torch.float64))
