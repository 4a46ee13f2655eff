"""LOTOS: layers of the members that stretch different directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.core.lazy import torch
from bench.core.settings import at_least
from bench.training.method import Batch, Method
from bench.training.spectral import clip_layer, iterated, linear_maps, mapped, singular_vectors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.trainer import Trainer


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
        at_least(0, self, "strength", "mal", "clip", "rate")
        at_least(1, self, "clip_every", "inner")

    def fit(self, trainer: Trainer) -> None:
        """One phase; the singular vectors are kept in `trainer.memory`, so that a resumed run has the same."""
        members, shape = list(trainer.ensemble.members), tuple(trainer.images.images.shape[1:])
        if not trainer.memory:
            trainer.memory.update(singular_vectors(members, shape))
        vectors = trainer.memory

        def after(step: int) -> None:
            if self.clip and step % self.clip_every == 0:
                for key, layer in linear_maps(members).items():
                    clip_layer(layer, vectors[key], self.clip, inner=self.inner, rate=self.rate)

        trainer.train("joint", partial(self.loss, vectors=vectors), after=after)

    def loss(
        self, members: Sequence[nn.Module], batch: Batch, vectors: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """`ce`, and `shared` times λ; `vectors` are replaced by those one iteration later."""
        cross_entropy, layers = torch.nn.functional.cross_entropy, linear_maps(members)
        if vectors is None:
            vectors = singular_vectors(members, tuple(batch.images.shape[1:]))
        losses = torch.stack([cross_entropy(member(batch.images), batch.labels) for member in members])
        now = iterated(list(layers.values()), [vectors[key] for key in layers], 1)
        vectors.update(zip(layers, now, strict=True))
        stretched = [losses.new_zeros(())]
        for key, layer in layers.items():
            if not isinstance(layer, torch.nn.Linear):
                member, _, name = key.partition(".")
                others = torch.cat([vectors[f"{k}.{name}"] for k in range(len(members)) if k != int(member)])
                lengths = mapped(layer, others).flatten(1).norm(dim=1)  # the vectors have length 1
                stretched.append((lengths - self.mal).relu().sum())
        return {"ce": losses.sum(), "shared": self.strength * torch.stack(stretched).sum()}
