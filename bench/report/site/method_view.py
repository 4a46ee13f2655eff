"""A method as its template shows it: what it is, where it stands, what was trained, how it transfers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.core.config import Loaded
from bench.core.identity import short
from bench.core.seeds import SURROGATE_SEEDS
from bench.experiment.spec import OUTSIDE
from bench.report.boards import Board
from bench.report.ledger import Ledger
from bench.report.site import front
from bench.report.site.board_view import address
from bench.report.site.facts import facts_of
from bench.report.site.names import Names, exact, percent, recipe_text, settings_text
from bench.report.tables import budget_text
from bench.store.database import Database
from bench.store.typed_rows import ReferenceRow, RunRow

MATRICES = 12  # families shown


def method_view(
    name: str,
    *,
    db: Database,
    loaded: Loaded,
    ledger: Ledger,
    made: Iterable[tuple[Board, Mapping[str, Any]]],
    references: Iterable[ReferenceRow],
) -> dict[str, Any]:
    """Everything `method.html` needs; `made`: every board with its view."""
    names = Names(loaded)
    runs = [run for run in ledger.runs.values() if run.method == name]
    spec = loaded.config.methods.get(name)
    outside = all(run.plugin == OUTSIDE for run in runs)
    known = facts_of(name, runs, loaded)
    facts = {
        "configured as": name,
        "plug-in": ", ".join(sorted({f"{run.plugin} (of {run.origin})" for run in runs})),
        "trained on attacked images": known.adversarial,
        "trained on extra data": known.extra_data,
        "settings": "" if outside or spec is None else settings_text(spec.settings),
        "stands beside the published column": names.published(name) or "",
    }
    return {
        "title": names.method(name),
        "name": name,
        "description": (spec.description if spec else "") or ("trained elsewhere" if outside else ""),
        "facts": {key: value for key, value in facts.items() if value},
        "paper": known.paper and {"links": known.paper.links, "where": known.paper.where, **vars(known.paper)},
        "claimed": known.claimed,
        "bibtex": "" if known.paper is None else known.paper.bibtex,
        "boards": list(_boards(name, made)),
        "matrices": _matrices(runs, db, ledger, loaded, names),
        "runs": [_run(run, ledger) for run in runs],
        "failures": sum(len(ledger.failures.get(run.run_id, ())) for run in runs),
        "published": _published(names, name, references),
    }


def _boards(name: str, made: Iterable[tuple[Board, Mapping[str, Any]]]) -> Iterable[dict[str, Any]]:
    for board, view in made:
        for row in view["rows"]:
            if row["method"] == name:
                yield {
                    **row, "href": f"../{address(board)}", "of": view["ranked"], "dataset": view["dataset"],
                    "board": f"{view['title']} (v{view['version']})", "threat": view["threat"],
                    "class": view["recipes"],
                }  # fmt: skip


def _matrices(
    runs: Iterable[RunRow], db: Database, ledger: Ledger, loaded: Loaded, names: Names
) -> list[dict[str, Any]]:
    families: dict[str, list[RunRow]] = {}
    for run in runs:
        families.setdefault(run.family_id, []).append(run)
    found = []
    for family in list(families.values())[:MATRICES]:
        picture, row = front.matrix(db, ledger, loaded, [run.run_id for run in family])
        if picture is not None and row is not None:
            first = family[0]
            found.append({
                "title": f"{first.dataset}, {first.members} × {first.model}, {recipe_text(first)}",
                "attack": f"{names.attack(row)}, {budget_text(row.budget_name, row.budget)}", **picture,
            })  # fmt: skip
    return found


def _run(run: RunRow, ledger: Ledger) -> dict[str, Any]:
    rows = ledger.of_run[run.run_id]
    clean = max((row for row in rows if row.kind == "clean"), key=lambda row: row.n, default=None)
    value = None if clean is None or clean.share is None else 100 * clean.share
    return {
        "href": f"../runs/{run.run_id}.html", "id": short(run.run_id), "dataset": run.dataset, "seed": run.seed,
        "members": f"{run.members} × {run.model}", "recipe": recipe_text(run), "settings": settings_text(run.settings),
        "clean": percent(value), "csv": exact(value), "evaluations": len(rows),
        "failures": len(ledger.failures.get(run.run_id, ())),
        "stale": not ledger.standings.of(run.run_id).is_current, "surrogate": run.seed >= SURROGATE_SEEDS,
    }  # fmt: skip


def _published(names: Names, name: str, references: Iterable[ReferenceRow]) -> list[dict[str, Any]]:
    columns = {name, names.published(name)}
    return [
        {"dataset": ref.dataset, "attack": names.published_attack(ref.attack), "source": ref.source,
         "budget": budget_text(ref.budget_name, ref.budget) or ("" if ref.attack == "clean" else "not stated"),
         "text": percent(ref.value), "csv": exact(ref.value)}
        for ref in references
        if ref.method in columns
    ]  # fmt: skip
