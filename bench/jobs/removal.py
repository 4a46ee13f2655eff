"""What can go from a results folder: garbage that nothing needs, and runs or evaluations somebody no longer wants.

Where rows go with files, that is one intent of the journal: all at once for all who look, and finished after a kill.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.core.identity import short
from bench.experiment.folder import CHECKPOINT, RUNS, UNFINISHED, RunFolder
from bench.jobs import journal
from bench.jobs.presence import alone
from bench.jobs.workplace import Workplace
from bench.store import gc, ids, queries
from bench.store.database import Database

UNDONE = "nothing was removed"
REMAINS = (".import-", ".deleted-", ".verify-")  # folders of what was under way
QUIET = 3600.0  # seconds after which nobody is writing a temporary file any more


@dataclass(frozen=True)
class Garbage:
    """One thing that can go: files or a folder, and rows of one kind; `size` in bytes."""

    label: str
    paths: tuple[Path, ...] = ()
    attempt_id: str | None = None
    evaluation_id: str | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(_size(path) for path in self.paths)


def garbage(db: Database, place: Workplace, *, stale: bool = False) -> list[Garbage]:
    """What nothing needs any more: remains of killed or damaged work, failures that a result superseded.

    With `stale` also evaluations that are stale or superseded, as `bench.store.derived.refresh` last found them.
    """
    found = [*_left_behind(place)]
    for attempt in gc.superseded(db):
        paths = [place.run(attempt.run_id).failure(attempt.attempt_id)] if attempt.run_id else []
        here = tuple(path for path in paths if path.exists())
        found.append(Garbage(f"failure that a later attempt made good ({attempt.label})", here, attempt.attempt_id))
    if stale:
        for row, why in gc.stale_evaluations(db):
            label = f"stale evaluation {short(row.evaluation_id)} ({row.label}: {why})"
            files = place.run(row.run_id).of_evaluation(row.evaluation_id)
            found.append(Garbage(label, files, evaluation_id=row.evaluation_id))
    return found


def _left_behind(place: Workplace) -> Iterator[Garbage]:
    """Files of no use, told by their names; those that somebody may be writing are left."""
    if not place.results.is_dir():
        return
    before = time.time() - QUIET
    for path in sorted(place.results.rglob("*")):
        try:
            quiet = path.stat().st_mtime < before
        except OSError:  # a link into nowhere, or gone meanwhile
            continue
        name, folder = path.name, path.is_dir()
        if folder and name.startswith(REMAINS) and quiet:
            yield Garbage("remains of an interrupted import, deletion or verification", (path,))
        elif not folder and name.startswith(".") and name.endswith((".tmp", ".tmp-wal", ".tmp-shm")) and quiet:
            if not any(part.startswith(REMAINS) for part in path.parts):
                yield Garbage("temporary file of a killed process", (path,))
        elif name.endswith(".damaged"):
            yield Garbage("damaged file that was moved aside", (path,))
        elif name == CHECKPOINT and RunFolder(path.parent).record.exists():
            if RunFolder(path.parent).weights.exists():
                yield Garbage("checkpoint of a training that is complete", (path,))
        elif path.parent.name == UNFINISHED and RunFolder(path.parent.parent).evaluation(path.stem).exists():
            yield Garbage("beginning of an evaluation that is complete", (path,))
        elif folder and path.parent == place.runs and quiet and not any(part.is_file() for part in path.rglob("*")):
            yield Garbage("empty folder of a run", (path,))


def remove(db: Database, place: Workplace, items: list[Garbage]) -> list[str]:
    """Remove what `garbage` found; a line for each file that resisted.

    Raises:
        BenchError: somebody is working in this results folder.
    """
    known = [item for item in items if item.attempt_id or item.evaluation_id]
    with alone(place, UNDONE) as locks:
        for item in items:
            if item not in known:
                for path in item.paths:
                    _drop(path)
        return journal.carry_out(
            db,
            place,
            locks,
            _gone(
                place,
                [path for item in known for path in item.paths],
                attempts=tuple(item.attempt_id for item in known if item.attempt_id),
                evaluations=tuple(item.evaluation_id for item in known if item.evaluation_id),
            ),
        )


@dataclass(frozen=True)
class Deletion:
    """A run or evaluation that is to go, and what goes with it."""

    kind: str
    id: str
    label: str
    evaluations: int
    failures: int
    paths: tuple[Path, ...]
    needed_by: tuple[str, ...]

    @property
    def weights(self) -> bool:
        """Whether weights go with it."""
        return any(RunFolder(path).weights.exists() for path in self.paths)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(_size(path) for path in self.paths)


def deletion_of(db: Database, place: Workplace, identifier: str) -> Deletion:
    """The run or evaluation whose id begins with `identifier`.

    Raises:
        BenchError: none or several do.
    """
    found = ids.find(db, identifier)
    if found.kind == "run":
        folders = (place.runs / found.run_id, place.results / "again" / found.run_id)
        return Deletion(
            kind="run",
            id=found.run_id,
            label=found.label,
            evaluations=queries.evaluation_counts(db).get(found.run_id, 0),
            failures=len(gc.attempts_of(db, found.run_id)),
            paths=tuple(path for path in folders if path.exists()),
            needed_by=tuple(gc.needed_by(db, found.run_id)),
        )
    row = next(iter(queries.evaluations(db, evaluation_ids=found.id)), None)  # none where it is damaged
    attempts = gc.attempts_at(db, found.id)
    files = [place.run(found.run_id).failure(attempt.attempt_id) for attempt in attempts]
    return Deletion(
        kind="evaluation",
        id=found.id,
        label=f"{row.label if row else 'a damaged row'} on {found.label}",
        evaluations=1,
        failures=len(attempts),
        paths=(*place.run(found.run_id).of_evaluation(found.id), *(path for path in files if path.exists())),
        needed_by=(),
    )


def delete(db: Database, place: Workplace, items: list[Deletion]) -> list[str]:
    """Remove runs and evaluations, files and rows; a line for each file that resisted.

    Raises:
        BenchError: somebody is working in this results folder.
    """
    with alone(place, UNDONE) as locks:
        intent = _gone(
            place,
            [path for item in items for path in item.paths],
            runs=tuple(item.id for item in items if item.kind == "run"),
            evaluations=tuple(item.id for item in items if item.kind == "evaluation"),
        )
        return journal.carry_out(db, place, locks, intent)


def _gone(place: Workplace, paths: list[Path], **rows: Any) -> journal.Intent:
    """The intent that files and rows go: the files to a folder of their own first, where nobody takes them for runs."""
    aside = f"{RUNS}/.deleted-{uuid.uuid4().hex[:8]}"
    names = [place.within(path) for path in paths if path.exists() or path.is_symlink()]
    moves = tuple((name, f"{aside}/{number}") for number, name in enumerate(names))
    return journal.Intent(moves=moves, removed=(aside,) if moves else (), **rows)


def _drop(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise BenchError(f"cannot remove {path}: {error.strerror}") from error


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.lstat().st_size for file in files if file.is_file())
