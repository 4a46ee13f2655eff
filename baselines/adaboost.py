"""AdaBoost for several classes (SAMME): every member learns what the ones before it got wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.data.base import ImageSet
    from bench.training.trainer import Trainer

FLOOR = 1e-6  # an error of exactly 0 or 1 − 1/C would give an infinite or useless member


def samme(weights: Tensor, wrong: Tensor, judged: Tensor, classes: int) -> tuple[float, float, Tensor]:
    """One round: weighted error, α, and the next round's weights, rescaled to mean 1.

    err = Σ w_i [wrong_i] / Σ w_i over the `judged` images, clipped to [1e-6, 1 − 1/C − 1e-6] where α needs it;
    α = ln((1 − err) / err) + ln(C − 1); w_i ×= exp(α·[wrong_i]).

    Args:
        weights: float64 [n].
        wrong, judged: bool [n].
    """
    error = float((weights * (wrong & judged)).sum() / (weights * judged).sum())
    clipped = min(max(error, FLOOR), 1 - 1 / classes - FLOOR)
    alpha = math.log((1 - clipped) / clipped) + math.log(classes - 1)
    raised = weights * torch.exp(alpha * wrong)
    return error, alpha, raised / raised.mean()


@dataclass(frozen=True, kw_only=True)
class AdaBoost(Method):
    """AdaBoost (SAMME): members one after another on re-weighted images, weighted soft vote.

    Hastie, Rosset, Zhu and Zou, "Multi-class AdaBoost", 2009, algorithm 2. With w_i = 1 at first, for each member t:
    minimise the mean of w_i·CE_t; err_t = its weighted error; α_t = ln((1 − err_t)/err_t) + ln(C − 1);
    w_i ×= exp(α_t·[member t is wrong on i]). The ensemble is Σ α_t p_t / Σ α_t.

    Official settings: unknown (the TRS paper gives none). Our choices: the error is taken in eval mode without
    augmentation and clipped to [1e-6, 1 − 1/C − 1e-6], weights are rescaled to mean 1, the soft vote.

    Args:
        vote: "soft" as above, or SAMME's own "hard" vote Σ α_t [argmax p_t = c].
        held_out: share of the training images that no member learns from and on which the error is taken instead.
            Networks that know their training images by heart make next to no mistakes there, and the next member
            would see only a handful of images.
    """

    fusion: ClassVar[str] = "weighted_probability"
    minimum_members: ClassVar[int] = 1
    replayable: ClassVar[bool] = True

    vote: Literal["soft", "hard"] = "soft"
    held_out: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise BenchError(f"held_out is a share of the training images, at least 0 and below 1, not {self.held_out}")

    def fit(self, trainer: Trainer) -> None:
        """A phase a member. Weights and errors are kept in `trainer.memory`, so that a resumed run has the same."""
        images, ensemble, memory = trainer.images, trainer.ensemble, trainer.memory
        fusion = "weighted_vote" if self.vote == "hard" else self.fusion
        judged = self._judged(images)
        learned = ~judged if self.held_out else judged
        memory.setdefault("weights.0", torch.ones(len(images), dtype=torch.float64, device=images.device))
        alphas: list[float] = []
        for index, member in enumerate(ensemble.members):
            # A weight not known yet counts like the mean of the known ones.
            unknown = sum(alphas) / len(alphas) if alphas else 1.0
            ensemble.set_fusion(fusion, [*alphas, *[unknown] * (len(ensemble.members) - index)])
            weights = memory[f"weights.{index}"]
            scaled = (weights * learned / (weights * learned).sum() * learned.sum()).float()
            trainer.train(f"member {index + 1}", partial(self._weighted, weights=scaled), members=[index])
            wrong, classes = mistakes(member, images)
            error, alpha, following = samme(weights, wrong, judged, classes)
            memory.setdefault(f"weights.{index + 1}", following)
            alphas.append(alpha)
            if error == 0:
                trainer.note(
                    f"member {index + 1} makes no mistake on the images its error is taken on; "
                    f"it is counted as {FLOOR:g}, and those images keep their weights"
                )
        ensemble.set_fusion(fusion, alphas)

    def _judged(self, images: ImageSet) -> Tensor:
        """bool [n]: the images on which errors are taken; all, or the held-out ones."""
        chosen = torch.ones(len(images), dtype=torch.bool)
        if self.held_out:
            count = max(1, round(self.held_out * len(images)))
            chosen.zero_()[torch.randperm(len(images), generator=seeds.generator("adaboost held out"))[:count]] = True
        return chosen.to(images.device)

    def _weighted(self, members: Sequence[nn.Module], batch: Batch, weights: Tensor) -> dict[str, Tensor]:
        losses = torch.nn.functional.cross_entropy(members[0](batch.images), batch.labels, reduction="none")
        return {"ce": (weights[batch.indices] * losses).mean()}


def mistakes(member: nn.Module, images: ImageSet) -> tuple[Tensor, int]:
    """bool [n], misclassified in eval mode, and the number of classes."""
    member.eval()
    with torch.no_grad():
        parts = [member(images.floats(slice(start, start + 500))) for start in range(0, len(images), 500)]
    logits = torch.cat(parts)
    return logits.argmax(1) != images.labels, logits.shape[1]
