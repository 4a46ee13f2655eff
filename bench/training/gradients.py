"""Input gradients and what methods measure on them; shared by TRS, its variants and gradient-based baselines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

TINY = 1e-12  # floor of a per-sample gradient norm; far below any gradient that matters


def loss_and_gradient(
    member: nn.Module, images: Tensor, labels: Tensor, *, create_graph: bool = True
) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the batch, and its gradient with respect to the images.

    The sum makes each row the gradient of that image's own loss (with BatchNorm in training mode it also carries
    terms through the batch statistics).

    The forward pass is bit by bit that of a plain call, but for networks with BatchNorm on a CPU: these run with the
    channels last in memory, where sums are taken in another order.

    Args:
        member: gives logits [B, C].
        images: [B, ...], which must require a gradient.
        labels: int64 [B].
        create_graph: keep the graph of the gradient, to differentiate it once more.

    Returns:
        The scalar sum, and the gradients as [B, D] rows.
    """
    from bench.models.passes import fast_passes

    with fast_passes([member], twice=create_graph):
        logits = member(images)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images, create_graph=create_graph)
    return loss, gradient.flatten(1)


def coupled(member: nn.Module) -> bool:
    """Whether what `member` gives for an image may depend on the others in its batch, or on chance.

    False only for chains of layers known to treat each image by itself; a gradient at an image that one pass has
    computed is then that of any other pass.
    """
    nn = torch.nn
    from bench.models.normalise import Normalise

    alone = (
        nn.Sequential, nn.Conv2d, nn.Linear, nn.ReLU, nn.LeakyReLU, nn.Softplus, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d,
        nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, Normalise,
    )  # fmt: skip
    for part in member.modules():
        hooked = part is not member and (part._forward_pre_hooks or part._forward_hooks)
        if hooked or type(part) not in alone:
            return True
    return False


def norms(gradients: Tensor) -> Tensor:
    """ℓ2 norm of each row of [B, D]; differentiable at zero (where it gives TINY)."""
    return (gradients.square().sum(1) + TINY**2).sqrt()


def cosines(gradients: Sequence[Tensor], *, scale: float = 1.0, floor: float = TINY**2) -> Tensor:
    """Signed cosine of each pair of members: [pairs, B] from N gradients [B, D].

    Computed as dot / max(‖a‖·‖b‖, floor) on the gradients times `scale`, as torch's `cosine_similarity` did when the
    TRS paper was written; today's bounds each norm by itself.
    """
    scaled = [gradient * scale for gradient in gradients] if scale != 1.0 else list(gradients)
    lengths = [norms(gradient) for gradient in scaled]
    return torch.stack(
        [
            (scaled[i] * scaled[j]).sum(1) / (lengths[i] * lengths[j]).clamp_min(floor)
            for i, j in combinations(range(len(scaled)), 2)
        ]
    )


@contextlib.contextmanager
def search_mode(members: Sequence[nn.Module], *, statistics: bool = False) -> Iterator[None]:
    """Inside: no gradients of parameters; BatchNorm in training mode uses the batch's own statistics, and the
    running ones stay as they are unless `statistics`.

    For inner searches over images.
    """
    parameters = [p for member in members for p in member.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        with contextlib.nullcontext() if statistics else frozen_statistics(members):
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def frozen_statistics(members: Sequence[nn.Module]) -> Iterator[None]:
    """Inside: forward passes in training mode do not move BatchNorm's running statistics."""
    kinds = torch.nn.modules.batchnorm._BatchNorm
    layers = [m for member in members for m in member.modules() if isinstance(m, kinds) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
