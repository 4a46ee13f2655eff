"""The database of a results folder, opened for reading or for work: for commands and for Python alike."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import BenchError
from bench.jobs.workplace import Workplace

if TYPE_CHECKING:
    from bench.experiment.protocols import Standard
    from bench.store.database import Database


def open_database(db: str | None, results: Path, *, create: bool = False) -> Database:
    """The database of `--db` or of the results folder; for reading commands it must be there."""
    from bench.store.database import Database

    if create and db is None:
        results.mkdir(parents=True, exist_ok=True)
    from bench.experiment import naming

    base = Database(db if db is not None else results / "bench.db")
    base.derive = partial(bring_up, standards=cache(_standards))  # as a command begins, and as it ends
    with contextlib.suppress(BenchError):  # whoever needs a sound bench.toml says what is wrong with it
        base.names = naming.configured()
    return base.open(create=create)


def _standards() -> list[Standard]:
    from bench.core import config
    from bench.experiment import protocols

    return protocols.standards(config.load())


def bring_up(base: Database, standards: Callable[[], list[Standard]] = _standards) -> None:
    """Standings and scores as they follow from the rows, the installed versions and the protocols of bench.toml."""
    from bench.store import derived

    derived.refresh(base, standards())


@contextlib.contextmanager
def at_work(db: str | None, results: Path, *, warn: Callable[[str], object] = str) -> Iterator[Database]:
    """The database for work that adds to it, beside others that do; what a killed one had begun is done first.

    `warn` takes a line for each file that is left out.
    """
    from bench.experiment import naming
    from bench.jobs import journal
    from bench.jobs.presence import beside

    place = Workplace(results=results, data=Path("data"))
    with beside(place), open_database(db, results, create=True) as base:
        base.names = base.names or naming.configured()
        with_published(base)
        for fault in journal.catch_up(base, place):
            warn(f"left out: {fault}")
        yield base


@contextlib.contextmanager
def existing_or_scratch(db: str | None, results: Path) -> Iterator[Database]:
    """The database; before the first run an empty one that leaves no trace, in which everything is new."""
    from bench.experiment import naming

    if db is None and not (results / "bench.db").exists():
        with tempfile.TemporaryDirectory() as folder, open_database(None, Path(folder), create=True) as base:
            base.names = base.names or naming.configured()
            yield base
    else:
        with open_database(db, results) as base:
            base.names = base.names or naming.configured()
            yield base


def with_published(base: Database) -> None:
    """A new database gets the published values, whatever command makes it."""
    from bench.core.config import defaults
    from bench.store import queries
    from bench.store.published import load_published

    if queries.totals(base).references == 0:
        load_published(base, defaults("published"))


@contextlib.contextmanager
def reading(db: str | None, results: Path) -> Iterator[Database]:
    """The database as it is now, for what only shows it: what is written meanwhile is not seen."""
    with open_database(db, results) as base, base.snapshot():
        yield base


@contextlib.contextmanager
def printed_or_read(db: str | None, results: Path) -> Iterator[Database]:
    """As `reading`; before the first run an empty database that leaves no trace and has the published values alone."""
    with existing_or_scratch(db, results) as base:
        with_published(base)
        with base.snapshot():
            yield base
