"""How figures look: colours for the colour-blind, markers and dashes for grey print, text of one size."""

from __future__ import annotations

import contextlib
import math
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
INK = "#262626"
SMALLEST = 6.0  # points: no text of a figure is smaller where it is printed
FULL = 7.0  # inches: the text of a page in two columns; no figure is wider unless asked for
NARROW = 5.0  # inches, below which a legend stands below the panels
LEAST = 1.35  # inches of a panel
DPI = 200


@dataclass(frozen=True)
class Page:
    """Where a figure is printed: it is drawn as large as it will be there, so that its text keeps its size.

    Attributes:
        width: inches; None for as wide as the figure needs, at most `FULL`.
        columns: panels in a row; None for as many as fit.
        title: whether lines above the figure say what it shows; a paper has a caption instead.
        font_size: of labels, points; None for 9, in a narrow figure 8. Numbers on axes and legends are 1 point smaller.
    """

    width: float | None = None
    columns: int | None = None
    title: bool = True
    font_size: float | None = None

    @property
    def size(self) -> float:
        """Points of labels."""
        return self.font_size or (8.0 if self.width is not None and self.width < NARROW else 9.0)

    @property
    def less(self) -> float:
        """Points of what stands along axes and in legends."""
        return max(SMALLEST, self.size - 1)

    def lines(self, titles: Iterable[str], width: float) -> list[str]:
        """The lines above a figure of `width` inches; none without a title."""
        return wrapped([line for line in titles if line], width - 0.1, self.size) if self.title else []


PLAIN = Page()


def text_width(text: str, size: float) -> float:
    """Inches that a line of text takes at a size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(visible(text), FontProperties(size=size), ismath=False)
    return float(width) / 72


def wrapped(paragraphs: Iterable[str], width: float, size: float) -> list[str]:
    """Lines no wider than `width` inches at a size in points; a single word may be."""
    found = []
    for paragraph in paragraphs:
        letters = max(4, int(width / max(text_width(paragraph, size), 0.01) * len(paragraph)))
        lines = textwrap.wrap(paragraph, letters, break_long_words=False, break_on_hyphens=False)
        while letters > 4 and any(text_width(line, size) > width for line in lines if " " in line):
            letters -= 1
            lines = textwrap.wrap(paragraph, letters, break_long_words=False, break_on_hyphens=False)
        found += lines
    return found


def line_height(size: float) -> float:
    """Inches from one line of text to the next."""
    return 1.25 * size / 72


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
def sheet(page: Page) -> Iterator[None]:
    """Settings of matplotlib for one figure; those of the process are as before behind it."""
    import matplotlib as mpl
    import seaborn as sns

    theme: Any = {
        "font.size": page.size, "axes.titlesize": page.size, "axes.labelsize": page.size, "legend.fontsize": page.less,
        "xtick.labelsize": page.less, "ytick.labelsize": page.less, "figure.dpi": DPI, "axes.grid.axis": "y",
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
    figure = blank(size=size, layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False, **more)


def blank(*, size: tuple[float, float], **more: Any) -> Figure:
    """An empty figure of `size` inches, as `subplots` has it; `more` as for `Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, **more)
    FigureCanvasAgg(figure)
    return figure


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
        mpl.rc_context(
            {"svg.hashsalt": "bench", "svg.fonttype": "none", "text.parse_math": False, "pdf.fonttype": 42}
        ),  # fonts in a PDF as TrueType: journals refuse Type 3, Matplotlib's usual
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
    """Colour, marker and dashes of each name: told apart without colour too, of up to 50."""
    import seaborn as sns

    colours = sns.color_palette("colorblind", 10)
    colours[6], colours[8] = (0.2, 0.2, 0.2), (0.62, 0.55, 0.0)  # the palette's pink and yellow are lost on white
    look: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(dict.fromkeys(names)):
        again = index // 10  # a colour that comes again has another marker and other dashes
        marker = MARKERS[(index + 3 * again) % len(MARKERS)]
        look[name] = {
            "color": colours[index % 10],
            "marker": marker,
            "markersize": SIZES.get(marker, 6.0),
            "linestyle": DASHES[(index + again) % len(DASHES)],
        }
    return look


def panels(
    count: int, names: Sequence[str], titles: Sequence[str], page: Page, *, width: float, height: float
) -> tuple[Figure, list[Axes]]:
    """As `stacks`, of panels of one part; at most two in a row unless the page says otherwise."""
    figure, found = stacks(count, names, titles, page, width=width, height=height, parts=(1.0,), most=2)
    return figure, [axis for (axis,) in found]


def stacks(
    count: int, names: Sequence[str], titles: Sequence[str], page: Page, *, width: float, height: float,
    parts: Sequence[float], most: int, below: bool = False,
) -> tuple[Figure, list[tuple[Axes, ...]]]:  # fmt: skip
    """A figure with `count` panels, each of parts above each other, with room for title and legend; the parts' axes.

    Args:
        names: of the legend; it stands on the right, in a narrow figure below.
        titles: lines above the figure.
        width, height: of a panel where there is room enough, inches; its shape is kept.
        parts: heights of the parts of a panel, in proportion.
        most: panels in a row.
        below: the legend stands below the panels on wide pages too.

    Raises:
        BenchError: the columns that are asked for leave no room.
    """
    columns = min(page.columns or most, count)
    beside = 0.0 if below else legend_width(names, page)
    total = page.width or min(FULL, max(3.5, width * columns + beside))
    below = below or total < NARROW
    free = total if below else total - beside
    if page.columns is None:
        columns = max(1, min(columns, int(free / LEAST)))
    if free / columns < 1:
        raise BenchError(
            f"{columns} panel{'s' if columns > 1 else ''} in a row of {total:.3g} inches are less than an inch wide "
            "each: give fewer --columns or more --width"
        )
    lines = math.ceil(count / columns)
    above = len(page.lines(titles, free)) * line_height(page.size)
    under = math.ceil(len(names) / _legend_columns(names, page, total)) * 1.15 * line_height(page.less) + 0.1
    high = max(1.1 * len(parts) + 0.25, free / columns * height / width) + line_height(page.size)
    figure, axes = subplots(
        lines * len(parts),
        columns,
        size=(total, high * lines + above + (under if below else 0) + 0.1),
        height_ratios=[*parts] * lines,
    )
    found = []
    for index in range(lines * columns):
        first = index // columns * len(parts)
        own = tuple(axes[first + part][index % columns] for part in range(len(parts)))
        if index < count:
            found.append(own)
        for axis in own if index >= count else ():
            axis.axis("off")
    title(figure, page, *titles, room=free)
    return figure, found


def outer(axis: Axes, y: str) -> None:
    """The label along y, on the left of a row of panels alone."""
    spec = axis.get_subplotspec()
    if spec is None or spec.is_first_col():
        axis.set_ylabel(y)


def fit(figure: Figure, page: Page) -> Figure:
    """The finished figure with labels in lines no longer than the panels' sides, and only ticks that have room.

    Raises:
        BenchError: what stands around the panels leaves nothing of them.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout not applied")
        try:
            figure.draw_without_rendering()
        except UserWarning as error:
            told = f"labels leave no room for panels on {figure.get_figwidth():.3g} inches"
            raise BenchError(f"{told}: give fewer --columns or more --width") from error
    for axis in figure.axes:
        box = axis.get_window_extent()
        width, height = box.width / figure.dpi, box.height / figure.dpi
        sides = {axis.xaxis.label: width, axis.yaxis.label: height + 0.2}
        sides |= dict.fromkeys((axis.title, axis._left_title), width + 0.1)  # type: ignore[attr-defined]
        for label, side in sides.items():
            label.set_text("\n".join(wrapped(label.get_text().split("\n"), side, float(label.get_fontsize()))))
        if isinstance(axis.xaxis.get_major_locator(), FixedLocator):
            end, names = -math.inf, []
            for tick in axis.get_xticklabels():
                extent = tick.get_window_extent()
                fits = extent.x0 > end + 0.03 * figure.dpi
                names.append(tick.get_text() if fits else "")
                end = extent.x1 if fits else end
            axis.set_xticks(axis.get_xticks(), names)
        elif axis.axison and axis.get_xscale() == "linear":
            most = max(2, min(6, int(width / text_width("0.000", page.less) / 1.5)))
            whole = bool(getattr(axis.xaxis.get_major_locator(), "_integer", False))
            axis.xaxis.set_major_locator(MaxNLocator(most, integer=whole))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    return figure


def line(
    axis: Axes, x: Sequence[float], by_seed: Sequence[Sequence[float]], look: Mapping[str, Any], **more: Any
) -> None:
    """Mean over seeds at each x, and a band from the lowest to the highest seed."""
    means = [sum(values) / len(values) for values in by_seed]
    # A marker on the frame is drawn whole; a line without markers may leave the panel and is cut there.
    cut = not look.get("marker")
    style = {
        "linewidth": 1.6, "markeredgecolor": "white", "markeredgewidth": 0.6, "clip_on": cut, "zorder": 2.5,
        **look, **more,
    }  # fmt: skip
    axis.plot(x, means, **style)
    if any(len(values) > 1 for values in by_seed):
        axis.fill_between(
            x, [min(v) for v in by_seed], [max(v) for v in by_seed], color=look["color"], alpha=0.16, linewidth=0
        )


def grouped(frame: pd.DataFrame, x: str, y: str) -> tuple[list[Any], list[list[float]]]:
    """The different x in order, and for each the values of y (seeds)."""
    groups = [(key, part[y].tolist()) for key, part in frame.groupby(x, sort=True)]
    return [key for key, _ in groups], [values for _, values in groups]


def legend_width(names: Sequence[str], page: Page) -> float:
    """Inches of one column of a legend."""
    return max(text_width(name, page.less) for name in names) + 5.2 * page.less / 72 if names else 0.0


def _legend_columns(names: Sequence[str], page: Page, width: float) -> int:
    return max(1, min(len(names), int((width - 0.1) / legend_width(names, page)))) if names else 1


def legend(
    figure: Figure, names: Sequence[str], look: Mapping[str, Mapping[str, Any]], page: Page, *, handles: Any = None,
    below: bool = False,
) -> None:  # fmt: skip
    """One legend for all panels, in the order given: on the right, in a narrow figure or if so asked below them."""
    from matplotlib.lines import Line2D

    handles = handles or [
        Line2D([], [], linewidth=1.6, markeredgecolor="white", markeredgewidth=0.6, label=name, **look[name])
        for name in names
    ]
    width = figure.get_figwidth()
    where: dict[str, Any] = {"loc": "outside right upper"}
    if below or width < NARROW:
        where = {"loc": "outside lower center", "ncols": _legend_columns(names, page, width)}
    figure.legend(
        handles=handles, frameon=False, handlelength=2.6, labelspacing=0.5, columnspacing=0.9, handletextpad=0.5,
        borderaxespad=0.1, **where,
    )  # fmt: skip


def title(figure: Figure, page: Page, *lines: str, room: float | None = None) -> None:
    """Lines above the figure; none where the page has a caption instead.

    Args:
        room: inches that they are wrapped to, where a legend stands beside them; otherwise all of the width.
    """
    shown = page.lines(lines, room or figure.get_figwidth())
    if shown:
        figure.suptitle("\n".join(shown), x=0.01, ha="left", fontsize=page.size, color=INK)


def with_spread(frame: pd.DataFrame, along: Sequence[str], value: str) -> pd.DataFrame:
    """With what is drawn of each point: `mean` over its seeds, `std` (ddof 1), `lowest` and `highest` of `value`.

    Args:
        along: the columns that a point is told by, all but the seed.
    """
    groups = frame.groupby(list(along), dropna=False, sort=False)[value]
    return frame.assign(
        mean=groups.transform("mean"), std=groups.transform("std"), lowest=groups.transform("min"),
        highest=groups.transform("max"),
    )  # fmt: skip


def order_of(frame: pd.DataFrame, along: list[str]) -> list[str]:
    """Titles by mean robust accuracy, best first, over those points (columns `along`) that all of them have."""
    table = frame.pivot_table(index=along, columns="title", values="robust_accuracy")
    common = table.dropna()
    means = (table if common.empty else common).mean()
    return [str(name) for name in means.sort_values(ascending=False, kind="stable").index]


def seeds_told(frame: pd.DataFrame) -> str:
    """`seed 0`; `mean and range over seeds 0, 1, 2`."""
    seeds = sorted(frame["seed"].unique())
    return seeds_said(seeds, "mean and range")


def seeds_said(seeds: Sequence[int], how: str = "mean") -> str:
    """`seed 0`; `mean over seeds 0, 1, 2`."""
    told = ", ".join(str(seed) for seed in seeds)
    return f"{how} over seeds {told}" if len(seeds) > 1 else f"seed {told}"
