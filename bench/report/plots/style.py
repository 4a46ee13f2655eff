"""How figures look: colours for the colour-blind, markers and dashes for grey print, text of one size."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.csv_text import field
from bench.core.errors import BenchError
from bench.core.files import atomic, write_text
from bench.core.printable import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
MARKERS = "osD^vPX<>*"
SIZES = {"P": 7.5, "X": 7.5, "*": 10.5, "D": 5.0}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
LEGEND = 1.5  # inches that stay free for it
INK = "#262626"


def check_format(path: Path) -> str:
    """The format that a file name asks for.

    Raises:
        BenchError: none of png, svg, pdf.
    """
    suffix = path.suffix.lstrip(".").lower()
    if suffix not in FORMATS:
        raise BenchError(f"{path.name}: a figure is saved as {', '.join(FORMATS)}; give a name that ends so")
    return suffix


@contextlib.contextmanager
def sheet() -> Iterator[None]:
    """Settings of matplotlib for one figure; those of the process are as before behind it."""
    import matplotlib as mpl
    import seaborn as sns

    theme: Any = {
        "font.size": 10, "axes.titlesize": 10.5, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
        "legend.fontsize": 9, "figure.dpi": 150, "axes.grid.axis": "y",
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "#8c8c8c", "grid.color": "#e4e4e4",
        "xtick.color": INK, "ytick.color": INK, "axes.titlelocation": "left", "xtick.bottom": True,
    }  # fmt: skip
    with sns.axes_style("whitegrid"), mpl.rc_context(theme):
        yield


def subplots(lines: int, columns: int, *, size: tuple[float, float], **more: Any) -> tuple[Figure, Any]:
    """A figure of `size` inches and its axes [lines, columns]; `more` as for `Figure.subplots`.

    It belongs to nobody's pyplot: whoever calls this in a program or notebook keeps the backend and the figures that
    are open there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False, **more)


def save(figure: Figure, frame: pd.DataFrame, path: Path) -> tuple[Path, Path]:
    """Write the picture and, beside it, the frame that it was drawn from as CSV; returns both paths.

    Names and titles are drawn as they are: a `$` begins no formula, and letters that do not show are their codes.

    Raises:
        BenchError: a format other than png, svg, pdf.
    """
    import matplotlib as mpl
    from matplotlib.text import Text

    suffix = check_format(path)
    for label in figure.findobj(Text):
        label.set_parse_math(False)
        label.set_text(visible(label.get_text(), keep="\n"))
    metadata = {"Date": None} if suffix == "svg" else {"CreationDate": None} if suffix == "pdf" else None
    with (
        atomic(path) as temporary,
        mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "text.parse_math": False}),
    ):
        figure.savefig(temporary, format=suffix, metadata=metadata)
    table = path.with_suffix(".csv")
    write_text(table, csv_text(frame))
    return path, table


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as it lies beside a figure; its texts are not formulas (`csv_text.field`)."""
    plain = frame.rename(columns=field)
    for name in plain.select_dtypes(exclude="number"):
        plain[name] = plain[name].map(field, na_action="ignore")
    text: str = plain.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return text


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of each name: told apart without colour too."""
    import seaborn as sns

    colours = sns.color_palette("colorblind", 10)
    colours[6], colours[8] = (0.2, 0.2, 0.2), (0.62, 0.55, 0.0)  # the palette's pink and yellow are lost on white
    return {
        name: {
            "color": colours[index % 10],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": SIZES.get(MARKERS[index % len(MARKERS)], 6.0),
            "linestyle": DASHES[index % len(DASHES)],
        }
        for index, name in enumerate(dict.fromkeys(names))
    }


def panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, at most two in a row, its axes as a list; room for a legend stays on the right."""
    columns = min(2, count)
    lines = math.ceil(count / columns)
    figure, axes = subplots(lines, columns, size=(width * columns + LEGEND, height * lines + 0.7))
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, list(axes.flat[:count])


def line(
    axis: Axes, x: Sequence[float], by_seed: Sequence[Sequence[float]], look: Mapping[str, Any], **more: Any
) -> None:
    """Mean over seeds at each x, and a band from the lowest to the highest seed."""
    means = [sum(values) / len(values) for values in by_seed]
    style = {"linewidth": 1.8, "markeredgecolor": "white", "markeredgewidth": 0.6, **look, **more}
    axis.plot(x, means, **style)
    if any(len(values) > 1 for values in by_seed):
        axis.fill_between(
            x, [min(v) for v in by_seed], [max(v) for v in by_seed], color=look["color"], alpha=0.16, linewidth=0
        )


def grouped(frame: pd.DataFrame, x: str, y: str) -> tuple[list[Any], list[list[float]]]:
    """The different x in order, and for each the values of y (seeds)."""
    groups = [(key, part[y].tolist()) for key, part in frame.groupby(x, sort=True)]
    return [key for key, _ in groups], [values for _, values in groups]


def legend(figure: Figure, names: Sequence[str], look: Mapping[str, Mapping[str, Any]]) -> None:
    """One legend for all panels, on the right, in the order given."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linewidth=1.8, markeredgecolor="white", markeredgewidth=0.6, label=name, **look[name])
        for name in names
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, handlelength=3.2, labelspacing=0.7)


def title(figure: Figure, *lines: str, less: float = 0.0) -> None:
    """Lines above the figure, wrapped to its width; `less` inches are the legend's."""
    width = max(30, int((figure.get_figwidth() - less) * 14.5))
    text = "\n".join(textwrap.fill(line, width) for line in lines if line)
    figure.suptitle(text, x=0.01, ha="left", fontsize=9.5, color=INK)


def order_of(frame: pd.DataFrame, along: list[str]) -> list[str]:
    """Titles by mean robust accuracy, best first, over those points (columns `along`) that all of them have."""
    table = frame.pivot_table(index=along, columns="title", values="robust_accuracy")
    common = table.dropna()
    means = (table if common.empty else common).mean()
    return [str(name) for name in means.sort_values(ascending=False, kind="stable").index]


def seeds_told(frame: pd.DataFrame) -> str:
    """`seed 0`; `mean and range over seeds 0, 1, 2`."""
    seeds = sorted(frame["seed"].unique())
    told = ", ".join(str(seed) for seed in seeds)
    return f"mean and range over seeds {told}" if len(seeds) > 1 else f"seed {told}"
