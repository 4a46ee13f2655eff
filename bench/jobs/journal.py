"""Changes of several steps, written down before the first one: what a kill leaves half done, the next command does.

An intent is one file, `results/journal/NAME.json`. It stands from before the first visible step until after the last,
under the lock NAME (a job's own, where it is of a job); to carry it out twice is the same as once. Who opens the
results for writing and finds one whose owner is dead carries it out first.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from bench.core.errors import BenchError
from bench.core.files import remove, sync_folder, write_text
from bench.experiment.fields import Id
from bench.experiment.names import AS_RECORDED, Namer
from bench.jobs.locks import Locks, Owner
from bench.jobs.presence import alone
from bench.jobs.workplace import Workplace
from bench.store import gc, ingest
from bench.store.database import Database, StoreError
from bench.store.ingest import Counts


def _below(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError("a path within the results folder is wanted")
    return text


File = Annotated[str, AfterValidator(_below)]


class Intent(BaseModel):
    """What is to be when all is done; paths are relative to the results folder.

    `moves` (from, to) come first, then the rows of `runs`, `evaluations` and failed `attempts` go, then the files of
    `takes_in` are ingested, and what is `removed` goes last.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    format: Literal[1] = 1
    moves: tuple[tuple[File, File], ...] = ()
    runs: tuple[Id, ...] = ()
    evaluations: tuple[Id, ...] = ()
    attempts: tuple[str, ...] = ()
    takes_in: tuple[File, ...] = ()
    removed: tuple[File, ...] = ()


def note(place: Workplace, name: str, intent: Intent) -> None:
    """Write an intent down, in the place of an older one of this name; the caller holds the lock `name`."""
    write_text(_file(place, name), intent.model_dump_json(indent=1) + "\n")


def carry_out(db: Database, place: Workplace, locks: Locks, intent: Intent) -> list[str]:
    """Write an intent down and do it.

    Returns:
        A line for each file that could not be taken in or removed.

    Raises:
        BenchError: a file cannot be moved, or the database fails; what was begun then, the next command goes on with.
    """
    if not intent.moves and not intent.takes_in:  # rows alone: one transaction
        with db.batch():
            return _rows(db, place, intent)
    name = f"change-{uuid.uuid4().hex[:12]}"
    locks.acquire(name)
    try:
        note(place, name, intent)
        moved: list[Path] = []
        try:
            _move(place, intent, moved)
        except OSError as error:
            if not moved:
                remove(_file(place, name))
            then = "the next command that writes goes on with this" if moved else "nothing was changed"
            raise BenchError(f"cannot move {error.filename}: {error.strerror}; {then}") from error
        return settle(db, place, name)
    finally:
        locks.release(name)


def settle(db: Database, place: Workplace, name: str) -> list[str]:
    """Do what is left of an intent, if there is one; the caller holds the lock `name`.

    Returns:
        A line for each file that could not be taken in or removed.

    Raises:
        BenchError: the database fails, or a file cannot be moved; the intent stands.
    """
    intent = _read(place, name)
    if intent is None:
        return []
    _finish_moves(place, intent)
    with db.batch():
        faults = _rows(db, place, intent)
    faults += _remove(place, intent)
    forget(db, place, name)
    return faults


def forget(db: Database, place: Workplace, name: str) -> None:
    """All of an intent is done: its rows are on the disk, then the intent goes; nothing where there is none."""
    if (path := _file(place, name)).exists():
        db.flush()
        remove(path)


def catch_up(db: Database, place: Workplace) -> list[str]:
    """Bring the database up to the files: what dead processes had begun is done, what they left is taken in.

    Returns:
        A line for each thing that could not be, or that somebody who lives is about to do.

    Raises:
        BenchError: the database fails.
    """
    told: list[str] = []
    for name in pending(place):
        with Locks(place.locks) as locks:
            if not isinstance(locks.acquire(name), Owner):
                try:
                    told += settle(db, place, name)
                except StoreError:
                    raise
                except BenchError as error:
                    told.append(str(error))
    told += ingest.sync(db, place.runs).damaged
    if db.derive is not None:  # who was killed may have left that undone, too
        db.derive(db)
    return told


def pending(place: Workplace) -> list[str]:
    """Names of the intents that stand, whoever's they are."""
    return sorted(path.stem for path in (place.results / "journal").glob("[!.]*.json"))


def abandoned(place: Workplace) -> list[str]:
    """Names of the intents whose owners are dead."""
    locks = Locks(place.locks)
    return [name for name in pending(place) if locks.owner(name) is None]


def rebuild(
    db: str | None,
    place: Workplace,
    published: Path,
    names: Namer = AS_RECORDED,
    derive: Callable[[Database], None] | None = None,
) -> Counts:
    """Make the database anew from the files, as they are when all that was begun is done.

    Raises:
        BenchError: somebody is at work here, or as `ingest.rebuild`.
    """
    own = place.results / "bench.db"
    if not place.runs.is_dir():
        raise BenchError(f"there is no folder of runs {place.runs}; nothing to rebuild from")
    with alone(place, "nothing was rebuilt"):
        begun = pending(place)
        for name in begun:
            if (intent := _read(place, name)) is not None:
                _finish_moves(place, intent)
        counts = ingest.rebuild(own if db is None else db, place.runs, published, names, derive)
        for name in begun if db is None or Path(db) == own else ():  # another database has still to learn of it
            if (intent := _read(place, name)) is not None:
                _remove(place, intent)
            remove(_file(place, name))
    return counts


def _file(place: Workplace, name: str) -> Path:
    return place.results / "journal" / f"{name}.json"


def _read(place: Workplace, name: str) -> Intent | None:
    path = _file(place, name)
    try:
        return Intent.model_validate_json(path.read_bytes())
    except FileNotFoundError:  # done by another since we looked
        return None
    except ValidationError as error:
        raise BenchError(
            f"{path} is damaged ({error.errors()[0]['msg']}); delete it, then `bench db rebuild`"
        ) from error


def _rows(db: Database, place: Workplace, intent: Intent) -> list[str]:
    faults = []
    gc.delete_runs(db, intent.runs)
    gc.delete_evaluations(db, intent.evaluations)
    gc.delete_attempts(db, intent.attempts)
    for file in intent.takes_in:
        path = place.results / file
        try:
            if path.exists():
                ingest.ingest_file(db, path)
        except StoreError:
            raise
        except BenchError as error:
            faults.append(str(error))
    return faults


def _finish_moves(place: Workplace, intent: Intent) -> None:
    try:
        _move(place, intent, [])
    except OSError as error:
        raise BenchError(
            f"cannot move {error.filename}, as an interrupted command meant to: {error.strerror}; mend that and repeat"
        ) from error


def _move(place: Workplace, intent: Intent, moved: list[Path]) -> None:
    """Make the moves, noting them in `moved`; what is not there was moved before."""
    pairs = [(place.results / source, place.results / target) for source, target in intent.moves]
    for source, target in pairs:
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            for part, goal in _parts(source, target):
                part.replace(goal)
                moved.append(part)
    for folder in {path.parent for pair in pairs for path in pair}:
        sync_folder(folder)


def _parts(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """A file or folder as it is; a folder whose goal is there already, file by file."""
    if source.is_symlink() or not source.is_dir() or not target.exists():
        yield source, target
        return
    for path in sorted(source.iterdir()):
        yield from _parts(path, target / path.name)


def _remove(place: Workplace, intent: Intent) -> list[str]:
    """Remove what is no longer seen by anybody; what resists is reported, and found again by `bench db gc`."""
    faults = []
    for file in intent.removed:
        path = place.results / file
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            faults.append(f"cannot remove {error.filename or path}: {error.strerror}")
    return faults
