"""The front page: one card a protocol, with who leads and by how much, and how the first methods transfer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core.config import Loaded
from bench.core.release import described
from bench.report.boards import Board
from bench.report.ledger import Ledger
from bench.report.site import heatmaps
from bench.report.site.board_view import address
from bench.report.site.names import Names
from bench.report.tables import budget_text
from bench.store import queries
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow

SHOWN = 6  # entries of a board on a card, and matrices of a data set

View = Mapping[str, Any]


def datasets(made: Iterable[tuple[Board, View]]) -> dict[str, list[dict[str, Any]]]:
    """The cards of each data set: a protocol and a class of recipes, with a part for each ε."""
    found: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for board, view in made:
        standard = board.standard
        key = standard.name, standard.version, board.recipes
        card = found.setdefault(standard.dataset, {}).setdefault(
            key,
            {
                "title": view["title"], "protocol": standard.name, "version": standard.version,
                "recipes": board.recipes, "images": view["images"], "succeeded_by": standard.succeeded_by, "boards": [],
                "date": "",
            },
        )  # fmt: skip
        card["date"] = max(card["date"], view["date"])
        card["boards"].append(_part(board, view))
    return {dataset: list(cards.values()) for dataset, cards in found.items()}


def _part(board: Board, view: View) -> dict[str, Any]:
    rows = view["rows"]
    return {
        "href": address(board),
        "threat": view["threat"],
        "methods": len(rows),
        "ranked": view["ranked"],
        "runs": view["runs"],
        "attacks": len(board.standard.parts),
        "words": _words(rows),
        "rows": [
            {
                "rank": row["rank"], "interval": row["interval"], "title": row["title"], "mark": row["mark"],
                "text": row["worst"]["text"], "score": row["worst"]["mean"], "low": row["worst"]["low"],
                "high": row["worst"]["high"], "published": row["published"], "lacking": row["lacking"],
            }
            for row in rows[:SHOWN]
        ],
    }  # fmt: skip


def _words(rows: Sequence[View]) -> str:
    """Who leads, by how much, and whether that is more than chance."""
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked:
        return "Nobody is ranked yet."
    first = ranked[0]
    above = [row["title"] for row in rows[: rows.index(first)]]
    hollow = f" Above it without a rank: {', '.join(above)}." if above else ""
    if first["verdict"] is None:
        return f"{first['title']} is alone in the ranks.{hollow}"
    told = "leads the next by" if first["verdict"]["significant"] else "is ahead of the next, not significantly, by"
    lead, doubt = first["verdict"]["lead"].lstrip("+"), first["verdict"]["doubt"]
    return f"{first['title']} {told} {lead} points{_over(*ranked[:2])} ({doubt}).{hollow}"


def _over(first: View, second: View) -> str:
    """On which seeds the lead was measured, where one of the two has others too: ranks are of all that each has."""
    common = first["verdict"]["seeds"]
    if all({part["seed"] for part in row["seeds"]} == set(common) for row in (first, second)):
        return ""
    return f" on seed{'s' if len(common) > 1 else ''} {', '.join(map(str, common))}, which both have"


def transfers(db: Database, boards: Iterable[Board], ledger: Ledger, loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Figure 3's grid of each data set: small matrices of the first ranked methods of its first board that has some."""
    names = Names(loaded)
    found: dict[str, dict[str, Any]] = {}
    for board in boards:
        if board.standard.dataset in found:
            continue
        matrices: list[dict[str, Any]] = []
        titles: dict[str, None] = {}
        for entry in board.ranked:
            run_ids = [score.run.run_id for score in entry.scores]
            picture, row = matrix(db, ledger, loaded, run_ids)
            if picture is not None and row is not None and len(matrices) < SHOWN:
                href = names.page(entry.run.method)
                matrices.append({"title": names.run(entry.run), "href": href, **picture})
                titles[f"{names.attack(row)}, {budget_text(row.budget_name, row.budget)}"] = None
        if matrices:
            population = heatmaps.POPULATIONS[loaded.config.matrix.population]
            found[board.standard.dataset] = {
                "attack": "; ".join(titles), "population": population, "matrices": matrices,
            }  # fmt: skip
    return found


def matrix(
    db: Database, ledger: Ledger, loaded: Loaded, run_ids: Iterable[str]
) -> tuple[dict[str, Any] | None, EvaluationRow | None]:
    """The matrix of some trainings, mean over them, and one of the evaluations behind it."""
    rows = [heatmaps.chosen(ledger.of_run[run_id], ledger.standings) for run_id in run_ids]
    known = [row for row in rows if row is not None]
    if known:  # of other attacks than the first's nothing enters
        known = [row for row in known if row.attack_key == known[0].attack_key]
    cells: dict[str, list[dict[str, Any]]] = {}
    for cell in queries.cells(db, run_ids=[row.run_id for row in known]) if known else ():
        cells.setdefault(cell.evaluation_id, []).append(vars(cell))
    whole = [
        (cells[row.evaluation_id], row.n)
        for row in known
        if len(cells.get(row.evaluation_id, ())) == row.members * (row.members + 1)
    ]
    return heatmaps.small(whole, loaded.config.matrix.population), known[0] if whole else None


def date(ledger: Ledger) -> str:
    """The day of the newest result."""
    started = [*(run.started for run in ledger.runs.values()), *(row.started for row in ledger.evaluations)]
    return max(started, default="")[:10]


def citation(newest: str) -> str:
    """BibTeX for these pages: facts of `CITATION.cff`, with the version and the day of the newest result."""
    note = f"version {described()}" + (f", results up to {newest}" if newest else "")
    return (
        "@software{bench,\n"
        "  title = {bench: benchmark harness and leaderboard for adversarially robust ensembles},\n"
        "  author = {{the bench authors}},\n"
        f"  note = {{{note}}}\n"
        "}"
    )
