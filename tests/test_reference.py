"""The reference results can be taken in by anybody, and give the tables that stand beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from in_process import bench

from bench.store import queries
from bench.store.database import Database

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference" / "digits"
FIRST = Path(__file__).resolve().parent / "releases" / "first.zip"


def test_the_archives_are_taken_in_and_give_the_tables_beside_them(tmp_path: Path) -> None:
    bench("db", "import", REFERENCE / "runs.zip", "--results", tmp_path)
    bench("db", "import", REFERENCE / "weights.zip", "--results", tmp_path)
    assert len([*tmp_path.glob("runs/*/members.safetensors")]) == 10  # a column's first seed
    chosen = ("-m", "paper", "-m", "ece", "-d", "digits", "--seeds", "0-2", "--results", tmp_path)
    markdown = (*chosen, "--format", "markdown")
    assert bench("table", "table1", *markdown, "--details") == (REFERENCE / "table1.md").read_text()
    assert bench("table", "figure2", *markdown) == (REFERENCE / "blackbox.md").read_text()


def test_the_archive_before_it_still_comes_in_and_what_it_lacks_stands_hollow(tmp_path: Path) -> None:
    bench("db", "import", FIRST, "--results", tmp_path)
    clean = bench(
        "table", "core", "-m", "paper", "-d", "digits", "--results", tmp_path, "--format", "markdown"
    ).splitlines()[4]
    assert re.findall(r"\(.*?\)", clean) == ["(97.3 ± 0.4)", "(97.9 ± 0.6)"]  # GAL and DVERGE, of an older version
    boards = leaders(tmp_path)
    first = {row["method"]: row for row in boards if (row["protocol"], row["eps"]) == ("table1-digits", 0.1)}
    assert len(first) == 10
    assert all(row["provisional"] for row in first.values())  # APGD is of an older version, or of one seed
    assert first["trs"]["rank"] is None
    assert max(first.values(), key=lambda row: row["robust_percent"])["method"] == "trs"


def leaders(results: Path) -> list[dict[str, Any]]:
    """The leaderboards as SQL has them, a row an entry."""
    with Database(results / "bench.db").open() as db, db.read() as connection:
        query = "SELECT * FROM leaderboard ORDER BY protocol, eps, recipes, robust_percent DESC, family_id"
        return [dict(row) for row in connection.exec_driver_sql(query).mappings()]


def test_in_whatever_order_it_comes_the_leaderboards_are_the_same(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    bench("db", "import", REFERENCE / "runs.zip", "--results", whole)
    expected = leaders(whole)
    assert expected
    with Database(whole / "bench.db").open() as db:
        methods = sorted({run.method for run in queries.runs(db)})
        stored = queries.totals(db)
    for number, method in enumerate(reversed(methods)):  # those that need others bring them along
        bench("db", "export", "-o", tmp_path / f"{number}.zip", "-m", method, "--results", whole)
        bench("db", "import", tmp_path / f"{number}.zip", "--results", parts)
    with Database(parts / "bench.db").open() as db:
        assert queries.totals(db) == stored
        assert {run.provenance for run in queries.runs(db)} == {"imported"}
    assert leaders(parts) == expected
    bench("db", "rebuild", "--results", parts)
    assert leaders(parts) == expected
    for protocol in ("core-digits", "table1-digits"):
        for eps in (0.1, 0.15):
            board = [row for row in expected if (row["protocol"], row["eps"]) == (protocol, eps)]
            assert (board[0]["method"], board[0]["rank"]) == ("trs", 1)
            assert len(board) == 10
            assert not any(row["provisional"] for row in board)
