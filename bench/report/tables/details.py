"""What stands behind the accuracies: each member's clean accuracy, and what the training cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.core import environment
from bench.experiment.spec import OUTSIDE
from bench.report.cells import Cell, Row, SeedOutcome
from bench.report.results import Results
from bench.store import queries
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow, RunRow

MEAN = "clean_members_mean"
TRAINING = "training_seconds"


def with_details(results: Results, db: Database, *, members: bool) -> Results:
    """The table with a row for the members' mean clean accuracy and one for the seconds of training.

    Args:
        members: a row for each member too.
    """
    clean = next((row for row in results.rows if row.kind == "clean"), None)
    used = {identifier for cell in results.cells.values() for identifier in cell.evaluations}
    rows = {row.evaluation_id: row for row in queries.evaluations(db, evaluation_ids=list(used))}
    cells = dict(results.cells)
    added: list[Row] = []
    training = Row(TRAINING, "training, s", None, None, None, TRAINING, "training")
    if clean is not None:
        by_method = {method: results.cell(clean, method) for method in results.methods}
        accuracies = {method: _members(cell, rows) for method, cell in by_method.items()}
        largest = max((len(each) for many in accuracies.values() for each in many.values()), default=0)
        titles = {MEAN: "clean, members (mean)"}
        if members:
            titles |= {f"clean_member_{index + 1}": f"clean, member {index + 1}" for index in range(largest)}
        for position, (name, title) in enumerate(titles.items()):
            added.append(replace(clean, attack=name, title=title, key=name, kind="members"))
            for method, many in accuracies.items():
                known = {
                    seed: _of_members(by_method[method].seeds[seed], each, position - 1)
                    for seed, each in many.items()
                    if len(each) >= position
                }
                if known:
                    cells[name, method] = replace(by_method[method], seeds=known, flags=())
    seconds, notes = _training(results, rows, db)
    cells |= seconds
    start = 0 if clean is None else results.rows.index(clean) + 1
    rows_shown = (*results.rows[:start], *added, *results.rows[start:], training)
    return replace(results, rows=rows_shown, cells=cells, notes=(*results.notes, *notes))


def _members(cell: Cell, rows: Mapping[str, EvaluationRow]) -> dict[int, list[float]]:
    """Clean accuracy of every member in percent, by seed."""
    measured = {
        seed: rows[outcome.evaluations[0]].measurements.get("member_accuracy")
        for seed, outcome in cell.seeds.items()
        if outcome.evaluations[0] in rows
    }
    return {
        seed: [100 * float(value) for value in each] for seed, each in measured.items() if each and None not in each
    }


def _of_members(whole: SeedOutcome, accuracies: list[float], member: int) -> SeedOutcome:
    """Of one member; -1 stands for the mean over all, which counts no images."""
    if member < 0:
        return replace(whole, value=sum(accuracies) / len(accuracies), right=None)
    return replace(whole, value=accuracies[member], right=round(accuracies[member] * whole.n / 100))


def _training(
    results: Results, rows: Mapping[str, EvaluationRow], db: Database
) -> tuple[dict[tuple[str, str], Cell], tuple[str, ...]]:
    """Seconds of training of the runs that the table shows, and that they do not compare where machines differ.

    Of what was trained elsewhere seconds are not known.
    """
    used: dict[str, tuple[str, bool]] = {}
    for (_, method), cell in sorted(results.cells.items(), key=lambda item: item[1].stale, reverse=True):
        for identifier in cell.evaluations:
            if identifier in rows:
                used[f"{method} {rows[identifier].seed}"] = rows[identifier].run_id, cell.stale
    runs = {run.run_id: run for run in queries.runs(db, run_ids=[run_id for run_id, _ in used.values()])}
    cells: dict[tuple[str, str], Cell] = {}
    shown: list[tuple[str, RunRow]] = []
    for method in results.methods:
        mine = [value for name, value in used.items() if name.rpartition(" ")[0] == method]
        known = [(runs[run_id], stale) for run_id, stale in mine if runs[run_id].plugin != OUTSIDE]
        fresh = [run for run, stale in known if not stale] or [run for run, _ in known]
        if fresh:
            took = {run.seed: SeedOutcome(run.seconds) for run in sorted(fresh, key=lambda run: run.seed)}
            cells[TRAINING, method] = Cell(took, stale=all(stale for _, stale in known))
            shown += [(results.titles[method], run) for run in fresh]
    return cells, _on_different_machines(shown, db)


def _on_different_machines(shown: Sequence[tuple[str, RunRow]], db: Database) -> tuple[str, ...]:
    """A note that says which columns were trained by what, where that is not everywhere the same."""
    by_environment = {
        each: environment.processor(queries.environment(db, each)) or "not known"
        for each in {run.environment_id for _, run in shown}
    }
    titles: dict[str, dict[str, None]] = {}
    for title, run in shown:
        titles.setdefault(by_environment[run.environment_id], {})[title] = None
    if len(titles) < 2:
        return ()
    each = "; ".join(f"{processor} ({', '.join(of)})" for processor, of in titles.items())
    return (f"seconds of training do not compare, machines differ: {each}",)
