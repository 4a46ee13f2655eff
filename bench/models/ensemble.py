"""Members and the rule that makes one prediction of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bench.core import registry
from bench.core.errors import BenchError
from bench.core.numbers import several
from bench.models.fusion import FusionRule


class Ensemble(nn.Module):
    """N members and a fusion rule; images [b, C, H, W] in [0, 1] to fused outputs [b, classes].

    A rule is a plug-in (`bench.models.fusion`): `bench list fusions` has them.

    Args:
        members: networks that map images in [0, 1] to logits [b, classes].
        fusion: the name of a rule.
        weights: N numbers, for rules that take some (`weighted_probability` needs them).

    Raises:
        BenchError: no members, or too few for the rule, an unknown rule, weights that are missing, not wanted, too few
            or many, negative, not finite, or all zero.
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
        rule: FusionRule = registry.load("fusions", fusion)()
        if len(self.members) < rule.minimum_members:
            raise BenchError(f"{fusion} is for {rule.minimum_members} members or more, not {len(self.members)}")
        self.fusion, self.rule = fusion, rule
        device = next((parameter.device for parameter in self.members.parameters()), None)
        self.weights = None if weights is None else self._checked(weights).to(device)
        if rule.takes_weights == "must" and weights is None:
            raise BenchError(f"{fusion} needs one weight a member; mean_probability needs none")
        if rule.takes_weights == "no" and weights is not None:
            raise BenchError(f"{fusion} takes no weights; `bench list fusions` says which rules do")

    def part(self, members: Iterable[int]) -> Ensemble:
        """The ensemble of some of the members (shared, not copied) under the same rule, with their weights."""
        chosen = list(members)
        weights = None if self.weights is None else self.weights[chosen]
        return Ensemble([self.members[index] for index in chosen], fusion=self.fusion, weights=weights)

    def _checked(self, weights: Sequence[float] | Tensor) -> Tensor:
        numbers = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
        if numbers.shape != (len(self.members),):
            count = len(self.members)
            need = f"{several(count, 'member')} need{'s' if count == 1 else ''}"
            raise BenchError(f"{need} as many weights, not {numbers.numel()}")
        if not bool(torch.isfinite(numbers).all()) or bool((numbers < 0).any()) or not bool(numbers.sum() > 0):
            raise BenchError(f"weights must be finite, not negative, and not all 0, not {numbers.tolist()}")
        return (numbers / numbers.sum() if self.rule.weights_are_shares else numbers).to(torch.float32)

    @property
    def output_is_log_probability(self) -> bool:
        """Whether the fused output is log-probabilities (the probability rules) rather than logits."""
        return self.rule.is_log_probability

    def member_logits(self, x: Tensor) -> Tensor:
        """Logits [N, b, classes] of every member for images [b, C, H, W]."""
        return torch.stack([member(x) for member in self.members])

    def fuse(self, logits: Tensor) -> Tensor:
        """Fused outputs [b, classes] of members' logits [N, b, classes]; in float32 where logits are coarser."""
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return self.rule.fuse(logits, None if self.weights is None else self.weights.to(logits.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Fused outputs [b, classes] for images [b, C, H, W] in [0, 1]."""
        return self.fuse(self.member_logits(x))
