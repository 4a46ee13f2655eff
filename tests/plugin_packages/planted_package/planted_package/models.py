"""A sound model, and the same with one fault each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.models.base import Model


@dataclass(frozen=True)
class Sound(Model):
    """A convolution with batch normalisation, dropout and a linear layer."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        pixels = shape[1] * shape[2]
        return nn.Sequential(
            nn.Conv2d(shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1),
            nn.Linear(8 * pixels, classes),
        )  # fmt: skip


@dataclass(frozen=True)
class SoundSmall(Sound):
    """For digits only, which it says."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        if shape != (1, 8, 8):
            raise BenchError(f"this network is for 1×8×8 images, not {shape}")
        return super().build(shape=shape, classes=classes)


@dataclass(frozen=True)
class Softmax(Sound):
    """Probabilities."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(super().build(shape=shape, classes=classes), nn.Softmax(1))


@dataclass(frozen=True)
class LogSoftmax(Sound):
    """Log-probabilities."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return nn.Sequential(super().build(shape=shape, classes=classes), nn.LogSoftmax(1))


@dataclass(frozen=True)
class TenClasses(Sound):
    """Ten classes, whatever is asked for."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return super().build(shape=shape, classes=10)


@dataclass(frozen=True)
class DigitsShape(Sound):
    """8×8 pixels of grey, whatever is asked for."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return super().build(shape=(1, 8, 8), classes=classes)


@dataclass(frozen=True)
class Equal(Sound):
    """The same weights each time."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        network = super().build(shape=shape, classes=classes)
        for parameter in network.parameters():
            nn.init.constant_(parameter, 0.01)
        return network


@dataclass(frozen=True)
class Seeded(Sound):
    """A seed of its own."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        torch.manual_seed(0)
        return super().build(shape=shape, classes=classes)


@dataclass(frozen=True)
class Unseeded(Sound):
    """Random numbers that nothing decides."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        network = super().build(shape=shape, classes=classes)
        generator = torch.Generator()
        generator.seed()
        nn.init.normal_(network[0].weight, std=0.1, generator=generator)  # type: ignore[index]
        return network


@dataclass(frozen=True)
class OneNetwork(Sound):
    """The same network each time."""

    made: ClassVar[dict[tuple[object, ...], nn.Module]] = {}

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return self.made.setdefault((shape, classes), super().build(shape=shape, classes=classes))


@dataclass(frozen=True)
class OneLayer(Sound):
    """The members' first layer is one."""

    made: ClassVar[dict[int, nn.Module]] = {}

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        network = super().build(shape=shape, classes=classes)
        network[0] = self.made.setdefault(shape[0], network[0])  # type: ignore[index,operator]
        return network


class Extra(nn.Module):
    """`network`, and something around it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("passes", torch.zeros(()))


class Noisy(Extra):
    """Noise in each pass."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.1 * torch.randn_like(x))


class Counting(Extra):
    """Counts its passes, and grows by them."""

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.network(x) * (1 + self.passes / 100)


class Batched(Extra):
    """Centres the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x - x.mean(0))


class Infinite(Extra):
    """The root of what is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.sqrt() - 1)


class Rounding(Extra):
    """Rounds pixels, so that no gradient leads to them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 8).round() / 8)


class Doubled(Extra):
    """Logits in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).double()


@dataclass(frozen=True)
class Wrapped(Sound):
    """`Sound`, with something around it."""

    extra: ClassVar[type[Extra]]

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return self.extra(super().build(shape=shape, classes=classes))


@dataclass(frozen=True)
class NoisyModel(Wrapped):
    """Noise in each pass."""

    extra = Noisy


@dataclass(frozen=True)
class CountingModel(Wrapped):
    """State that a pass moves."""

    extra = Counting


@dataclass(frozen=True)
class BatchedModel(Wrapped):
    """Statistics of the batch."""

    extra = Batched


@dataclass(frozen=True)
class InfiniteModel(Wrapped):
    """Not a number."""

    extra = Infinite


@dataclass(frozen=True)
class RoundingModel(Wrapped):
    """No gradient leads to the images."""

    extra = Rounding


@dataclass(frozen=True)
class DoubledModel(Wrapped):
    """Logits in float64."""

    extra = Doubled


@dataclass(frozen=True)
class InPlace(Sound):
    """A ReLU that overwrites its input."""

    def build(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        network = super().build(shape=shape, classes=classes)
        network[2] = nn.ReLU(inplace=True)  # type: ignore[index,operator]
        return network
