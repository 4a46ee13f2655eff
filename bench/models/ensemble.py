"""Members and the rule that makes one prediction of theirs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError, unknown_name
from bench.core.terms import Fusion

FUSIONS = get_args(Fusion)
LIFT = 1e-4  # by how much the winner of a vote leads where the soft vote would choose another class


class Ensemble(nn.Module):
    """N members and a fusion rule; images [b, C, H, W] in [0, 1] to fused outputs [b, classes].

    `mean_probability`      log of the mean of the members' softmax
    `weighted_probability`  log of Σ_k w_k softmax_k, weights normalised to sum 1 (AdaBoost's soft vote)
    `weighted_vote`         the class with the largest Σ_k w_k [argmax_k] (AdaBoost's hard vote), weights 1 unless given
    `sum_logits`            Σ_k w_k logits_k, weights 1 unless given (GradientBoost's shrinkage)
    `mean_logits`           mean of the logits

    The first two are computed as logsumexp over members of log-softmax + log w_k: exact where a product of
    probabilities underflows, and its gradient does not die there. A vote has no gradient: its output is the soft
    vote's, where they disagree with the vote's winner raised to the top, so that attacks keep the soft vote's gradient.

    Args:
        members: networks that map images in [0, 1] to logits [b, classes].
        fusion: one of `FUSIONS`.
        weights: N numbers, for `weighted_probability` (needed), `weighted_vote` and `sum_logits` only.

    Raises:
        BenchError: no members, an unknown rule, weights that are missing, not wanted, too few or many, negative, not
            finite, or all zero.
    """

    weights: Tensor | None

    def __init__(
        self,
        members: Iterable[nn.Module],
        *,
        fusion: str = "mean_probability",
        weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise BenchError("an ensemble needs one member or more")
        self.register_buffer("weights", None)
        self.set_fusion(fusion, weights)

    def set_fusion(self, fusion: str, weights: Sequence[float] | Tensor | None = None) -> None:
        """Change the rule and its weights, as a method does whose weights are known only after training.

        Raises:
            BenchError: as the constructor.
        """
        if fusion not in FUSIONS:
            raise unknown_name("fusion rule", fusion, FUSIONS)
        self.fusion = fusion
        device = next((parameter.device for parameter in self.members.parameters()), None)
        self.weights = None if weights is None else self._checked(weights).to(device)
        if fusion == "weighted_probability" and weights is None:
            raise BenchError("weighted_probability needs one weight a member; mean_probability needs none")
        if fusion.startswith("mean") and weights is not None:
            raise BenchError(f"{fusion} takes no weights; weighted_probability and sum_logits do")

    def part(self, members: Iterable[int]) -> Ensemble:
        """The ensemble of some of the members (shared, not copied) under the same rule, with their weights."""
        chosen = list(members)
        weights = None if self.weights is None else self.weights[chosen]
        return Ensemble([self.members[index] for index in chosen], fusion=self.fusion, weights=weights)

    def _checked(self, weights: Sequence[float] | Tensor) -> Tensor:
        numbers = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
        if numbers.shape != (len(self.members),):
            raise BenchError(f"{len(self.members)} members need as many weights, not {numbers.numel()}")
        if not bool(torch.isfinite(numbers).all()) or bool((numbers < 0).any()) or not bool(numbers.sum() > 0):
            raise BenchError(f"weights must be finite, not negative, and not all 0, not {numbers.tolist()}")
        return (numbers / numbers.sum() if self.fusion.startswith("weighted") else numbers).to(torch.float32)

    @property
    def output_is_log_probability(self) -> bool:
        """Whether the fused output is log-probabilities (the probability rules) rather than logits."""
        return not self.fusion.endswith("logits")

    def member_logits(self, x: Tensor) -> Tensor:
        """Logits [N, b, classes] of every member for images [b, C, H, W]."""
        return torch.stack([member(x) for member in self.members])

    def fuse(self, logits: Tensor) -> Tensor:
        """Fused outputs [b, classes] of members' logits [N, b, classes]; in float32 where logits are coarser."""
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if self.fusion == "mean_logits":
            return logits.mean(0)
        if self.fusion == "sum_logits":
            return logits.sum(0) if self.weights is None else (self._weights(logits) * logits).sum(0)
        log_probabilities = logits.log_softmax(2)
        if self.weights is None:
            fused = log_probabilities.logsumexp(0) - math.log(len(logits))
        else:
            fused = (log_probabilities + self._weights(logits).log()).logsumexp(0)
        return self._voted(logits, fused) if self.fusion == "weighted_vote" else fused

    def _voted(self, logits: Tensor, fused: Tensor) -> Tensor:
        """`fused` with the vote's winner on top; a tie goes to the class that the soft vote likes better."""
        with torch.no_grad():
            votes = torch.nn.functional.one_hot(logits.argmax(2), logits.shape[2]).to(logits.dtype)
            total = votes.sum(0) if self.weights is None else (self._weights(logits) * votes).sum(0)
            tied = total >= total.amax(1, keepdim=True) * (1 - 1e-6)
            winner = fused.masked_fill(~tied, -torch.inf).argmax(1, keepdim=True)
            gap = fused.amax(1, keepdim=True) - fused.gather(1, winner)
            raised = torch.zeros_like(fused).scatter_(1, winner, torch.where(gap > 0, gap + LIFT, 0))
        return (fused + raised).log_softmax(1)

    def _weights(self, logits: Tensor) -> Tensor:
        assert self.weights is not None
        return self.weights.to(logits.dtype)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Fused outputs [b, classes] for images [b, C, H, W] in [0, 1]."""
        return self.fuse(self.member_logits(x))
