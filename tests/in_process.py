"""`bench` run within the process of a test, as people run it: words in, exit code and what is printed out."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest

from bench.cli import main
from bench.core.release import extra

# What makes a run short: one that only has to be there, and one whose numbers say something.
TINY = ("--set", "training.epochs=1", "--set", "training.limit=64", "--limit", "20")
QUICK = ("--set", "training.epochs=2", "--set", "training.limit=200", "--limit", "40")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything printed, stdout first."""
        return self.out + self.err


def needs(executor: str) -> None:
    """Skip where the package that an executor is made of is not installed."""
    package = {"ray": "ray", "slurm": "submitit"}.get(executor)
    if package:
        pytest.importorskip(package, reason=f"{package} is not installed: {extra(executor)}")


def command(*arguments: object, typed: str = "") -> Done:
    """Run `bench` with `typed` on its stdin."""
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(typed)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main.run([str(argument) for argument in arguments])
    finally:
        sys.stdin = before
    return Done(code, out.getvalue(), err.getvalue())


def told(*arguments: object) -> tuple[int, str]:
    """Run `bench`; exit code and everything printed, stdout first."""
    done = command(*arguments)
    return done.code, done.text


def bench(*arguments: object) -> str:
    """Run `bench`, which must end well; its stdout."""
    done = command(*arguments)
    assert done.code == 0, done.text
    return done.out


def refused(*arguments: object) -> str:
    """Run `bench`, which must refuse its arguments; the line that says why."""
    done = command(*arguments)
    assert done.code == 2, done.text
    *usage, line = done.err.splitlines()
    assert not usage or (len(usage) == 3 and usage[0].startswith("Usage:")), done.err
    assert len(line) < 500
    return line
