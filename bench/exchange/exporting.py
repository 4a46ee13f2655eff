"""Runs for others: chosen, checked and written as one archive."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import BenchError
from bench.core.files import read_json, write_json
from bench.core.identity import short
from bench.core.traces import relative
from bench.exchange.archive import Manifest, belongs, write_archive
from bench.exchange.checks import check_file
from bench.experiment.folder import RUNS, kind_of
from bench.experiment.names import recipe_today
from bench.jobs.workplace import Workplace
from bench.store import door, queries
from bench.store.database import Database


@dataclass(frozen=True)
class Exported:
    """What an export wrote; `left_out` has a line for each file that no import would take."""

    manifest: Manifest
    left_out: tuple[str, ...]


def choose(db: Database, identifiers: tuple[str, ...], selectors: dict[str, Any], *, whole: bool = True) -> list[str]:
    """Ids of the runs to export: by prefixes, by selectors, or all; `whole`: with those they were trained with.

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
    if not whole:
        return sorted({run.run_id for run in chosen})
    known = {run.run_id: run for run in queries.runs(db)}
    todo, found = [run.run_id for run in chosen], set()
    while todo:
        run_id = todo.pop()
        if run_id in known and run_id not in found:
            found.add(run_id)
            todo += known[run_id].requires.values()
    return sorted(found)


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
