"""Commands of `bench` in processes of their own, on nothing of the user's but configuration and data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import BenchError, JobError
from bench.core.files import read_json

BENCH = ("-m", "bench.cli.main")
# What a user may have set for every command: a measurement names its own, and must not get into a real database.
UNSET = ("BENCH_DB", "BENCH_RESULTS", "BENCH_DEVICE", "BENCH_EXECUTOR")


def python(arguments: Sequence[str], threads: int, *, imports: bool = False, results: Path | None = None) -> str:
    """Start Python; what it wrote to stderr.

    Args:
        threads: of each kernel on the CPU.
        imports: let Python tell on stderr what every import takes.
        results: the folder in which a failed job left its reason, if it is a `bench run`.

    Raises:
        BenchError: the exit code is not 0; a `JobError` where it is 1.
    """
    flags = ["-X", "importtime"] if imports else []
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= {"OMP_NUM_THREADS": str(threads), "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, *flags, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("import time:")]
        said = [line for line in lines if line.startswith("Error: ")] or _failures(results) or lines
        kind = JobError if done.returncode == 1 else BenchError
        raise kind(said[-1].removeprefix("Error: ") if said else "a job failed; the same `bench run` says why")
    return done.stderr


def _failures(results: Path | None) -> list[str]:
    """Why jobs failed, a line each; the last is told."""
    paths = sorted(results.glob("runs/*/failures/*.json")) if results else []
    errors = [str(read_json(path)["error"]).splitlines() for path in paths]
    return [f"a job failed: {lines[0] if lines else 'no reason was recorded'}" for lines in errors]
