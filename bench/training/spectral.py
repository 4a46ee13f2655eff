"""What layers stretch most: the top singular vectors of convolutions and linear layers, and norms led down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from bench.core import seeds
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

FIRST = 100  # power iterations from a random vector
REFINED = 10  # before each inner step of a clipping


def linear_maps(members: Iterable[nn.Module]) -> dict[str, nn.Module]:
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


def iterated(layers: Sequence[nn.Module], vectors: Sequence[Tensor], count: int) -> list[Tensor]:
    """Each of `vectors` [1, …] after `count` power iterations v ← fᵀf v / ‖fᵀf v‖ of its layer, of length 1."""
    found = list(vectors)
    with torch.enable_grad():
        for _ in range(count):
            found = [vector.detach().requires_grad_() for vector in found]
            outputs = [mapped(layer, vector) for layer, vector in zip(layers, found, strict=True)]
            moved = torch.autograd.grad(outputs, found, [output.detach() for output in outputs])
            found = [each / each.norm().clamp_min(torch.finfo(each.dtype).tiny) for each in moved]
    return [vector.detach() for vector in found]


def singular_vectors(members: Sequence[nn.Module], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The top singular vector of every convolution and linear layer, [1, …], on images of this shape."""
    from bench.attacks.judge import evaluation_mode

    layers = linear_maps(members)
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
    starts = []
    for key, size in seen.items():
        weight = layers[key].get_parameter("weight")
        start = torch.randn(size, generator=seeds.generator("lotos", key))
        starts.append(start.to(weight.device, weight.dtype))
    return dict(zip(seen, iterated([layers[key] for key in seen], starts, FIRST), strict=True))


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
        (vector,) = iterated([layer], [vector], REFINED)
        with torch.enable_grad():
            output = mapped(layer, vector)
            surplus = (1 - clip / output.detach().norm().clamp_min(1e-12)).relu()
            apart = (output - (1 - surplus) * output.detach()).square()
            (gradient,) = torch.autograd.grad(apart.sum() / (apart.shape[-1] if apart.dim() == 4 else 1), weight)
        with torch.no_grad():
            weight.sub_(rate * gradient)
