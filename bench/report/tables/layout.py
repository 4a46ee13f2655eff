"""The one layout of a table: titles, lines, cells with their marks. Each format only draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from bench.report.cells import Cell, Row
from bench.report.results import Results
from bench.report.tables.words import caption, footnotes, heading, number, print_notes
from bench.report.titles import budget_text

BESIDE = 3  # at most so many methods have their published values in columns of their own unless asked for
RANKED = ("clean", "attack", "blackbox", "worst", "certify")  # rows in which more is better, and methods compete

CellState = Literal["value", "missing", "failed", "stale"]


@dataclass(frozen=True)
class Marks:
    """What the statistics say about a table, by (row key, method)."""

    tied: frozenset[tuple[str, str]] = frozenset()
    """Not significantly worse than the best of the row."""
    compared: frozenset[tuple[str, str]] = frozenset()
    """What was tested; the best themselves among them."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CellText:
    """A cell in words; `published` and `difference` are empty without a published value."""

    state: CellState
    value: str = ""
    std: str = ""
    seeds: str = ""
    """`n = 2` where the column's other cells have another number of seeds."""
    flagged: bool = False
    best: bool = False
    tied: bool = False
    published: str = ""
    difference: str = ""
    """From the published value; `‡` behind it: of another network, training or fewer images."""

    @property
    def plain(self) -> str:
        """`64.2 ± 1.3†`, `–`, `✗`, `(60.0)`: without marks of rank."""
        if self.state in ("missing", "failed"):
            return "–" if self.state == "missing" else "✗"
        text = self.value + (f" ± {self.std}" if self.std else "") + ("†" if self.flagged else "")
        text += f" ({self.seeds})" if self.seeds else ""
        return f"({text})" if self.state == "stale" else text


@dataclass(frozen=True)
class Column:
    """A method; `paper`: published value and difference are shown with it."""

    title: str
    seeds: str = ""
    """`n = 3`; empty in a table of one seed."""
    paper: bool = False


@dataclass(frozen=True)
class TableLine:
    """A row; `ends`: a rule follows; `section`: a heading that stands before it, of a table of several data sets."""

    title: str
    budget: str
    entries: tuple[CellText, ...]
    ends: bool = False
    section: str = ""


@dataclass(frozen=True)
class Grid:
    """A table ready to be drawn."""

    heading: str
    label: str
    columns: tuple[Column, ...]
    lines: tuple[TableLine, ...]
    notes: tuple[str, ...] = field(default=())
    caption: tuple[str, ...] = ()
    """Sentences for readers of a paper, who do not know `bench`."""
    printed: tuple[str, ...] = ()
    """Notes below the table for the same readers."""

    @property
    def papers(self) -> int:
        """How many methods have published values beside them."""
        return sum(column.paper for column in self.columns)

    @property
    def stacked(self) -> bool:
        """Whether published values are better put under ours than beside: three columns a method would be too wide."""
        return self.papers > BESIDE

    @property
    def has_seeds(self) -> bool:
        """Whether numbers of seeds stand under the titles."""
        return any(column.seeds for column in self.columns)


def _shows_published(results: Results, paper: bool | None) -> bool:
    """Whether published values are shown: as asked for, or where they are and few methods make the table wide."""
    if paper is None:
        return results.has_published and len({method for _, method in results.published}) <= BESIDE
    return paper and results.has_published


def layout(results: Results, marks: Marks | None = None, *, paper: bool | None = None) -> Grid:
    """The grid of a table.

    Args:
        marks: which cells are tied with the best; without them none is underlined.
        paper: whether published values and differences are shown; None: for up to three methods.
    """
    marks = marks or Marks()
    published = _shows_published(results, paper)
    beside = {method for _, method in results.published} if published else set()
    seeds = {method: _usual_seeds(results, method) for method in results.methods}
    several = max(seeds.values(), default=0) > 1
    columns = tuple(
        Column(results.titles[method], f"n = {seeds[method]}" if several and seeds[method] else "", method in beside)
        for method in results.methods
    )
    lines = []
    for row, following in pairwise((*results.rows, None)):
        assert row is not None
        best, ranked = _best(results, row), results.ranked(row)
        entries = tuple(
            _entry(
                results.cell(row, method),
                seeds=seeds[method],
                best=best is not None and method in ranked and _rounds_to(ranked[method], best),
                tied=(row.key, method) in marks.tied,
                published=results.published.get((row.key, method)) if method in beside else None,
                unlike=method in results.unlike,
            )
            for method in results.methods
        )
        ends = following is not None and _group(row) != _group(following)
        lines.append(TableLine(row.title, budget_text(row.budget_name, row.budget), entries, ends))
    notes = footnotes(results, published=published, tied=bool(marks.compared))
    if paper and not results.has_published:
        notes.append("Note: nothing was published for these methods and rows.")
    notes += [f"Note: {note}" for note in marks.notes]
    label = results.suite if results.suite.endswith(f"-{results.dataset}") else f"{results.suite}-{results.dataset}"
    return Grid(
        heading(results), label, columns, tuple(lines), tuple(notes),
        caption=tuple(caption(results, tied=bool(marks.compared))),
        printed=tuple(print_notes(results, published=published)),
    )  # fmt: skip


def together(grids: Mapping[str, Grid]) -> Grid:
    """Tables of several data sets, by their titles, as one: each under its title, a method one column.

    What is said of all of them is said once, else with the data set that it is of.
    """
    if len(grids) == 1:
        return next(iter(grids.values()))
    columns: dict[str, Column] = {}
    for grid in grids.values():
        for column in grid.columns:
            known = columns.get(column.title, column)
            seeds = known.seeds if known.seeds == column.seeds else ""
            columns[column.title] = Column(column.title, seeds, known.paper or column.paper)
    lines: list[TableLine] = []
    for section, grid in grids.items():
        places = {column.title: place for place, column in enumerate(grid.columns)}
        for place, line in enumerate(grid.lines):
            entries = tuple(
                line.entries[places[title]] if title in places else CellText("missing") for title in columns
            )
            ends = line.ends or place == len(grid.lines) - 1
            lines.append(replace(line, entries=entries, ends=ends, section="" if place else section))
    lines[-1] = replace(lines[-1], ends=False)

    def said(of: Callable[[Grid], tuple[str, ...]]) -> tuple[str, ...]:
        told: dict[str, list[str]] = {}
        for section, grid in grids.items():
            for note in of(grid):
                told.setdefault(note, []).append(section)
        return tuple(
            note if len(sections) == len(grids) else _marked(note, ", ".join(sections))
            for note, sections in told.items()
        )

    return Grid(
        heading="; ".join(grid.heading for grid in grids.values()),
        label="-".join(grid.label for grid in grids.values()),
        columns=tuple(columns.values()),
        lines=tuple(lines),
        notes=said(lambda grid: grid.notes),
        caption=said(lambda grid: grid.caption),
        printed=said(lambda grid: grid.printed),
    )


def _marked(note: str, sections: str) -> str:
    """A note with what it is of, behind the mark that it begins with."""
    if note.startswith("On "):  # a caption names its data set
        return note
    mark = next((mark for mark in ("Note: ", "✗ ", "† ", "‡ ") if note.startswith(mark)), "")
    return f"{mark}{sections}: {note.removeprefix(mark)}"


def _group(row: Row) -> str:
    return "clean" if row.kind == "members" else row.kind


def _usual_seeds(results: Results, method: str) -> int:
    """How many seeds most cells of a method have."""
    counts = Counter(len(results.cell(row, method).values) for row in results.rows)
    counts.pop(0, None)
    return counts.most_common(1)[0][0] if counts else 0


def _best(results: Results, row: Row) -> float | None:
    """The largest current mean of a row in which at least two methods compete."""
    means = [cell.mean or 0.0 for cell in results.ranked(row).values()]
    return max(means) if len(means) > 1 and row.kind in RANKED else None


def _rounds_to(cell: Cell, best: float) -> bool:
    return cell.mean is not None and round(cell.mean, 1) == round(best, 1)


def _entry(cell: Cell, *, seeds: int, best: bool, tied: bool, published: float | None, unlike: bool) -> CellText:
    shown = "" if published is None else f"{published:.1f}"
    if cell.mean is None:
        return CellText("failed" if cell.failed else "missing", published=shown)
    fresh = published is not None and not cell.stale
    return CellText(
        state="stale" if cell.stale else "value",
        value=number(cell.mean),
        std="" if cell.std is None else number(cell.std),
        seeds=f"n = {len(cell.values)}" if len(cell.values) != seeds else "",
        flagged=bool(cell.flags),
        best=best,
        tied=tied and not best,
        published=shown,
        difference=f"{cell.mean - published:+.1f}{'‡' if unlike else ''}" if fresh and published is not None else "",
    )
