"""FASTEN: one step away from a member's own features, learned by the others; with adversarial training too."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from bench.core import seeds
from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.adversary import layer_of_epoch, pgd
from bench.training.distillation import away
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Fasten(Method):
    """FASTEN: members learn images that one step has led away from another member's features.

    "FASTEN: fast ensemble learning for improved adversarial robustness", IEEE TIFS. In each batch two members, drawn
    anew, make z_1 and z_2: from x + U(±start), one sign step of ε that raises the mean squared error between the
    member's features and those of x (before the ReLU, at one layer an epoch), within ε of x and [0, 1]. From the second
    epoch on the change is mixed with the last one kept for the image, at a ratio U(0, 1) a batch, that of z_2 with that
    of z_1; the last is kept. The two members learn each other's images, every other member one of both. With p̄_k the
    mean of member k's probabilities on x (held fixed) and z, q_k their geometric mean, not normalised:
    Σ_k [CE_k(z) + β · mean over {x, z} of KL(p̄_k ‖ p_k) − γ · mean_{j≠k} KL(p̄_j ‖ q_k)], p̄_j held fixed in the last.
    No cross-entropy on clean images. Starts from the trained plain ensemble.

    Official settings (public code): ε .06, start 8/255, β 3, γ .15 (.05·β, of a term without gradient: `inert`), 3 ×
    ResNet-20, SGD .1, momentum .9, weight decay 1e-4, 200 epochs, ×.1 at 100 and 150, batch 128. Its code adds noise
    of each member's own to the start: `own_start` .06. The kept changes are float16 here.

    Args:
        eps: length of the step and radius of the ball, in units of the [0, 1] pixel range.
        start, own_start: radii of the noise before it, shared by both members and each one's own.
        beta: weight of a member's agreement with itself.
        gamma: weight of its distance from the others.
        inert: that distance is told and moves nothing, as in the public code.
    """

    requires: ClassVar[tuple[str, ...]] = ("ece",)

    eps: float = 0.06
    start: float = 8 / 255
    own_start: float = 0.0
    beta: float = 3.0
    gamma: float = 0.15
    inert: bool = False

    def __post_init__(self) -> None:
        at_least(0, self, "eps", "start", "own_start", "beta", "gamma")

    def fit(self, trainer: Trainer) -> None:
        """One phase, from the weights of the plain ensemble; the kept changes are part of the checkpoint."""
        trainer.start_from(trainer.prerequisites["ece"].members)
        images = trainer.images.images
        kept = trainer.memory.setdefault("last", torch.zeros(images.shape, dtype=torch.float16, device=images.device))
        trainer.train("joint", partial(self.loss, kept=kept))

    def loss(self, members: Sequence[nn.Module], batch: Batch, kept: Tensor | None = None) -> dict[str, Tensor]:
        """`distilled`, `agreement` times β, `distance` times −γ; `kept` [n, C, H, W]: last changes of all images."""
        draw = random.Random(seeds.derive("fasten", batch.generator.initial_seed(), batch.progress))
        pair = draw.sample(range(len(members)), 2)
        made = self.distilled(members, pair, batch, draw, kept)
        which = [1 - pair.index(k) if k in pair else draw.randrange(2) for k in range(len(members))]
        return self.learned(members, batch, [made[one] for one in which])

    def learned(self, members: Sequence[nn.Module], batch: Batch, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """The terms, with the images [B, C, H, W] that each member learns."""
        divergence = partial(torch.nn.functional.kl_div, reduction="batchmean")
        terms: dict[str, list[Tensor]] = {}
        means, logs = [], []
        for member, z in zip(members, images, strict=True):
            with torch.no_grad():
                passed = [member(batch.images).log_softmax(1)]
            for name, x in {"distilled": z, **self.attacked(member, z, batch)}.items():
                passed.append(member(x).log_softmax(1))
                terms.setdefault(name, []).append(torch.nn.functional.nll_loss(passed[-1], batch.labels))
            mean = torch.stack([one.exp() for one in passed]).mean(0)
            apart = [divergence(one, mean) for one in passed]
            terms.setdefault("agreement", []).append(self.beta * torch.stack(apart).mean())
            means.append(mean.detach())
            logs.append(torch.stack(passed).mean(0))
        for k, log in enumerate(logs):
            log = log.detach() if self.inert else log
            far = [divergence(log, mean) for j, mean in enumerate(means) if j != k]
            terms.setdefault("distance", []).append(-self.gamma * torch.stack(far).mean())
        return {name: torch.stack(values).sum() for name, values in terms.items()}

    def attacked(self, member: nn.Module, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Further images that a member learns, by the name of their term."""
        return {}

    def distilled(
        self, members: Sequence[nn.Module], pair: list[int], batch: Batch, draw: random.Random, kept: Tensor | None
    ) -> list[Tensor]:
        """z_1 and z_2; what is kept of the images is replaced."""
        images, layer = batch.images.detach(), layer_of_epoch(members[0], batch)
        shared, made = batch.uniform(images, self.start), []
        last = None if kept is None or not batch.epoch else kept[batch.indices].to(images.dtype)
        for k in pair:
            start = shared + batch.uniform(images, self.own_start) if self.own_start else shared
            change = away(members[k], layer, images, (images + start).clamp(0, 1), self.eps) - images
            if last is not None:
                ratio = draw.random()
                change = ratio * change + (1 - ratio) * last
            made.append((images + change.clamp(-self.eps, self.eps)).clamp(0, 1))
            last = None if last is None else made[-1] - images
        if kept is not None:
            kept[batch.indices] = (made[-1] - images).to(kept.dtype)
        return made


@dataclass(frozen=True, kw_only=True)
class AdvFasten(Fasten):
    """FASTEN with adversarial training: each member also learns one sign step around its image.

    As `fasten`, plus Σ_k CE_k(ẑ), ẑ from one step on the member itself, within attack_eps of z, from a random start;
    its probabilities count among those that agree.

    Official settings (public code): ε 8/255, one step of 2/255; the rest as for `fasten`.

    Args:
        attack_eps: radius of the ℓ∞ ball around z, in units of the [0, 1] pixel range.
        attack_step: length of the step.
    """

    attack_eps: float = 8 / 255
    attack_step: float = 2 / 255

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "attack_eps", "attack_step")

    def attacked(self, member: nn.Module, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`attacked`: the images after the step."""
        radius, step = self.attack_eps, self.attack_step
        found = pgd([member], images, batch.labels, radius=radius, step=step, steps=1, noise=batch)
        return {"attacked": found}
