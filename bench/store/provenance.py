"""Where a result comes from: measured here, taken in from others, or that and found again here.

Answered from the files beside a run's records. They are of this results folder alone: no archive may hold one, so
whatever comes in is imported, and whoever takes it in measures again himself.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from bench.core import files
from bench.core.errors import BenchError
from bench.core.files import write_json
from bench.experiment.folder import RECORD, RunFolder
from bench.experiment.records import (
    EvaluationRecord,
    FoundAgain,
    ImportedAttempts,
    ImportedRecord,
    ReMeasured,
    RunRecord,
    read_record,
)
from bench.store.typed_rows import Provenance

log = logging.getLogger(__name__)


def of(record: Path, attempt_id: str, started: str) -> Provenance:
    """The provenance of the result whose record is the file `record` in a run's folder.

    Attempts are named as imported, not results: what is made anew here is no longer somebody else's. Found again is
    the content of one file: another that takes its place is not.

    Args:
        attempt_id: that made the result; `started` when, in UTC.
    """
    if not _came_in(RunFolder.of(record), attempt_id, started):
        return "measured"
    return "imported" if found_again(record) is None else "re-measured"


def found_again(record: Path) -> FoundAgain | None:
    """That the result in the file `record` was found again here; None where it was not, or the file is another now."""
    found = _marks(RunFolder.of(record)).get(_identifier(record))
    return found if found is not None and found.sha256 == digest(record) else None


def digest(record: Path) -> str:
    """SHA-256 of a record's file; empty where it cannot be read."""
    try:
        return hashlib.sha256(record.read_bytes()).hexdigest()
    except OSError:
        return ""


def marked(record: Path, found: FoundAgain | None) -> dict[str, Any]:
    """What `re-measured.json` is to hold: as before, and that the result in `record` was found again, or was not."""
    marks = dict(_marks(RunFolder.of(record)))
    marks.pop(_identifier(record), None)
    if found is not None:
        marks[_identifier(record)] = found
    return _noted(marks)


def together(run: Provenance, evaluations: Iterable[Provenance]) -> Provenance:
    """The provenance of a number that several results decide: as good as the least of those that were measured.

    It is `re-measured` where all of them were made or found again here, but on a training of somebody else. Where
    nothing was measured it is the training's.
    """
    found = set(evaluations)
    if not found:
        return run
    if "imported" in found:
        return "imported"
    return "measured" if found == {"measured"} and run == "measured" else "re-measured"


def note(staged: RunFolder, here: RunFolder) -> None:
    """Write into a staged folder that its results come from outside, beside what the run's folder here says.

    Raises:
        BenchError: a record is damaged, or the note cannot be written.
    """
    new = {record: attempt_id for record, attempt_id, _ in _results(staged)}
    if not new:
        return
    named = _attempts(here)
    if named is None:
        known = _results(here)
        named = frozenset(
            attempt_id for record, attempt_id, started in known if of(record, attempt_id, started) != "measured"
        )
    _write_attempts(staged, named.union(new.values()))
    marks = _marks(here)
    left = {key: found for key, found in marks.items() if key not in map(_identifier, new)}
    if left.keys() != marks.keys():  # of a result that was here before, and comes in anew
        write_json(staged.re_measured, _noted(left))


def note_attempt(folder: RunFolder, attempt_id: str) -> None:
    """Write into a run's folder that an attempt made here went on with what came from outside."""
    _write_attempts(folder, (_attempts(folder) or frozenset()) | {attempt_id})


def _write_attempts(folder: RunFolder, attempts: Iterable[str]) -> None:
    write_json(folder.imported_attempts, {"format": 1, "attempts": sorted(attempts)})


def _noted(marks: Mapping[str, FoundAgain]) -> dict[str, Any]:
    return ReMeasured(format=1, results=dict(marks)).model_dump(mode="json")


def _identifier(record: Path) -> str:
    return record.parent.name if record.name == RECORD else record.stem


def _results(folder: RunFolder) -> list[tuple[Path, str, str]]:
    """File, id of the attempt and start of each result of a run; damaged ones are left out."""
    found = []
    for path in (folder.record, *folder.evaluations()):
        with contextlib.suppress(BenchError):  # missing, or damaged
            record = read_record(RunRecord, path) if path.name == RECORD else read_record(EvaluationRecord, path)
            found.append((path, record.attempt_id, record.started))
    return found


def _came_in(folder: RunFolder, attempt_id: str, started: str) -> bool:
    """Whether an attempt was made elsewhere; a note that is damaged says that it was, whenever."""
    named = _attempts(folder)
    if named is not None:
        return attempt_id in named
    if not folder.imported.exists():
        return False
    # From before attempts were named: what is older than the import came with it.
    archive = _read(ImportedRecord, folder.imported)
    return started <= (archive.imported if archive is not None else "9999")


def _attempts(folder: RunFolder) -> frozenset[str] | None:
    state = _state(folder.imported_attempts)
    return None if state is None else _named(folder.imported_attempts, state)


def _marks(folder: RunFolder) -> Mapping[str, FoundAgain]:
    found = _read(ReMeasured, folder.re_measured)
    return {} if found is None else found.results


N = TypeVar("N", bound=BaseModel)


def _read(kind: type[N], path: Path) -> N | None:
    """A note; None where there is none, or a damaged one, which is reported."""
    state = _state(path)
    return None if state is None else _note(kind, path, state)


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes with a file's content; None where there is none."""
    try:
        return files.state(path)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _note(kind: type[N], path: Path, state: tuple[int, ...]) -> N | None:
    try:
        return read_record(kind, path)
    except BenchError as error:
        log.warning("%s", error)
        return None


@lru_cache(maxsize=64)
def _named(path: Path, state: tuple[int, ...]) -> frozenset[str] | None:
    found = _note(ImportedAttempts, path, state)
    return None if found is None else frozenset(found.attempts)
