"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.matrices import Block, Matrix
from bench.report.tables.layout import CellText, Column, Grid, TableLine

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text


class TextTable:
    """A table that rich prints: on a narrow terminal in several parts, each with as many methods as fit."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One table after another."""
        left = list(range(len(self.grid.columns)))
        while left:
            number = len(left)
            while number > 1 and _width(_table(self.grid, left[:number]), console, options) > options.max_width:
                number -= 1
            yield _table(self.grid, left[:number])
            left = left[number:]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """From one method to all of them side by side."""
        from rich.measure import Measurement

        widths = [_width(_table(self.grid, range(number)), console, options) for number in (1, len(self.grid.columns))]
        return Measurement(min(widths[0], options.max_width), min(widths[1], options.max_width))


def print_grid(grid: Grid, out: Console) -> None:
    """Print a grid with its heading and footnotes."""
    from rich.text import Text

    from bench.report.tables.words import is_foreign

    out.print(Text(grid.heading, style="bold"), soft_wrap=not out.is_terminal)
    out.print(TextTable(grid))
    for line in grid.notes:
        out.print(Text(line, style="yellow" if is_foreign(line) else "dim"), soft_wrap=not out.is_terminal)


def _width(table: Table, console: Console, options: ConsoleOptions) -> int:
    from rich.measure import Measurement

    return Measurement.get(console, options.update(max_width=10_000), table).maximum


def _table(grid: Grid, indices: Sequence[int]) -> Table:
    """The table of some methods."""
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("attack")
    table.add_column("budget", no_wrap=True)
    for index in indices:
        column = grid.columns[index]
        table.add_column(_head(column, grid), justify="right", no_wrap=True)
        if column.paper and not grid.stacked:
            table.add_column("published", justify="right", style="dim", no_wrap=True)
            table.add_column("diff.", justify="right", style="dim", no_wrap=True)
    for line in grid.lines:
        if line.section:
            table.add_row(line.section, style="bold", end_section=True)
        cells: list[Text | str] = [line.title, line.budget]
        for index in indices:
            entry = line.entries[index]
            cells.append(_cell(entry, stacked=grid.stacked and _has_second_line(line)))
            if grid.columns[index].paper and not grid.stacked:
                cells += [entry.published, entry.difference]
        table.add_row(*cells, end_section=line.ends)
    return table


def _head(column: Column, grid: Grid) -> Text:
    from rich.text import Text

    head = Text(column.title)
    if grid.has_seeds:
        head.append(f"\n{column.seeds}", style="not bold dim")
    if column.paper and grid.stacked:
        head.append("\npaper (diff.)", style="not bold dim")
    return head


def _has_second_line(line: TableLine) -> bool:
    return any(entry.published for entry in line.entries)


def _cell(entry: CellText, *, stacked: bool) -> Text:
    """The value with its marks; stacked: the published one and the difference below."""
    from rich.text import Text

    style = "dim" if entry.state == "stale" else "bold" if entry.best else "underline" if entry.tied else ""
    text = Text(entry.plain, style="red" if entry.state == "failed" else "")
    if style and entry.state == "stale":
        text.stylize(style)
    elif style:
        text.stylize(style, 0, len(entry.value))
    if stacked:
        below = f"{entry.published} ({entry.difference})" if entry.difference else entry.published
        text.append(f"\n{below}", style="not bold not underline dim")
    return text


def matrix_table(matrix: Matrix, out: Console) -> Table:
    """A transferability matrix for a terminal: spreads stand below their rates in a narrow one."""
    table = _matrix(matrix, " ")
    return table if _width(table, out, out.options) <= out.width else _matrix(matrix, "\n")


def _matrix(matrix: Matrix, between: str) -> Table:
    """`between` stands between a rate and its spread."""
    from rich.table import Table
    from rich.text import Text

    members, several = len(matrix.rates), len(matrix.seeds) > 1
    table = Table(header_style="bold")
    table.add_column(
        "crafted on ↓   evaluated on →" if between == " " else "crafted on ↓\nevaluated on →", no_wrap=True
    )
    for index in range(members):
        table.add_column(f"member {index + 1}", justify="right")
    table.add_column("ensemble", justify="right")
    names = {"all": "ensemble"}
    for block in (matrix.members, matrix.others):
        for index, source in enumerate(block.sources):
            own = index if block is matrix.members else members if source == "all" else None
            values = [Text(_rate(block, index, column, several, between), "dim" if column == own else "")
                      for column in range(members + 1)]  # fmt: skip
            name = f"member {source}" if block is matrix.members else names.get(source, source)
            table.add_row(name, *values, end_section=block is matrix.members and index == members - 1)
    return table


def _rate(block: Block, row: int, column: int, several: bool, between: str) -> str:
    """`57.2 ± 1.3` over seeds; of one seed with its interval, `57.2 [52.9, 61.4]`."""
    value = block.rates[row, column]
    if math.isnan(value):  # an empty population
        return "–"
    low, high = block.low[row, column], block.high[row, column]
    spread = f"± {block.deviation[row, column]:.1f}" if several else f"[{low:.1f}, {high:.1f}]"
    return f"{value:.1f}{between}{spread}"
