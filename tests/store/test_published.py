"""Published values: those of our setting stand beside ours, others below, each with what it was measured as."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from in_process import bench, refused

from bench.core import config
from bench.experiment.select import Selection
from bench.report import tables
from bench.report.results import Results, collect
from bench.store import published, queries
from bench.store.database import Database

FOLDER = config.defaults("published")


@pytest.fixture
def filled(tmp_path: Path) -> Results:
    """The table of TRS and FASTEN on CIFAR-10, before anything was run."""
    with Database(tmp_path / "bench.db").open(create=True) as db:
        published.load_published(db, FOLDER)
        selection = Selection(methods=("trs", "fasten"), dataset="cifar10", suite="table1-cifar10")
        return collect(config.load(config.defaults("bench.toml")), selection, db, every=True)


def test_one_cell_of_several_sources_tells_them_apart(filled: Results) -> None:
    """Under PGD at .01 the TRS paper prints 50.5 for TRS, an independent table 40.2, a user of its code 20.8."""
    (row,) = [row for row in filled.rows if (row.attack, row.budget) == ("pgd", 0.01)]
    assert filled.published[row.key, "trs"] == 50.5
    text = tables.markdown_table(filled, paper=True)
    (ours,) = [line for line in text.splitlines() if line.startswith("| PGD (50) | ε = 0.01 ")]
    assert "50.5" in ours
    assert "40.2" not in ours
    (other,) = [line for line in text.splitlines() if "TRS, " in line and "Table III: 3 ×" in line]
    assert "PGD (50), ε = 0.01: 40.2" in other
    assert "5 starts" in other
    (user,) = [line for line in text.splitlines() if "issue 1" in line]
    assert "PGD (50), ε = 0.01: 20.8" in user
    assert any("FASTEN, " in line and "ε = 0.01: 61.5" in line for line in text.splitlines())
    assert "40.2" not in tables.markdown_table(filled, paper=False)


def test_every_value_of_another_setting_is_of_a_method_and_an_attack_that_are_here(tmp_path: Path) -> None:
    loaded = config.load(config.defaults("bench.toml"))
    with Database(tmp_path / "bench.db").open(create=True) as db:
        published.load_published(db, FOLDER)
        others = [row for row in queries.references(db) if not published.is_comparable(row.source)]
    assert len(others) == 576
    for row in others:
        assert row.method in loaded.config.methods
        assert row.attack in loaded.config.attacks
        assert row.dataset in loaded.config.datasets
        assert 0 <= row.value <= 100


def test_the_means_that_the_table_prints_are_those_of_its_columns() -> None:
    """Table III of FASTEN prints the mean of its four attacks for each method and ε: a misread digit would show."""
    three = {
        "ece": (3.6, 0.1, 0.0), "adp": (16.1, 2.8, 0.8), "gal": (9.1, 0.6, 0.5), "dverge": (41.4, 14.5, 4.9),
        "trs": (42.6, 19.7, 8.5), "fasten": (62.8, 30.6, 12.4),
    }  # fmt: skip
    five = {
        "ece": (5.7, 0.2, 0.0), "adp": (16.2, 3.7, 1.4), "gal": (33.5, 9.3, 2.3), "dverge": (52.8, 25.2, 10.0),
        "trs": (45.6, 24.3, 13.4), "fasten": (66.9, 38.3, 18.8),
    }  # fmt: skip
    eight = {
        "ece": (7.3, 0.2, 0.0), "adp": (16.0, 7.5, 4.2), "gal": (44.1, 16.3, 5.1), "dverge": (60.3, 31.7, 14.4),
        "trs": (43.4, 13.0, 2.6), "fasten": (69.6, 42.3, 21.6),
    }  # fmt: skip
    with (FOLDER / "other_settings.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if "Table III" in row["source"]]
    for members, printed in ((3, three), (5, five), (8, eight)):
        of_size = [row for row in rows if f"Table III: {members} ×" in row["source"]]
        for method, means in printed.items():
            for eps, mean in zip(("0.01", "0.02", "0.03"), means, strict=True):
                values = [float(row["value"]) for row in of_size if (row["method"], row["budget"]) == (method, eps)]
                assert len(values) == 4
                assert sum(values) / 4 == pytest.approx(mean, abs=0.051)


def test_the_published_table_is_printed_before_anything_was_run(tmp_path: Path) -> None:
    text = bench("table", "table1-mnist", "--paper", "--format", "markdown", "--results", tmp_path / "none")
    (line,) = [line for line in text.splitlines() if line.startswith("| PGD (50) | ε = 0.1 |")]
    assert "93.0" in line
    assert not (tmp_path / "none").exists()
    assert "nothing has been run on digits yet" in refused("table", "core", "--paper", "--results", tmp_path / "none")
