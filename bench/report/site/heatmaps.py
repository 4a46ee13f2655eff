"""Transferability matrices as pages show them: with a hint for every cell on a run's page, small elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from bench.core import registry
from bench.core.errors import BenchError
from bench.core.precision import USUAL
from bench.core.statistics import wilson
from bench.core.terms import NOISE, WHOLE, Population
from bench.report.site import charts
from bench.report.site.names import exact, percent
from bench.report.titles import plain
from bench.store.standing import Standings
from bench.store.typed_rows import EvaluationRow, RunRow

POPULATIONS = {population: plain(population) for population in get_args(Population)}
CellCounts = Mapping[str, Any]
"""Columns of a stored cell: source, target (-1 the ensemble) and counts."""


def chosen(rows: Iterable[EvaluationRow], standings: Standings) -> EvaluationRow | None:
    """The matrix of a run to show where there is room for one: current, in float32, not led to a class, most images."""
    found = [
        row
        for row in standings.current(rows)
        if row.kind == "transfer" and row.precision == USUAL and row.targets is None
    ]
    return max(found, key=lambda row: (row.n, row.evaluation_id), default=None)


def full(cells: Sequence[CellCounts], n: int, population: str) -> tuple[list[list[dict[str, Any]]], float | None]:
    """Rows of cells with their hints, the ensemble last, and the mean off the diagonal in percent."""
    by_place = {(cell["source"], cell["target"]): cell for cell in cells}
    members = 1 + max(source for source, _ in by_place)
    targets = [*range(members), -1]
    grid = [[_cell(by_place[source, target], n, population) for target in targets] for source in range(members)]
    return grid, _off_diagonal([[cell["value"] for cell in line] for line in grid])


def beside(cells: Sequence[CellCounts], n: int, population: str, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of the sources that are no members: their names, and cells as `full` has them.

    None where rates are shares of images that source and target get right: of noise nobody knows which these are.

    Args:
        titles: run id → what an ensemble from elsewhere is called.
    """
    if population == "correct_both":
        return []
    order = {WHOLE: 0, NOISE: 1}
    sources = sorted(dict.fromkeys(cell["source"] for cell in cells), key=lambda name: (order.get(name, 2), name))
    return [
        {
            "name": {WHOLE: "all"}.get(source) or titles.get(source, source),
            "cells": [
                _other_cell(cell, n, population, titles.get(source, source))
                for cell in sorted(cells, key=lambda cell: (cell["target"] < 0, cell["target"]))
                if cell["source"] == source
            ],
        }
        for source in sources
    ]


def _other_cell(cell: CellCounts, n: int, population: str, title: str) -> dict[str, Any]:
    counts = {"correct_all": (cell["n_missed_correct_all"], cell["n_correct_all"]), "all": (cell["n_missed"], n)}
    made = {WHOLE: "crafted on the whole ensemble", NOISE: "random noise of the same size"}
    first = made.get(cell["source"], f"crafted on an ensemble of {title}")
    return _shown(cell, counts, population, first, cell["source"] == WHOLE and cell["target"] < 0)


def small(matrices: Sequence[tuple[Sequence[CellCounts], int]], population: str) -> dict[str, Any] | None:
    """The mean over trainings as coloured cells, for a card; None without a matrix, or where they differ in size.

    Args:
        matrices: (cells, number of images) of each training.
    """
    grids = [full(cells, n, population)[0] for cells, n in matrices]
    if not grids or len({len(grid) for grid in grids}) > 1:
        return None
    size = len(grids[0])
    rates = [[_mean(grid[s][t]["value"] for grid in grids) for t in range(size + 1)] for s in range(size)]
    cells = [
        [
            {"text": "–" if rate is None else f"{rate:.0f}", "own": s == t, "colour": colour, "white": white}
            for t, rate in enumerate(line)
            for colour, white in [charts.heat((rate or 0.0) / 100)]
        ]
        for s, line in enumerate(rates)
    ]
    return {"grid": cells, "mean": percent(_off_diagonal(rates)), "seeds": len(grids)}


def remark(run: RunRow) -> str:
    """What the method says a reader of its matrix must know; empty for most, and for a plug-in that is not here."""
    if run.plugin not in registry.entries("methods"):
        return ""
    try:
        return str(getattr(registry.load("methods", run.plugin), "remark", ""))
    except BenchError:
        return ""


def _cell(cell: CellCounts, n: int, population: str) -> dict[str, Any]:
    counts = {
        "correct_all": (cell["n_missed_correct_all"], cell["n_correct_all"]),
        "correct_both": (cell["n_missed_correct_both"], cell["n_correct_both"]),
        "all": (cell["n_missed"], n),
    }
    source = cell["source"]
    more = [f"Definition 6: both fooled on {cell['n_definition6']:,} of {n:,}"]
    if cell["n_same_class"] is not None:
        told = f"{cell['n_same_class']:,} of {cell['n_correct_all']:,}"
        more.append(f"the same wrong class as the source: {told} that every member gets right")
    made = f"crafted on member {source + 1}"
    return _shown(cell, counts, population, made, source == cell["target"], more)


def _shown(
    cell: CellCounts, counts: Mapping[str, tuple[int, int]], population: str, made: str, own: bool,
    more: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """A cell with its hint; `counts` are hits and images by population."""
    hits, among = counts[population]
    share = hits / among if among else math.nan
    target = cell["target"]
    colour, white = charts.heat(0.0 if math.isnan(share) else share)
    where = "itself" if own else "the whole ensemble" if target < 0 else f"member {target + 1}"
    lines = [f"{made}, evaluated on {where}"]
    lines += [
        f"{percent(100 * h / a if a else None)} % of {POPULATIONS[name]} ({h:,} of {a:,})"
        + (f", 95 % interval {_interval(h, a)}" if name == population and a else "")
        for name, (h, a) in counts.items()
    ]
    lines += more
    return {
        "text": "–" if math.isnan(share) else f"{100 * share:.0f}",
        "value": None if math.isnan(share) else 100 * share,
        "csv": "" if math.isnan(share) else exact(100 * share),
        "colour": colour, "white": white, "own": own, "tip": "\n".join(lines),
    }  # fmt: skip


def _interval(hits: int, among: int) -> str:
    low, high = wilson(hits, among)
    return f"{percent(100 * low)} to {percent(100 * high)} %"


def _off_diagonal(rates: Sequence[Sequence[float | None]]) -> float | None:
    """Mean of members on other members."""
    return _mean(value for s, line in enumerate(rates) for t, value in enumerate(line[:-1]) if s != t)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
