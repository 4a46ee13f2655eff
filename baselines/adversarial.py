"""Adversarial training: single models as in the student report, and the ensemble attacked as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.core.terms import Norm
from bench.models.base import check_dropout
from bench.training.adversary import linear, pgd
from bench.training.compiled import passed
from bench.training.dropout import dropout
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class AtPgdLinf(Method):
    """Adversarial training with PGD in the ℓ∞ ball on part of each batch: a single model.

    Boudras, Conti and Merigot, report on TRS, 2023, §2: a share of each batch is replaced by PGD images of the member
    itself (Madry et al. 2018), Σ_k CE_k on the mixed batch; ε and the step grow linearly with the epoch; dropout.

    Official settings: 30 % attacked, ε .03→.08, α .01→.03, Adam 1e-3 "decreasing by 50 %". Where the report is silent
    we take: 7 steps (with these α, 2.5 times the radius in all, Madry's proportion), uniform random start, members in
    training mode during the attack, dropout .4 (its TRS training's) before the last layer. "Decreasing by 50 % every
    epoch" would end learning after a few epochs: the recipes halve the rate once, half way.

    Args:
        share: part of each batch that is attacked.
        eps_start, eps_end: radius in the first and in the last epoch, in units of the [0, 1] pixel range.
        step_start, step_end: length of a step, likewise.
        steps: number of steps.
        dropout: rate before the last linear layer, in training only.
    """

    minimum_members: ClassVar[int] = 1
    norm: ClassVar[Norm] = "linf"
    random_start: ClassVar[bool] = True
    replayable: ClassVar[bool] = True

    share: float = 0.3
    eps_start: float = 0.03
    eps_end: float = 0.08
    step_start: float = 0.01
    step_end: float = 0.03
    steps: int = 7
    dropout: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BenchError(f"share is in (0, 1], not {self.share}")
        at_least(0, self, "eps_start", "eps_end", "step_start", "step_end")
        at_least(1, self, "steps")
        check_dropout(self.dropout)

    def fit(self, trainer: Trainer) -> None:
        """One phase, with dropout."""
        with dropout(trainer.ensemble.members, self.dropout):
            trainer.train("joint", self.loss)

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`: the sum over members of the cross-entropy on a batch partly attacked on that member."""
        attacked = max(1, round(self.share * len(batch.labels)))
        radius = batch.number(lambda at: linear(self.eps_start, self.eps_end, at.epoch, at.epochs))
        step = batch.number(lambda at: linear(self.step_start, self.step_end, at.epoch, at.epochs))
        losses = []
        for member in members:
            images = pgd(
                [member],
                batch.images[:attacked],
                batch.labels[:attacked],
                radius=radius,
                step=step,
                steps=self.steps,
                noise=batch if self.random_start else None,
                norm=self.norm,
            )
            mixed = torch.cat([images, batch.images[attacked:]])
            losses.append(torch.nn.functional.cross_entropy(member(mixed), batch.labels))
        return {"ce": torch.stack(losses).sum()}


@dataclass(frozen=True, kw_only=True)
class AtFgsm(AtPgdLinf):
    """Adversarial training with FGSM on part of each batch: a single model.

    As `at_pgd_linf`, with one sign step of ε from the image itself (Goodfellow et al. 2015).

    Official settings: 30 % attacked (report §2); it is silent on the rest: ε .03→.08 and dropout as for `at_pgd_linf`,
    Adam 1e-3 at a constant rate.
    """

    random_start: ClassVar[bool] = False
    replayable: ClassVar[bool] = True

    step_start: float = 0.03
    step_end: float = 0.08
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class AtPgdL2(AtPgdLinf):
    """Adversarial training with PGD in the ℓ2 ball on part of each batch: a single model.

    As `at_pgd_linf`, with steps along the normalised gradient.

    Official settings: 30 % attacked (report §2); it is silent on the rest: ε .5 throughout, 7 steps of .18 (2.5 times
    the radius in all), Adam 1e-3 at a constant rate.
    """

    norm: ClassVar[Norm] = "l2"
    version: ClassVar[int] = 2  # its adversary clips to [0, 1] before it projects
    replayable: ClassVar[bool] = True

    eps_start: float = 0.5
    eps_end: float = 0.5
    step_start: float = 0.18
    step_end: float = 0.18


@dataclass(frozen=True, kw_only=True)
class AtEnsemble(Method):
    """Adversarial training of the ensemble as a whole: PGD on the fused prediction, every member learns those images.

    Madry et al. 2018 on an ensemble, as the baseline of DVERGE and of the TRS paper's appendix I.2: x̂ maximises the
    cross-entropy of the mean probability within ε; Σ_k CE_k(x̂). Random start; BatchNorm in the attack uses the batch's
    statistics and leaves the running ones alone.

    Official settings (DVERGE's public code): ε 8/255, 10 steps of 2/255, CIFAR-10; SGD .1, momentum .9, weight decay
    1e-4, 200 epochs, ×.1 at 100 and 150, batch 128. MNIST ε .2, with the same proportion of steps.

    Args:
        eps: radius of the ℓ∞ ball, in units of the [0, 1] pixel range.
        step: length of a sign step.
        steps: number of steps.
    """

    minimum_members: ClassVar[int] = 1
    replayable: ClassVar[bool] = True

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10

    def __post_init__(self) -> None:
        at_least(0, self, "eps", "step")
        at_least(1, self, "steps")

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`ce`: the sum over members of the cross-entropy on the attacked images."""
        images = pgd(
            members, batch.images, batch.labels, radius=self.eps, step=self.step, steps=self.steps, noise=batch
        )
        cross_entropy = torch.nn.functional.cross_entropy
        return {"ce": torch.stack([cross_entropy(passed(member, images), batch.labels) for member in members]).sum()}
