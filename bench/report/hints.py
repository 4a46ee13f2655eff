"""What would fill an empty table or figure: the command, with the selectors that were given."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace

from bench.core.config import Loaded
from bench.experiment import command
from bench.experiment.names import MARK
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.report.again import asked_for
from bench.store import queries
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow

MOST = 3  # ways to ask for what is there that a line names


def nothing_measured(
    loaded: Loaded, selection: Selection, suite: str, db: Database, specs: Mapping[str, RunSpec]
) -> str:
    """Why a table is empty, and what would fill it."""
    there = queries.runs(db, dataset=selection.dataset)
    families = {row.family_id for row in there}
    known = [name for name, run in specs.items() if run.family_id in families]
    example = replace(selection, methods=selection.methods or tuple(known[:1]))
    again = command.of_selection(loaded, example, suite=suite)
    if not there:
        return f"nothing has been run on {selection.dataset} yet; `{again}` would"
    if not known:
        named = [row for row in there if MARK not in row.recipe + row.model]  # a claim selects nothing
        selectors = [("--recipe", row.recipe, "--model", row.model, "--members", str(row.members)) for row in named]
        others = sorted(set(map(shlex.join, selectors)))
        told = f" there are runs with {'; '.join(others)}, or do" if others else ""
        return f"no run with these selectors;{told} `{again}`{'' if others else ' makes one'}"
    here = measured_with(loaded, selection, db, specs)
    told = f"nothing of {suite} has been measured with these selectors; {here}`{again}`{'' if here else ' would'}"
    return f"the runs are there, but {told}"


def measured_with(loaded: Loaded, selection: Selection, db: Database, specs: Mapping[str, RunSpec]) -> str:
    """`there are results with --attack pgd --limit 20, or do `, to go before a command; empty where there are none."""
    rows: dict[str, list[EvaluationRow]] = {}
    for row in queries.evaluations(db, family_ids=[run.family_id for run in specs.values()]):
        rows.setdefault(row.family_id, []).append(row)
    found = {
        asked.options: None
        for run in specs.values()
        for asked in asked_for(loaded, selection, run, rows.get(run.family_id, ()))
    }
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"there are results with {'; '.join(list(found)[:MOST])}{more}, or do " if found else ""
