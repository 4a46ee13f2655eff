"""How unlike the members of an ensemble are: gradients, losses, features and mistakes, for every pair."""

from __future__ import annotations

import time
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.judge import evaluation_mode
from bench.core import seeds
from bench.data.base import ImageSet
from bench.evaluation import measure
from bench.evaluation.theory import LEVELS
from bench.models.alignment import centred_kernel, cka
from bench.models.ensemble import Ensemble
from bench.models.features import PENULTIMATE, capture, pre_activation_points
from bench.training.distillation import distilled
from bench.training.gradients import loss_and_gradient

KERNEL = 2_000  # images whose features are compared: the kernel has the square of that
LAYERS = 4  # whose features are distilled, spread over the depth


def diversity(
    ensemble: Ensemble, images: ImageSet, *, eps: float, steps: int, seed_axes: tuple[object, ...],
    batch_size: int = 250,
) -> dict[str, Any]:  # fmt: skip
    """The record of a clean pass, with the diversity of members and pairs as measurements.

    `members`: mean loss and mean ‖∇ℓ‖₂ (size of the input gradients, Demontis et al. 2019), at the true class.
    `loss_variance`: the variance of the loss over members, mean over images (their variability of the loss landscape,
    with the members as the draws). `pairs` (i < j):

    - `cosine`, `absolute_cosine`: of both gradients at the true class, means over images; `cosine_levels`: quantiles.
    - `gradient_ratio`: mean ‖∇ℓ_i‖₂ over mean ‖∇ℓ_j‖₂; `loss_variance`: as above, of the two.
    - `cka`: unbiased linear CKA of the inputs of the last linear layer, on the first 2,000 images; None without one.
    - `disagreement`, `double_fault`: images that both classify differently, and that both classify wrongly; counts.
    - `feature_distillation`: ½·E[ℓ_i(x'_j, y) + ℓ_j(x'_i, y)], DVERGE's diversity: x'_j lies within ε (ℓ∞) of another
      image, and member j's features of it are near those of x. Mean over up to four layers. Larger is more diverse.

    Args:
        eps: radius of the ball of the distilled images, in units of the [0, 1] pixel range; `steps` to them.
        seed_axes: axes of the choice of other images.

    Raises:
        JobError: an output is not finite.
    """
    started = time.perf_counter()
    classes = measure.class_rows(ensemble, images, batch_size)
    labels = images.labels.cpu()
    rows = [row == labels for row in classes]
    record = measure.clean_record(rows)
    members = list(ensemble.members)
    with evaluation_mode(ensemble):
        losses, sizes, cosines = _gradients(members, images, batch_size)
        kernels = [_kernel(member, images, batch_size) for member in members]
        unlike = _distillation(members, images, eps, steps, seed_axes, batch_size)
    pairs = []
    for number, (i, j) in enumerate(combinations(range(len(members)), 2)):
        known = cosines[number][cosines[number].isfinite()]
        first, second = kernels[i], kernels[j]
        pairs.append(
            {
                "first": i,
                "second": j,
                "cosine": float(known.mean()) if len(known) else None,
                "absolute_cosine": float(known.abs().mean()) if len(known) else None,
                "cosine_levels": [float(known.quantile(level)) for level in LEVELS] if len(known) else None,
                "gradient_ratio": _ratio(sizes[i].mean(), sizes[j].mean()),
                "loss_variance": float((losses[i] - losses[j]).square().mean() / 2),
                "cka": None if first is None or second is None else float(cka(first, second)),
                "disagreement": int((classes[i] != classes[j]).sum()),
                "double_fault": int((~rows[i] & ~rows[j]).sum()),
                "feature_distillation": (unlike[i, j] + unlike[j, i]) / 2,
            }
        )
    layers = len(_layers(members[0], images))
    record["measurements"] = {
        "members": [
            {"loss": float(loss.mean()), "gradient": float(size.mean())}
            for loss, size in zip(losses, sizes, strict=True)
        ],
        "loss_variance": float(losses.var(0).mean()) if len(members) > 1 else None,
        "pairs": pairs,
        "layers": layers,
    }
    n, count = len(images), len(members)
    record["forwards"] = n * count * (3 + layers * (steps + count)) + n
    record["backwards"] = n * count * (1 + layers * steps)
    record["seconds"] = time.perf_counter() - started
    return record


def _gradients(members: list[nn.Module], images: ImageSet, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and gradient norms [N, n] at the true class, cosines [pairs, n], NaN where a gradient is 0."""
    losses, sizes, cosines = [], [], []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        x, labels = images.floats(part).requires_grad_(), images.labels[part]
        rows = []
        for member in members:
            _, gradient = loss_and_gradient(member, x, labels, create_graph=False)
            rows.append(gradient.detach().double())
        with torch.no_grad():
            losses.append(
                torch.stack([torch.nn.functional.cross_entropy(m(x), labels, reduction="none") for m in members])
                .double().cpu()
            )  # fmt: skip
        lengths = [row.norm(dim=1) for row in rows]
        sizes.append(torch.stack(lengths).cpu())
        found = [
            (rows[i] * rows[j]).sum(1) / (lengths[i] * lengths[j]) for i, j in combinations(range(len(members)), 2)
        ]
        cosines.append(torch.stack(found).cpu() if found else torch.empty(0, len(labels)))
    return torch.cat(losses, 1), torch.cat(sizes, 1), torch.cat(cosines, 1)


@torch.no_grad()
def _kernel(member: nn.Module, images: ImageSet, batch_size: int) -> Tensor | None:
    """The centred kernel of a member's penultimate features; None without a linear layer, or under four images."""
    if len(images) < 4 or not any(isinstance(part, nn.Linear) for part in member.modules()):
        return None
    found = []
    with capture(member, [PENULTIMATE]) as features:
        for start in range(0, min(len(images), KERNEL), batch_size):
            member(images.floats(slice(start, min(start + batch_size, KERNEL))))
            found.append(features[PENULTIMATE].flatten(1).double())
    return centred_kernel(torch.cat(found))


def _layers(member: nn.Module, images: ImageSet) -> list[str]:
    channels, height, width = images.images.shape[1:]
    points = pre_activation_points(member, (channels, height, width))
    return list(dict.fromkeys(points[round(place * (len(points) - 1) / (LAYERS - 1))] for place in range(LAYERS)))


def _distillation(
    members: list[nn.Module], images: ImageSet, eps: float, steps: int, seed_axes: tuple[object, ...], batch_size: int
) -> dict[tuple[int, int], float]:
    """(i, j) → mean loss of member i, at the class of x, on images that member j takes for x; mean over layers."""
    order = torch.randperm(len(images), generator=seeds.generator(*seed_axes, "others"))
    others = torch.empty_like(order)
    others[order] = order.roll(1)  # of each image another one
    total = torch.zeros(len(members), len(members), dtype=torch.float64)
    layers = [_layers(member, images) for member in members]
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        x, labels = images.floats(part), images.labels[part]
        near = images.floats(others[part].to(x.device))
        for j, member in enumerate(members):
            for layer in layers[j]:
                z = distilled(member, layer, near, x, eps=eps, steps=steps)
                with torch.no_grad():
                    for i, other in enumerate(members):
                        loss = torch.nn.functional.cross_entropy(other(z), labels, reduction="sum")
                        total[i, j] += float(loss) / len(layers[j])
    return {(i, j): float(total[i, j]) / len(images) for i in range(len(members)) for j in range(len(members))}


def _ratio(first: Tensor, second: Tensor) -> float | None:
    return float(first / second) if float(second) > 0 else None
