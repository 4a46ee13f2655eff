"""Decision boundaries as a figure: a colour a class, from the frame that `bench.evaluation.boundary` measures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(frame: pd.DataFrame, *titles: str) -> Figure:
    """A row an ensemble, a column an image: one colour a class, its number in its region, the image at the cross.

    The true class is framed by a thick line: what matters is how far it reaches to the right.
    """
    rows, columns = list(dict.fromkeys(frame["panel"])), list(dict.fromkeys(frame["image"]))
    with style.sheet():
        figure, axes = style.subplots(
            len(rows),
            len(columns),
            size=(2.7 * len(columns) + 0.5, 2.7 * len(rows) + 0.7),
            sharex=True,
            sharey=True,
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
