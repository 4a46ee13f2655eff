"""`bench.train`: the jobs of the command line, from Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.api.notebook import display
from bench.api.places import Where, choose, seeds_of
from bench.api.runs import Run
from bench.core import places
from bench.core.device import pick, threads_kept
from bench.core.errors import BenchError, JobError
from bench.experiment import select
from bench.jobs import opening
from bench.jobs.choosing import Chosen
from bench.jobs.driver import Driver
from bench.jobs.executors import Setting, executor_class
from bench.jobs.locks import Locks
from bench.jobs.plan import check_data, check_networks, feasible, make_plan
from bench.jobs.workplace import Workplace


def train(
    method: str, *, dataset: str | None = None, recipe: str | None = None, seed: int | Iterable[int] = 0,
    model: str | None = None, members: int | None = None, settings: Mapping[str, Any] | None = None,
    device: str | None = None, threads: int | None = None, workers: int | None = None,
    results: Path | str | None = None, data: Path | str | None = None, db: str | None = None, quiet: bool = False,
) -> Any:  # fmt: skip
    """Train a method, unless that was done: the job that `bench run` does, under the same id, in the same folder.

    `bench.train("trs", dataset="digits", recipe="quick", seed=0).ensemble()`

    Args:
        method: a configured method, as `bench list methods` shows; `paper` and `all` are several.
        dataset, recipe, model, members: as for `bench run`.
        seed: one, or several.
        settings: what `--set` changes: `{"methods.trs.lambda_a": 5, "training.epochs": 10}`.
        device, threads: as for `bench run`; a GPU if there is one.
        workers: processes that train several at once; this one does it unless given.
        results, data, db: folders and database; as for the command line (`BENCH_RESULTS`, `BENCH_DATA`, `BENCH_DB`).
        quiet: whether no progress is shown.

    Returns:
        The run (`bench.api.runs.Run`); a list of them for several seeds or methods.

    Raises:
        BenchError: an unknown name or a value that does not fit; missing data.
        JobError: a training failed; `bench list failures` tells of it.
    """
    where, seeds = Where.of(results, data, db), seeds_of(seed)
    chosen = choose(
        where, (method,), dataset=dataset, recipe=recipe, model=model, members=members, settings=settings, seeds=seeds,
        needs_method=True,
    )  # fmt: skip
    found = done(chosen, where, training_only=True, device=device, threads=threads, workers=workers, quiet=quiet)
    return found[0] if isinstance(seed, int) and len(found) == 1 else found


def done(
    chosen: Chosen, where: Where, *, training_only: bool = False, device: str | None = None,
    threads: int | None = None, workers: int | None = None, quiet: bool = False, **place: Any,
) -> list[Run]:  # fmt: skip
    """The runs of a selection when what is missing of it is done.

    Raises:
        BenchError: missing data, an unknown device, or a network that cannot be built.
        JobError: a job failed; the others are done.
    """
    folders = where.workplace(**place)
    with places.data_in(where.data), opening.at_work(where.db, where.results) as base:
        Locks(folders.locks).sweep()
        plan = make_plan(chosen.loaded, chosen.selection, base, folders, training_only=training_only)
        plan, lacking = feasible(plan, folders, chosen.loaded, chosen.selection, base)
        if plan.missing:
            _do(plan, base, folders, chosen, device=device, threads=threads, workers=workers, quiet=quiet)
    if lacking:
        raise BenchError("; ".join(lacking))
    return [Run(spec, where, chosen) for spec in select.runs(chosen.loaded, chosen.selection)]


def _do(
    plan: Any, base: Any, folders: Workplace, chosen: Chosen, *, device: str | None, threads: int | None,
    workers: int | None, quiet: bool,
) -> None:  # fmt: skip
    kind = executor_class("local" if workers else "inline")
    with threads_kept(), display(len(plan.missing), quiet=quiet) as shown:
        place = replace(folders, device=pick("cpu" if workers and device is None else device, threads))
        check_data(plan, place, chosen.loaded, chosen.selection)
        check_networks(plan, place)
        executor = kind(Setting(place, shown, workers=workers, threads=threads))
        summary = Driver(plan, executor, base, place, watcher=shown).drive()
    if not summary.ok:
        job, error = summary.failed[0]
        more = len(summary.failed) + len(summary.blocked) - 1
        raise JobError(f"{job.label} failed: {error}" + (f" (and {more} more)" if more else ""))
