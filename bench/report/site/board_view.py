"""A board as its template shows it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from bench.core.identity import short
from bench.report.site import charts
from bench.report.site.boards import Board, Family, Place
from bench.report.site.flags import Raised
from bench.report.site.ledger import Light, norm_of
from bench.report.site.names import Names, differences, exact, mean_std, percent, plus_minus, recipe_text, seconds
from bench.report.site.published import beside
from bench.report.tables import budget_text
from bench.store.answers import ReferenceRow
from bench.training.outside import OUTSIDE


def images_text(n: int, limit: int | None, size: int | None) -> str:
    """`500 test images`, `250 of 10,000 test images`, `200 held-out images`."""
    if limit is not None:
        return f"{n:,} of {size:,} test images" if size else f"{n:,} test images"
    return f"{n:,} test images" if size is None or n == size else f"{n:,} held-out images"


def board_view(
    board: Board, places: list[Place], names: Names, flags: Raised, references: Iterable[ReferenceRow], size: int | None
) -> dict[str, Any]:
    """Everything `board.html` needs; values in percent."""
    columns = _columns(board, names)
    marks = _apart([place.family for place in places], names)
    rows = [_row(board, place, names, flags, mark) for place, mark in zip(places, marks, strict=True)]
    _mark_best(rows)
    return {
        "threat": board.threat,
        "images": images_text(board.threat.n, board.threat.image_limit, size),
        "columns": columns,
        "rows": rows,
        "ranked": sum(row["rank"] is not None for row in rows),
        "runs": sum(len(family.seeds) for family in board.families),
        "has_blackbox": any(row["blackbox"]["values"] for row in rows),
        "has_flags": any(row["flags"] for row in rows),
        "published": beside(
            references,
            names,
            lambda ref: (
                (ref.budget_name, ref.budget) == (board.threat.budget_name, board.threat.budget)
                and norm_of(names.attack_plugin(ref.attack)) == board.threat.norm
            ),
        ),
    }


def summary(board: Board, view: Mapping[str, Any]) -> dict[str, Any]:
    """What the front page says of a board."""
    return {
        "slug": board.threat.slug,
        "dataset": board.threat.dataset,
        "title": board.threat.title,
        "images": view["images"],
        "methods": len(view["rows"]),
        "runs": view["runs"],
        "attacks": len(board.standard),
        "top": [
            {"title": row["title"], "rank": row["rank"], "interval": row["interval"], "score": row["worst"]["mean"],
             "low": row["worst"]["low"], "high": row["worst"]["high"], "href": row["seeds"][0]["href"]}
            for row in view["rows"][:3]
            if row["rank"] is not None
        ],
    }  # fmt: skip


def _columns(board: Board, names: Names) -> list[dict[str, Any]]:
    titles = [names.attack(row) for row in board.columns]
    return [
        {
            "title": f"{title} [{row.protocol_id[:4]}]" if titles.count(title) > 1 else title,
            "standard": row.protocol_id in board.standard,
        }
        for row, title in zip(board.columns, titles, strict=True)
    ]


def _apart(families: list[Family], names: Names) -> list[str]:
    """What tells rows apart that would read alike."""
    alike: dict[Any, list[int]] = defaultdict(list)
    for index, family in enumerate(families):
        run = family.seeds[0].run
        alike[names.method(run.method), run.model, run.members, recipe_text(run)].append(index)
    marks = [""] * len(families)
    for indices in alike.values():
        if len(indices) > 1:
            texts = differences([families[index].seeds[0].run for index in indices])
            for index, text in zip(indices, texts, strict=True):
                marks[index] = text
    return marks


def _row(board: Board, place: Place, names: Names, flags: Raised, mark: str) -> dict[str, Any]:
    family, standing = place.family, place.standing
    run = family.seeds[0].run
    values = place.values
    mean, std = mean_std(values)
    assert mean is not None
    low, high = (100 * standing.low, 100 * standing.high) if standing else (min(values), max(values))
    keys = [column.protocol_id for column in board.columns]
    rows = {key: [s.attacks[key] for s in family.seeds if key in s.attacks] for key in keys}
    took = None if run.plugin == OUTSIDE else sum(s.run.seconds for s in family.seeds) / len(family.seeds)
    clean = [100 * s.clean.n_clean / s.clean.n for s in family.seeds if s.clean is not None]
    raised = [flag for s in family.seeds for flag in flags.of(s.run.run_id, s.rows)]
    flagged = {flag.evaluation_id for flag in raised}
    reason = ""
    if family.void:
        reason = "its results are invalid" if any(flag.is_invalid for flag in raised) else "made by an older version"
    elif family.lacking:
        reason = f"lacks {', '.join(dict.fromkeys(_attack_name(board, row, names) for row in family.lacking))}"
    return {
        "rank": standing.rank if standing else None,
        "interval": _interval(standing.best, standing.worst) if standing else "",
        "best": standing.best if standing else None,
        "worst_rank": standing.worst if standing else None,
        "reason": reason,
        "stale": family.void,
        "method": run.method,
        "title": names.method(run.method),
        "mark": mark,
        "worst": {
            "mean": mean, "std": std, "text": plus_minus(mean, std), "low": low, "high": high,
            "picture": charts.interval(low, mean, high),
        },
        "clean": _cell(clean),
        "cells": [_cell(_robust(rows[key]), any(row.evaluation_id in flagged for row in rows[key])) for key in keys],
        "blackbox": _cell([min(_robust(s.blackbox)) for s in family.seeds if s.blackbox])
        | {"images": sorted({row.n for s in family.seeds for row in s.blackbox})},
        "seeds": [{"seed": s.run.seed, "href": f"../runs/{s.run.run_id}.html", "id": short(s.run.run_id)}
                  for s in family.seeds],
        "model": run.model,
        "members": run.members,
        "recipe": recipe_text(run),
        "seconds": exact(took),
        "time": "–" if took is None else seconds(took),
        "flags": sorted({flag.name for flag in raised}),
    }  # fmt: skip


def _attack_name(board: Board, row: Light, names: Names) -> str:
    smaller = row.budget != board.threat.budget
    return f"{names.attack(row)} at {budget_text(row.budget_name, row.budget)}" if smaller else names.attack(row)


def _robust(rows: Iterable[Light]) -> list[float]:
    return [100 * row.n_robust / row.n for row in rows if row.n_robust is not None]


def _cell(values: list[float], flagged: bool = False) -> dict[str, Any]:
    mean, std = mean_std(values)
    return {
        "values": values,
        "mean": mean,
        "text": plus_minus(mean, std) + (" †" if flagged else ""),
        "best": False,
        "csv": exact(mean),
        "std": exact(std),
    }


def _interval(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}–{worst}"


def _mark_best(rows: list[dict[str, Any]]) -> None:
    """Best of each column, as printed, among those that compete."""
    competing = [row for row in rows if row["rank"] is not None]
    if len(competing) < 2:
        return
    count = len(competing[0]["cells"])
    for cells in (
        [row["clean"] for row in competing],
        *([row["cells"][index] for row in competing] for index in range(count)),
    ):
        means = [cell["mean"] for cell in cells if cell["mean"] is not None]
        for cell in cells:
            cell["best"] = bool(means) and cell["mean"] is not None and percent(cell["mean"]) == percent(max(means))
