"""From files to rows: one short transaction a file, twice is once, done beats failed."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, select, update

from bench.core.errors import BenchError
from bench.core.identity import short
from bench.experiment.folder import NOTES, RECORD, RunFolder
from bench.experiment.names import AS_RECORDED, Namer
from bench.store import door, provenance, schema
from bench.store.child_rows import curve_rows
from bench.store.database import Database, StoreError
from bench.store.published import load_published
from bench.store.put import put_evaluation, put_failure, put_run, stored_run
from bench.store.sqlite import replace_content, scratch


def ingest_run(db: Database, folder: Path) -> str:
    """Take in `run.json` and `train.jsonl` of a run's folder; returns the run id.

    Raises:
        BenchError: a file is missing, damaged or refused; the message names it and the fault.
    """
    path = RunFolder(folder).record
    run = door.run_at(path)
    curve = curve_rows(RunFolder(folder).curve, run.record.run_id)
    source = provenance.of(path, run.record.attempt_id, run.record.started)
    with _file(db, path) as connection:
        put_run(connection, run, curve, db.names or AS_RECORDED, provenance=source)
    return run.record.run_id


def ingest_evaluation(db: Database, path: Path) -> str:
    """Take in one file of `evaluations/`; returns the evaluation id. The run must have been taken in before.

    Raises:
        BenchError: the file is missing, damaged or refused, or its run is unknown; the message names it and the fault.
    """
    value = door.read(path, str(path))
    with _file(db, path) as connection:
        run = stored_run(connection, RunFolder.of(path).run_id, str(path))
        if run is None:
            told = (
                f"{path}: its run {short(RunFolder.of(path).run_id)} is not in the database; is its {RECORD} damaged?"
            )
            raise BenchError(told)
        evaluation = door.check_evaluation(value, str(path), path.stem, run)
        record = evaluation.record
        source = provenance.of(path, record.attempt_id, record.started)
        put_evaluation(connection, evaluation, db.names or AS_RECORDED, str(path), provenance=source)
    return evaluation.record.evaluation_id


def ingest_failure(db: Database, path: Path) -> str:
    """Take in one file of `failures/`; returns the attempt id. An attempt known to be done stays done.

    Raises:
        BenchError: the file is missing, damaged or refused; the message names it and the fault.
    """
    record = door.check_failure(door.read(path, str(path)), str(path), path.stem, RunFolder.of(path).run_id)
    with _file(db, path) as connection:
        put_failure(connection, record)
    return record.attempt_id


def ingest_file(db: Database, path: Path) -> str:
    """Take in a record: `run.json`, or a file of `evaluations/` or `failures/`; returns its id.

    Raises:
        BenchError: as for these.
    """
    if path.name == RECORD:
        return ingest_run(db, path.parent)
    is_failure = path == RunFolder.of(path).failure(path.stem)
    return ingest_failure(db, path) if is_failure else ingest_evaluation(db, path)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was taken in, and one line for each file that could not be (it names the file and the fault)."""

    runs: int = 0
    evaluations: int = 0
    failures: int = 0
    references: int = 0
    damaged: tuple[str, ...] = ()


def sync(db: Database, runs_root: Path) -> Counts:
    """Take in the files below `runs_root` whose ids the database lacks (a driver was killed before it could).

    Only names are compared, so 100,000 known files cost little; a damaged file is reported and skipped. Before the
    first run there is no such folder, and nothing to take in.
    """
    if not runs_root.is_dir():
        return Counts()
    with db.read() as connection:
        known = {
            *connection.scalars(select(schema.Run.run_id)),
            *connection.scalars(select(schema.Evaluation.evaluation_id)),
            *connection.scalars(select(schema.Job.attempt_id)),
        }
    return _take_in(db, runs_root, known)


def note_provenance(db: Database, runs_root: Path) -> None:
    """Set where the results come from whose files lie below `runs_root`; an older schema did not keep it.

    Raises:
        BenchError: the database cannot be written.
    """
    run, evaluation = schema.Run, schema.Evaluation
    for folder in sorted({path.parent for name in NOTES for path in runs_root.glob(f"*/{name}")}):
        with db.write() as connection:
            for table, key in ((run, run.run_id), (evaluation, evaluation.evaluation_id)):
                rows = connection.execute(
                    select(key, table.attempt_id, table.started).where(table.run_id == folder.name)
                ).all()
                for identifier, attempt_id, started in rows:
                    files = RunFolder(folder)
                    record = files.record if table is run else files.evaluation(identifier)
                    found = provenance.of(record, attempt_id, started)
                    connection.execute(update(table).where(key == identifier).values(provenance=found))


def rebuild(
    db_path: Path | str,
    runs_root: Path,
    published_folder: Path,
    names: Namer = AS_RECORDED,
    derive: Callable[[Database], None] | None = None,
) -> Counts:
    """Make the database at `db_path` anew from the files of all runs and the published tables.

    A SQLite database is made beside the old one, whose content it then replaces in one transaction; in PostgreSQL all
    rows are replaced in one. A rebuild that fails or is killed leaves the old database as it was: whole, at its place,
    with its mode. What others write meanwhile is lost (`bench.jobs.journal.rebuild` sees to it that nobody does).

    Raises:
        BenchError: the database cannot be written, or `runs_root` is not a folder; damaged files are counted instead.
    """
    if not runs_root.is_dir():
        raise BenchError(f"there is no folder of runs {runs_root}; nothing to rebuild from")
    target = Database(db_path)
    if target.path is None:
        with target.open(create=True), target.batch():
            with target.write() as connection:
                for table in reversed(schema.Base.metadata.sorted_tables):
                    if table is not schema.Meta.__table__:
                        connection.execute(delete(table))
            target.names, target.derive = names, derive
            return _fill(target, runs_root, published_folder)
    if target.path.is_dir():
        raise BenchError(f"database {target.path} is a folder; give a file")
    try:
        with scratch(target.path) as temporary:
            with Database(temporary).open(create=True) as fresh:
                fresh.names, fresh.derive = names, derive
                with fresh.batch():
                    counts = _fill(fresh, runs_root, published_folder)
            replace_content(target.path, temporary)
    except OSError as error:
        raise BenchError(f"cannot write database {target.path}: {error.strerror}") from error
    return counts


def _fill(db: Database, runs_root: Path, published_folder: Path) -> Counts:
    counts = _take_in(db, runs_root, set())
    return dataclasses.replace(counts, references=load_published(db, published_folder))


def _take_in(db: Database, runs_root: Path, known: set[str]) -> Counts:
    """Ingest every file whose id is not `known`: of each run first the run itself, then what refers to it."""
    damaged: list[str] = []
    done = {"run": 0, "evaluation": 0, "failure": 0}

    def take(what: str, ingest: Callable[[Database, Path], str], path: Path) -> None:
        try:
            ingest(db, path)
            done[what] += 1
        except StoreError:  # the file is not to blame
            raise
        except BenchError as error:
            damaged.append(str(error))

    for folder in map(RunFolder, sorted(path for path in runs_root.iterdir() if path.is_dir())):
        if folder.run_id not in known and folder.record.exists():
            take("run", ingest_run, folder.path)
        for path in folder.evaluations():
            if path.stem not in known:
                take("evaluation", ingest_evaluation, path)
        for path in folder.failures():
            if path.stem not in known:
                take("failure", ingest_failure, path)
    return Counts(runs=done["run"], evaluations=done["evaluation"], failures=done["failure"], damaged=tuple(damaged))


@contextlib.contextmanager
def _file(db: Database, path: Path) -> Iterator[Connection]:
    """A write transaction whose faults name the file they come from."""
    try:
        with db.write() as connection:
            yield connection
    except BenchError as fault:
        if str(path) in str(fault):
            raise
        raise type(fault)(f"cannot take in {path}: {fault}") from fault
