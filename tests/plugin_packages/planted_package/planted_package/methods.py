"""A sound method, and the same with one fault each."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from torch import nn

from bench.core.errors import BenchError
from bench.training.gradients import frozen_statistics
from bench.training.method import Batch, Method

cross_entropy = torch.nn.functional.cross_entropy


@dataclass(frozen=True, kw_only=True)
class Sound(Method):
    """Plain ensemble on noisy images."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        noisy = batch.images + batch.uniform(batch.images, 0.05)
        return {"ce": torch.stack([cross_entropy(member(noisy), batch.labels) for member in members]).sum()}


@dataclass(frozen=True, kw_only=True)
class SoundSearch(Sound):
    """Switches modes and gradients for a search, and back; draws from torch's global generator, which the trainer
    seeds."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        point = (batch.images + 0.01 * torch.randn_like(batch.images)).requires_grad_()
        with frozen_statistics(members):
            total = torch.stack([cross_entropy(member.eval()(point), batch.labels) for member in members]).sum()
        for member in members:
            member.train()
        (gradient,) = torch.autograd.grad(total, point)
        return super().loss(members, dataclasses.replace(batch, images=batch.images + 0.1 * gradient.sign()))


@dataclass(frozen=True, kw_only=True)
class SoundPair(Sound):
    """For two members, which it says."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        if len(members) != 3:
            raise BenchError(f"this method is for three members, not {len(members)}")
        return super().loss(members, batch)


@dataclass(frozen=True, kw_only=True)
class SoundStages(Sound):
    """Members one after another."""

    def fit(self, trainer: Any) -> None:
        for index in range(len(trainer.ensemble.members)):
            trainer.train(f"member {index + 1}", self.loss, members=[index])


@dataclass(frozen=True, kw_only=True)
class TwoOnly(Sound):
    """Unpacks two members."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        a, b = members
        return {"ce": cross_entropy(a(batch.images), batch.labels) + cross_entropy(b(batch.images), batch.labels)}


@dataclass(frozen=True, kw_only=True)
class ThreeOnly(Sound):
    """Indexes three members."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        return {"ce": torch.stack([cross_entropy(members[k](batch.images), batch.labels) for k in range(3)]).sum()}


@dataclass(frozen=True, kw_only=True)
class MovesImages(Sound):
    """Adds noise in place."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        batch.images.add_(batch.uniform(batch.images, 0.05))
        return super().loss(members, batch)


@dataclass(frozen=True, kw_only=True)
class MovesLabels(Sound):
    """Writes into the labels."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        batch.labels[0] = (batch.labels[0] + 1) % 10
        return super().loss(members, batch)


@dataclass(frozen=True, kw_only=True)
class MovesSet(Sound):
    """Writes into the training set."""

    def fit(self, trainer: Any) -> None:
        trainer.images.images.clamp_(0, 200)
        super().fit(trainer)


@dataclass(frozen=True, kw_only=True)
class Backward(Sound):
    """Calls backward by itself: gradients are there twice."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        terms = super().loss(members, batch)
        terms["ce"].backward(retain_graph=True)
        return terms


@dataclass(frozen=True, kw_only=True)
class Steps(Sound):
    """Makes a step by itself."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        parameters = [parameter for member in members for parameter in member.parameters()]
        gradients = torch.autograd.grad(super().loss(members, batch)["ce"], parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.01 * gradient
        return super().loss(members, batch)


@dataclass(frozen=True, kw_only=True)
class LeftInEval(Sound):
    """Forgets to switch back."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        terms = super().loss(members, batch)
        members[0].eval()
        return terms


@dataclass(frozen=True, kw_only=True)
class TrainsInEval(Sound):
    """Learns in evaluation mode, and switches back."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        for member in members:
            member.eval()
        terms = super().loss(members, batch)
        for member in members:
            member.train()
        return terms


@dataclass(frozen=True, kw_only=True)
class Frozen(Sound):
    """Forgets to thaw the weights of its last member."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        terms = super().loss(members, batch)
        for parameter in members[-1].parameters():
            parameter.requires_grad_(False)
        return terms


@dataclass(frozen=True, kw_only=True)
class NotANumber(Sound):
    """The logarithm of nothing."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        return {**super().loss(members, batch), "log": 0 * torch.zeros(()).log()}


@dataclass(frozen=True, kw_only=True)
class Forgotten(Sound):
    """The last member has no part in the loss."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        return super().loss(list(members)[: max(1, len(members) - 1)], batch)


@dataclass(frozen=True, kw_only=True)
class Detached(Sound):
    """A member's part is there, without a gradient."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        first = super().loss(members[:1], batch)["ce"]
        return {"ce": first, "others": super().loss(members, batch)["ce"].detach()}


@dataclass(frozen=True, kw_only=True)
class GlobalNumpy(Sound):
    """Draws from NumPy's global generator."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        return {"ce": super().loss(members, batch)["ce"] * (1 + numpy.random.rand())}


@dataclass(frozen=True, kw_only=True)
class GlobalBefore(Sound):
    """Draws from torch's global generator where the trainer has not seeded it."""

    def fit(self, trainer: Any) -> None:
        with torch.no_grad():
            for parameter in trainer.ensemble.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        super().fit(trainer)


@dataclass(frozen=True, kw_only=True)
class Unseeded(Sound):
    """Random numbers that nothing decides."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        return {"ce": super().loss(members, batch)["ce"] * (1 + random.SystemRandom().random())}


@dataclass(frozen=True, kw_only=True)
class Resets(Sound):
    """Seeds the global generator in each step."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        torch.manual_seed(0)
        return super().loss(members, batch)


@dataclass(frozen=True, kw_only=True)
class Skips(SoundStages):
    """Trains all members but the last."""

    def fit(self, trainer: Any) -> None:
        for index in range(max(1, len(trainer.ensemble.members) - 1)):
            trainer.train(f"member {index + 1}", self.loss, members=[index])


@dataclass(frozen=True, kw_only=True)
class NoPrerequisite(Sound):
    """Starts from a method that nobody configured."""

    requires: ClassVar[tuple[str, ...]] = ("plain_ensemble",)


@dataclass(frozen=True, kw_only=True)
class WordPrerequisite(Sound):
    """A name where a tuple of names is meant."""

    def prerequisites(self) -> Any:
        return "ece"


@dataclass(frozen=True, kw_only=True)
class Unstorable(Sound):
    """A setting that no file can hold."""

    where: Path = Path("weights")


@dataclass(frozen=True, kw_only=True)
class ForEach(Sound):
    """A number for each image."""

    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        return {"ce": cross_entropy(members[0](batch.images), batch.labels, reduction="none")}


@dataclass(frozen=True, kw_only=True)
class NoGradient(Sound):
    """Made under no_grad."""

    @torch.no_grad()
    def loss(self, members: Sequence[nn.Module], batch: Batch) -> Any:
        return super().loss(members, batch)
