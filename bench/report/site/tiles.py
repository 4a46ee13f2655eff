"""The numbers at the head of a run's page: its scores on its boards first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.experiment.spec import OUTSIDE
from bench.report.boards import Board
from bench.report.site.board_view import address, threat_title
from bench.report.site.details import Details
from bench.report.site.names import percent, seconds
from bench.store.typed_rows import RunRow


def places(boards: Iterable[Board]) -> dict[str, list[dict[str, Any]]]:
    """For each run on a board: the board, and the score of this one training there."""
    found: dict[str, list[dict[str, Any]]] = {}
    for board in boards:
        for entry in board.entries:
            for score in entry.scores:
                found.setdefault(score.run.run_id, []).append({
                    "href": f"../{address(board)}", "title": board.standard.title, "threat": threat_title(board),
                    "version": board.standard.version, "worst": percent(score.percent),
                    "lowest": percent(100 * float(score.lowest.mean())), "rank": entry.ranked and entry.ranked.rank,
                    "lacking": len(score.lacking), "attacks": len(board.standard.parts), "recipes": board.recipes,
                })  # fmt: skip
    return found


def tiles(run: RunRow, details: Details, stands: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Name, value and unit of each number; `stands`: what the run came to on its boards."""
    clean = [row for row in details.evaluations if row.kind == "clean"]
    shown: list[dict[str, Any]] = [
        {"name": f"worst case, {board['title']}, {board['threat']}", "value": board["worst"], "unit": "%",
         "href": board["href"], "note": _rank(board)}
        for board in stands
    ]  # fmt: skip
    if clean:
        largest = max(clean, key=lambda row: row.n)
        shown.append({"name": "clean accuracy", "value": percent(100 * largest.n_clean / largest.n), "unit": "%"})
        members = details.clean.get(largest.evaluation_id, {})
        single = [100 * count / largest.n for target, count in sorted(members.items()) if target >= 0]
        if len(single) > 1:
            shown.append({"name": "single members, clean", "value": " · ".join(map(percent, single)), "unit": "%"})
    parameters = sorted({row["parameters"] for row in details.members})
    if parameters:
        text = f"{parameters[0]:,}" if len(parameters) == 1 else f"{parameters[0]:,} to {parameters[-1]:,}"
        shown.append({"name": "parameters a member", "value": text, "unit": ""})
    if run.plugin != OUTSIDE:
        shown.append({"name": "training took", "value": seconds(run.seconds), "unit": ""})
    return [{"href": "", "note": "", **tile} for tile in shown]


def _rank(board: Mapping[str, Any]) -> str:
    """`rank 3, lowest known 53.8`."""
    lacks = f", provisional: lacks {board['lacking']} of {board['attacks']} attacks" if board["lacking"] else ""
    rank = f"rank {board['rank']}" if board["rank"] else "not ranked"
    return f"{rank}, lowest known {board['lowest']}{lacks}"
