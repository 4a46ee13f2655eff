"""What can go wrong through no fault of the program: one class, one line, one exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 200
"""Characters of a name that a message repeats."""


class BenchError(Exception):
    """A mistake or a missing part that the user can mend.

    The message is one line that says what is wrong and what would be right; the command line prints it in red and
    exits with `exit_code` (2 wrong use or missing data, 1 a job or a check failed).
    """

    exit_code = 2


class JobError(BenchError):
    """A job failed for a reason that belongs to the job (a loss that became NaN, a damaged checkpoint)."""

    exit_code = 1


def cause(error: BaseException) -> str:
    """What a stranger's code raised, in one line: `ValueError: the first line of what it says`."""
    told = str(error).partition("\n")[0] or "(no message)"
    if "allow_pickle" in told:  # NumPy's advice is to run what the file holds
        told = "it holds no plain numbers; pickled Python objects are never loaded"
    return f"{type(error).__name__}: {told}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> BenchError:
    """An error for `name`, which is no `kind`, with the nearest known names (or all, when few)."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:LONGEST], names, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif names:
        hint = f"there are: {', '.join(names[:20])}{' …' if len(names) > 20 else ''}"
    else:
        hint = "there is none"
    told = repr(name) if len(name) <= LONGEST else f"{name[:LONGEST]!r}… ({len(name):,} characters)"
    return BenchError(f"unknown {kind} {told}; {hint}")
