"""Runs of others, out of an archive into the results: only after everything in it was checked."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from bench.core.errors import BenchError
from bench.core.files import read_json, write_json
from bench.core.identity import short
from bench.exchange.archive import Archive, Limits
from bench.exchange.checks import Begun, check_checkpoint, check_file
from bench.experiment.command import of_run
from bench.experiment.folder import CHECKPOINT, CURVE, NOTES, RECORD, RUNS, WEIGHTS, RunFolder, kind_of
from bench.experiment.records import EvaluationRecord, ImportedRecord, parse_record, read_record
from bench.experiment.spec import RunSpec
from bench.jobs import journal
from bench.jobs.presence import beside
from bench.jobs.workplace import Workplace
from bench.store import door, provenance, queries, schema
from bench.store.database import Database
from bench.store.door import CheckedRun

STAGE = ".import-"
OUTCOMES = (
    "kind", "n", "n_clean", "n_robust", "clean_bits", "robust_bits", "images_digest", "clean_rows", "cells", "attempts",
)  # fmt: skip


@dataclass
class Imported:
    """How many files were new, and how many were there already."""

    runs: int = 0
    evaluations: int = 0
    failures: int = 0
    weights: int = 0
    unfinished: int = 0
    kept: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Incoming:
    """An archive that is being taken in: where its files are unpacked, into what they go, and what is told of it."""

    archive: Archive
    stage: Path
    place: Workplace
    db: Database | None
    """None where there is none yet."""
    told: Imported

    def where(self, run_id: str) -> str:
        """The run's folder in the archive, as errors name it."""
        return f"archive {self.archive.path}, nothing was taken in: runs/{short(run_id)}…/"


def import_archive(path: Path, place: Workplace, db: Database, limits: Limits | None = None) -> Imported:
    """Take in an archive: checked completely, then moved into the runs of `place` and into `db`, opened here.

    A file that is here with the same content stays; so does a run or evaluation that is here with the same weights or
    outcomes and differs in times only. Nothing is written when anything is refused.

    Raises:
        BenchError: the archive, or a record in it, is refused.
    """
    with Archive(path, limits) as archive:
        imported = Imported()
        runs = archive.by_run()
        fresh = db.path is not None and not db.path.exists()
        with _staging(place, archive.size) as stage, beside(place) as (locks, _):
            if not fresh:
                imported.notes += journal.catch_up(db.open(create=True), place)
            incoming = _Incoming(archive, stage, place, None if fresh else db, imported)
            for run_id, files in runs.items():
                owner = locks.owner(run_id)
                if owner is not None:
                    raise BenchError(f"run {short(run_id)} is being made here by {owner}; import when that has ended")
                stage_it = _stage_begun if run_id in archive.manifest.unfinished else _stage_run
                stage_it(incoming, run_id, files)
            _note_origin(archive, stage, place)
            if fresh:
                db.open(create=True)
            imported.notes += _other_images(db, stage)
            moves = tuple((place.within(source), place.within(goal)) for source, goal in _moves(stage, place.runs))
            records = [f"{RUNS}/{run_id}/{file}" for run_id, files in runs.items() for file in _records(files)]
            intent = journal.Intent(moves=moves, takes_in=tuple(records), removed=(place.within(stage),))
            faults = journal.carry_out(db, place, locks, intent)
    if faults:
        raise BenchError(faults[0])
    return imported


def origin(place: Workplace, run_id: str) -> dict[str, Any] | None:
    """Out of which archive a run came, by the file in its folder; None for one made here, or without its folder.

    Raises:
        BenchError: that file is damaged.
    """
    path = place.imported_file(run_id)
    return read_record(ImportedRecord, path).model_dump(exclude={"format"}) if path.is_file() else None


def _stage_run(incoming: _Incoming, run_id: str, names: dict[str, str]) -> None:
    """Unpack and check one run; in the stage stays what is new here."""
    archive, told, where = incoming.archive, incoming.told, incoming.where(run_id)
    if RECORD not in names:
        raise BenchError(
            f"archive {archive.path} is refused, nothing was taken in: run {short(run_id)} has no {RECORD}"
        )
    run = door.check_run(door.read(archive.read(names[RECORD]), where + RECORD), where + RECORD, run_id)
    _tell_of_factory(run.spec, told)
    here = incoming.place.runs / run_id
    known = _known_run(here, incoming.db, run)
    for file, name in names.items():
        staged = incoming.stage / run_id / file
        archive.extract(name, staged)
        check_file(file, staged, where + file, run)
        kind = kind_of(file)
        if (known and kind in ("record", "curve")) or _stays(file, here / file, staged, where):
            staged.unlink()
            told.kept += 1
        else:
            told.runs += kind == "record"
            told.evaluations += kind == "evaluation"
            told.failures += kind == "failure"
            told.weights += kind == "weights"


def _stage_begun(incoming: _Incoming, run_id: str, names: dict[str, str]) -> None:
    """Unpack and check a training that is not done; in the stage stays its checkpoint where ours is not as far.

    Raises:
        BenchError: it is refused, or the same run is being trained here in another way.
    """
    db, told, where = incoming.db, incoming.told, incoming.where(run_id) + CHECKPOINT
    staged, here = incoming.stage / run_id / CHECKPOINT, incoming.place.run(run_id)
    incoming.archive.extract(names[CHECKPOINT], staged)
    theirs = check_checkpoint(staged, where, run_id)
    _tell_of_factory(theirs.run, told)
    done = here.record.exists() or (db is not None and bool(queries.runs(db, run_ids=run_id)))
    if done or (here.checkpoint.exists() and _as_far(here.checkpoint, theirs, where)):
        staged.unlink()
        told.kept += 1
        return
    told.unfinished += 1
    told.notes.append(
        f"{theirs.run.label} is not done: `{of_run(theirs.run.described())}` goes on with it after epoch "
        f"{theirs.record.epoch}"
    )


def _as_far(path: Path, theirs: Begun, where: str) -> bool:
    """Whether the checkpoint that is here is of the same training as theirs, and not behind it.

    Raises:
        BenchError: it is of another, or cannot be compared.
    """
    try:
        ours = check_checkpoint(path, str(path), theirs.run.run_id)
    except BenchError:
        ours = None
    if ours is not None and theirs.precedes(ours):
        return True
    if ours is None or not ours.precedes(theirs):
        raise BenchError(f"{where}: this run is being trained here, and differently; delete {path} to take theirs")
    return False


def _tell_of_factory(run: RunSpec, told: Imported) -> None:
    if run.model_plugin == "factory":
        told.notes.append(
            f"run {short(run.run_id)} makes its members with {run.model_settings.get('function')} out of your own "
            f"packages; that is done only where --allow-factory names it"
        )


def _note_origin(archive: Archive, stage: Path, place: Workplace) -> None:
    """Beside each run: which of its results came from outside; of one that is new here, out of which archive."""
    for folder in sorted(path for path in stage.iterdir() if path.is_dir()):
        provenance.note(RunFolder(folder), place.run(folder.name))
    staged = (path.parent for name in (RECORD, CHECKPOINT) for path in sorted(stage.glob(f"*/{name}")))
    new = [folder for folder in staged if not place.run(folder.name).record.exists()]
    if new:
        record = {"format": 1, **archive.origin, "imported": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        for folder in new:
            write_json(RunFolder(folder).imported, record)


def _known_run(here: Path, db: Database | None, run: CheckedRun) -> bool:
    """Whether the run is here already; files without a record, of a training that was interrupted, do not count."""
    digest = run.record.weights_digest
    known = False
    query = select(schema.Run.weights_digest).where(schema.Run.run_id == run.record.run_id)
    others = [row["weights_digest"] for row in (db.rows(query) if db else ())]
    if (record := RunFolder(here).record).exists():
        others.append(door.run_at(record).record.weights_digest)
        known = True
    if any(other is not None and digest is not None and other != digest for other in others):
        name = short(run.record.run_id)
        raise BenchError(
            f"run {name} ({run.spec.label}) is here with other weights, nothing was taken in; `bench db delete {name}` "
            f"first, or export without it"
        )
    return known


def _stays(file: str, mine: Path, theirs: Path, where: str) -> bool:
    """Whether the file that is here stays, instead of the one in the archive."""
    if not mine.exists():
        return False
    kind = kind_of(file)
    if kind in ("weights", "samples") or mine.read_bytes() == theirs.read_bytes():
        return True
    if kind == "evaluation":
        try:
            old, new = (_outcome(path) for path in (mine, theirs))
        except BenchError:
            return False  # ours is damaged: theirs takes its place
        if old == new:
            return True
        raise BenchError(
            f"{where}{file}: evaluation {short(theirs.stem)} is here with other outcomes; `bench db delete "
            f"{short(theirs.stem)}` first to take this one"
        )
    if kind == "failure":
        raise BenchError(f"{where}{file}: the same attempt is here with another error")
    return False


def _outcome(path: Path) -> dict[str, object]:
    return parse_record(EvaluationRecord, read_json(path), path).model_dump(include=set(OUTCOMES))


def _other_images(db: Database, stage: Path) -> list[str]:
    """A line for each new evaluation of other images than ours of the same attack, data set and number."""
    notes = []
    for path in (path for folder in sorted(stage.iterdir()) for path in RunFolder(folder).evaluations()):
        record = parse_record(EvaluationRecord, read_json(path), path)
        table = schema.Evaluation
        query = select(table.images_digest).where(table.attack_key == record.attack_key).distinct()
        ours = {row["images_digest"] for row in db.rows(query)}
        if ours and record.images_digest not in ours:
            notes.append(f"evaluation {short(record.evaluation_id)} was measured on other images than those here")
    return notes


def _moves(stage: Path, runs: Path) -> Iterator[tuple[Path, Path]]:
    """What was checked to its place: a new run as a whole, of a known one file by file, its record last."""
    order = {**dict.fromkeys(NOTES, -1), WEIGHTS: 0, CURVE: 1, RECORD: 2}
    for folder in sorted(path for path in stage.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        target = runs / folder.name
        if files and not target.exists():
            yield folder, target
        elif files:
            for path in sorted(files, key=lambda path: (order.get(path.name, 3), path)):
                yield path, target / path.relative_to(folder)


def _records(files: Iterable[str]) -> list[str]:
    """The records among the files of a run, the run's own first."""
    found = [file for file in files if kind_of(file) in ("record", "evaluation", "failure")]
    return sorted(found, key=lambda file: file != RECORD)


@contextlib.contextmanager
def _staging(place: Workplace, needed: int) -> Iterator[Path]:
    """A scratch folder among the runs (on their disk), gone afterwards; so are folders that were made in vain.

    Raises:
        BenchError: it cannot be made, or the disk has no room for `needed` bytes.
    """
    runs = place.runs
    made = [path for path in (place.locks, runs, *runs.parents) if not path.exists()]
    try:
        runs.mkdir(parents=True, exist_ok=True)
        stage = runs / Path(tempfile.mkdtemp(prefix=STAGE, dir=runs)).name
    except OSError as error:
        raise BenchError(f"cannot write in {runs}: {error.strerror}; nothing was taken in") from error
    try:
        free = shutil.disk_usage(runs).free
        if free < needed:
            raise BenchError(f"{runs} has {free / 2**20:,.0f} MiB left, the archive unpacks to {needed / 2**20:,.0f}")
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):  # it holds something, or was not made
                path.rmdir()
