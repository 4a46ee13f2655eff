"""Fusion rules: how the outputs of members become one. A rule is part of what is attacked and recorded with a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import torch
from bench.core.terms import TakesWeights

if TYPE_CHECKING:
    from torch import Tensor

LIFT = 1e-4  # by how much the winner of a vote leads where the soft vote would choose another class


@dataclass(frozen=True, kw_only=True)
class FusionRule:
    """Base of all rules; a subclass is a frozen dataclass without fields: a rule is known by its name alone.

    The first line of a subclass's docstring is what `bench list fusions` shows.

    Class attributes:
        version: raised whenever results change; runs that were taken in under an older one are shown as stale.
        minimum_members: fewer are refused.
        takes_weights: whether it weighs members: never, where weights are given, or always.
        weights_are_shares: whether weights are divided by their sum.
        is_log_probability: whether it gives log-probabilities; logits otherwise.
        is_vote: whether members vote with their classes alone, however sure they are.
        draws_a_member: whether each prediction is that of one member drawn at random, every one with the same
            probability unless weights say otherwise. `fuse` stays without randomness: its largest class is the most
            probable prediction. Attacks on such an ensemble go on to their last step, or until no draw is right, and
            leave the outcome of each draw, from which the expected accuracy follows.
        told: what `bench evaluate` says of it, as in "fused by …".
    """

    version: ClassVar[int] = 1
    minimum_members: ClassVar[int] = 1
    takes_weights: ClassVar[TakesWeights] = "no"
    weights_are_shares: ClassVar[bool] = False
    is_log_probability: ClassVar[bool] = True
    is_vote: ClassVar[bool] = False
    draws_a_member: ClassVar[bool] = False
    told: ClassVar[str] = "a rule of its own"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """Fused outputs [b, classes] of members' logits [N, b, classes], float32 or float64.

        Attacks differentiate it: a rule whose gradient is zero, as that of a count is, gives another one in its place
        and says so in its docstring.

        Args:
            weights: [N], of the logits' type; None where the ensemble has none.
        """
        raise TypeError(f"{type(self).__name__} does not define fuse(logits, weights)")


def _soft_vote(logits: Tensor, weights: Tensor | None) -> Tensor:
    """log Σ_k w_k softmax_k, as logsumexp over members of log-softmax + log w_k.

    It is exact where a product of probabilities underflows, and its gradient does not die there.
    """
    log_probabilities = logits.log_softmax(2)
    if weights is None:
        return log_probabilities.logsumexp(0) - math.log(len(logits))
    return (log_probabilities + weights[:, None, None].log()).logsumexp(0)


def _vote(logits: Tensor, weights: Tensor | None) -> Tensor:
    """The soft vote, where they disagree with the vote's winner raised to the top.

    A tie goes to the class that the soft vote likes better. What is added is a constant: the gradient is that of the
    soft vote, up to the normalisation of the sum.
    """
    fused = _soft_vote(logits, weights)
    with torch.no_grad():
        votes = torch.nn.functional.one_hot(logits.argmax(2), logits.shape[2]).to(logits.dtype)
        total = votes.sum(0) if weights is None else (weights[:, None, None] * votes).sum(0)
        tied = total >= total.amax(1, keepdim=True) * (1 - 1e-6)
        winner = fused.masked_fill(~tied, -torch.inf).argmax(1, keepdim=True)
        most, leader = fused.max(1, keepdim=True)
        # Not where the gap is above 0: of two classes that the soft vote likes alike the first would be chosen.
        lift = torch.where(leader != winner, most - fused.gather(1, winner) + LIFT, 0)
        raised = torch.zeros_like(fused).scatter_(1, winner, lift)
    return (fused + raised).log_softmax(1)


@dataclass(frozen=True, kw_only=True)
class MeanProbability(FusionRule):
    """Log of the mean of the members' softmax."""

    told: ClassVar[str] = "log of mean softmax"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """log (1/N) Σ_k softmax_k."""
        return _soft_vote(logits, None)


@dataclass(frozen=True, kw_only=True)
class WeightedProbability(FusionRule):
    """Log of Σ_k w_k softmax_k, weights of sum 1 (AdaBoost's soft vote)."""

    takes_weights: ClassVar[TakesWeights] = "must"
    weights_are_shares: ClassVar[bool] = True
    told: ClassVar[str] = "log of weighted mean softmax"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """log Σ_k w_k softmax_k."""
        return _soft_vote(logits, weights)


@dataclass(frozen=True, kw_only=True)
class WeightedVote(FusionRule):
    """The class with the largest Σ_k w_k [argmax_k] (AdaBoost's hard vote), weights 1 unless given.

    A count has no gradient: attacks get the soft vote's.
    """

    takes_weights: ClassVar[TakesWeights] = "may"
    weights_are_shares: ClassVar[bool] = True
    is_vote: ClassVar[bool] = True
    told: ClassVar[str] = "a vote"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """The soft vote with the vote's winner on top."""
        return _vote(logits, weights)


@dataclass(frozen=True, kw_only=True)
class MajorityVote(FusionRule):
    """The class that most members choose; of several the one that their mean softmax likes best.

    A count has no gradient: attacks get that of the mean softmax. One without gradients (`square`) or on members
    (`mora`) needs no such substitute.
    """

    is_vote: ClassVar[bool] = True
    told: ClassVar[str] = "majority vote"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """The mean softmax's log with the vote's winner on top."""
        return _vote(logits, None)


@dataclass(frozen=True, kw_only=True)
class RandomMember(FusionRule):
    """One member, drawn for each prediction, every one with the same probability or with its weight's share.

    The most probable class is the majority vote's. Attacks get the gradient of the expected softmax over the draw: it
    is exact and needs no samples, since each member is one outcome of the draw.
    """

    takes_weights: ClassVar[TakesWeights] = "may"
    weights_are_shares: ClassVar[bool] = True
    draws_a_member: ClassVar[bool] = True
    told: ClassVar[str] = "drawing one member"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """The log of the expected softmax with the most probable class on top."""
        return _vote(logits, weights)


@dataclass(frozen=True, kw_only=True)
class MaxProbability(FusionRule):
    """Each class has the largest probability that any member gives it: the most confident member decides.

    The gradient of a class leads to the member that is surest of it.
    """

    told: ClassVar[str] = "largest softmax of any member"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """log (max_k softmax_k), normalised to sum 1."""
        return logits.log_softmax(2).amax(0).log_softmax(1)


@dataclass(frozen=True, kw_only=True)
class CrossMax(FusionRule):
    """CrossMax (Fort & Lakshminarayanan 2024): a median of logits less their maxima over classes and over members.

    From each member's logits its largest one is subtracted, then from each class the largest of any member, then the
    median over members is taken, the lower of two. Its gradient leads through few members, and gradient attacks on it
    are weak: images made on `mean_logits` of the same members and judged on it (`bench judge`) tell more.
    """

    minimum_members: ClassVar[int] = 2
    is_log_probability: ClassVar[bool] = False
    told: ClassVar[str] = "CrossMax"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """The lower median over members, [b, classes]."""
        less = logits - logits.amax(2, keepdim=True)
        less = less - less.amax(0, keepdim=True)
        return less.median(0).values


@dataclass(frozen=True, kw_only=True)
class SumLogits(FusionRule):
    """Sum of the logits, Σ_k w_k logits_k, weights 1 unless given (GradientBoost's shrinkage)."""

    takes_weights: ClassVar[TakesWeights] = "may"
    is_log_probability: ClassVar[bool] = False
    told: ClassVar[str] = "sum of logits"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """Σ_k w_k logits_k."""
        return logits.sum(0) if weights is None else (weights[:, None, None] * logits).sum(0)


@dataclass(frozen=True, kw_only=True)
class MeanLogits(FusionRule):
    """Mean of the logits."""

    is_log_probability: ClassVar[bool] = False
    told: ClassVar[str] = "mean of logits"

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        """(1/N) Σ_k logits_k."""
        return logits.mean(0)
