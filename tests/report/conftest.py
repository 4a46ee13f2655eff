"""Results that the tests of frames and figures share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import bench
from site_records import new_database
from small_results import QUICK, make

from bench.store.database import Database

NEEDED = (
    "needs a browser: pip install playwright, and Chromium (apt-get install chromium, or playwright install chromium)"
)


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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium: the system's, else playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api", reason=NEEDED)
    with playwright.sync_playwright() as play:
        own = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        try:
            found = play.chromium.launch(executable_path=own, args=["--no-sandbox"])
        except playwright.Error:
            pytest.skip(NEEDED)
        yield found
        found.close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; at the end nothing may have been complained of, and nothing fetched from elsewhere than `base`."""
    contexts, faults = [], []

    def opened(base: str, address: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        allowed = ("data:", base)
        page.on("request", lambda request: None if request.url.startswith(allowed) else faults.append(request.url))
        page.goto(base + address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
