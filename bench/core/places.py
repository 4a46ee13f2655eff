"""Where results, data and the database are unless somebody says it: for commands and for Python alike."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

RESULTS, DATA, DB = "BENCH_RESULTS", "BENCH_DATA", "BENCH_DB"  # environment variables


def results_folder(given: Path | str | None = None) -> Path:
    """The folder given; else that of BENCH_RESULTS; else `results`."""
    return Path(given or os.environ.get(RESULTS) or "results")


_DATA: ContextVar[Path | str | None] = ContextVar("the folder of data sets", default=None)


@contextlib.contextmanager
def data_in(folder: Path | str | None) -> Iterator[None]:
    """Inside this block the folder of data sets is this one unless another is given; None leaves it."""
    token = _DATA.set(folder or _DATA.get())
    try:
        yield
    finally:
        _DATA.reset(token)


def data_folder(given: Path | str | None = None) -> Path:
    """The folder given; else that of `data_in`; else that of BENCH_DATA; else `data`."""
    return Path(given or _DATA.get() or os.environ.get(DATA) or "data").expanduser()


def database(given: Path | str | None = None, results: Path | str | None = None) -> Path | str:
    """The file or URL given; else that of BENCH_DB; else `bench.db` in the folder of results."""
    return given or os.environ.get(DB) or results_folder(results) / "bench.db"
