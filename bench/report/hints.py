"""What would fill an empty table or figure: the command, with the selectors that were given."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from bench.core.config import Loaded
from bench.experiment import select
from bench.experiment.names import MARK
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.store import queries
from bench.store.database import Database


def command_of(loaded: Loaded, selection: Selection, *, suite: str | None = None) -> str:
    """The `bench run` that makes what a selection asks for."""
    parts = ["bench", "run"]
    for name in selection.methods or ("trs",):
        parts += ["--method", name]
    parts += ["--dataset", selection.dataset]
    if selection.attacks:
        parts += ["--attack", ",".join(selection.attacks)]
        for name in ("eps", "c"):
            if budgets := selection.budgets(name):
                parts += [f"--{name}", ",".join(map(repr, budgets))]
    elif suite or selection.suite:
        parts += ["--suite", str(suite or selection.suite)]
    if selection.recipe is not None:
        parts += ["--recipe", select.recipe_name(loaded, selection.recipe, selection.dataset)]
    for option in ("model", "members", "limit"):
        if getattr(selection, option) is not None:
            parts += [f"--{option}", str(getattr(selection, option))]
    if selection.split != "test":
        parts += ["--split", selection.split]
    if loaded.precision is not None:
        parts += ["--precision", loaded.precision]
    for change in loaded.changes:
        parts += ["--set", change]
    return shlex.join(parts)


def nothing_measured(
    loaded: Loaded, selection: Selection, suite: str, db: Database, specs: Mapping[str, RunSpec]
) -> str:
    """Why a table is empty, and what would fill it."""
    there = queries.runs(db, dataset=selection.dataset)
    command = command_of(loaded, selection, suite=None if selection.attacks else suite)
    families = {run.family_id for run in specs.values()}
    if not there:
        return f"nothing has been run on {selection.dataset} yet; `{command}` would"
    if families.isdisjoint(row.family_id for row in there):
        named = [row for row in there if MARK not in row.recipe + row.model]  # a claim selects nothing
        others = sorted({f"--recipe {row.recipe} --model {row.model} --members {row.members}" for row in named})
        told = f" there are runs with {'; '.join(others)}, or do" if others else ""
        return f"no run with these selectors;{told} `{command}`{'' if others else ' makes one'}"
    return f"the runs are there, but nothing of {suite} has been measured with these selectors; `{command}` would"
