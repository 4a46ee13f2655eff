"""A sound fusion rule, and the same with one fault each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.models.fusion import FusionRule, TakesWeights


@dataclass(frozen=True)
class Sound(FusionRule):
    """Log of the geometric mean of the members' softmax."""

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        return logits.log_softmax(2).mean(0).log_softmax(1)


@dataclass(frozen=True)
class SoundWeighted(FusionRule):
    """Weighted sum of logits."""

    takes_weights: ClassVar[TakesWeights] = "must"
    is_log_probability: ClassVar[bool] = False

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        assert weights is not None
        return (weights[:, None, None] * logits).sum(0)


@dataclass(frozen=True)
class Members(Sound):
    """One output a member."""

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        return logits.log_softmax(2)


@dataclass(frozen=True)
class InPlace(Sound):
    """Works on what it is given."""

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        with torch.no_grad():
            logits += 1
        return super().fuse(logits, weights)


@dataclass(frozen=True)
class Draws(Sound):
    """One member, drawn for each image."""

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        images = torch.arange(logits.shape[1])
        return logits[torch.randint(len(logits), images.shape), images].log_softmax(1)


@dataclass(frozen=True)
class OverTheBatch(Sound):
    """Looks at the whole batch."""

    is_log_probability: ClassVar[bool] = False

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        return logits.mean(0) - logits.mean((0, 1))


@dataclass(frozen=True)
class Unsaid(Sound):
    """Logits that are called log-probabilities."""

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        return logits.mean(0)


@dataclass(frozen=True)
class Count(Sound):
    """A count of votes."""

    is_log_probability: ClassVar[bool] = False

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        return torch.nn.functional.one_hot(logits.argmax(2), logits.shape[2]).float().mean(0)


@dataclass(frozen=True)
class Overflows(Sound):
    """Exponentials of logits."""

    def fuse(self, logits: Tensor, weights: Tensor | None) -> Tensor:
        powers = logits.exp()
        return (powers / powers.sum(2, keepdim=True)).mean(0).log()


@dataclass(frozen=True)
class Settings(Sound):
    """A setting, which no record of a run would hold."""

    temperature: float = 1.0
