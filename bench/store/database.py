"""One database: opened, checked, created, upgraded; short transactions for one writer and any number of readers."""

from __future__ import annotations

import contextlib
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    IntegrityError,
    InternalError,
    NoSuchModuleError,
    NotSupportedError,
    OperationalError,
    SQLAlchemyError,
)

from bench.core import strict_json
from bench.core.errors import BenchError
from bench.core.numbers import shown
from bench.core.release import extra
from bench.store import views
from bench.store.schema import REVISIONS
from bench.store.sqlite import BUSY_SECONDS, analyse, sqlite_engine, sync_log

if TYPE_CHECKING:
    from bench.experiment.names import Namer

log = logging.getLogger(__name__)

FILE_FORMAT = 1
MIGRATIONS = "bench.store:migrations"

Query = Select[*tuple[Any, ...]]


class StoreError(BenchError):
    """The database itself failed (locked, full disk, damaged), not what it was given."""


class Upgraded(NamedTuple):
    """What an upgrade found: the schema's revision before, and whether SQL views of another bench were made anew."""

    revision: str
    views: bool


class Database:
    """The database at a path (SQLite) or URL (`postgresql://…`, `sqlite:///…`).

    Raises:
        BenchError: the URL is of no known kind.
    """

    def __init__(self, where: Path | str) -> None:
        self.path: Path | None = Path(where) if isinstance(where, Path) or "://" not in where else None
        self._url = None
        if self.path is None:
            wrong = f"{shown(where)} is not a database: give a file, or postgresql://user@host:port/name"
            try:
                url = make_url(str(where))
                name = url.get_backend_name()
            except (ArgumentError, NoSuchModuleError, ValueError) as error:  # the last of a port that is not a number
                raise BenchError(wrong) from error
            if name == "sqlite" and url.database:
                self.path = Path(url.database)
            elif url.drivername in ("postgresql", "postgresql+psycopg") and not 0 < (url.port or 1) < 1 << 16:
                raise BenchError(f"{shown(where)}: a port is a number from 1 to 65,535, not {shown(url.port)}")
            elif url.drivername in ("postgresql", "postgresql+psycopg"):
                self._url = url.set(drivername="postgresql+psycopg")
            else:
                raise BenchError(wrong)
        self._engine: Engine | None = None
        self._batch: Connection | None = None
        self._pinned: Connection | None = None
        self._wrote = False
        self.names: Namer | None = None
        """Which names contents have here, for what is taken in, and recipes that are stored; None: as records say."""
        self.derive: Callable[[Database], None] | None = None
        """Brings up to date what follows from rows, when a block that wrote some ends."""
        self.set_aside: set[str] = set()
        """Damaged rows that were reported since it was opened."""

    def __str__(self) -> str:
        return str(self.path) if self._url is None else self._url.render_as_string(hide_password=True)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, kind: object, fault: BaseException | None, trace: object) -> None:
        """Close. If the file is damaged, an unforeseen fault (a missing key, say) is reported as that.

        Raises:
            StoreError: it is.
        """
        if fault is None and self._wrote and self.derive is not None:
            self.derive(self)
        damage = self._damage() if isinstance(fault, Exception) and not isinstance(fault, BenchError) else ""
        self.close()
        if damage:
            raise StoreError(f"database {self}: {_ADVICE['malformed']} ({damage})") from fault

    def open(self, create: bool = False) -> Database:
        """Connect and check; with `create` (the writer) one that is missing or empty is made, and old views anew.

        Raises:
            BenchError: missing, unreadable, read-only for the writer, no bench database, of another schema.
        """
        self._connect(create)
        self.set_aside.clear()
        try:
            with self.read() as connection:
                revision = self._revision(connection)
            if revision is None and not create:
                raise BenchError(
                    f"database {self} is empty; `bench run` fills it, `bench db rebuild` makes it from the runs"
                )
            if revision is None:
                self._migrate()
            elif revision not in REVISIONS:
                raise BenchError(
                    f"database {self} has schema {revision}, newer than this bench knows ({REVISIONS[-1]}); "
                    f"install the newer bench, or delete the database and `bench db rebuild`"
                )
            elif revision != REVISIONS[-1]:
                raise BenchError(
                    f"database {self} has the older schema {revision}; `bench db upgrade` brings it to {REVISIONS[-1]}"
                )
            elif create:
                self._try_views()
        except BaseException:
            self.close()
            raise
        return self

    def upgrade(self, before: Callable[[str], None] | None = None) -> Upgraded:
        """Bring the database to the newest schema and to the views of today, and leave it open; returns what it had.

        Args:
            before: called with the old revision when there is something to migrate: the moment for a backup.

        Raises:
            BenchError: as `open`; also for a schema that is newer already.
        """
        self._connect(False)
        try:
            with self.read() as connection:
                revision = self._revision(connection)
            if revision is not None and revision not in REVISIONS:
                raise BenchError(
                    f"database {self} has schema {revision}, newer than this bench knows ({REVISIONS[-1]}); "
                    f"install the newer bench"
                )
            if revision == REVISIONS[-1]:
                return Upgraded(revision, self._renew_views())
            if before is not None and revision is not None:
                before(revision)
            self._migrate()
        except BaseException:
            self.close()
            raise
        return Upgraded(revision or "none", revision is not None)

    def close(self) -> None:
        """Close all connections; the database may be opened again."""
        if self._engine is not None:
            if self._wrote and self.path is not None:
                analyse(self._engine)
            self._wrote = False
            self._engine.dispose()
            self._engine = None

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine of an open database (for pandas, say)."""
        if self._engine is None:
            raise BenchError(f"database {self} is not open")
        return self._engine

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for queries: one snapshot throughout. A fault of the database becomes one BenchError line."""
        with self._explained(), self._connection() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """All queries of this block see the database as it is at its start, whatever others commit meanwhile."""
        with self._connection() as connection:
            with self._explained():  # a transaction sees what was there at its first query
                connection.execute(text("SELECT count(*) FROM meta"))
            before, self._pinned = self._pinned, connection
            try:
                yield
            finally:
                self._pinned = before

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        for connection in (self._batch, self._pinned):
            if connection is not None:
                yield connection
                return
        with self.engine.connect() as connection:
            if self._url is not None:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    def rows(self, query: Query) -> list[dict[str, Any]]:
        """All rows that a query answers with, by column name."""
        with self.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its start: committed when the block ends well, else undone.

        Inside `batch` it is a savepoint of that transaction.
        """
        self._wrote = True
        with self._explained():
            if self._batch is not None:
                with self._batch.begin_nested():
                    yield self._batch
                return
            with self.engine.connect().execution_options(bench_write=True) as connection, connection.begin():
                yield connection

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """All writes of this block in one transaction (a rebuild: all or nothing, and fast), and what it reads."""
        if self._batch is not None:  # part of a larger one
            yield
            return
        with self.write() as connection:
            self._batch = connection
            try:
                yield
            finally:
                self._batch = None

    def flush(self) -> None:
        """Put on the disk what is committed: from then on it survives a power failure, not only a kill."""
        if self.path is not None:
            sync_log(self.path)

    def _connect(self, create: bool) -> None:
        self.close()
        if self._url is not None:
            try:
                self._engine = create_engine(self._url, json_serializer=_dumps, json_deserializer=_loads)
            except ImportError as error:
                raise BenchError(f"PostgreSQL needs the package psycopg: {extra('postgres')}") from error
            return
        assert self.path is not None
        self._engine = sqlite_engine(self.path, create, _dumps, _loads)

    def _revision(self, connection: Connection) -> str | None:
        """The schema's revision; None for an empty database."""
        tables = inspect(connection).get_table_names()
        if not tables:
            return None
        rows = (
            connection.execute(text("SELECT version_num FROM alembic_version")).all()
            if "alembic_version" in tables
            else []
        )
        if not rows or "evaluation" not in tables:
            raise BenchError(f"{self} is a database of something else; name another one with --db")
        return str(rows[0][0])

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", MIGRATIONS)
        config.set_main_option("path_separator", "os")
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.execute(text("DELETE FROM meta WHERE key = 'file_format'"))
            connection.execute(
                text("INSERT INTO meta (key, value) VALUES ('file_format', :value)"), {"value": str(FILE_FORMAT)}
            )

    def _renew_views(self) -> bool:
        """Make the views of today where the database has others; returns whether it had.

        Raises:
            BenchError: they cannot be made: another's view reads them, or they belong to another user of a server.
        """
        with self.read() as connection:
            if views.are_current(connection):
                return False
        with self.write() as connection:
            return views.renew(connection)

    def _try_views(self) -> None:
        """As `_renew_views`; where they cannot be made, a warning: no run needs what is there for people only."""
        try:
            self._renew_views()
        except BenchError as error:
            log.warning("%s; its SQL views stay those of another version of bench", error)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InternalError, NotSupportedError) as error:
            raise StoreError(self._explain(error)) from error
        except DBAPIError as error:
            kind = StoreError if type(error) is DatabaseError else BenchError
            raise kind(self._explain(error)) from error
        except SQLAlchemyError as error:
            raise BenchError(f"database {self}: {str(error).partition(chr(10))[0]}") from error
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            if not _of_decoding(error):
                raise
            told = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise StoreError(f"database {self}: {_ADVICE['malformed']} ({told[:200]})") from error

    def _damage(self) -> str:
        """What SQLite finds wrong with its file; empty when nothing is, or it cannot be asked."""
        if self._engine is None or self.path is None:
            return ""
        try:
            with self._engine.connect() as connection:
                found = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar())
        except SQLAlchemyError as error:
            return str(error).partition("\n")[0]
        return "" if found == "ok" else found.replace("\n", " ")

    def _explain(self, error: DBAPIError) -> str:
        cause = str(error.orig).strip().partition("\n")[0]
        for sign, advice in _ADVICE.items():
            if sign in cause:
                return f"database {self}: {advice}"
        if not isinstance(error, IntegrityError) and (damage := self._damage()):
            return f"database {self}: {_ADVICE['malformed']} ({damage})"
        return f"database {self}: {cause}"


_ADVICE = {
    "locked": f"another process holds the write lock for over {BUSY_SECONDS} s; let that `bench` end first",
    "not a database": "the file is not a SQLite database; name another with --db, or let `bench db rebuild` replace it",
    "malformed": "the file is damaged; `bench db rebuild` makes it anew from the runs",
    "readonly": "it is read-only; make it and its folder writable, or name another one with --db",
    "is full": "the disk is full; make room and run the same command again (results in files are kept)",
    "disk I/O error": "the disk reports an error; `bench db rebuild` makes the database anew from the runs",
    "unable to open": "it cannot be opened; check the permissions of the file and of its folder",
    "decode to UTF-8": "the file is damaged; `bench db rebuild` makes it anew from the runs",
    "no such table": "a table is missing; `bench db rebuild` makes it anew from the runs",
    "no such column": "a column is missing; `bench db rebuild` makes it anew from the runs",
}


def _of_decoding(error: BaseException) -> bool:
    """Whether a fault arose where SQLAlchemy turns what is stored into values: JSON, numbers, text."""
    return any("sqlalchemy" in Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__))


class Unreadable:
    """Stands for a JSON column whose text is not JSON; it is of no type that a row asks for."""


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _loads(text: Any) -> Any:
    """What `_dumps` wrote; anything else becomes an object that every reader sets aside."""
    try:
        # SQLite makes a number of '5'; of PostgreSQL come bytes.
        return strict_json.parse(text) if isinstance(text, str | bytes) else Unreadable()
    except ValueError:
        return Unreadable()
