"""LOTOS: layers of the members that stretch different directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.core import seeds
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.training.method import Batch, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer

FIRST = 100  # power iterations before the first step; then one a batch
REFINED = 10  # before each inner step of a clipping


@dataclass(frozen=True, kw_only=True)
class Lotos(Method):
    """LOTOS: what a layer of one member stretches most, the same layer of the others is to stretch little.

    Ebrahimpour Boroojeny, Sundaram and Chandrasekaran, "Training robust ensembles requires rethinking Lipschitz
    continuity", ICLR 2025: Σ_k CE_k + λ · Σ_k Σ_{j≠k} Σ_convolutions max(‖f_j(v_k)‖₂ / ‖v_k‖₂ − mal, 0), f_j the
    linear map of member j's layer, without its bias, on inputs of the size that it has in the network, v_k the top
    singular vector of member k's, held fixed; it follows by one power iteration a batch. Every `clip_every` steps the
    convolutions and linear layers whose spectral norm is above `clip` are led to it: `inner` times a step along
    −∇_W ‖f(v) − (clip/σ)·f⁰(v)‖₂², of a convolution divided by the width of its output, f⁰ the map before the step, v
    and σ from ten iterations.

    Official settings: mal .8, clip 1, 5 inner steps of .35 (one without BatchNorm); λ .05 and every 100 steps without
    BatchNorm, .01 and 50 with it; 3 × ResNet-18, SGD .1, momentum .9, weight decay 5e-4, ×.1 every 40 of 121 epochs,
    batch 128. Its iteration is one of 1 + fᵀf; its code raises norms below .95 to 1 too; its term for convolution and
    BatchNorm together is never added: none of that here.

    Args:
        strength: λ.
        mal: what a layer may stretch another's direction without cost.
        clip: largest spectral norm; 0 for no clipping.
        clip_every: steps between two clippings.
        inner, rate: inner steps of a clipping, and their length.
    """

    strength: float = 0.01
    mal: float = 0.8
    clip: float = 1.0
    clip_every: int = 50
    inner: int = 5
    rate: float = 0.35

    def __post_init__(self) -> None:
        if min(self.strength, self.mal, self.clip, self.rate) < 0 or self.clip_every < 1 or self.inner < 1:
            raise BenchError("strength, mal, clip and rate are at least 0, clip_every and inner at least 1")

    def fit(self, trainer: Trainer) -> None:
        """One phase; the singular vectors are kept in `trainer.memory`, so that a resumed run has the same."""
        members, shape = list(trainer.ensemble.members), tuple(trainer.images.images.shape[1:])
        if not trainer.memory:
            trainer.memory.update(singular_vectors(members, shape))
        vectors = trainer.memory

        def after(step: int) -> None:
            if self.clip and step % self.clip_every == 0:
                for key, layer in _layers(members).items():
                    clip_layer(layer, vectors[key], self.clip, inner=self.inner, rate=self.rate)

        trainer.train("joint", partial(self.loss, vectors=vectors), after=after)

    def loss(
        self, members: Sequence[nn.Module], batch: Batch, vectors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """`ce`, and `shared` times λ; `vectors` are replaced by those one iteration later."""
        cross_entropy, layers = torch.nn.functional.cross_entropy, _layers(members)
        if vectors is None:
            vectors = singular_vectors(members, tuple(batch.images.shape[1:]))
        losses = torch.stack([cross_entropy(member(batch.images), batch.labels) for member in members])
        for key, layer in layers.items():
            vectors[key] = iterated(layer, vectors[key], 1)
        stretched = [losses.new_zeros(())]
        for key, layer in layers.items():
            if not isinstance(layer, torch.nn.Linear):
                member, _, name = key.partition(".")
                others = torch.cat([vectors[f"{k}.{name}"] for k in range(len(members)) if k != int(member)])
                lengths = mapped(layer, others).flatten(1).norm(dim=1)  # the vectors have length 1
                stretched.append((lengths - self.mal).relu().sum())
        return {"ce": losses.sum(), "shared": self.strength * torch.stack(stretched).sum()}


def _layers(members: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Convolutions and linear layers by member and name, `0.conv1`."""
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    return {f"{k}.{name}": part for k, member in enumerate(members) for name, part in member.named_modules()
            if isinstance(part, kinds)}  # fmt: skip


def mapped(layer: nn.Module, x: Tensor) -> Tensor:
    """The linear map of a layer, without its bias."""
    if isinstance(layer, torch.nn.Linear):
        return torch.nn.functional.linear(x, layer.weight)
    assert isinstance(layer, torch.nn.Conv2d)
    found: Tensor = layer._conv_forward(x, layer.weight, None)
    return found


def iterated(layer: nn.Module, vector: Tensor, count: int) -> Tensor:
    """`vector` [1, …] after `count` power iterations v ← fᵀf v / ‖fᵀf v‖, of length 1."""
    with torch.enable_grad():
        for _ in range(count):
            vector = vector.detach().requires_grad_()
            (moved,) = torch.autograd.grad(mapped(layer, vector).square().sum() / 2, vector)
            vector = moved / moved.norm().clamp_min(torch.finfo(moved.dtype).tiny)
    return vector.detach()


def singular_vectors(members: Sequence[nn.Module], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The top singular vector of every convolution and linear layer, [1, …], on images of this shape."""
    from bench.attacks.judge import evaluation_mode

    layers = _layers(members)
    seen: dict[str, tuple[int, ...]] = {}

    def note(key: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[key] = (1, *inputs[0].shape[1:])

    handles = [layer.register_forward_pre_hook(partial(note, key)) for key, layer in layers.items()]
    try:
        for member in members:
            with evaluation_mode(member), torch.no_grad():
                weight = next(member.parameters())
                member(torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype))
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for key, size in seen.items():
        weight = layers[key].get_parameter("weight")
        start = torch.randn(size, generator=seeds.generator("lotos", key)).to(weight.device, weight.dtype)
        found[key] = iterated(layers[key], start, FIRST)
    return found


def clip_layer(layer: nn.Module, vector: Tensor, clip: float, *, inner: int, rate: float) -> None:
    """Lead the spectral norm of a layer down to `clip`, in place; below it nothing moves.

    From the second inner step on the search for the direction starts anew, at random: what was led down is no longer
    the largest, and power iterations would not leave it.
    """
    weight = layer.get_parameter("weight")
    for step in range(inner):
        if step:
            start = torch.randn(vector.shape, generator=seeds.generator("lotos clip", step))
            vector = start.to(vector.device, vector.dtype)
        vector = iterated(layer, vector, REFINED)
        with torch.enable_grad():
            output = mapped(layer, vector)
            surplus = (1 - clip / output.detach().norm().clamp_min(1e-12)).relu()
            apart = (output - (1 - surplus) * output.detach()).square()
            (gradient,) = torch.autograd.grad(apart.sum() / (apart.shape[-1] if apart.dim() == 4 else 1), weight)
        with torch.no_grad():
            weight.sub_(rate * gradient)
