"""Lists as tables that fit the terminal: no word is broken, what matters least is left out first, records at last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PROSE = 24  # letters that sentences get, unless told


class Head(NamedTuple):
    """A column: its title, and what it may suffer where there is little room."""

    title: str
    rank: int = 0
    """Of several columns that may be left out, the highest goes first; one of rank 0 never."""
    right: bool = False
    whole: bool = False
    """Whether its cells stay on one line."""
    least: int = PROSE
    """Letters that its sentences get before other columns are left out for it."""


def print_listing(
    heads: Sequence[Head], rows: Sequence[Sequence[Text | str]], out: Console, *,
    styles: Sequence[str | None] | None = None, ends: Collection[int] = (), tell: bool = True,
) -> None:  # fmt: skip
    """Print rows under heads as wide as `out` is; columns without any text are left out.

    Args:
        styles: of each row.
        ends: the rows that a line follows.
        tell: whether to say what was left out for want of room.
    """
    texts = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
    kept = [place for place in range(len(heads)) if any(row[place].plain for row in texts)]
    if not kept:  # there is nothing to be read
        return
    everything = list(kept)
    while (widths := _widths(heads, texts, kept, out.width)) is None:
        least = max(kept, key=lambda place: heads[place].rank)
        if not heads[least].rank:
            _print_records(heads, texts, everything, out)
            return
        kept.remove(least)
    for place in sorted(set(everything) - set(kept), key=lambda place: heads[place].rank):
        more = sorted([*kept, place])  # a narrow one may fit in the end, where a wide one had to go
        if (wider := _widths(heads, texts, more, out.width)) is not None:
            kept, widths = more, wider
    table = Table(header_style="bold")
    for place, width in zip(kept, widths, strict=True):
        table.add_column(heads[place].title, justify="right" if heads[place].right else "left", width=width)
    for number, row in enumerate(texts):
        style = styles[number] if styles else None
        table.add_row(*(row[place] for place in kept), style=style, end_section=number in ends)
    out.print(table)
    gone = [heads[place].title for place in everything if place not in kept]
    if gone and tell:
        out.print(Text(f"no room for: {', '.join(gone)}; a wider terminal shows them", style="dim"))


def _widths(heads: Sequence[Head], texts: Sequence[Sequence[Text]], kept: Sequence[int], room: int) -> list[int] | None:
    """Letters for each column that is kept, so that no word is broken; None where there is no room for them."""
    most, least = [], []
    for place in kept:
        lines = [line for row in texts for line in row[place].plain.split("\n")]
        words = [word for text in (heads[place].title, *lines) for word in text.split()]
        wide = max(map(cell_len, (heads[place].title, *lines)))
        cells = max(map(cell_len, lines))
        longest = max(map(cell_len, words), default=0)
        most.append(wide)
        least.append(max(longest, cells if heads[place].whole else min(cells, heads[place].least)))
    room -= 3 * len(kept) + 1  # the lines between columns and the blanks beside them
    if sum(least) > room:
        return None
    most = [max(pair) for pair in zip(most, least, strict=True)]
    cap = max(most)
    while sum(_capped(most, least, cap)) > room:
        cap -= 1
    return _capped(most, least, cap)


def _capped(most: Sequence[int], least: Sequence[int], cap: int) -> list[int]:
    return [max(low, min(high, cap)) for low, high in zip(least, most, strict=True)]


def _print_records(heads: Sequence[Head], texts: Sequence[Sequence[Text]], kept: Sequence[int], out: Console) -> None:
    """A block for each row, a line for each of its cells that says something."""
    for row in texts:
        block = Table.grid(padding=(0, 2))
        block.add_column()
        block.add_column(overflow="fold")
        for place in kept:
            if row[place].plain:
                block.add_row(Text(heads[place].title, "dim"), row[place])
        out.print(block)
        out.print()
