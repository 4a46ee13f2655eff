"""Results that the tests of frames and figures share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from site_records import new_database
from small_results import QUICK, bench, make

from bench.store.database import Database


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """An empty database, to be filled by hand."""
    with new_database(tmp_path / "bench.db") as database:
        yield database


@pytest.fixture(scope="session")
def small_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results: two methods × two seeds, trained for a moment."""
    folder = tmp_path_factory.mktemp("small")
    make(folder)
    return folder


@pytest.fixture(scope="session")
def on_small(small_results: Path) -> Callable[..., str]:
    """Runs a command on that folder with its selectors; returns what it prints."""

    def run(*arguments: object) -> str:
        return bench(*arguments, *QUICK, "--results", small_results)

    return run
