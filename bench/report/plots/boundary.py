"""Decision boundaries around test images: along the gradient of the loss, and a random direction orthogonal to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bench.core import seeds
from bench.core.errors import BenchError
from bench.report.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

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


def classes(
    ensemble: torch.nn.Module, image: Tensor, directions: tuple[Tensor, Tensor], places: Tensor, batch_size: int = 1000
) -> Tensor:
    """Predicted classes [P, P]: entry (i, j) at image + places[j]·first + places[i]·second; nothing is clipped."""
    first, second = directions
    along = places.to(image.device, image.dtype)
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    a, b = columns.flatten(), rows.flatten()
    found = []
    with torch.no_grad():
        for start in range(0, len(a), batch_size):
            part = slice(start, start + batch_size)
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


def draw(frame: pd.DataFrame, *titles: str) -> Figure:
    """A row an ensemble, a column an image: one colour a class, its number in its region, the image at the cross.

    The true class is framed by a thick line: what matters is how far it reaches to the right.
    """
    import matplotlib.pyplot as plt

    rows, columns = list(dict.fromkeys(frame["panel"])), list(dict.fromkeys(frame["image"]))
    with style.sheet():
        figure, axes = plt.subplots(
            len(rows),
            len(columns),
            figsize=(2.7 * len(columns) + 0.5, 2.7 * len(rows) + 0.7),
            squeeze=False,
            sharex=True,
            sharey=True,
            layout="constrained",
        )
        for line, name in zip(axes, rows, strict=True):
            for axis, number in zip(line, columns, strict=True):
                part = frame[(frame["panel"] == name) & (frame["image"] == number)]
                _panel(axis, part)
                axis.set_title(f"{name}: image {number}, class {part['label'].iloc[0]}", fontsize=9.5)
                axis.label_outer()
            line[0].set_ylabel("random direction, ℓ2")
        for axis in axes[-1]:
            axis.set_xlabel("gradient of the loss, ℓ2")
        style.title(figure, *titles)
        return figure


def _panel(axis: Axes, part: pd.DataFrame) -> None:
    import numpy as np
    from matplotlib.colors import ListedColormap
    from scipy import ndimage

    table = part.pivot(index="along_random", columns="along_gradient", values="predicted")
    x, y, found = table.columns.to_numpy(), table.index.to_numpy(), table.to_numpy()
    colours = _colours(int(found.max()) + 1)
    axis.grid(visible=False)
    half = (x[1] - x[0]) / 2
    extent = (x[0] - half, x[-1] + half, y[0] - half, y[-1] + half)
    axis.imshow(
        found, origin="lower", extent=extent, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5,
        interpolation="nearest", aspect="equal", rasterized=True,
    )  # fmt: skip
    true = int(part["label"].iloc[0])
    for value in np.unique(found):
        axis.contour(x, y, (found == value).astype(float), levels=[0.5], colors="white", linewidths=0.7)
    axis.contour(x, y, (found == true).astype(float), levels=[0.5], colors=style.INK, linewidths=2.0)
    for value in np.unique(found):
        regions, number = ndimage.label(found == value)
        # The number stands where its largest region is widest; regions too small for it have none.
        sizes = ndimage.sum_labels(np.ones_like(found), regions, range(1, number + 1))
        inside = np.pad(regions == 1 + int(np.argmax(sizes)), 1)
        depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
        if depth[row, column] > 0.035 * len(x):
            axis.text(
                x[column], y[row], str(value), ha="center", va="center", fontsize=10, color=style.INK,
                fontweight="bold" if value == true else "normal",
            )  # fmt: skip
    axis.plot(0, 0, marker="X", color=style.INK, markersize=8, markeredgecolor="white", markeredgewidth=1.0)


def _colours(count: int) -> list[Any]:
    """Pale colours whose lightness differs too; they repeat where there are more classes."""
    import seaborn as sns

    pale = sns.color_palette("colorblind", 10, desat=0.75)
    mixed = [tuple(0.42 + 0.58 * channel for channel in colour) for colour in pale]
    return [mixed[index % 10] for index in range(count)]
