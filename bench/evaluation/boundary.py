"""Decision boundaries around test images: predicted classes along the gradient of the loss and a random direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bench.core import seeds
from bench.core.errors import BenchError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

BATCH = 1000  # points classified at once
COLUMNS = ("panel", "run_id", "image", "label", "along_gradient", "along_random", "predicted")


@dataclass(frozen=True)
class Subject:
    """An ensemble whose boundary is drawn: its name above the panels, its run, and the network itself."""

    title: str
    run_id: str
    ensemble: torch.nn.Module


def chosen_images(subjects: Sequence[Subject], images: Tensor, labels: Tensor, count: int) -> list[int]:
    """Numbers of the first `count` images that every ensemble classifies correctly.

    Raises:
        BenchError: there are fewer.
    """
    right = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    with torch.no_grad():
        for subject in subjects:
            outputs = [subject.ensemble(part).argmax(1) for part in torch.split(images, 500)]
            right &= torch.cat(outputs) == labels
    found: list[int] = right.nonzero().flatten()[:count].tolist()
    if len(found) < count:
        raise BenchError(f"only {len(found)} of these images are classified correctly; name some with --images")
    return found


def plane(ensemble: torch.nn.Module, image: Tensor, label: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Two orthogonal unit directions [C, H, W]: the gradient of −log p(label), and a random one.

    The random one depends on the image's `number` only, before it is made orthogonal: the same for every ensemble.

    Raises:
        BenchError: the gradient is zero.
    """
    x = image[None].clone().requires_grad_()
    loss = -ensemble(x).log_softmax(1)[0, label]
    (gradient,) = torch.autograd.grad(loss, x)
    first = gradient[0].double()
    if not float(first.norm()) > 0:
        raise BenchError(f"the gradient at image {number} is exactly zero: no direction to draw; name another image")
    first = first / first.norm()
    drawn = torch.randn(image.shape, generator=seeds.generator("boundary", number), dtype=torch.float64)
    second = drawn.to(first.device)
    second = second - (second * first).sum() * first
    second = second / second.norm()
    return first.to(image.dtype), second.to(image.dtype)


def grid(radius: float, step: float) -> Tensor:
    """Places from −radius to radius, ends and 0 included."""
    half = round(radius / step)
    return torch.arange(-half, half + 1, dtype=torch.float64) * step


def classes(ensemble: torch.nn.Module, image: Tensor, directions: tuple[Tensor, Tensor], places: Tensor) -> Tensor:
    """Predicted classes [P, P]: entry (i, j) at image + places[j]·first + places[i]·second; nothing is clipped."""
    first, second = directions
    along = places.to(image.device, image.dtype)
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    a, b = columns.flatten(), rows.flatten()
    found = []
    with torch.no_grad():
        for start in range(0, len(a), BATCH):
            part = slice(start, start + BATCH)
            points = image + a[part, None, None, None] * first + b[part, None, None, None] * second
            found.append(ensemble(points).argmax(1))
    return torch.cat(found).reshape(len(places), len(places)).cpu()


def measure(
    subjects: Sequence[Subject], images: Tensor, labels: Tensor, numbers: Sequence[int], *, radius: float, step: float
) -> pd.DataFrame:
    """Predicted classes on the plane around each image, for each ensemble; ℓ2 distances.

    Args:
        images: [n, C, H, W] in [0, 1]; labels: [n]; numbers: which of them.
        radius: how far the plane reaches; step: distance between its points.

    Raises:
        BenchError: a zero gradient.
    """
    import pandas as pd

    places = grid(radius, step)
    frames = []
    for subject in subjects:
        for number in numbers:
            image, label = images[number], labels[number]
            directions = plane(subject.ensemble, image, label, number)
            found = classes(subject.ensemble, image, directions, places).flatten().tolist()
            size = len(places)
            frames.append(
                pd.DataFrame(
                    {
                        "panel": subject.title,
                        "run_id": subject.run_id,
                        "image": number,
                        "label": int(label),
                        "along_gradient": places.repeat(size).tolist(),
                        "along_random": places.repeat_interleave(size).tolist(),
                        "predicted": found,
                    },
                    columns=list(COLUMNS),
                )
            )
    return pd.concat(frames, ignore_index=True).round(9)
