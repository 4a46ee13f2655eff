"""Every kind of page under axe-core: over hostile content, on screen and paper, light and dark, narrow and wide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from site_pages import CORE, LOADED, written
from site_records import Writer, new_database

from bench.core import config
from bench.core.identity import safe_name
from bench.experiment import select
from bench.experiment.select import Selection
from bench.store.published import load_published

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-core: pip install axe-playwright-python"
)

N = 500  # images of core-digits
LONG = "a-method-whose-name-never-ends-" * 6
EVIL = "<script>document.title='hacked'</script>"
RULES = {
    "resultTypes": ["violations"],
    "preload": False,  # of style sheets, which files may not fetch
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
MEDIA = {
    "light": {"media": "screen", "color_scheme": "light"}, "dark": {"media": "screen", "color_scheme": "dark"},
    "print": {"media": "print", "color_scheme": "dark"},
}  # fmt: skip
WIDTHS = (390, 768, 1440, 1920)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long and harmful names, flags, failures, rows without a rank, stale ones, claims, changes, statements."""
    root = tmp_path_factory.mktemp("hostile")
    random = np.random.default_rng(0)
    with new_database(root / "bench.db") as db:
        load_published(db, config.defaults("published"))
        writer = Writer(db, n=N)
        for method, stands in (("trs", 400), ("cos_only", 250), ("ece", 390)):
            spec = select.run_spec(LOADED, Selection(), method, 0)
            run_id = writer.run(
                method, 0, run_id=spec.run_id, family_id=spec.family_id, plugin=spec.plugin, settings=spec.settings
            )  # fmt: skip
            doubtful = {"zero_gradients": 250, "attacked": 450} if method == "ece" else {}
            for budget in (0.1, 0.15):
                writer.complete(run_id, np.arange(N) < stands - 600 * budget, budget=budget, measurements=doubtful)
            writer.matrix(run_id, random.random((4, N)) < 0.95, random.random((3, 4, N)) < 0.3)
        written(writer, root / "site")
        writer.rows = {}
        for method in (LONG, EVIL):
            told = {"title": LONG, "authors": [LONG] * 3, "venue": LONG, "year": 2026, "url": "https://example.org/a",
                    "code": "https://example.org/b", "adversarial": True}  # fmt: skip
            run_id = writer.run(method, 0, plugin="outside", recipe="outside", model=LONG, facts=told, notes=[LONG])
            writer.complete(run_id, np.arange(N) < 350, attacks=("fgsm", "pgd") if method == EVIL else ("fgsm", "bim"))
            writer.evaluation(run_id, np.arange(N) < 20, attack="apgd_ce", measurements={"largest_excess": 0.5})
            writer.evaluation(run_id, np.arange(N) < 100, attack="bim", kind="blackbox")
            writer.matrix(run_id, random.random((4, N)) < 0.95, random.random((3, 4, N)) < 0.3)
            writer.failure(run_id, f"{LONG} {EVIL}")
        writer.complete(writer.run("adp", 0, versions={"methods/trs": 0}), np.arange(N) < 300)
        writer.failure("never-trained", LONG, kind="train", method=LONG, dataset="digits", seed=7)
        written(writer, root / "site")
    return root / "site"


def pages(site: Path) -> dict[str, str]:
    """The address of one page of each kind; of methods and runs the one with the longest name."""
    (run,) = (path.name for path in (site / "runs").glob("[!f]*.html") if f">{LONG}</a> <span" in path.read_text())
    return {
        "front": "index.html", "board": f"boards/{CORE}.html", "method": f"methods/{safe_name(LONG)}.html",
        "run": f"runs/{run}", "add yours": "add.html", "papers": "papers.html",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["front", "board", "method", "run", "add yours", "papers"])
def test_axe_finds_nothing_and_nothing_sticks_out(site: Path, watched: Callable[..., Any], kind: str) -> None:
    page = watched(f"file://{site}/", pages(site)[kind], reduced_motion="reduce")
    page.evaluate(axe.Axe().axe_script)
    page.evaluate("document.querySelectorAll('main details').forEach(each => { each.open = true; })")
    for name, media in MEDIA.items():
        page.emulate_media(**media)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            answer = page.evaluate("options => axe.run(options)", RULES)
            found = [
                (each["id"], node["target"], node["failureSummary"])
                for each in answer["violations"]
                for node in each["nodes"]
            ]
            assert found == [], (name, width)
            if name != "print":
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)


def test_axe_would_tell_a_fault(site: Path, watched: Callable[..., Any]) -> None:
    page = watched(f"file://{site}/", "add.html")
    page.evaluate(axe.Axe().axe_script)
    faults = "<p style=color:#ccc>hard to read</p><input>"
    page.evaluate("text => document.querySelector('main').insertAdjacentHTML('beforeend', text)", faults)
    found = {each["id"] for each in page.evaluate("options => axe.run(options)", RULES)["violations"]}
    assert found == {"color-contrast", "label"}


def test_the_pages_hold_what_they_are_tested_with(site: Path) -> None:
    front, board = ((site / pages(site)[kind]).read_text() for kind in ("front", "board"))
    for section in ('class="news"', 'class="papers"', 'class="minis"', "holds</a>"):
        assert section in front
    for mark in ("†", 'class="hollow"', 'class="stale hollow"', LONG[:40], "&lt;script&gt;", "Black box"):
        assert mark in board, mark
    method, run = ((site / pages(site)[kind]).read_text() for kind in ("method", "run"))
    assert all(mark in method for mark in ("as said by whoever", "https://example.org/a", "How it transfers", "@inpro"))
    assert all(mark in run for mark in ('id="flags"', 'id="failures"', 'class="heat', "enters no mean", "Black box"))
