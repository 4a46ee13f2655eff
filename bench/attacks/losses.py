"""Losses on the fused output that attacks ascend: cross-entropy, margin (CW), difference of logits ratio (DLR).

Each takes scores [b, C] (log-probabilities or logits, as the fusion rule gives them), labels int64 [b] and targets
int64 [b] or None, and gives one number an image [b]. With targets it grows as the target becomes the prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

AttackLoss = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]
CONFIDENCE = 0.1


@dataclass(frozen=True)
class OnAims:
    """A loss that is none of `LOSSES`, or one with settings of its own: `function(scores, labels, targets, *settings)`.

    Two are equal, and their passes the same, where function and settings are. It depends on nothing else.
    """

    function: Callable[..., Tensor]
    settings: tuple[float, ...] = ()

    def __call__(self, scores: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """Each image's value [b]."""
        return self.function(scores, labels, targets, *self.settings)


def ce(scores: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy of the label; with targets, minus that of the target.

    A log-softmax leaves log-probabilities as they are, so this is right on both kinds of output.
    """
    cross_entropy = torch.nn.functional.cross_entropy
    if targets is None:
        return cross_entropy(scores, labels, reduction="none")
    return -cross_entropy(scores, targets, reduction="none")


def margin(scores: Tensor, classes: Tensor) -> Tensor:
    """Score of the given class less the best other score: above 0 where that class is predicted.

    The class itself is masked with −∞: a 0 would beat every log-probability.
    """
    own = scores.gather(1, classes[:, None]).squeeze(1)
    return own - scores.scatter(1, classes[:, None], -torch.inf).amax(1)


def cw(scores: Tensor, labels: Tensor, targets: Tensor | None = None, confidence: float = CONFIDENCE) -> Tensor:
    """Minus the hinge max(margin + confidence, 0) of Carlini and Wagner 2017 (f₆); 0 where the attack is done.

    With targets the margin is that of the best other class over the target.
    """
    value = margin(scores, labels) if targets is None else -margin(scores, targets)
    return -(value + confidence).clamp_min(0)


def dlr(scores: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Difference of logits ratio, Croce and Hein 2020, equations (6) and (7); above 0 where misclassified.

    On the ensemble's fused output: with a probability rule these are log-probabilities, never probabilities. The ratio
    does not change when all scores of an image are shifted or scaled, so for one network log-probabilities and logits
    give the same value.

    Raises:
        BenchError: fewer than three classes; with targets, fewer than four.
    """
    least, kind = (3, "") if targets is None else (4, "targeted ")
    if scores.shape[1] < least:
        words = {3: "three", 4: "four"}[least]
        told = f"the {kind}DLR loss needs {words} classes or more, not {scores.shape[1]}"
        raise BenchError(f"{told}; take an attack on the cross-entropy, such as apgd_ce")
    own = scores.gather(1, labels[:, None]).squeeze(1)
    if targets is None:
        top = scores.topk(3, dim=1)
        best_other = torch.where(top.indices[:, 0] == labels, top.values[:, 1], top.values[:, 0])
        return (best_other - own) / (top.values[:, 0] - top.values[:, 2] + 1e-12)
    best = scores.topk(4, dim=1).values
    wanted = scores.gather(1, targets[:, None]).squeeze(1)
    return (wanted - own) / (best[:, 0] - (best[:, 2] + best[:, 3]) / 2 + 1e-12)


def lead(scores: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """By how much the best other class leads the label; with targets, the target the best other class.

    The hinge of `cw` without its end: above 0 where the attack is done (Square's margin loss with its sign turned).
    """
    return -margin(scores, labels) if targets is None else margin(scores, targets)


def over(scores: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """By how much the score of another class, int64 [b], is above that of the label."""
    both = scores.gather(1, torch.stack([classes, labels], 1))
    return both[:, 0] - both[:, 1]


LOSSES: dict[str, AttackLoss] = {"ce": ce, "cw": cw, "dlr": dlr, "lead": lead}
OF_MEMBERS = {"members_ce": "ce"}  # the mean of this loss over the members' own outputs, not that of the fused one
