"""Runs for others: chosen, checked and written as one archive."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.core.errors import BenchError
from bench.core.files import read_json, write_json
from bench.core.identity import short
from bench.core.traces import relative
from bench.exchange.archive import Manifest, belongs, write_archive
from bench.exchange.checks import Begun, check_checkpoint, check_file
from bench.experiment.folder import CHECKPOINT, RUNS, RunFolder, kind_of
from bench.experiment.names import AS_RECORDED, recipe_today
from bench.jobs.workplace import Workplace
from bench.store import door, queries
from bench.store.database import Database


@dataclass(frozen=True)
class Exported:
    """What an export wrote; `left_out` has a line for each file that no import would take."""

    manifest: Manifest
    left_out: tuple[str, ...]


def unfinished(place: Workplace) -> tuple[dict[str, Begun], list[str]]:
    """Trainings that are not done, by the id of their run, and a line for each checkpoint that no import would take."""
    found, faults = {}, []
    for path in sorted(place.runs.glob(f"[!.]*/{CHECKPOINT}")):
        folder = RunFolder(path.parent)
        if not folder.record.exists():
            try:
                found[folder.run_id] = check_checkpoint(path, str(path), folder.run_id)
            except BenchError as error:
                faults.append(str(error))
    return found, faults


def choose(
    db: Database,
    identifiers: tuple[str, ...],
    selectors: dict[str, Any],
    begun: Mapping[str, Begun] = MappingProxyType({}),
    *,
    whole: bool = True,
) -> list[str]:
    """Ids of the runs to export: by prefixes, by selectors, or all; `whole`: with those they were trained with.

    Args:
        begun: trainings that are not done, which may be chosen too.

    Raises:
        BenchError: an unknown prefix, both manners at once, or nothing fits.
    """
    names = {"methods": "method", "seeds": "seed"}
    wanted = {names.get(name, name): value for name, value in selectors.items() if value not in (None, ())}
    if identifiers and wanted:
        raise BenchError("give ids of runs or selectors, not both")
    recipe = wanted.pop("recipe", None)
    if identifiers:
        todo = [_named(db, prefix, begun) for prefix in identifiers]
    else:
        chosen = queries.runs(db, **wanted)
        if recipe is not None:
            chosen = [run for run in chosen if run.recipe == recipe_today(db.names, run.dataset, recipe)]
        todo = [run.run_id for run in chosen]
        todo += [run_id for run_id, training in begun.items() if _selected(db, training, recipe, wanted)]
    if not todo:
        raise BenchError("nothing to export: no run fits; `bench list runs` shows what there is")
    if not whole:
        return sorted(set(todo))
    needs = {run_id: [run.run_id for run in training.run.requires.values()] for run_id, training in begun.items()}
    needs |= {run.run_id: list(run.requires.values()) for run in queries.runs(db)}
    found: set[str] = set()
    while todo:
        run_id = todo.pop()
        if run_id in needs and run_id not in found:
            found.add(run_id)
            todo += needs[run_id]
    return sorted(found)


def _named(db: Database, prefix: str, begun: Mapping[str, Begun]) -> str:
    """The run whose id begins with `prefix`, done or begun."""
    fitting = [run_id for run_id in begun if prefix.strip() and run_id.startswith(prefix.strip().lower())]
    if not fitting:
        return queries.find_run(db, prefix).run_id
    fitting += [run.run_id for run in queries.runs(db) if run.run_id.startswith(prefix.strip().lower())]
    if len(fitting) > 1:
        raise BenchError(f"{prefix!r} is ambiguous, type more of: {', '.join(map(short, fitting[:5]))}")
    return fitting[0]


def _selected(db: Database, training: Begun, recipe: str | None, wanted: Mapping[str, Any]) -> bool:
    """Whether a training that is not done is one that the selectors mean."""
    names = (db.names or AS_RECORDED).run(training.run)
    told = {"method": names.method, "dataset": names.dataset, "model": names.model, "seed": training.run.seed}
    if recipe is not None and names.recipe != recipe_today(db.names, names.dataset, recipe):
        return False
    return all(told[name] in (value if isinstance(value, tuple) else (value,)) for name, value in wanted.items())


def export_runs(
    place: Workplace, run_ids: list[str], target: Path, *, weights: bool, begun: Collection[str] = ()
) -> Exported:
    """Write the files of runs to the archive `target`; the same files give the same bytes.

    Args:
        begun: those of the runs that are not done (`unfinished` has checked them): of these the checkpoint.

    Raises:
        BenchError: a run is damaged, or has no files here.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _export(place, run_ids, target, Path(scratch), weights=weights, begun=begun)


def _export(
    place: Workplace, run_ids: list[str], target: Path, scratch: Path, *, weights: bool, begun: Collection[str]
) -> Exported:
    files: dict[str, Path] = {}
    left_out: list[str] = []
    for run_id in run_ids:
        folder = place.run(run_id)
        if run_id in begun:
            files[f"{RUNS}/{run_id}/{CHECKPOINT}"] = folder.checkpoint
            continue
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
