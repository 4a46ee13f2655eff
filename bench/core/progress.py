"""How long work tells what it is doing; the command line shows it, tests and workers may not."""

from __future__ import annotations

from typing import Any


class Progress:
    """Receives what happens; this one shows nothing. All methods are called from the thread that does the work."""

    def job(self, label: str) -> None:
        """A job starts."""

    def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
        """An epoch of a training phase is over; `record` is a line of `train.jsonl`."""

    def step(self, *, epoch: int, epochs: int, share: float) -> None:
        """Within an epoch: `share` of its batches are done, in [0, 1]."""

    def images(self, done: int, total: int, *, standing: int | None = None, share: float | None = None) -> None:
        """An evaluation has finished `done` of `total` images, of which `standing` are still classified correctly.

        `share`, in [0, 1], is how much of all its work is done, steps on the batch at hand and other runs included.
        """

    def note(self, text: str) -> None:
        """One line that people should see."""


class PartProgress(Progress):
    """The progress of a piece of an evaluation: from `begin` on, `length` of the whole, both in [0, 1]."""

    def __init__(self, whole: Progress, begin: float, length: float) -> None:
        self._whole = whole
        self._begin = begin
        self._length = length

    def images(self, done: int, total: int, *, standing: int | None = None, share: float | None = None) -> None:
        """Images of this piece."""
        own = done / max(1, total) if share is None else share
        self._whole.images(done, total, standing=standing, share=self._begin + own * self._length)

    def note(self, text: str) -> None:
        """One line that people should see."""
        self._whole.note(text)
