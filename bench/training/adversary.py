"""What adversarial training needs inside a step: PGD on the members, its ramps, and the layer of an epoch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.attacks.ball import project
from bench.core.lazy import torch
from bench.core.terms import Norm
from bench.training.compiled import passed
from bench.training.gradients import search_mode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.training.batch import Batch


def pgd(
    members: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    radius: float | Tensor,
    step: float | Tensor,
    steps: int,
    noise: Batch | None,
    norm: Norm = "linf",
    start: float = 1.0,
    evaluated: bool = False,
    objective: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Images [B, C, H, W] that raise the cross-entropy of the members' mean probability (Madry et al. 2018).

    The members stay in the mode they are in, unless they are to be `evaluated`; in training mode BatchNorm uses the
    batch's own statistics and leaves the running ones alone.

    Args:
        members: one or more networks, from images in [0, 1] to logits.
        images, labels: [B, C, H, W] in [0, 1], int64 [B].
        radius: of the ball around each image, in units of the [0, 1] pixel range.
        step: length of a step: of its sign for ℓ∞, along the normalised gradient for ℓ2.
        noise: the batch whose generator draws the start, uniform in the ball; None starts at the image.
        start: radius within which the start is drawn, as a share of `radius`.
        evaluated: whether the members are in eval mode meanwhile.
        objective: what is raised, where it is not that cross-entropy: (logits [N, B, classes], labels) → its mean or
            sum over the batch.
    """
    from bench.attacks.judge import evaluation_mode

    objective = _mean_probability if objective is None else objective
    points = images.detach()
    if noise is not None:
        points = project(points + _start(points, start * radius, norm, noise), images, radius, norm)
    with evaluation_mode(torch.nn.ModuleList(members)) if evaluated else search_mode(members):
        for _ in range(steps):
            points = points.detach().requires_grad_()
            loss = objective(torch.stack([passed(member, points) for member in members]), labels)
            (gradient,) = torch.autograd.grad(loss, points)
            direction = gradient.sign() if norm == "linf" else gradient / _lengths(gradient)
            points = project(points.detach() + step * direction, images, radius, norm)
    return points.detach()


def _mean_probability(logits: Tensor, labels: Tensor) -> Tensor:
    fused = logits.log_softmax(2).logsumexp(0)  # but for log N, which moves no gradient
    return torch.nn.functional.cross_entropy(fused, labels, reduction="sum")


def _start(images: Tensor, radius: float | Tensor, norm: Norm, noise: Batch) -> Tensor:
    """Uniform in the ball of `radius`; for ℓ2 a normal direction and a radius whose D-th power is uniform."""
    if norm == "linf":
        return noise.uniform(images, radius)
    shape, device = images.shape, images.device
    normal = noise.drawn(lambda at: torch.randn(shape, generator=at.generator, device=device))
    share = noise.drawn(lambda at: torch.rand(shape[0], generator=at.generator, device=device)) ** (
        1 / images[0].numel()
    )
    return radius * share.view(-1, 1, 1, 1) * normal / _lengths(normal)


def _lengths(tensor: Tensor) -> Tensor:
    lengths: Tensor = tensor.flatten(1).norm(dim=1)
    return lengths.clamp_min(1e-30).view(-1, 1, 1, 1)


def linear(first: float, last: float, epoch: int, epochs: int) -> float:
    """From `first` in epoch 0 to `last` in the last epoch, linearly."""
    return first + (last - first) * (epoch / (epochs - 1) if epochs > 1 else 1.0)


def layer_of_epoch(member: nn.Module, batch: Batch) -> str:
    """A point where features are read (`bench.models.features`): one of those before a nonlinearity, or the logits.

    It is drawn, the same one for a whole epoch: the generator's seed is the epoch's, whatever was drawn from it since.
    """
    from bench.models.features import pre_activation_points

    channels, height, width = batch.images.shape[1:]
    points = pre_activation_points(member, (channels, height, width))
    return random.Random(batch.generator.initial_seed()).choice(points)
