"""Opening, checking, creating and locking databases."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from older_views import older_views, renewed_by_several
from sqlalchemy import inspect

from bench.core.errors import BenchError
from bench.store import sqlite
from bench.store.database import Database, StoreError
from bench.store.schema import REVISIONS, Base
from bench.store.views import VIEWS


def test_every_connection_waits_logs_ahead_and_checks_foreign_keys(db: Database) -> None:
    with db.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "busy_timeout", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "busy_timeout": 30_000, "foreign_keys": 1}


def test_migrations_make_what_the_models_say(db: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with db.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        stored: dict[Any, Any] = dict(
            connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'view'").all()
        )
    assert stored == {name: f"CREATE VIEW {name} AS {query.strip()}" for name, query in VIEWS.items()}


def test_the_revisions_known_without_alembic_are_those_of_the_migrations() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "bench.store:migrations")
    config.set_main_option("path_separator", "os")
    steps = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(steps)) == REVISIONS


def test_reading_imports_neither_alembic_nor_torch_nor_pandas(db: Database) -> None:
    code = (
        "import sys; from bench.store.database import Database; from bench.store import queries;"
        f"queries.totals(Database({str(db)!r}).open());"
        "print([name for name in ('alembic', 'torch', 'pandas', 'pydantic') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_reader_never_makes_a_database(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"there is no database .*db rebuild"):
        Database(tmp_path / "none.db").open()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_empty_for_a_reader_and_filled_by_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "bench.db"
    path.touch()
    with pytest.raises(BenchError, match="is empty"):
        Database(path).open()
    Database(path).open(create=True).close()
    Database(path).open().close()


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bench.db"
    path.write_bytes(b"this is a letter, not a database, and long enough to be read" * 40)
    before = path.read_bytes()
    for create in (False, True):
        with pytest.raises(BenchError, match=r"not a SQLite database.*db rebuild"):
            Database(path).open(create=create)
    assert path.read_bytes() == before


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE recipe (name TEXT)")
    with pytest.raises(BenchError, match="something else"):
        Database(path).open(create=True)


def test_a_newer_schema_is_refused_and_an_older_one_asks_for_upgrade(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    for action in (Database(str(db)).open, Database(str(db)).upgrade):
        with pytest.raises(BenchError, match="schema 9999, newer"):
            action()
    with sqlite3.connect(str(db)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", REVISIONS[-1:])
    monkeypatch.setattr("bench.store.database.REVISIONS", (*REVISIONS, "9000"))
    with pytest.raises(BenchError, match="db upgrade"):
        Database(str(db)).open()


def test_upgrade_of_a_current_database_keeps_its_rows(db: Database) -> None:
    with db.write() as connection:
        connection.exec_driver_sql("INSERT INTO meta VALUES ('colour', 'blue')")
    db.close()
    with Database(str(db)) as again:
        assert again.upgrade() == (REVISIONS[-1], False)
        with again.read() as connection:
            assert connection.exec_driver_sql("SELECT value FROM meta WHERE key = 'colour'").scalar() == "blue"
            assert len(connection.exec_driver_sql("SELECT * FROM table1").all()) == 0


def columns(where: Path | str, view: str = "table1") -> set[str]:
    """The columns of a view, for a reader."""
    with Database(where).open() as base, base.read() as connection:
        return {column["name"] for column in inspect(connection).get_columns(view)}


@pytest.mark.parametrize("digest", ["that of an older bench", None])
def test_a_writer_makes_the_views_of_an_older_bench_anew_once(db: Database, digest: str | None) -> None:
    db.close()
    path, today = Path(str(db)), columns(str(db))
    older_views(db, digest)
    assert columns(path) == {"dataset"}  # readers leave them alone
    for action in (lambda base: base.open(create=True), Database.upgrade):
        older_views(db, digest)
        with Database(path) as base:
            action(base)
        assert columns(path) == today
    with Database(path) as base, base.open(create=True).read() as connection:
        before = connection.exec_driver_sql("PRAGMA schema_version").scalar()
    with Database(path) as base:
        assert base.upgrade() == (REVISIONS[-1], False)
        assert not base.open(create=True)._wrote
        with base.read() as connection:
            assert connection.exec_driver_sql("PRAGMA schema_version").scalar() == before


def test_views_that_cannot_be_made_anew_stop_no_run_but_an_upgrade(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    db.close()
    older_views(db)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
    other = sqlite3.connect(str(db), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.WARNING), Database(str(db)).open(create=True) as base, base.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM run").scalar() == 0
    assert "its SQL views stay those of another version" in caplog.text
    with pytest.raises(StoreError, match="write lock"):
        Database(str(db)).upgrade()
    other.close()
    assert columns(str(db)) == {"dataset"}


def test_several_writers_make_views_anew_together(db: Database) -> None:
    db.close()
    today = columns(str(db))
    older_views(db)
    renewed_by_several(str(db))
    assert columns(str(db)) == today


def test_a_folder_and_an_unknown_url_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is a folder"):
        Database(tmp_path).open()
    with pytest.raises(BenchError, match="is not a database"):
        Database("oracle://somewhere")
    with pytest.raises(BenchError, match="is not a database"):
        Database("nonsense://x")


def test_a_password_is_never_shown() -> None:
    assert "secret" not in str(Database("postgresql://me:secret@host/bench"))


def test_a_locked_database_is_one_line_of_advice(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(str(db), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    db.close()
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
    db.open()
    with pytest.raises(StoreError, match="write lock"), db.write():
        pass
    with db.read() as connection:  # readers are not held up
        assert connection.exec_driver_sql("SELECT count(*) FROM run").scalar() == 0
    other.close()


def test_a_write_that_raises_leaves_nothing_behind(db: Database) -> None:
    def half() -> None:
        with db.write() as connection:
            connection.exec_driver_sql("INSERT INTO meta VALUES ('half', 'done')")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    with db.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM meta WHERE key = 'half'").scalar() == 0


def test_a_network_file_system_is_told_apart_and_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n/dev/sdb /home/me/my\\040disk xfs rw 0 0\n"
    )
    assert sqlite.network_file_system(Path("/home/me"), mounts) == "nfs4"
    assert sqlite.network_file_system(Path("/home/me/my disk/x"), mounts) is None
    assert sqlite.network_file_system(Path("/homes"), mounts) is None
    monkeypatch.setattr(sqlite, "network_file_system", lambda folder: "nfs4")
    with caplog.at_level(logging.WARNING):
        Database(tmp_path / "bench.db").open(create=True).close()
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert "network file system (nfs4)" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_reader_without_leave_to_write_reads_and_a_writer_is_told(
    db: Database, tmp_path: Path, own_parents: list[Path]
) -> None:
    db.close()
    path = Path(str(db))
    code = f"""
import os
from bench.core.errors import BenchError
from bench.store import queries
from bench.store.database import Database
Database({str(path)!r}).open().close()  # what is imported late is imported before privileges are dropped
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
def attempt(create):
    try:
        with Database({str(path)!r}).open(create=create) as db:
            print(queries.totals(db).runs)
    except BenchError as error:
        print(error)
attempt(False)
attempt(True)
"""
    modes = {folder: folder.stat().st_mode for folder in (path, tmp_path, *own_parents)}
    path.chmod(0o444)
    for folder in list(modes)[1:]:
        folder.chmod(0o555 if folder == tmp_path else 0o755)
    try:
        lines = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
        assert lines[0] == "0"
        assert "is read-only" in lines[1]
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)


def test_an_unreadable_file_is_named(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    db.close()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # root may read anything
    with pytest.raises(BenchError, match="is not readable"):
        Database(str(db)).open()
