"""Who is at work in a results folder: many beside each other, or one alone, who changes the database as a whole.

Both are locks: who comes writes its own first and looks for the other's then, so that never both go on.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

from bench.core.errors import BenchError
from bench.jobs.locks import Locks, Owner
from bench.jobs.workplace import Workplace

ALONE = "database"


@contextlib.contextmanager
def beside(place: Workplace) -> Iterator[tuple[Locks, str]]:
    """Work that others may do at the same time, but nobody who must be alone; yields the locks, and the name of ours.

    Raises:
        BenchError: such a one is at it; the folder cannot be written.
    """
    with Locks(place.locks) as locks:
        mine = f"work-{uuid.uuid4().hex[:12]}"
        locks.acquire(mine)
        owner = locks.owner(ALONE)
        if owner is not None:
            raise BenchError(
                f"{owner} rebuilds or tidies {place.results}; nothing was done; repeat when that has ended"
            )
        yield locks, mine


@contextlib.contextmanager
def alone(place: Workplace, undone: str) -> Iterator[Locks]:
    """Work during which nobody else does any.

    Args:
        undone: what did not happen otherwise, such as "nothing was removed".

    Raises:
        BenchError: a living process is at work here; the folder cannot be written.
    """
    with Locks(place.locks) as locks:
        if os.access(place.results, os.W_OK):  # in a folder that cannot be written nobody is at work
            held = locks.acquire(ALONE)
            if isinstance(held, Owner):
                raise _busy(held, place, undone)
        check_idle(place, undone)
        yield locks


def check_idle(place: Workplace, undone: str) -> None:
    """Nobody else is at work here.

    Raises:
        BenchError: a living process is.
    """
    with Locks(place.locks) as locks:
        for path in sorted(place.locks.glob("*.lock")):
            owner = locks.owner(path.stem)
            if owner is not None and not (path.stem == ALONE and owner.pid == os.getpid()):
                raise _busy(owner, place, undone)


def _busy(owner: Owner, place: Workplace, undone: str) -> BenchError:
    return BenchError(f"{owner} is at work in {place.results}; {undone}; repeat when it has ended")
