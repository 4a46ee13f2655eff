"""What changed since the last report: told once, kept until something changes, of the same bytes."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
from site_pages import LOADED, contents, make
from site_records import Writer
from sqlalchemy import delete, update

from bench.core.config import Loaded
from bench.report.site import build
from bench.store import queries
from bench.store.database import Database
from bench.store.schema import Evaluation, Run

N = 500  # images of core-digits
EVIL = "<script>alert(1)</script>"


def told(folder: Path) -> str:
    """The section of the front page as text; empty where there is none."""
    found = re.search(r'<section class="news">(.*?)</section>', (folder / "index.html").read_text(), re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[1])).split()) if found else ""


def add(db: Database, shares: dict[str, float], *, seed: int = 0, started: str = "2026-11-21T10:00:00Z") -> None:
    """A complete training of each method on core-digits at ε = 0.1 that keeps this share of the images."""
    writer = Writer(db, n=N, started=started)
    if queries.runs(db):
        writer.rows = {}
        writer.known |= {row.attack_key for row in queries.evaluations(db)}
    for method, share in shares.items():
        writer.complete(writer.run(method, seed), np.arange(N) < N * share)
    writer.flush()


def remove(db: Database, method: str) -> None:
    with db.write() as connection:
        for run in queries.runs(db, method=method):
            connection.execute(delete(Evaluation).where(Evaluation.run_id == run.run_id))
            connection.execute(delete(Run).where(Run.run_id == run.run_id))


def test_a_first_report_tells_no_change_and_a_second_of_the_same_neither(db: Database, tmp_path: Path) -> None:
    add(db, {"trs": 0.8})
    make(db, tmp_path / "site")
    before = contents(tmp_path / "site")
    assert told(tmp_path / "site") == ""
    assert not make(db, tmp_path / "site").written
    assert contents(tmp_path / "site") == before


def test_who_came_went_moved_and_leads_is_told_and_dated(db: Database, tmp_path: Path) -> None:
    add(db, {"ece": 0.5, "adp": 0.4, "gal": 0.3})
    make(db, tmp_path / "site")
    remove(db, "gal")
    add(db, {"trs": 0.8}, started="2026-11-23T10:00:00Z")
    add(db, {"adp": 0.6}, seed=1, started="2026-11-23T10:00:00Z")
    make(db, tmp_path / "site")
    assert told(tmp_path / "site").startswith(
        "What changed since the report with results up to 2026-11-21 digits, FGSM, BIM, PGD and MIM "
        "New leader: TRS (before: ECE) at ℓ∞, ε = 0.1; new: TRS; moved: ADP, ECE; gone: GAL "
        "ℓ∞, ε = 0.1 New leader: TRS (before: ECE). TRS new, at rank 1: 80.0 "
        "ADP 40.0 → 50.0, trainings 1 → 2 ECE rank 1 → 2 GAL gone; before rank 3, 30.0"
    )
    assert "results up to 2026-11-23" in (tmp_path / "site/index.html").read_text()  # of the board, on its card


def test_the_list_stays_until_something_changes_again(db: Database, tmp_path: Path) -> None:
    add(db, {"ece": 0.5})
    make(db, tmp_path / "site")
    add(db, {"trs": 0.8})
    make(db, tmp_path / "site")
    shown, before = told(tmp_path / "site"), contents(tmp_path / "site")
    assert "new: TRS" in shown
    with db.write() as connection:  # a page changes, no board does
        connection.execute(update(Run).where(Run.method == "ece").values(attempt_id="again", notes=["a note"]))
    assert make(db, tmp_path / "site").written
    assert told(tmp_path / "site") == shown
    with db.write() as connection:
        connection.execute(update(Run).where(Run.method == "ece").values(attempt_id="again", notes=[]))
    make(db, tmp_path / "site")
    make(db, tmp_path / "site")
    assert told(tmp_path / "site") == shown
    assert contents(tmp_path / "site").keys() == before.keys()
    add(db, {"adp": 0.4})
    make(db, tmp_path / "site")
    assert "new: ADP" in told(tmp_path / "site")
    assert "TRS" not in told(tmp_path / "site")


def test_a_site_that_is_served_adds_its_changes_up(db: Database, tmp_path: Path) -> None:
    add(db, {"ece": 0.5})
    make(db, tmp_path / "site")
    for method in ("adp", "gal"):
        add(db, {method: 0.4})
        build(db, tmp_path / "site", loaded=LOADED, adds_up=True)
    assert "new: ADP, GAL" in told(tmp_path / "site")
    remove(db, "adp")
    remove(db, "gal")
    build(db, tmp_path / "site", loaded=LOADED, adds_up=True)
    assert told(tmp_path / "site") == ""


def test_another_version_of_a_protocol_is_told_and_its_places_are_not_compared(db: Database, tmp_path: Path) -> None:
    add(db, {"ece": 0.5})
    make(db, tmp_path / "site")
    protocol = LOADED.config.protocols["core-digits"]
    for changes, words in (
        ({"version": 2}, "Version 2 after version 1: what counts is another, led by TRS."),
        ({"version": 2, "images": 400}, "What counts has changed within version 2, led by TRS."),
    ):
        if "images" not in changes:
            add(db, {"trs": 0.8})
        protocols = {**LOADED.config.protocols, "core-digits": protocol.model_copy(update=changes)}
        loaded = Loaded(LOADED.config.model_copy(update={"protocols": protocols}), LOADED.path, (), {}, {})
        build(db, tmp_path / "site", loaded=loaded)
        assert words in told(tmp_path / "site")
        assert "new:" not in told(tmp_path / "site").partition("rows of Table 1")[0]


def test_boards_that_came_and_went_and_who_lost_a_rank(db: Database, tmp_path: Path) -> None:
    make(db, tmp_path / "site")
    add(db, {"trs": 0.8})
    make(db, tmp_path / "site")
    assert "since the report with no results" in told(tmp_path / "site")
    assert "A new board, led by TRS at ℓ∞, ε = 0.1" in told(tmp_path / "site")
    with db.write() as connection:
        connection.execute(delete(Evaluation).where(Evaluation.attack == "fgsm"))
    make(db, tmp_path / "site")
    assert "Nobody leads any more (before: TRS)." in told(tmp_path / "site")
    assert "TRS rank 1 → not ranked" in told(tmp_path / "site")
    remove(db, "trs")
    make(db, tmp_path / "site")
    assert "The board is gone." in told(tmp_path / "site")


def test_names_that_mean_harm_are_text_and_a_damaged_file_is_a_first_report(db: Database, tmp_path: Path) -> None:
    add(db, {"ece": 0.5})
    make(db, tmp_path / "site")
    add(db, {EVIL: 0.8})
    make(db, tmp_path / "site")
    assert EVIL in told(tmp_path / "site")
    assert EVIL not in (tmp_path / "site/index.html").read_text()
    file = tmp_path / "site/changes.json"
    for content in ("nothing", json.dumps({"format": 1, "now": {}})):
        file.write_text(content)
        make(db, tmp_path / "site")
        assert told(tmp_path / "site") == ""
        add(db, {"adp": 0.4 if content == "nothing" else 0.3}, seed=len(content))
        make(db, tmp_path / "site")
        assert "ADP" in told(tmp_path / "site")
