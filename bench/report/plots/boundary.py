"""Decision boundaries as a figure: a colour a class, from the frame that `bench.evaluation.boundary` measures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.report.plots import style
from bench.report.plots.style import PLAIN, Page

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(frame: pd.DataFrame, *titles: str, page: Page = PLAIN) -> Figure:
    """A row an ensemble, a column an image: one colour a class, its number in its region, the image at the cross.

    The true class is framed by a thick line: what matters is how far it reaches to the right. With `page.columns`
    all panels follow each other, so many in a row.
    """
    panels = list(frame.groupby(["panel", "image"], sort=False))
    with style.sheet(page):
        columns = page.columns or frame["image"].nunique()
        figure, axes = style.panels(
            len(panels), [], titles, replace(page, columns=columns), width=2.4, height=2.4
        )  # fmt: skip
        for number, (axis, ((name, image), part)) in enumerate(zip(axes, panels, strict=True)):
            _panel(axis, part, page)
            axis.set_title(f"{name}: image {image}, class {part['label'].iloc[0]}")
            style.outer(axis, "random direction, ℓ2")
            if number + columns >= len(panels):
                axis.set_xlabel("gradient of the loss, ℓ2")
        return style.fit(figure, page)


def _panel(axis: Axes, part: pd.DataFrame, page: Page) -> None:
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
                x[column], y[row], str(value), ha="center", va="center", fontsize=page.size, color=style.INK,
                fontweight="bold" if value == true else "normal",
            )  # fmt: skip
    axis.plot(0, 0, marker="X", color=style.INK, markersize=8, markeredgecolor="white", markeredgewidth=1.0)


def _colours(count: int) -> list[Any]:
    """Pale colours whose lightness differs too; they repeat where there are more classes."""
    import seaborn as sns

    pale = sns.color_palette("colorblind", 10, desat=0.75)
    mixed = [tuple(0.42 + 0.58 * channel for channel in colour) for colour in pale]
    return [mixed[index % 10] for index in range(count)]
