"""What would fill an empty table or figure: the command, with the selectors that were given."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from bench.core.config import Loaded
from bench.experiment import command
from bench.experiment.names import MARK
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.store import queries
from bench.store.database import Database


def nothing_measured(
    loaded: Loaded, selection: Selection, suite: str, db: Database, specs: Mapping[str, RunSpec]
) -> str:
    """Why a table is empty, and what would fill it."""
    there = queries.runs(db, dataset=selection.dataset)
    again = command.of_selection(loaded, selection, suite=suite)
    families = {run.family_id for run in specs.values()}
    if not there:
        return f"nothing has been run on {selection.dataset} yet; `{again}` would"
    if families.isdisjoint(row.family_id for row in there):
        named = [row for row in there if MARK not in row.recipe + row.model]  # a claim selects nothing
        selectors = [("--recipe", row.recipe, "--model", row.model, "--members", str(row.members)) for row in named]
        others = sorted(set(map(shlex.join, selectors)))
        told = f" there are runs with {'; '.join(others)}, or do" if others else ""
        return f"no run with these selectors;{told} `{again}`{'' if others else ' makes one'}"
    return f"the runs are there, but nothing of {suite} has been measured with these selectors; `{again}` would"
