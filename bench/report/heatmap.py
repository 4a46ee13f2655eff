"""Figure 3 of the TRS paper: transferability matrices as heatmaps, one panel a method."""

from __future__ import annotations

import math
import textwrap
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
from bench.report.recipes import phrase
from bench.report.results import joined
from bench.report.tables import budget_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CELL = 0.64  # inches
FRAMED = "framed: the network itself"
GAP = 0.14  # between the members and what is none, in cells


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


def file_name(stem: str, matrices: list[Matrix]) -> str:
    """`transfer-digits.png`, of attacks in another precision than float32 `transfer-digits-bfloat16.png`."""
    return f"{safe_name(file_stem(stem, matrices[0].precision))}.png"


def save_heatmap(matrices: list[Matrix], path: Path) -> Path:
    """Save what `draw` draws; the suffix of `path` is the format. The numbers lie beside it as CSV.

    Raises:
        BenchError: no matrices, or a format other than png, svg, pdf.
    """
    style.check_format(path)
    return style.save(draw(matrices), as_frame(matrices), path)[0]


def draw(matrices: list[Matrix]) -> Figure:
    """One panel a matrix on a common 0–100 scale.

    Rows are what the images were crafted on, columns what they are evaluated on; the last column is the whole
    ensemble, the framed diagonal each network's white-box rate. Below the members stand the ensemble as a source, noise
    of the same size, and other ensembles, where they were measured. Small in each cell: the standard deviation over
    seeds, or of one seed the 95 % interval.

    Raises:
        BenchError: no matrices.
    """
    if not matrices:
        raise BenchError("there is no transferability matrix to draw; `bench run` with a suite that has one makes it")
    columns = _columns(len(matrices))
    scale = {
        "vmin": 0,
        "vmax": 100,
        "cmap": "rocket_r",
    }  # lightness falls evenly: readable in grey, by the colour-blind
    panels = [_panel_of(matrix) for matrix in matrices]
    return _draw(panels, scale, _scale(matrices[0]), _title(matrices, columns), columns)


def shows(path: Path, matrices: list[Matrix]) -> bool:
    """Whether the figure at `path` is there and the numbers beside it are those of `matrices`."""
    beside = path.with_suffix(".csv")
    return (
        path.is_file() and beside.is_file() and beside.read_text(encoding="utf-8") == style.csv_text(as_frame(matrices))
    )


def save_difference(first: Matrix, second: Matrix, path: Path) -> Path:
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
    panel = _Panel(f"{first.title} − {second.title}  (blue: fewer for {first.title})", (*names,), difference, small, "")
    figure = _draw(
        [panel],
        {"vmin": -reach, "vmax": reach, "cmap": "vlag", "signed": True},
        f"difference: {_scale(first).replace('%', 'points', 1)}",
        _title([first, second], 1, told=FRAMED),
        1,
    )
    return style.save(figure, frame, path)[0]


def _columns(count: int) -> int:
    """Panels in a line: up to five, as few places empty as can be, rather wide than high."""
    return count if count <= 5 else min((5, 4, 3), key=lambda columns: -count % columns)


def as_frame(matrices: list[Matrix]) -> pd.DataFrame:
    """The rates as a tidy frame: a row a cell, members counted from 1, rates in percent, counts over all seeds."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "method": matrix.method, "source": _in_csv(block.sources[row]),
                "target": "ensemble" if column == len(matrix.rates) else column + 1, "percent": value,
                "deviation": block.deviation[row, column], "low": block.low[row, column],
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
    """`± 1.2` over seeds; of one seed the interval, `48–57`."""
    if several:
        return "" if np.isnan(block.deviation[row, column]) else f"± {block.deviation[row, column]:.1f}"
    low, high = block.low[row, column], block.high[row, column]
    return "" if np.isnan(low) else f"{low:.0f}–{high:.0f}"


def _draw(panels: list[_Panel], scale: dict[str, Any], label: str, title: str, columns: int) -> Figure:
    """Panels with one colour bar."""
    import matplotlib as mpl

    columns = min(columns, len(panels))
    lines = math.ceil(len(panels) / columns)
    wide = 1.5 + CELL * (1 + max(panel.members for panel in panels))
    high = 1.0 + CELL * (GAP + max(len(panel.numbers) for panel in panels))
    more = 0.17 * max(panel.remark.count("\n") + bool(panel.remark) for panel in panels)
    with mpl.rc_context({"font.size": 9, "figure.dpi": 150}):
        size = (wide * columns + 0.9, (high + more) * lines + 0.6)
        figure, axes = style.subplots(lines, columns, size=size)
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        for axis, panel in zip(axes.flat, panels, strict=False):
            _panel(axis, panel, **scale)
        bar = figure.colorbar(axes.flat[0].collections[0], ax=axes, shrink=0.85, pad=0.02, aspect=16 * lines + 4)
        bar.set_label(label)
        bar.outline.set_visible(False)
        figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")
        return figure


def _panel(axis: Any, panel: _Panel, *, vmin: float, vmax: float, cmap: str, signed: bool = False) -> None:
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
        ink, small = "white" if dark else "black", panel.small[row][column]
        x, y = beside[column] + 0.5, places[row] + 0.5
        axis.text(x, y - (0.1 if small else 0), text, ha="center", va="center", color=ink, fontsize=10)
        axis.text(x, y + 0.23, small, ha="center", va="center", color=ink, fontsize=6.4)
    own = [(index, index) for index in range(panel.members)]
    own += [(row, panel.members) for row, source in enumerate(panel.sources) if source == "all"]
    for row, column in own:
        corner = beside[column] + 0.05, places[row] + 0.05
        axis.add_patch(Rectangle(corner, 0.9, 0.9, fill=False, edgecolor="#8c8c8c" if signed else "white", lw=1.5))
    axis.set(xlim=(0, edges[-1]), ylim=(places[-1] + 1, 0), aspect="equal")
    axis.set_xticks([left + 0.5 for left in beside], [*panel.sources[: panel.members], "all"])
    axis.set_yticks([place + 0.5 for place in places], [_brief(name) for name in panel.sources])
    axis.set_title(panel.title, fontsize=10.5, pad=8)
    axis.set_xlabel("evaluated on" + (f"\n{panel.remark}" if panel.remark else ""))
    axis.set_ylabel("crafted on")
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _brief(name: str) -> str:
    """A name beside a row; ticks are written anew when a figure is drawn, so that letters must show from the start."""
    shown = visible(name)
    return shown if len(shown) <= 16 else f"{shown[:15]}…"


def _remark(matrix: Matrix) -> str:
    # Low transfer between members that learned nothing is no merit: it must be seen in the picture itself.
    failed = [note for note in matrix.notes if "did not learn" in note]
    return "\n".join(textwrap.fill(text, 34) for text in (matrix.remark, *failed) if text)


def _scale(matrix: Matrix) -> str:
    return {
        "misclassified": "misclassified, %",
        "same_class": "misclassified as the same class as by the source, %",
        "definition6": "both misclassify, % of all images",
        "definition6_conditional": "both misclassify, % of those both get right",
    }.get(matrix.rate, f"{matrix.rate}, %")


def _title(matrices: list[Matrix], columns: int, *, told: str = "") -> str:
    """Two lines or more; `told` stands for what is said of frames and small numbers."""
    first = matrices[0]
    run, seeds = first.run, sorted({seed for matrix in matrices for seed in matrix.seeds})
    recipes = joined(phrase(matrix.recipe) for matrix in matrices)
    budget = budget_text(first.budget_name, first.budget)
    seeds_told = f"{'seed' if len(seeds) == 1 else 'seeds'} {joined(seeds)}"
    small = "small: standard deviation over seeds" if len(first.seeds) > 1 else "small: 95 % interval"
    told = told or f"{FRAMED}; {small}"
    lines = (
        f"{run.dataset}, {run.members} × {run.model}, {recipes}",
        f"{first.attack}, {budget}; population {first.population}; {first.images}; {seeds_told}; {told}",
    )
    return "\n".join(textwrap.fill(line, 44 * min(columns, len(matrices)) + 14) for line in lines)
