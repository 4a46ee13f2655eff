"""`bench` run within the process of a test, as people run it: words in, exit code and what is printed out."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

from bench.cli import main


def command(*arguments: object, typed: str = "") -> tuple[int, str, str]:
    """Run `bench` with `typed` on its stdin; exit code, stdout, stderr."""
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(typed)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main.run([str(argument) for argument in arguments])
    finally:
        sys.stdin = before
    return code, out.getvalue(), err.getvalue()


def told(*arguments: object) -> tuple[int, str]:
    """Run `bench`; exit code and everything printed, stdout first."""
    code, out, err = command(*arguments)
    return code, out + err
