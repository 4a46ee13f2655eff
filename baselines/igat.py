"""iGAT: the ensemble's own adversarial images, each dealt to one member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.adversary import pgd
from bench.training.compound import Compound
from bench.training.method import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer

HIGHEST = 0.99  # of a wrong probability in the regulariser, as in the public code


@dataclass(frozen=True, kw_only=True)
class Igat(Compound):
    """iGAT: fine-tunes an ensemble on what fools it; each such image is learned by one member, drawn by its confidence.

    Deng and Mu, "Understanding and improving ensemble adversarial defense", NeurIPS 2023, on another method. Of each
    batch half stays clean, half becomes PGD images of the mean probability. For the images W that the ensemble has
    wrong, both sums over B:
    α · Σ_W CE of one member, drawn ∝ 2^rank of its true probability (0 for the lowest, N − 1 for the highest),
    + β · Σ_k Σ_W −log(1 − min(max over wrong classes of p_k, .99)); and the terms of the other method but its `ce`,
    whose place the first takes. Starts from the trained ensemble of the other method.

    Official settings (public code, CIFAR): 8 members, α 5, β 10, ε 8/255, 20 steps of 2/255; SGD 1e-3, momentum .9,
    weight decay 1e-4, batch 512, at most 2,000 epochs of 51 batches (ADP) or 2 (DVERGE). On ADP it is as here. On
    DVERGE the public code attacks the *largest* probability, trains each member on PGD images of its own too, and
    steps after every part: remarks, the sum of the terms is minimised here.

    Args:
        alpha, beta: weights of the two terms.
        eps: radius of the ℓ∞ ball, in units of the [0, 1] pixel range.
        step: length of a sign step.
        steps: number of steps.
        rest: the images of the other method's terms: the "mixed" batch (on ADP), or its "clean" half (on DVERGE).
    """

    alpha: float = 5.0
    beta: float = 10.0
    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 20
    rest: Literal["mixed", "clean"] = "mixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "alpha", "beta", "eps", "step")
        at_least(1, self, "steps")

    def prerequisites(self) -> tuple[str, ...]:
        """The method that it is on."""
        return (str(self.on["method"]),) if self.on else ()

    def begin(self, trainer: Trainer) -> None:
        """From the ensemble that the other method trained."""
        trainer.start_from(trainer.prerequisites[self.prerequisites()[0]].members)

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> dict[str, Tensor]:
        """`dealt` times α, `wrong` times β, and the terms of the other method but `ce`."""
        clean = len(batch.labels) // 2
        attacked = pgd(
            members, batch.images[clean:], batch.labels[clean:], radius=self.eps, step=self.step, steps=self.steps,
            noise=batch,
        )  # fmt: skip
        mixed = replace(batch, images=torch.cat([batch.images[:clean].detach(), attacked]))
        others = self.inner.loss(members, mixed if self.rest == "mixed" else batch.first(clean))
        logits = torch.stack([member(mixed.images) for member in members])
        dealt, wrong = dealt_and_wrong(logits, batch.labels, batch.generator)
        own = {"dealt": self.alpha * dealt, "wrong": self.beta * wrong}
        return own | {name: term for name, term in others.items() if name != "ce"}


def dealt_and_wrong(logits: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The two sums over B, unweighted, from logits [N, B, C]; the draw is one of `generator`."""
    probabilities = logits.softmax(2)
    fooled = probabilities.mean(0).argmax(1) != labels
    index = labels.expand(len(logits), -1).unsqueeze(2)
    ranks = probabilities.gather(2, index).squeeze(2).detach().argsort(0).argsort(0)
    shares = (2.0**ranks).cumsum(0) / (2.0 ** len(logits) - 1)
    draw = torch.rand(len(labels), generator=generator, device=logits.device)
    chosen = (draw >= shares[:-1]).sum(0)  # [B]
    losses = -logits.log_softmax(2).gather(2, index).squeeze(2)
    dealt = losses.gather(0, chosen.unsqueeze(0)).squeeze(0) * fooled
    worst = probabilities.scatter(2, index, 0.0).amax(2).clamp_max(HIGHEST)
    wrong = -torch.log1p(-worst).sum(0) * fooled
    return dealt.mean(), wrong.mean()
