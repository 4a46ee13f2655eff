"""Networks that seem robust and are not: factories for `bench evaluate`, each around one small CNN for digits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.core import registry
from bench.models.build import build_member


def cnn() -> nn.Module:
    """The honest network, normalisation included."""
    return build_member("digits_cnn", {}, dataset=registry.load("datasets", "digits")())


class _Around(nn.Module):
    """An inner network, and what is done to its images and its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = cnn()

    def before(self, x: Tensor) -> Tensor:
        return x

    def after(self, logits: Tensor) -> Tensor:
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x)))


class Honest(_Around):
    """Nothing is done."""


class Scaled(_Around):
    """Logits × 1000: the softmax saturates."""

    def after(self, logits: Tensor) -> Tensor:
        return 1000 * logits


class EightBit(_Around):
    """Images rounded to 8 bits: no gradient."""

    def before(self, x: Tensor) -> Tensor:
        return (x * 255).round() / 255


class StraightThrough(_Around):
    """Images rounded to 3 levels, with a gradient as if they were not."""

    def before(self, x: Tensor) -> Tensor:
        return x + ((x * 2).round() / 2 - x).detach()


class Noisy(_Around):
    """Noise on the logits."""

    def after(self, logits: Tensor) -> Tensor:
        return logits + 3 * torch.randn_like(logits)


class SameNoise(_Around):
    """Noise that is the same in each pass, and differs from place to place in a batch."""

    def after(self, logits: Tensor) -> Tensor:
        noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        return logits + 3 * noise.to(logits)


class CutOff(_Around):
    """No gradient leads to the image."""

    def before(self, x: Tensor) -> Tensor:
        return x.detach() + 0 * x


class Cold(_Around):
    """Logits / 1000: the cross-entropy hardly depends on which class is second."""

    def after(self, logits: Tensor) -> Tensor:
        return logits / 1000


class _Turned(torch.autograd.Function):
    """The identity, with a gradient that points the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Turned(_Around):
    """A gradient that leads downhill."""

    def before(self, x: Tensor) -> Tensor:
        turned: Tensor = _Turned.apply(x)
        return turned


class WinnersTakeAll(_Around):
    """The brightest third of the pixels is kept: a jump wherever two change places."""

    def before(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        kth = flat.topk(flat.shape[1] // 3, dim=1).values[:, -1:]
        return (flat * (flat >= kth)).reshape(x.shape)


class Hashed(_Around):
    """Noise on the logits that the image's own values seed: the same for an image, another for its neighbour."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        seed = (x.detach().flatten(1).double() * 1e6).sin().sum(1, keepdim=True)
        phases = torch.arange(1, logits.shape[1] + 1, dtype=torch.float64, device=x.device)
        return logits + 3 * (1e4 * seed * phases).sin().to(logits)


class Squashed(_Around):
    """Logits through a steep sigmoid: all gradients vanish where the network is sure."""

    def after(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(20 * logits) * 100
