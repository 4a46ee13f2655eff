"""One way to write to the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.text import Text

from bench.core.printable import fitting, forget, visible

if TYPE_CHECKING:
    from bench.report.matrices import Matrix
    from bench.report.results import Results


class PlainConsole(Console):
    """A console that takes every text for what it is: no markup, no emoji names, no control characters.

    Names, notes and errors come from outside, so styles are given beside a text (`style=`, `Text.assemble`), never in
    it. Letters that the output's encoding lacks are written in others.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Where rich makes a text of a string: before it is measured, so that columns stay in line."""
        return super().render_str(self._shown(text), **options)

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Where everything passes on its way out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=self._shown(segment.text))

    def _shown(self, text: str) -> str:
        return fitting(visible(text, keep="\n\t"), self.encoding)


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; in a file or pipe wide enough for any table, and without colours."""
    forget()
    made = PlainConsole(stderr=stderr)
    return made if made.is_terminal else PlainConsole(stderr=stderr, width=240, no_color=True)


def print_results(results: Results, out: Console) -> None:
    """A table with its heading and footnotes."""
    from bench.report import tables

    tables.print_grid(tables.layout(results), out)


def print_matrix(matrix: Matrix, out: Console) -> None:
    """A transferability matrix with its heading."""
    from bench.report import tables

    out.print(tables.matrix_heading(matrix), style="bold", soft_wrap=not out.is_terminal)
    out.print(tables.matrix_table(matrix, out))
    for note in (matrix.remark, *matrix.notes):
        if note:
            out.print(f"Note: {note}", style="yellow", soft_wrap=not out.is_terminal)
