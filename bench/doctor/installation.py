"""Is this installation sound? One check a line, each with what would mend it."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.core import config, registry
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.numbers import several
from bench.experiment.folder import RUNS


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    detail: str = ""


def check(data: Path, results: Path, db: str | None) -> list[Check]:
    """Packages, device, configuration, plug-ins, data sets, folder, database, weights and images."""
    return [
        Check("python", True, platform.python_version()),
        _packages(),
        _device(),
        _configuration(),
        *_plugins(),
        *_unusable(),
        *_data(data),
        _folder(results),
        _database(results, db),
        *_tensors(results),
    ]


def _packages() -> Check:
    from bench.core.compat import import_torchvision

    try:
        vision = import_torchvision()
    except (ImportError, RuntimeError, BenchError) as error:
        return Check(
            "torch and torchvision", False, f"torchvision cannot be imported ({error}); install the matching pair"
        )
    return Check("torch and torchvision", True, f"{torch.__version__}, {vision.__version__}")


def _device() -> Check:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("device", True, ", ".join(names) or f"CPU, {torch.get_num_threads()} threads")


def _configuration() -> Check:
    try:
        loaded = config.load()
    except BenchError as error:
        return Check("configuration", False, str(error))
    counts = f"{len(loaded.config.methods)} methods, {len(loaded.config.attacks)} attacks"
    return Check("configuration", True, f"{loaded.path}: {counts}")


def _plugins() -> list[Check]:
    """One line a kind, and one for each plug-in that cannot be loaded."""
    checks = []
    for kind in registry.KINDS:
        try:
            entries = registry.entries(kind)
        except BenchError as error:
            checks.append(Check(kind, False, str(error)))
            continue
        broken = []
        for name, entry in entries.items():
            try:
                entry.load()
            except BenchError as error:
                broken.append(Check(f"{kind[:-1]} {name}", False, str(error)))
        foreign = sorted({entry.origin for entry in entries.values()} - {registry.BUILT_IN})
        told = f"{len(entries)}" + (f", some from {', '.join(foreign)}" if foreign else "")
        checks += [Check(kind, bool(entries), told if entries else "none registered; install bench again"), *broken]
    return checks


def _unusable() -> list[Check]:
    """Plug-ins that load and cannot be used all the same: their name is another's, or their defaults are refused."""
    try:
        loaded = config.load()
    except BenchError:
        return []  # `_configuration` says so
    checks = []
    for kind in registry.KINDS:
        tables = getattr(loaded.config, kind)
        faults = [(entry.name, entry.refused) for entry in registry.left_out(kind)]
        for name, entry in registry.entries(kind).items():
            if hidden := config.hidden(kind, name, tables):
                faults.append((name, f"{entry.label} cannot be reached: {hidden}"))
            elif name in tables and _loads(entry) and (fault := entry.fault(tables[name].settings)):
                faults.append((name, fault))
        checks += [Check(f"{kind[:-1]} {name}", False, fault) for name, fault in faults]
    return checks


def _loads(entry: registry.Registered) -> bool:
    try:
        entry.load()
    except registry.PluginError:
        return False  # `_plugins` says so
    return True


def _data(folder: Path) -> list[Check]:
    """Which data sets are there; a missing one is not a fault."""
    from bench.data.base import MissingDataError, verify

    checks: list[Check] = []
    try:
        loaded = config.load()
    except BenchError:
        return checks  # `_configuration` says so
    for name, spec in loaded.config.datasets.items():
        try:
            splits = verify(spec.plugin, folder=folder, dataset=loaded.dataset(name))
        except MissingDataError:
            checks.append(Check(f"data {name}", True, f"not there; `bench prepare {name}`"))
        except BenchError as error:
            checks.append(Check(f"data {name}", False, str(error)))
        else:
            checks.append(Check(f"data {name}", True, f"{len(splits.train):,} + {len(splits.test):,} images"))
    return checks


def _folder(results: Path) -> Check:
    nearest = next(path for path in (results, *results.resolve().parents) if path.exists())
    free = shutil.disk_usage(nearest).free / 2**30
    try:
        probe = nearest / ".bench-doctor"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Check("results", False, f"{nearest} cannot be written ({error.strerror}); give --results")
    return Check("results", free > 1, f"{results}, {free:.0f} GiB free")


def _database(results: Path, db: str | None) -> Check:
    from bench.store import queries
    from bench.store.database import Database

    if db is None and not (results / "bench.db").exists():
        return Check("database", True, "none yet; `bench run` makes it")
    try:
        with Database(db if db is not None else results / "bench.db").open() as base:
            totals = queries.totals(base)
    except BenchError as error:
        return Check("database", False, str(error))
    return Check("database", True, f"{several(totals.runs, 'run')}, {several(totals.evaluations, 'evaluation')}")


def _tensors(results: Path) -> list[Check]:
    """One line for each file of weights or images that does not hold what was written, or one for all."""
    from bench.jobs.damage import look

    looked = list(look(results / RUNS))
    faults = [
        Check("weights and images", False, f"{item.fault}; the same `bench run` sets it aside and makes it again")
        for item in looked
        if item.fault
    ]
    if faults or not looked:
        return faults
    unknown = sum(not item.checked for item in looked)
    told = f", {unknown} of them from before digests were kept, which cannot be checked" if unknown else ""
    return [Check("weights and images", True, f"{several(len(looked), 'file')} as written{told}")]
