"""How SQLite files are opened: durable enough, patient, and never made by a reader."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from bench.core.errors import BenchError
from bench.core.files import atomic, draft

log = logging.getLogger(__name__)

BUSY_SECONDS = 30
NETWORK = (
    "nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "fuse.sshfs", "fuse.gluster",
)  # fmt: skip


def sqlite_engine(path: Path, create: bool, dumps: Any, loads: Any) -> Engine:
    """An engine for the SQLite file `path`; with `create` (the writer) a missing file is made on first use.

    Raises:
        BenchError: missing for a reader, unreadable, a folder, read-only for the writer.
    """
    uri = _uri(path, create)
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(uri),
        json_serializer=dumps,
        json_deserializer=loads,
        poolclass=QueuePool,
    )
    event.listen(engine, "begin", _begin)
    return engine


def _uri(path: Path, create: bool) -> str:
    if path.is_dir():
        raise BenchError(f"database {path} is a folder; give a file")
    if path.exists() and not path.is_file():
        raise BenchError(f"database {path} is a device or pipe; give a file")
    if not path.exists():
        if not create:
            raise BenchError(f"there is no database {path}; `bench run` or `bench db rebuild` makes it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BenchError(f"cannot make the folder of database {path}: {error.strerror}") from error
    elif not os.access(path, os.R_OK):
        raise BenchError(f"database {path} is not readable by you; mend its permissions (chmod u+r)")
    folder = path.resolve().parent
    writable = os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    if create and not writable:
        raise BenchError(f"database {path} is read-only; make it and its folder writable, or name another one")
    kind = network_file_system(folder)
    if kind and create:
        log.warning("database %s lies on a network file system (%s): SQLite may be slow or damaged there", path, kind)
    if writable:
        return f"{path.resolve().as_uri()}?mode={'rwc' if create else 'rw'}"
    # Without a log beside it and without leave to make one, SQLite reads only what it is told will not change.
    logged = folder.joinpath(path.resolve().name + "-wal").exists()
    return f"{path.resolve().as_uri()}?mode=ro{'' if logged else '&immutable=1'}"


def _connect(uri: str) -> sqlite3.Connection:
    # Transactions are begun by `_begin`: the driver's own rule begins none before CREATE or SELECT.
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")
        if "mode=ro" not in uri:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: Connection) -> None:
    # A transaction that reads before it writes can lose the race for the lock, and no timeout helps then.
    immediate = connection.get_execution_options().get("bench_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def analyse(engine: Engine) -> None:
    """Leave SQLite statistics of the tables: without them it reads all evaluations of an attack for one table.

    Of no consequence when it cannot be done (a full disk, say): queries are slower, and nothing is waited for.
    """
    with contextlib.suppress(SQLAlchemyError), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        connection.exec_driver_sql("PRAGMA analysis_limit = 400")  # rows of an index: some milliseconds in all
        connection.exec_driver_sql("ANALYZE")
        connection.commit()


def sync_log(path: Path) -> None:
    """Sync what SQLite has committed: with `synchronous = NORMAL` it leaves that to the operating system."""
    path = path.resolve()
    with contextlib.suppress(FileNotFoundError), path.with_name(path.name + "-wal").open("rb") as log_file:
        os.fsync(log_file.fileno())


def back_up(path: Path, revision: str) -> Path:
    """A copy of the database beside it, consistent even while others write; returns where it lies.

    Raises:
        BenchError: it cannot be written.
    """
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    target = path.with_name(f"{path.stem}-{revision}-{moment}.backup{path.suffix}")
    try:
        with (
            atomic(target) as temporary,
            contextlib.closing(sqlite3.connect(temporary)) as copy,
            contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as source,
        ):
            source.backup(copy)
    except (OSError, sqlite3.Error) as error:
        raise BenchError(f"cannot write the backup {target}: {error}; nothing was changed") from error
    return target


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Where a database can be made beside `path`; it is gone afterwards.

    Raises:
        OSError: nothing can be written there.
    """
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = draft(folder / path.name)
    temporary.touch()
    try:
        yield temporary
    finally:
        _drop(temporary)


def replace_content(path: Path, fresh: Path) -> None:
    """Give the database at `path` the content of the one at `fresh`, which nobody has open; all or nothing.

    SQLite itself copies the pages, in one transaction: at no moment is there half a database, a log that belongs to
    another file, or a reader whose file was taken away.

    Raises:
        BenchError: somebody writes to it, or the disk is full.
        OSError: it cannot be written.
    """
    if path.exists() and _copied(path, fresh):
        return
    # There is none, or SQLite cannot read what there is. A log beside that belongs to nothing that will remain.
    _drop_log(path.resolve())
    with atomic(path) as place:
        fresh.replace(place)


def _copied(path: Path, fresh: Path) -> bool:
    """Copy the pages; False where `path` is not a database that SQLite can write."""
    limit = time.monotonic() + BUSY_SECONDS

    def patient(*_: int) -> None:
        if time.monotonic() > limit:
            raise BenchError(f"database {path} is in use: another process writes to it; let that end first")

    try:
        with (
            contextlib.closing(sqlite3.connect(fresh)) as source,
            contextlib.closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as target,
        ):
            target.execute("PRAGMA journal_mode = WAL")
            target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            target.execute("PRAGMA synchronous = FULL")
            source.backup(target, progress=patient, sleep=0.05)
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK):  # pages of another size
            return False
        raise BenchError(f"cannot write database {path}: {error}; it is as it was") from error
    except sqlite3.DatabaseError:
        return False
    return True


def _drop(path: Path) -> None:
    _drop_log(path)
    path.unlink(missing_ok=True)


def _drop_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def network_file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the network file system `folder` lies on, None for a local one or where it cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best, kind = "", None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind if kind is not None and kind.startswith(NETWORK) else None
