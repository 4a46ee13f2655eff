"""Where results, data and the database are unless somebody says it: for commands and for Python alike."""

from __future__ import annotations

import os
from pathlib import Path

RESULTS, DATA, DB = "BENCH_RESULTS", "BENCH_DATA", "BENCH_DB"  # environment variables


def results_folder(given: Path | str | None = None) -> Path:
    """The folder given; else that of BENCH_RESULTS; else `results`."""
    return Path(given or os.environ.get(RESULTS) or "results")


def data_folder(given: Path | str | None = None) -> Path:
    """The folder given; else that of BENCH_DATA; else `data`."""
    return Path(given or os.environ.get(DATA) or "data").expanduser()


def database(given: Path | str | None = None, results: Path | str | None = None) -> Path | str:
    """The file or URL given; else that of BENCH_DB; else `bench.db` in the folder of results."""
    return given or os.environ.get(DB) or results_folder(results) / "bench.db"
