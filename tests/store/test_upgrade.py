"""A database of an older schema, upgraded, is the one that a rebuild from the same files makes today."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from alembic import command
from alembic.config import Config
from exchanged import brought_up
from in_process import bench
from sqlalchemy import JSON, MetaData, create_engine, insert, null, text

from bench.core.errors import BenchError
from bench.core.identity import content_id
from bench.experiment.folder import IMPORTED
from bench.store import queries
from bench.store.database import MIGRATIONS, Database
from bench.store.ingest import rebuild

CLEAN = [True] * 8 + [False] * 2
ROBUST = [True] * 5 + [False] * 5
NEW = {
    "run": {"provenance", "versions", "facts"},
    "evaluation": {"provenance", "split"},
    "attack": {"targets", "precision"},
    "curve": {"monitored", "kept"},
}


def as_it_was(today: Path, url: str) -> None:
    """The rows of a database of today as revision 0001 held them, in an empty database."""
    told = Config()
    told.set_main_option("script_location", MIGRATIONS)
    told.set_main_option("path_separator", "os")
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as target, closing(sqlite3.connect(today)) as source:
        told.attributes["connection"] = target
        with mock.patch("bench.store.views.make"):  # those of today read other columns
            command.upgrade(told, "0001")
        target.execute(text("INSERT INTO meta VALUES ('file_format', '1')"))
        source.row_factory = sqlite3.Row
        tables = MetaData()
        tables.reflect(target)
        for table in tables.sorted_tables:
            if table.name in ("alembic_version", "meta"):
                continue
            for row in map(dict, source.execute(f'SELECT * FROM "{table.name}"')):
                old = {name: value for name, value in row.items() if name not in NEW.get(table.name, ())}
                if table.name == "attack":
                    old = _attack(row)
                if table.name == "blackbox":
                    old["loss"] = old.pop("attack")
                as_json = {column.name for column in table.c if isinstance(column.type, JSON)}
                old |= {name: json.loads(old[name]) for name in as_json if old[name] is not None}
                nothing = {name: null() for name in as_json if old[name] is None}
                target.execute(insert(table), old | nothing)
    engine.dispose()


def _attack(row: dict[str, Any]) -> dict[str, Any]:
    """Of an attack: what the harness decides stood among its settings."""
    settings = json.loads(row["settings"])
    settings |= {"targets": row["targets"]} if row["targets"] else {}
    settings |= {"precision": row["precision"]} if row["precision"] != "float32" else {}
    named = ("plugin", "budget_name", "budget", "stop")
    about = {name: row[name] for name in named} | {"settings": settings}
    return about | {
        "attack_key": row["attack_key"], "protocol_id": content_id(about),
        "settings": json.dumps(settings, sort_keys=True),
    }  # fmt: skip


@pytest.fixture
def results(files: Any, tmp_path: Path) -> Path:
    """Files of two seeds with all that told settings apart, and the database of today beside them."""
    folder = files.fill()
    files.evaluation(folder, CLEAN, ROBUST, precision="bfloat16")
    files.evaluation(folder, CLEAN, ROBUST, targets="random", budget=0.2)
    files.evaluation(folder, CLEAN, ROBUST, targets="least_likely", precision="bfloat16")
    files.evaluation(folder, CLEAN, ROBUST, split="validation")
    files.evaluation(folder, CLEAN, ROBUST, split="validation", targets="random", limit=10)
    # An attack of somebody's that has settings of the same names.
    own = {"steps": 50, "precision": "bfloat16", "targets": "random"}
    files.evaluation(folder, CLEAN, ROBUST, attack="own", settings=own)
    double = {"steps": 50, "precision": "double"}
    files.evaluation(folder, CLEAN, ROBUST, attack="own", settings=double, targets="random")
    rebuild(tmp_path / "today.db", files.root, files.published)
    return tmp_path


def contents(files: Any, where: Path) -> dict[str, Any]:
    with Database(where).open() as db:
        return dict(files.contents(db))


def test_an_upgraded_database_is_the_one_that_a_rebuild_makes(files: Any, results: Path) -> None:
    as_it_was(results / "today.db", f"sqlite:///{results / 'old.db'}")
    with pytest.raises(BenchError, match="db upgrade"):
        Database(results / "old.db").open()
    assert "it was 0001" in bench("db", "upgrade", "--db", results / "old.db", "--results", results)
    old, new = (contents(files, results / name) for name in ("old.db", "today.db"))
    for table in new:
        assert old[table] == new[table], table
    with Database(results / "old.db").open() as db:
        rows = queries.evaluations(brought_up(db))
        assert {(row.precision, row.targets, row.split) for row in rows if row.attack == "pgd"} == {
            ("float32", None, "test"), ("bfloat16", None, "test"), ("float32", "random", "test"),
            ("bfloat16", "least_likely", "test"), ("float32", None, "validation"), ("float32", "random", "validation"),
        }  # fmt: skip


def test_a_postgresql_database_is_upgraded_alike(files: Any, results: Path, url: str) -> None:
    as_it_was(results / "today.db", url)
    with Database(url) as db:
        assert db.upgrade() == ("0001", True)
        assert files.contents(db) == contents(files, results / "today.db")


def test_what_came_out_of_an_archive_is_known_after_an_upgrade_too(files: Any, results: Path) -> None:
    (folder, *_) = sorted(path.parent for path in files.root.glob("*/run.json"))
    record = {
        "format": 1, "archive": "theirs.zip", "sha256": "0" * 64, "made_by": "bench 0.1.0",
        "imported": "2026-11-21T10:00:30Z",
    }  # fmt: skip
    (folder / IMPORTED).write_text(json.dumps(record))
    as_it_was(results / "today.db", f"sqlite:///{results / 'bench.db'}")
    bench("db", "upgrade", "--results", results)
    rebuild(results / "today.db", files.root, files.published)
    upgraded, new = (contents(files, results / name) for name in ("bench.db", "today.db"))
    assert upgraded == new
    with Database(results / "bench.db").open() as db:
        assert {run.run_id: run.provenance for run in queries.runs(db)}[folder.name] == "imported"
        # Measured a minute later than the run was taken in, by its record: here.
        assert {row.provenance for row in queries.evaluations(db, run_ids=folder.name)} == {"measured"}


def test_damaged_rows_stop_no_upgrade(results: Path) -> None:
    as_it_was(results / "today.db", f"sqlite:///{results / 'bench.db'}")
    with closing(sqlite3.connect(results / "bench.db")) as connection, connection:
        connection.execute("UPDATE run SET config = '[]' WHERE seed = 0")
        connection.execute("UPDATE attack SET settings = '5' WHERE plugin = 'own'")
    bench("db", "upgrade", "--results", results)
