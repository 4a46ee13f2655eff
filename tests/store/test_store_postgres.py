"""The same models on a real PostgreSQL, named by BENCH_TEST_POSTGRES (in a schema that is made and dropped)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from older_views import older_views, renewed_by_several
from sqlalchemy import inspect, text

from bench.core.errors import BenchError
from bench.store.database import Database
from bench.store.ingest import rebuild
from bench.store.schema import Base
from bench.store.views import VIEWS


def viewed(db: Database) -> dict[str, list[str]]:
    return {
        name: sorted(repr(sorted(row.items())) for row in db.rows(text(f"SELECT * FROM {name}")))  # type: ignore[arg-type]
        for name in VIEWS
    }


def test_postgresql_holds_the_same_rows_and_views_as_sqlite(url: str, files: Any, tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    folder = files.fill()
    coarse = {"precision": "bfloat16", "attack": "coarse"}
    files.evaluation(folder, [True] * 10, [True, False] * 5, budget=0.1, **coarse)
    matrix = np.ones((4, 10), bool), np.ones((3, 4, 10), bool)
    files.matrix(folder, *matrix, budget=0.3, **coarse)
    rebuild(tmp_path / "bench.db", files.root, files.published)
    with Database(url).open(create=True) as db, Database(tmp_path / "bench.db").open() as plain:
        with db.read() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []
        files.ingest_all(db)
        files.ingest_all(db)
        assert files.contents(db) == files.contents(plain)
        assert viewed(db) == viewed(plain)
        coarse_rows = {name: sum("bfloat16" in row for row in rows) for name, rows in viewed(db).items()}
        assert coarse_rows == {"stale": 0, "table1": 1, "leaderboard": 0, "transfer_rate": 12}
        rebuild(url, files.root, files.published)
        assert files.contents(db) == files.contents(plain)


def test_writers_make_the_views_of_an_older_bench_anew_once(url: str) -> None:
    def columns() -> int:
        with db.read() as connection:
            return len(inspect(connection).get_columns("table1"))

    with Database(url).open(create=True) as db:
        today = columns()
    for _ in range(3):
        older_views(Database(url))
        renewed_by_several(url)
    older_views(Database(url))
    with Database(url).open() as db:
        assert columns() == 1
    with Database(url).open(create=True) as db:
        assert columns() == today
    with Database(url).open(create=True) as db:
        assert not db._wrote


def test_a_view_of_a_user_that_reads_ours_stops_no_run(url: str, caplog: pytest.LogCaptureFixture) -> None:
    Database(url).open(create=True).close()
    older_views(Database(url))
    with Database(url).open() as db, db.write() as connection:
        connection.execute(text("CREATE VIEW mine AS SELECT * FROM table1"))
    with Database(url).open(create=True) as db:
        assert len(db.rows(text("SELECT * FROM mine"))) == 0  # type: ignore[arg-type]
    assert "its SQL views stay" in caplog.text
    with pytest.raises(BenchError, match="other objects depend on it"):
        Database(url).upgrade()
