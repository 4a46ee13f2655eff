"""Where a result comes from: measured here, or taken in from others. Answered from the files beside a run's records."""

from __future__ import annotations

import contextlib
import logging
from functools import lru_cache
from pathlib import Path

from bench.core.errors import BenchError
from bench.core.files import write_json
from bench.experiment.records import EvaluationRecord, ImportedAttempts, ImportedRecord, RunRecord, read_record
from bench.store.answers import Provenance

log = logging.getLogger(__name__)

ARCHIVE = "imported.json"  # out of which archive a whole run came
ATTEMPTS = "imported-attempts.json"  # which results of a run came out of archives
RUN = "run.json"
EVALUATIONS = "evaluations"


def of(folder: Path, attempt_id: str, started: str) -> Provenance:
    """The provenance of a result whose record lies in a run's folder.

    Attempts are named, not results: what is measured again here is no longer somebody else's.

    Args:
        folder: of the run.
        attempt_id: that made the result; `started` when, in UTC.
    """
    named = _attempts(folder / ATTEMPTS)
    if named is not None:
        return "imported" if attempt_id in named else "measured"
    imported = _imported(
        folder / ARCHIVE
    )  # from before attempts were named: what is older than the import came with it
    return "imported" if imported is not None and started <= imported else "measured"


def note(folder: Path, here: Path) -> None:
    """Write into a staged `folder` that its results come from outside, beside what the run's folder `here` says.

    Raises:
        BenchError: a record is damaged, or the note cannot be written.
    """
    new = {attempt for attempt, _ in _results(folder)}
    if not new:
        return
    named = _attempts(here / ATTEMPTS)
    if named is None:
        named = frozenset(attempt for attempt, started in _results(here) if of(here, attempt, started) == "imported")
    write_json(folder / ATTEMPTS, {"format": 1, "attempts": sorted(new | named)})


def _results(folder: Path) -> list[tuple[str, str]]:
    """Attempt and start of each result of a run; damaged ones are left out."""
    found = []
    for path in (folder / RUN, *sorted((folder / EVALUATIONS).glob("*.json"))):
        with contextlib.suppress(BenchError):  # missing, or damaged
            record = read_record(RunRecord, path) if path.name == RUN else read_record(EvaluationRecord, path)
            found.append((record.attempt_id, record.started))
    return found


def _attempts(path: Path) -> frozenset[str] | None:
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    return _named(path, changed)


@lru_cache(maxsize=64)
def _named(path: Path, changed: int) -> frozenset[str] | None:
    try:
        return frozenset(read_record(ImportedAttempts, path).attempts)
    except BenchError as error:
        log.warning("%s", error)
        return None


def _imported(path: Path) -> str | None:
    """When a run was imported; a note that is damaged says that it was, whenever."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return None
    return _when(path, changed)


@lru_cache(maxsize=64)
def _when(path: Path, changed: int) -> str:
    try:
        return read_record(ImportedRecord, path).imported
    except BenchError as error:
        log.warning("%s", error)
        return "9999"
