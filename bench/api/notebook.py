"""What a person sees while jobs run from Python: the command line's lines, in a notebook a bar that is drawn over."""

from __future__ import annotations

import html
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console

from bench.jobs.display import Display
from bench.report.console import console

OFTEN = 0.2  # seconds between two drawings at least


def display(total: int, *, quiet: bool) -> Display:
    """Of `total` jobs: on stderr, or in the notebook that this runs in."""
    out = console(stderr=True)
    out.quiet = quiet
    return NotebookDisplay(total, out) if in_notebook() and not quiet else Display(total, out)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookDisplay(Display):
    """The jobs under way below a bar, in one output of the cell; jobs that ended have lines of their own."""

    def __init__(self, total: int, out: Console) -> None:
        super().__init__(total, out)
        self._live = None
        self._handle: Any = None
        self._drawn = 0.0

    def __enter__(self) -> Display:
        from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

        self._handle = display(HTML(self.drawing()), display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refresh(at_once=True)
        self._handle = None

    @property
    def is_live(self) -> bool:
        """The bar is drawn over."""
        return self._handle is not None

    def refresh(self, *, at_once: bool = False) -> None:
        """Draw the bar anew, where it was not drawn just now."""
        if self._handle is None or not (at_once or time.monotonic() - self._drawn > OFTEN):
            return
        from IPython.display import HTML

        self._drawn = time.monotonic()
        self._handle.update(HTML(self.drawing()))

    def drawing(self) -> str:
        """The bar and a line for each job under way, as HTML."""
        lines = [html.escape(line) for line in self.under_way()]
        bar = f'<progress value="{self.done}" max="{self.total}"></progress> {self.done}/{self.total} jobs'
        return "<br>".join([bar, *lines])
