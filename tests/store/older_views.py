"""Databases whose SQL views an older bench made, and several writers that find them so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from sqlalchemy import text

from bench.store import views
from bench.store.database import Database


def older_views(db: Database, digest: str | None = None) -> None:
    """Put a `table1` of one column in the place of today's, with the digest of an older bench or, as once, none."""
    with Database(str(db)).open() as base, base.write() as connection:
        views.drop(connection)
        connection.execute(text("CREATE VIEW table1 AS SELECT dataset FROM run"))
        connection.execute(text("DELETE FROM meta WHERE key = 'views'"))
        if digest is not None:
            connection.execute(text("INSERT INTO meta VALUES ('views', :digest)"), {"digest": digest})


def renewed_by_several(where: str, writers: int = 4) -> None:
    """Several writers find the views of an older bench at the same moment; one of them makes today's."""
    start = Barrier(writers)

    def upgrade(_: int) -> bool:
        with Database(where) as base:
            start.wait()
            return base.upgrade().views

    with ThreadPoolExecutor(writers) as pool:
        assert sum(pool.map(upgrade, range(writers))) == 1
