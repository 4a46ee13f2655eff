"""Figure 3 of the TRS paper: transferability matrices as heatmaps, one panel a method."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.core.errors import BenchError
from bench.core.identity import safe_name
from bench.core.precision import file_stem
from bench.report.matrices import Matrix
from bench.report.plots import style
from bench.report.recipes import phrase
from bench.report.results import joined
from bench.report.tables import budget_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FRAMED = "framed: the member itself"


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
    ensemble, the framed diagonal each member's white-box rate.

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
    panels = [(matrix.title, matrix.rates, _remark(matrix)) for matrix in matrices]
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
    difference = first.rates - second.rates
    known = difference[~np.isnan(difference)]
    reach = max(10.0, 10 * math.ceil(float(np.abs(known).max()) / 10)) if known.size else 10.0
    frame = as_frame([first, second])
    frame["difference"] = [*difference.flatten(), *(-difference).flatten()]
    figure = _draw(
        [(f"{first.title} − {second.title}  (blue: fewer for {first.title})", difference, "")],
        {"vmin": -reach, "vmax": reach, "cmap": "vlag", "signed": True},
        f"difference: {_scale(first).replace('%', 'points', 1)}",
        _title([first, second], 1),
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
                "method": matrix.method, "source": row + 1,
                "target": "ensemble" if column == len(matrix.rates) else column + 1, "percent": value,
                "images": int(matrix.counts[1][row][column]), "misclassified": int(matrix.counts[0][row][column]),
                "rate": matrix.rate, "population": matrix.population, "attack": matrix.attack,
                "budget_name": matrix.budget_name, "budget": matrix.budget, "seeds": joined(matrix.seeds),
            }
            for matrix in matrices
            for (row, column), value in np.ndenumerate(matrix.rates)
        ]
    )  # fmt: skip


def _draw(
    panels: list[tuple[str, NDArray[np.float64], str]], scale: dict[str, Any], label: str, title: str, columns: int
) -> Figure:
    """Panels (title, numbers, remark below) with one colour bar."""
    import matplotlib as mpl

    columns = min(columns, len(panels))
    lines = math.ceil(len(panels) / columns)
    largest = max(len(numbers) for _, numbers, _ in panels)
    side = 1.5 + 0.62 * (largest + 1)
    with mpl.rc_context({"font.size": 9, "figure.dpi": 150}):
        figure, axes = style.subplots(lines, columns, size=(side * columns + 0.9, (side - 0.55) * lines + 0.6))
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        for axis, (name, numbers, remark) in zip(axes.flat, panels, strict=False):
            _panel(axis, name, numbers, remark, **scale)
        bar = figure.colorbar(axes.flat[0].collections[0], ax=axes, shrink=0.85, pad=0.02, aspect=14 * lines + 4)
        bar.set_label(label)
        bar.outline.set_visible(False)
        figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")
        return figure


def _panel(
    axis: Any, title: str, numbers: NDArray[np.float64], remark: str, *, vmin: float, vmax: float, cmap: str,
    signed: bool = False,
) -> None:  # fmt: skip
    import seaborn as sns
    from matplotlib.patches import Rectangle
    from seaborn.utils import relative_luminance

    members = len(numbers)
    names = [str(index + 1) for index in range(members)]
    plot = sns.heatmap(
        numbers,
        ax=axis,
        vmin=vmin,
        vmax=vmax,
        cmap=cmap,
        cbar=False,
        square=True,
        linewidths=0.6,
        linecolor="white",
        xticklabels=[*names, "all"],
        yticklabels=names,
    )
    colours = plot.collections[0].cmap((numbers - vmin) / (vmax - vmin))
    for (row, column), value in np.ndenumerate(numbers):
        # The better contrast of black and white (WCAG 2: their ratios cross at luminance .179).
        dark = relative_luminance(colours[row, column]) < 0.179 and not np.isnan(value)
        text = (
            "–"
            if np.isnan(value)
            else f"{value:+.0f}".replace("-", "−")
            if signed and round(value)
            else f"{abs(value):.0f}"
        )
        plot.text(column + 0.5, row + 0.5, text, ha="center", va="center", color="white" if dark else "black")
    plot.set_title(title, fontsize=10, pad=8)
    plot.set_xlabel("evaluated on" + (f"\n{remark}" if remark else ""))
    plot.set_ylabel("crafted on")
    plot.tick_params(length=0)
    plot.set_yticklabels(plot.get_yticklabels(), rotation=0)
    plot.axvline(members, color="white", linewidth=4)
    for index in range(members):
        frame = Rectangle(
            (index + 0.06, index + 0.06), 0.88, 0.88, fill=False, edgecolor="#8c8c8c" if signed else "white", lw=1.6
        )
        plot.add_patch(frame)


def _remark(matrix: Matrix) -> str:
    # Low transfer between members that learned nothing is no merit: it must be seen in the picture itself.
    failed = [note for note in matrix.notes if "did not learn" in note]
    return "\n".join(textwrap.fill(text, 34) for text in (matrix.remark, *failed) if text)


def _scale(matrix: Matrix) -> str:
    return {
        "misclassified": "misclassified, %",
        "definition6": "both misclassify, % of all images",
        "definition6_conditional": "both misclassify, % of those both get right",
    }.get(matrix.rate, f"{matrix.rate}, %")


def _title(matrices: list[Matrix], columns: int) -> str:
    first = matrices[0]
    run, seeds = first.run, sorted({seed for matrix in matrices for seed in matrix.seeds})
    recipes = joined(phrase(matrix.recipe) for matrix in matrices)
    budget = budget_text(first.budget_name, first.budget)
    told = "seed" if len(seeds) == 1 else "seeds"
    lines = (
        f"{run.dataset}, {run.members} × {run.model}, {recipes}",
        f"{first.attack}, {budget}; population {first.population}; {first.images}; {told} {joined(seeds)}; {FRAMED}",
    )
    return "\n".join(textwrap.fill(line, 44 * min(columns, len(matrices)) + 14) for line in lines)
