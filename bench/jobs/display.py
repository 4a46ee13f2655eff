"""What a person sees while jobs run: a live line for each job under way on a terminal, plain lines in a log file."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from bench.core.progress import Progress
from bench.experiment.spec import Job
from bench.jobs.estimate import spoken

LOG_SECONDS = 30.0  # between two lines about the same job where there is no terminal
SHOWN = 16  # lines of jobs on a terminal, lest they fill it


class Display:
    """Shows jobs `done/total`, and of each under way its epochs with loss terms and accuracy, or images attacked."""

    def __init__(self, total: int, console: Console) -> None:
        self.console = console
        self.total = total
        self.done = 0
        self._lines: dict[str, SlotLine] = {}
        self._others = ""
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def of(self, slot: str) -> Progress:
        """The line of a slot; an executor without slots has one, of no name."""
        return self._lines.setdefault(slot, SlotLine(self, slot))

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(f"  {text}", style="yellow"))

    def waiting(self, others: dict[str, int]) -> None:
        """Jobs that others are doing."""
        text = ", ".join(f"{count} by {owner}" for owner, count in sorted(others.items()))
        if text and text != self._others and not self._live:
            self.console.print(Text(f"  waiting for jobs that others are doing: {text}", style="dim"))
        self._others = text
        self.refresh()

    def finished(self, job: Job, error: str | None, where: str) -> None:
        """A job ended; its line stays."""
        self.done += 1
        line = self._lines.get(where)
        mark = ("✓", "green") if error is None else ("✗", "red")
        width = len(str(self.total))
        text = Text.assemble(mark, f" {self.done:>{width}}/{self.total} ")
        text.append(job.label)
        seconds = spoken(time.monotonic() - line.started) if line else ""
        text.append(f"  {' · '.join(part for part in (seconds, where) if part)}", style="dim")
        if error is not None:
            text.append(f"\n  {error}", style="red")
        self.console.print(text)
        if line:
            line.clear()

    def passed(self, shown: RenderableType, *, jobs: int = 1) -> None:
        """So many jobs ended that are not those of a plan; what is shown of them stays."""
        self.done += jobs
        for line in self._lines.values():
            line.clear()
        self.console.print(shown)

    def refresh(self) -> None:
        """Draw the lines anew, on a terminal."""
        if not self._live:
            return
        self._live.update(Text("\n", style="cyan").join(Text(f"  {line}") for line in self.under_way()))

    def under_way(self) -> list[str]:
        """A line for each job under way, and for those that others do."""
        busy = [line for _, line in sorted(self._lines.items()) if line.label]
        texts = [f"{self.done + index + 1}/{self.total} {line}" for index, line in enumerate(busy[:SHOWN])]
        if len(busy) > SHOWN:
            texts.append(f"… {len(busy) - SHOWN} more")
        if self._others:
            texts.append(f"waiting for jobs that others are doing: {self._others}")
        return texts

    @property
    def is_live(self) -> bool:
        """Whether lines are drawn and drawn over."""
        return self._live is not None


class SlotLine(Progress):
    """The progress of the job in one slot."""

    def __init__(self, display: Display, slot: str) -> None:
        self._display = display
        self._slot = slot
        self.clear()

    def __str__(self) -> str:
        return " · ".join(part for part in (self.label, self._text, self._slot) if part)

    def clear(self) -> None:
        """No job is here any more."""
        self.label = self._text = ""
        self.started = self._logged = time.monotonic()
        self._epochs_seen = 0
        self._display.refresh()

    def job(self, label: str) -> None:
        """A job starts."""
        self.clear()
        self.label = label
        self._display.refresh()

    def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
        """The line of an epoch: terms, accuracies, expected time."""
        self._epochs_seen += 1
        left = (time.monotonic() - self.started) / self._epochs_seen * (epochs - record["epoch"])
        terms = " ".join(f"{name} {value:.3f}" for name, value in record["terms"].items())
        members = "/".join(f"{100 * value:.1f}" for value in record["member_accuracy"])
        robust = "".join(
            f" {each['name']} {100 * each['robust_accuracy']:.1f} %" for each in record.get("monitored", ())
        )
        text = (
            f"epoch {record['epoch']}/{epochs} · {terms} · members {members} ensemble "
            f"{100 * record['ensemble_accuracy']:.1f} % ({record['accuracy_on']}){robust} · {spoken(left)} left"
        )
        self._show(text, last=record["epoch"] == epochs)

    def step(self, *, epoch: int, epochs: int, share: float) -> None:
        """Within the first epoch of a long training; later the line of the epoch says more."""
        if self._epochs_seen == 0:
            self._show(f"epoch {epoch + 1}/{epochs} · {share:.0%} of its batches")

    def images(self, done: int, total: int, *, standing: int | None = None) -> None:
        """Progress of an attack."""
        self._show(f"{done}/{total} images" + (f" · {standing} standing" if standing is not None else ""))

    def note(self, text: str) -> None:
        """A line that stays."""
        self._display.note(text)

    def _show(self, text: str, *, last: bool = False) -> None:
        self._text = text
        if self._display.is_live:
            self._display.refresh()
        elif time.monotonic() - self._logged > LOG_SECONDS and text and not last:
            self._logged = time.monotonic()
            self._display.console.print(Text(f"  {self}"))
