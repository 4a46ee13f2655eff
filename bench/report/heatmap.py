"""Figure 3 of the TRS paper: transferability matrices as heatmaps, one panel a method."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import BenchError
from bench.core.identity import safe_name
from bench.core.precision import file_stem
from bench.core.printable import visible
from bench.report.matrices import Block, Matrix
from bench.report.plots import style
from bench.report.plots.style import PLAIN, Page
from bench.report.results import joined
from bench.report.tables import budget_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CELL = 0.64  # inches, at most
FRAMED = "framed: attacks on the network itself"
WITHIN = 5 / 72  # inches of a framed cell beside its text: the frame lies within
EDGE = 1.5 / 72  # the same on a page narrower than the usual one, where the frame may lie at the cell's edge
GAP = 0.14  # between the members and what is none, in cells
BETWEEN = 0.08  # inches between panels
BAR = 0.1  # inches
BESIDE = 0.08  # between panels and bar


class _Panel(NamedTuple):
    """What is drawn of one matrix: rows of numbers, the members' first, each with a small line below it."""

    title: str
    sources: tuple[str, ...]
    numbers: NDArray[np.float64]
    small: list[list[str]]
    remark: str

    @property
    def members(self) -> int:
        """How many."""
        return len(self.numbers[0]) - 1

    @property
    def framed(self) -> set[tuple[int, int]]:
        """Cells of attacks on the network itself."""
        everything = {(row, self.members) for row, source in enumerate(self.sources) if source == "all"}
        return {(index, index) for index in range(self.members)} | everything

    @property
    def units(self) -> tuple[float, float]:
        """Width and height in cells."""
        return self.members + 1 + GAP, len(self.numbers) + GAP * (len(self.numbers) > self.members)


def file_name(stem: str, matrices: list[Matrix]) -> str:
    """`transfer-digits.png`, of attacks in another precision than float32 `transfer-digits-bfloat16.png`."""
    return f"{safe_name(file_stem(stem, matrices[0].precision))}.png"


def save_heatmap(matrices: list[Matrix], path: Path, page: Page = PLAIN) -> Path:
    """Save what `draw` draws; the suffix of `path` is the format. The numbers lie beside it as CSV.

    Raises:
        BenchError: no matrices, or a format other than png, svg, pdf.
    """
    style.check_format(path)
    return style.save(draw(matrices, page), as_frame(matrices), path)[0]


def draw(matrices: list[Matrix], page: Page = PLAIN) -> Figure:
    """One panel a matrix on a common 0–100 scale.

    Rows are what the images were crafted on, columns what they are evaluated on; the last column is the whole
    ensemble, the framed diagonal each network's white-box rate. Below the members stand the ensemble as a source, noise
    of the same size, and other ensembles, where they were measured. Small in each cell: the standard deviation over
    seeds, or of one seed the 95 % interval; where cells are too small for that, it stands in the CSV alone.

    Raises:
        BenchError: no matrices, or a page too narrow for the numbers.
    """
    if not matrices:
        raise BenchError("there is no transferability matrix to draw; `bench run` with a suite that has one makes it")
    scale = {
        "vmin": 0,
        "vmax": 100,
        "cmap": "rocket_r",
    }  # lightness falls evenly: readable in grey, by the colour-blind
    panels = [_panel_of(matrix) for matrix in matrices]
    return _draw(panels, scale, _scale(matrices[0]), partial(_title, matrices), page)


def shows(path: Path, matrices: list[Matrix]) -> bool:
    """Whether the figure at `path` is there and the numbers beside it are those of `matrices`."""
    beside = path.with_suffix(".csv")
    return (
        path.is_file() and beside.is_file() and beside.read_text(encoding="utf-8") == style.csv_text(as_frame(matrices))
    )


def save_difference(first: Matrix, second: Matrix, path: Path, page: Page = PLAIN) -> Path:
    """Draw the difference of two matrices on a diverging scale around 0 (blue: attacks on the first transfer less).

    The CSV beside it holds both and the difference.

    Raises:
        BenchError: ensembles of different size, or a format other than png, svg, pdf.
    """
    if first.rates.shape != second.rates.shape:
        raise BenchError(
            f"{first.method} has {len(first.rates)} members, {second.method} {len(second.rates)}: no difference of them"
        )
    style.check_format(path)
    shared = [source for source in first.others.sources if source in second.others.sources]
    difference = np.concatenate([_rows(first, shared) - _rows(second, shared)])
    known = difference[~np.isnan(difference)]
    reach = max(10.0, 10 * math.ceil(float(np.abs(known).max()) / 10)) if known.size else 10.0
    frame = as_frame([first, second])
    frame = frame[frame["source"].isin([str(name) for name in (*first.members.sources, *map(_in_csv, shared))])]
    frame["difference"] = [*difference.flatten(), *(-difference).flatten()]
    names = [*first.members.sources, *shared]
    small = [[""] * difference.shape[1] for _ in names]
    panel = _Panel(f"{first.title} − {second.title}", (*names,), difference, small, f"blue: fewer for {first.title}")
    figure = _draw(
        [panel],
        {"vmin": -reach, "vmax": reach, "cmap": "vlag", "signed": True},
        f"difference: {_scale(first).replace('%', 'points', 1)}",
        partial(_title, [first, second]),
        page,
    )
    return style.save(figure, frame, path)[0]


def _columns(count: int, fit: int) -> int:
    """Panels in a line: up to five that fit, as few places empty as can be, rather wide than high."""
    most = max(1, min(5, fit))
    if count <= most:
        return count
    return min(range(most, min(most, 3) - 1, -1), key=lambda columns: -count % columns)


def as_frame(matrices: list[Matrix]) -> pd.DataFrame:
    """The rates as a tidy frame: a row a cell, members counted from 1, counts over all seeds.

    `mean` over seeds, `std` (ddof 1), `low` and `high` are in percent.
    """
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "method": matrix.method, "source": _in_csv(block.sources[row]),
                "target": "ensemble" if column == len(matrix.rates) else column + 1, "mean": value,
                "std": block.deviation[row, column], "low": block.low[row, column],
                "high": block.high[row, column], "interval": "over seeds" if len(matrix.seeds) > 1 else "over images",
                "images": int(block.counts[1][row][column]), "misclassified": int(block.counts[0][row][column]),
                "rate": matrix.rate, "population": matrix.population, "attack": matrix.attack,
                "budget_name": matrix.budget_name, "budget": matrix.budget, "seeds": joined(matrix.seeds),
            }
            for matrix in matrices
            for block in (matrix.members, matrix.others)
            for (row, column), value in np.ndenumerate(block.rates)
        ]
    )  # fmt: skip


def _in_csv(source: str) -> str:
    """A source, by the word that the targets have for the ensemble."""
    return "ensemble" if source == "all" else source


def _rows(matrix: Matrix, shared: list[str]) -> NDArray[np.float64]:
    """The rates of the members and of those of the other sources."""
    others = [matrix.others.rates[matrix.others.sources.index(source)] for source in shared]
    return np.concatenate([matrix.rates, np.reshape(others, (-1, matrix.rates.shape[1]))])


def _panel_of(matrix: Matrix) -> _Panel:
    blocks = (matrix.members, matrix.others)
    small = [
        [_small(block, row, column, several=len(matrix.seeds) > 1) for column in range(block.rates.shape[1])]
        for block in blocks
        for row in range(len(block.rates))
    ]
    sources = (*matrix.members.sources, *matrix.others.sources)
    numbers = np.concatenate([block.rates for block in blocks])
    return _Panel(matrix.title, sources, numbers, small, _remark(matrix))


def _small(block: Block, row: int, column: int, *, several: bool) -> str:
    """`±1.2` over seeds; of one seed the interval, `48–57`."""
    if several:
        return "" if np.isnan(block.deviation[row, column]) else f"±{block.deviation[row, column]:.1f}"
    low, high = block.low[row, column], block.high[row, column]
    return "" if np.isnan(low) else f"{low:.0f}–{high:.0f}"


class _Places(NamedTuple):
    """Where everything of a figure lies, in inches."""

    columns: int
    cell: float
    small: bool
    """Whether the small line of a cell has room."""
    left: float
    between: float
    label: list[str]
    """Of the colour bar."""


def _places(panels: list[_Panel], label: str, page: Page, *, signed: bool) -> _Places:
    """Columns and cells for a page: as many panels in a row as leave room for the numbers at `SMALLEST` or more.

    Raises:
        BenchError: no number has room, in the columns asked for or in one.
    """
    most = page.width or style.FULL
    wide, high = (max(panel.units[axis] for panel in panels) for axis in (0, 1))
    numbers = style.text_width("+100" if signed else "100", style.SMALLEST) + 1 / 72
    small = max((_room(panel, WITHIN if most >= style.FULL else EDGE) for panel in panels), default=0.0)
    names = max(style.text_width(_brief(name), page.less) for panel in panels for name in panel.sources) + 0.05
    shared = len({panel.sources for panel in panels}) == 1
    between = BETWEEN if shared else BETWEEN + names
    left = style.line_height(page.size) + names
    bar = BESIDE + _bar(page, signed=signed)

    def cell(columns: int, lines: int) -> float:
        free = most - left - bar - lines * style.line_height(page.less) - between * (columns - 1)
        return min(CELL, free / columns / wide)

    def fit(least: float, lines: int) -> int:
        return max((columns for columns in range(1, 20) if cell(columns, lines) >= least), default=0)

    lines = [label]
    for _ in range(3):  # a longer label of the bar leaves less room, less room makes the label longer
        columns = page.columns or _columns(
            len(panels), fit(max(numbers, small), len(lines)) or fit(numbers, len(lines))
        )
        columns = min(columns, len(panels))
        tall = math.ceil(len(panels) / columns) * (cell(columns, len(lines)) * high + 0.4)
        found_lines = style.wrapped([label], tall, page.less)
        if len(found_lines) <= len(lines):
            break
        lines = found_lines
    lines = found_lines
    if cell(columns, len(lines)) < numbers:
        raise BenchError(
            f"numbers of {style.SMALLEST:g} points have no room in {columns} matri{'x' if columns == 1 else 'ces'} of "
            f"{wide - GAP:g} columns beside each other on {most:.3g} inches: give fewer --columns or more --width"
        )
    found = cell(columns, len(lines))
    return _Places(columns, found, small <= found, left, between, lines)


def _room(panel: _Panel, framed: float) -> float:
    """Inches that a cell must have for the widest small line, `framed` more of them where there is a frame."""
    return max(
        (
            style.text_width(text, style.SMALLEST) + (framed if (row, column) in panel.framed else 1 / 72)
            for row, line in enumerate(panel.small)
            for column, text in enumerate(line)
            if text
        ),
        default=0.0,
    )


def _bar(page: Page, *, signed: bool) -> float:
    """Inches of the colour bar with its numbers."""
    return BAR + 0.1 + style.text_width("−100" if signed else "100", page.less)


def _draw(
    panels: list[_Panel], scale: dict[str, Any], label: str, title: Callable[..., list[str]], page: Page
) -> Figure:
    """Panels with one colour bar, the notes of the methods below; everything at a place of its own.

    Args:
        title: gives the lines above, told whether small numbers are shown.
    """
    import matplotlib as mpl

    at = _places(panels, label, page, signed=bool(scale.get("signed")))
    rows = [panels[start : start + at.columns] for start in range(0, len(panels), at.columns)]
    wide = at.cell * max(panel.units[0] for panel in panels)
    label_height, tick_height = style.line_height(page.size), style.line_height(page.less)
    bar = _bar(page, signed=bool(scale.get("signed")))
    inner = at.left + at.columns * wide + (at.columns - 1) * at.between + BESIDE
    width = page.width or inner + bar + len(at.label) * tick_height
    several = at.small and any(text for panel in panels for line in panel.small for text in line)
    above = page.lines(title(small=several), width)
    heads = [style.wrapped([panel.title], wide + at.between, page.size) for panel in panels]
    remarks = [
        f"{panel.title}: {panel.remark}" if len(panels) > 1 else panel.remark for panel in panels if panel.remark
    ]
    notes = style.wrapped(remarks, width - 0.1, page.less)
    y = len(above) * label_height + (0.12 if above else 0.02)
    tops: list[tuple[float, float]] = []
    for number, row in enumerate(rows):
        head = max(len(heads[number * at.columns + place]) for place in range(len(row))) * label_height + 0.03
        tall = at.cell * max(panel.units[1] for panel in row)
        last = number == len(rows) - 1
        before_gap = number == len(rows) - 2 and len(rows[-1]) < at.columns
        tops.append((y + head, tall))
        y += head + tall + tick_height + (label_height if last or before_gap else 0) + 0.05
    height = y + len(notes) * tick_height + (0.06 if notes else 0)
    with style.sheet(page), mpl.rc_context({"axes.grid": False, "axes.titlelocation": "center"}):
        figure = style.blank(size=(width, height))
        for number, (row, (top, _)) in enumerate(zip(rows, tops, strict=True)):
            for place, panel in enumerate(row):
                left = at.left + place * (wide + at.between)
                own = at.cell * panel.units[0], at.cell * panel.units[1]
                box = (left / width, 1 - (top + own[1]) / height, own[0] / width, own[1] / height)
                axis = figure.add_axes(box)
                _panel(axis, panel, at, page, **scale)
                lowest = number == len(rows) - 1 or place >= len(rows[number + 1])
                axis.set_title("\n".join(heads[number * at.columns + place]), pad=3)
                axis.set_xlabel("evaluated on" if lowest else "", labelpad=1)
                axis.set_ylabel("crafted on" if place == 0 else "", labelpad=2)
                if place and at.between == BETWEEN:
                    axis.set_yticklabels([])
        (top, _), (bottom, tall) = tops[0], tops[-1]
        box = (inner / width, 1 - (bottom + tall) / height, BAR / width, (bottom + tall - top) / height)
        drawn = figure.colorbar(figure.axes[0].collections[0], cax=figure.add_axes(box))
        drawn.set_label("\n".join(at.label), labelpad=2, fontsize=page.less)
        drawn.ax.tick_params(pad=2, length=2)
        drawn.outline.set_visible(False)
        if above:
            figure.text(0.05 / width, 1 - 0.04 / height, "\n".join(above), va="top", linespacing=1.2)
        if notes:
            figure.text(0.05 / width, 0.02 / height, "\n".join(notes), va="bottom", fontsize=page.less, linespacing=1.2)
        return figure


def _panel(
    axis: Any, panel: _Panel, at: _Places, page: Page, *, vmin: float, vmax: float, cmap: str, signed: bool = False
) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle
    from seaborn.utils import relative_luminance

    rows, columns = panel.numbers.shape
    places = [row + GAP * (row >= panel.members) for row in range(rows)]
    beside = [column + GAP * (column == panel.members) for column in range(columns)]
    shade = colormaps[cmap].with_extremes(bad="#ececec")
    edges = [*beside, beside[-1] + 1]
    # A mesh for each row: what is no member stands apart. The scale of all is the same.
    for row, place in enumerate(places):
        for column, left in enumerate(beside):
            axis.pcolormesh(
                [left, left + 1], [place, place + 1], panel.numbers[row : row + 1, column : column + 1],
                vmin=vmin, vmax=vmax, cmap=shade, edgecolors="white", linewidth=0.8,
            )  # fmt: skip
    colours = shade((panel.numbers - vmin) / (vmax - vmin))
    points = 72 * at.cell
    several = at.small and any(text for line in panel.small for text in line)
    little = max(style.SMALLEST, min(page.less, 0.16 * points))
    size = page.size + 1 if points > 30 else page.size
    widest = style.text_width("+100" if signed else "100", size) * 72
    most = size * (points - 5) / widest, points - (1.3 * little if several else 0) - 4  # within the frame
    size = max(style.SMALLEST, min(size, *most))
    # The two lines of a cell, each by the middle of its digits, with the same space above, between and below.
    rest = (points - 0.73 * (size + little)) / 3 / points
    upper, lower = rest + 0.365 * size / points, 1 - rest - 0.365 * little / points
    for (row, column), value in np.ndenumerate(panel.numbers):
        # The better contrast of black and white (WCAG 2: their ratios cross at luminance .179).
        dark = relative_luminance(colours[row, column]) < 0.179 and not np.isnan(value)
        text = (
            "–"
            if np.isnan(value)
            else f"{value:+.0f}".replace("-", "−")
            if signed and round(value)
            else f"{abs(value):.0f}"
        )
        ink, small = "white" if dark else "black", panel.small[row][column] if several else ""
        middle = {"ha": "center", "va": "center_baseline", "color": ink}
        x, y = beside[column] + 0.5, places[row]
        axis.text(x, y + (upper if small else 0.5), text, fontsize=size, **middle)
        if small:
            axis.text(x, y + lower, small, fontsize=little, **middle)
    for row, column in sorted(panel.framed):
        beside_text = (points - 72 * style.text_width(panel.small[row][column] if several else "", little)) / 2
        inset = min(max(1.7 / points, 0.05), max(0.2, beside_text - 0.55) / points)
        corner = beside[column] + inset, places[row] + inset
        thin, side = min(1.4, points / 25), 1 - 2 * inset
        axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="#8c8c8c" if signed else "white", lw=thin))
    axis.set(xlim=(0, edges[-1]), ylim=(places[-1] + 1, 0))
    axis.set_xticks([left + 0.5 for left in beside], [*panel.sources[: panel.members], "all"])
    axis.set_yticks([place + 0.5 for place in places], [_brief(name) for name in panel.sources])
    axis.tick_params(length=0, pad=2)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _brief(name: str) -> str:
    """A name beside a row; ticks are written anew when a figure is drawn, so that letters must show from the start."""
    shown = visible(name)
    return shown if len(shown) <= 16 else f"{shown[:15]}…"


def _remark(matrix: Matrix) -> str:
    # Low transfer between members that learned nothing is no merit: it must be seen in the picture itself.
    failed = [note for note in matrix.notes if "did not learn" in note]
    return "; ".join(text for text in (matrix.remark, *failed) if text)


def _scale(matrix: Matrix) -> str:
    among = {
        "correct_all": "% of the images that all members get right",
        "correct_both": "% of the images that both get right",
        "all": "% of all images",
    }[matrix.population]
    what = {
        "misclassified": "misclassified",
        "same_class": "misclassified as the same class as by the source",
        "definition6": "misclassified by both",
        "definition6_conditional": "misclassified by both",
    }.get(matrix.rate, matrix.rate)
    return f"{what}, {among}"


def _title(matrices: list[Matrix], *, small: bool) -> list[str]:
    """Two paragraphs: what was attacked; how, on which images, and what is shown of the seeds."""
    first = matrices[0]
    seeds = sorted({seed for matrix in matrices for seed in matrix.seeds})
    budget = budget_text(first.budget_name, first.budget)
    spread = "standard deviation over seeds" if len(first.seeds) > 1 else "95 % interval"
    told = [style.seeds_said(seeds), *([f"small: {spread}"] if small else []), FRAMED]
    return [
        "; ".join(dict.fromkeys(matrix.setting for matrix in matrices)),
        f"{first.attack}, {budget}; {first.images}; {'; '.join(told)}",
    ]
