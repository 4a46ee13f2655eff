"""What a person sees while jobs run: on a terminal live lines and a bar, in a log file plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bench.core.progress import Progress
from bench.core.seeds import SURROGATE_SEEDS
from bench.experiment.spec import Job
from bench.jobs.estimate import spoken

if TYPE_CHECKING:
    from bench.jobs.estimate import Outlook

LOG_SECONDS = 30.0  # between two lines about the same job where there is no terminal
SHOWN = 16  # lines of jobs on a terminal, lest they fill it
BAR = 40  # letters of the bar over all jobs, where there is room for them


class Display:
    """Shows each job under way, with its epochs or images attacked, and a bar over all of them with the time left.

    Args:
        total: how many jobs there are.
        jobs: these, where they are known: what all of them share (data set, seed) is not told again in each line.

    Attributes:
        outlook: knows the time left; None where nobody does.
    """

    def __init__(self, total: int, console: Console, jobs: Iterable[Job] = ()) -> None:
        self.console = console
        self.total = total
        self.done = 0
        self.outlook: Outlook | None = None
        self._names = _short_names(jobs)
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

    def name(self, label: str) -> str:
        """What a job is called here, without what all jobs share."""
        return self._names.get(label, label)

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

    def finished(self, job: Job, error: str | None, where: str, result: str = "") -> None:
        """A job ended; its line stays."""
        self.done += 1
        line = self._lines.get(where)
        seconds = time.monotonic() - line.started if line else None
        if self.outlook:
            self.outlook.ended(job, seconds)
        if error is None and job.evaluation is None and line:
            result = line.accuracy
        mark = ("✓", "green") if error is None else ("✗", "red")
        width = len(str(self.total))
        text = Text.assemble(mark, f" {self.done:>{width}}/{self.total} {self.name(job.label)}")
        text.append(f" · {result}" if result else "", style="bold")
        took = "" if seconds is None else spoken(seconds)
        text.append("".join(f" · {part}" for part in (took, where) if part), style="dim")
        if error is not None:
            text.append(f"\n  {error}", style="red")
        self.console.print(text, soft_wrap=True)
        if line:
            line.clear()

    def passed(self, shown: RenderableType, *, jobs: int = 1) -> None:
        """So many jobs ended that are not those of a plan; what is shown of them stays."""
        self.done += jobs
        for line in self._lines.values():
            line.clear()
        self.console.print(shown)

    def refresh(self) -> None:
        """Draw the lines anew, on a terminal: one cut where it is too long, the bar below them."""
        if not self._live:
            return
        lines = [Text(f"  {line}", style="cyan", no_wrap=True, overflow="ellipsis") for line in self.under_way()]
        if self.total > 1:
            lines.append(self._bar())
        self._live.update(Group(*lines))

    def under_way(self) -> list[str]:
        """A line for each job under way, and for those that others do."""
        busy = self._busy()
        texts = [str(line) for line in busy[:SHOWN]]
        if len(busy) > SHOWN:
            texts.append(f"… {len(busy) - SHOWN} more")
        if self._others:
            texts.append(f"waiting for jobs that others are doing: {self._others}")
        return texts

    def overall(self) -> str:
        """`7 of 22 jobs · about 2 min left`."""
        return f"{self.done} of {self.total} jobs{self._left()}"

    @property
    def share(self) -> float:
        """How much of all is done, in [0, 1]: jobs, and the parts of those under way."""
        return min(1.0, (self.done + sum(line.share for line in self._busy())) / max(1, self.total))

    @property
    def is_live(self) -> bool:
        """Whether lines are drawn and drawn over."""
        return self._live is not None

    def _busy(self) -> list[SlotLine]:
        return [line for _, line in sorted(self._lines.items()) if line.label]

    def _left(self) -> str:
        if not self.outlook or self.done == self.total:
            return ""
        now = time.monotonic()
        seconds = self.outlook.left({line.label: (line.share, now - line.started) for line in self._busy()})
        return f" · about {spoken(max(1.0, round(seconds)))} left" if seconds else ""

    def _bar(self) -> Text:
        told = self.overall()
        width = max(8, min(BAR, self.console.width - len(told) - 4))
        full = round(self.share * width)
        return Text.assemble("  ", ("━" * full, "green"), ("─" * (width - full), "dim"), f" {told}", no_wrap=True)


def _short_names(jobs: Iterable[Job]) -> dict[str, str]:
    """Labels of jobs without the data set and the seed that all of them share, by the whole label."""
    known = list(jobs)
    own = [job for job in known if job.run.seed < SURROGATE_SEEDS]
    datasets, seeds = ({getattr(job.run, name) for job in own} for name in ("dataset", "seed"))
    names = {}
    for job in known:
        run = job.run.label
        if len(datasets) == 1:
            run = run.replace(f" on {job.run.dataset}", "", 1)
        if len(seeds) == 1:
            run = run.removesuffix(f", seed {job.run.seed}")
        names[job.label] = f"{run}: {job.label.removeprefix(f'{job.run.label}: ')}"
    return names


class SlotLine(Progress):
    """The progress of the job in one slot."""

    def __init__(self, display: Display, slot: str) -> None:
        self._display = display
        self._slot = slot
        self.clear()

    def __str__(self) -> str:
        return " · ".join(part for part in (self._display.name(self.label), self._text, self._slot) if part)

    def clear(self) -> None:
        """No job is here any more."""
        self.label = self._text = self.accuracy = ""
        self.share = 0.0
        self.started = self._logged = time.monotonic()
        self._epochs_seen = 0
        self._display.refresh()

    def job(self, label: str) -> None:
        """A job starts."""
        self.clear()
        self.label = label
        self._display.refresh()

    def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
        """The line of an epoch: expected time, accuracies, terms."""
        self._epochs_seen += 1
        left = (time.monotonic() - self.started) / self._epochs_seen * (epochs - record["epoch"])
        self.share = record["epoch"] / epochs
        self.accuracy = f"{100 * record['ensemble_accuracy']:.1f} % on the {record['accuracy_on']}"
        terms = " ".join(f"{name} {value:.3f}" for name, value in record["terms"].items())
        members = "/".join(f"{100 * value:.1f}" for value in record["member_accuracy"])
        robust = "".join(
            f" · {each['name']} {100 * each['robust_accuracy']:.1f} %" for each in record.get("monitored", ())
        )
        text = (
            f"epoch {record['epoch']}/{epochs} · {spoken(left)} left · {self.accuracy}{robust} · members {members} · "
            f"{terms}"
        )
        self._show(text, last=record["epoch"] == epochs)

    def step(self, *, epoch: int, epochs: int, share: float) -> None:
        """Within an epoch; after the first one its line says more than this would."""
        self.share = (epoch + share) / epochs
        if self._epochs_seen == 0:
            self._show(f"epoch {epoch + 1}/{epochs} · {100 * share:.0f} % of its batches")
        else:
            self._display.refresh()

    def images(self, done: int, total: int, *, standing: int | None = None, share: float | None = None) -> None:
        """Progress of an attack."""
        self.share = done / max(1, total) if share is None else share
        told = f"{done}/{total} images" + (f" · {standing} standing" if standing is not None else "")
        self._show(told if share is None else f"{100 * share:.0f} % · {told}")

    def note(self, text: str) -> None:
        """A line that stays."""
        self._display.note(text)

    def _show(self, text: str, *, last: bool = False) -> None:
        self._text = text
        if self._display.is_live:
            self._display.refresh()
        elif time.monotonic() - self._logged > LOG_SECONDS and text and not last:
            self._logged = time.monotonic()
            self._display.console.print(Text(f"  {self}"), soft_wrap=True)
            if self._display.total > 1:
                self._display.console.print(Text(f"  {self._display.overall()}"), soft_wrap=True)
