"""The reference results can be taken in by anybody, and give the tables that stand beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.baselines.dverge import Dverge
from bench.baselines.gal import Gal
from bench.cli.main import cli
from bench.store import queries
from bench.store.database import Database

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference" / "digits"


def bench(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_archive_is_taken_in_and_gives_the_tables_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench("db", "import", REFERENCE / "runs.zip", "--results", tmp_path)
    chosen = ("-m", "paper", "-m", "ece", "-d", "digits", "--results", tmp_path, "--format", "markdown")
    clean = bench("table", "core", *chosen).splitlines()[4]
    assert re.findall(r"\(.*?\)", clean) == ["(97.3 ± 0.4)", "(97.9 ± 0.6)"]  # GAL and DVERGE, of an older version
    for method in (Dverge, Gal):
        monkeypatch.setattr(method, "version", 1)
    assert bench("table", "core", *chosen, "--details") == (REFERENCE / "core.md").read_text()
    assert bench("table", "figure2", *chosen) == (REFERENCE / "blackbox.md").read_text()


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
    first = [row["method"] for row in expected if (row["protocol"], row["eps"]) == ("core-digits", 0.1)][:1]
    assert first == ["trs"]
