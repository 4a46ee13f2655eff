"""Work done once more as a record says that it was done: device, threads, deterministic or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from bench.core.numerics import numerics
from bench.jobs.workplace import Workplace


@contextlib.contextmanager
def as_recorded(
    environment: Mapping[str, Any], place: Workplace, *, device: str | None = None, threads: int | None = None
) -> Iterator[Workplace]:
    """Within it work is done as in a recorded environment, as far as this machine can; yields the place for it.

    Args:
        device: another than the recorded one; so `threads`.
    """
    before, recorded = torch.get_num_threads(), environment.get("threads")
    if threads is None and isinstance(recorded, int) and 0 < recorded <= (os.cpu_count() or 1):
        threads = recorded
    if device is None:
        device = str(environment.get("device") or "cpu")
        device = device if device == "cpu" or torch.cuda.is_available() else "cpu"
    try:
        torch.set_num_threads(threads or before)
        with numerics(deterministic=bool(environment.get("deterministic"))):
            yield replace(place, device=device)
    finally:
        torch.set_num_threads(before)
