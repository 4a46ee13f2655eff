"""Runs for others: exported as one archive; rows of another database or folder merged in."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.config import defaults
from bench.core.errors import BenchError
from bench.core.files import read_json, write_json
from bench.core.identity import short
from bench.core.traces import relative
from bench.experiment.folder import RUNS, kind_of
from bench.experiment.names import AS_RECORDED, recipe_today
from bench.experiment.records import ImportedRecord, read_record
from bench.jobs.tensor_files import check_tensors, check_weights
from bench.jobs.workplace import Workplace
from bench.store import door, ingest, queries
from bench.store.archive import Manifest, belongs, write_archive
from bench.store.database import Database
from bench.store.door import CheckedRun
from bench.store.merge import Merged, merge


@dataclass(frozen=True)
class Exported:
    """What an export wrote; `left_out` has a line for each file that no import would take."""

    manifest: Manifest
    left_out: tuple[str, ...]


def choose(db: Database, identifiers: tuple[str, ...], selectors: dict[str, Any]) -> list[str]:
    """Ids of the runs to export, with those they were trained with: by prefixes, by selectors, or all.

    Raises:
        BenchError: an unknown prefix, both manners at once, or nothing fits.
    """
    names = {"methods": "method", "seeds": "seed"}
    wanted = {names.get(name, name): value for name, value in selectors.items() if value not in (None, ())}
    if identifiers and wanted:
        raise BenchError("give ids of runs or selectors, not both")
    recipe = wanted.pop("recipe", None)
    chosen = [queries.find_run(db, prefix) for prefix in identifiers] if identifiers else queries.runs(db, **wanted)
    if recipe is not None:
        chosen = [run for run in chosen if run.recipe == recipe_today(db.names, run.dataset, recipe)]
    if not chosen:
        raise BenchError("nothing to export: no run fits; `bench list runs` shows what there is")
    known = {run.run_id: run for run in queries.runs(db)}
    todo, found = [run.run_id for run in chosen], set()
    while todo:
        run_id = todo.pop()
        if run_id in known and run_id not in found:
            found.add(run_id)
            todo += known[run_id].requires.values()
    return sorted(found)


def merge_from(db: Database, other: str) -> tuple[Merged, tuple[str, ...]]:
    """Merge a database (file or URL) or the records of a results folder into `db`.

    Returns:
        What was new, and a line for each damaged file of the folder.

    Raises:
        BenchError: `other` is none of these.
    """
    path = Path(other)
    if "://" not in other and path.is_dir():
        runs = path / RUNS if (path / RUNS).is_dir() else path
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "other.db"
            counts = ingest.rebuild(file, runs, defaults("published"), db.names or AS_RECORDED)
            with Database(file).open() as theirs:
                return merge(db, theirs), counts.damaged
    if path.is_file() and zipfile.is_zipfile(path):
        raise BenchError(f"{other} is an archive: `bench db import {other}`")
    with Database(other).open() as theirs:
        return merge(db, theirs), ()


def export_runs(place: Workplace, run_ids: list[str], target: Path, *, weights: bool) -> Exported:
    """Write the files of runs to the archive `target`; the same files give the same bytes.

    Raises:
        BenchError: a run is damaged, or has no files here.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _export(place, run_ids, target, Path(scratch), weights=weights)


def _export(place: Workplace, run_ids: list[str], target: Path, scratch: Path, *, weights: bool) -> Exported:
    files: dict[str, Path] = {}
    left_out: list[str] = []
    for run_id in run_ids:
        folder = place.run(run_id)
        if not folder.record.is_file():
            left_out.append(f"run {short(run_id)} has no files in {place.runs}; export it where it was made")
            continue
        run = door.run_at(folder.record)
        for path in sorted(path for path in folder.path.rglob("*") if path.is_file() and not path.is_symlink()):
            file = path.relative_to(folder.path).as_posix()
            name = f"{RUNS}/{run_id}/{file}"
            if not belongs(name) or (path.suffix == ".safetensors" and not weights):
                continue
            try:
                check_file(file, path, str(path), run)
            except BenchError as error:
                left_out.append(str(error))
            else:
                files[name] = _without_paths(path, scratch) if kind_of(file) == "failure" else path
    if not files:
        raise BenchError(f"nothing to export: {left_out[0] if left_out else 'there is no such run'}")
    return Exported(write_archive(target, files, weights=weights), tuple(left_out))


def _without_paths(path: Path, scratch: Path) -> Path:
    """A failure's record as others may have it: a copy in `scratch` where an older version wrote paths into it."""
    record = read_json(path)
    public = record | {name: relative(record[name]) for name in ("error", "traceback")}
    if public == record:
        return path
    copy = scratch / path.name
    write_json(copy, public)
    return copy


def imported(place: Workplace, run_id: str) -> dict[str, Any] | None:
    """Out of which archive a run came, by the file in its folder; None for one made here, or without its folder.

    Raises:
        BenchError: that file is damaged.
    """
    path = place.imported_file(run_id)
    return read_record(ImportedRecord, path).model_dump(exclude={"format"}) if path.is_file() else None


def check_file(file: str, path: Path, where: str, run: CheckedRun) -> None:
    """Check one file of a run: `file` is its path within the run's folder, `path` where it lies now.

    Raises:
        BenchError: it is damaged, or does not belong to the run; `where` stands in the message.
    """
    stem, kind = Path(file).stem, kind_of(file)
    if kind == "record":
        door.check_run(door.read(path, where), where, run.record.run_id)
    elif kind == "curve":
        door.check_curve(read_bytes(path), where)
    elif kind == "weights":
        check_weights(path, where, run)
    elif kind == "evaluation":
        door.check_evaluation(door.read(path, where), where, stem, run.known)
    elif kind == "failure":
        door.check_failure(door.read(path, where), where, stem, run.record.run_id)
    else:
        check_tensors(path, where)


def read_bytes(path: Path) -> bytes:
    """A file of text, which is never large.

    Raises:
        BenchError: it is, or cannot be read.
    """
    try:
        if path.stat().st_size > door.RECORD_BYTES:
            raise BenchError(f"{path} is too large for a record")
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from error
