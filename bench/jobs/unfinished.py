"""A long attack survives an interruption: a file has what is known so far, and the next attempt goes on from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.attacks.unfinished import Contents, Unfinished
from bench.core.tensors import DamagedError
from bench.training import checkpoint

EVERY = 60.0  # seconds between two writings, or more
SHARE = 0.02  # of the time, at most, is spent on writing


class InFile(Unfinished):
    """Keeps an attack under way in a file.

    Args:
        path: the file.
        belongs: JSON-like, all that the outcome depends on; what was kept of anything else is not taken up.
    """

    def __init__(self, path: Path, belongs: dict[str, Any]) -> None:
        self._path = path
        self._belongs = belongs
        self._next = time.perf_counter() + EVERY

    def load(self) -> Contents | None:
        """What was kept, where it is whole and belongs to this attack."""
        if not self._path.exists():
            return None
        try:
            found = checkpoint.read(self._path)
        except DamagedError:
            return None
        if not found.sealed or found.metadata.get("belongs") != self._belongs:
            return None
        return found.tensors, found.metadata["contents"]

    def save(self, contents: Callable[[], Contents]) -> None:
        """Write the file, where the last time is long enough ago."""
        started = time.perf_counter()
        if started < self._next:
            return
        tensors, told = contents()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(self._path, tensors, {"belongs": self._belongs, "contents": told})
        ended = time.perf_counter()
        self._next = ended + max(EVERY, (ended - started) / SHARE)

    def forget(self) -> None:
        """The attack is over: its record has all."""
        self._path.unlink(missing_ok=True)
