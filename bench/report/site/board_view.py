"""A board as its template shows it, and as files for other programs."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from bench.core.csv_text import field
from bench.core.precision import titled
from bench.core.release import described
from bench.experiment.protocols import Part
from bench.report.boards import Board
from bench.report.site.board_rows import About, columns, rows
from bench.report.site.names import Names
from bench.report.site.published import beside
from bench.report.site.scatter import plots
from bench.report.site.threats import NORMS
from bench.report.tables import budget_text

SINGLE = ("members", "model", "recipe", "provenance", "adversarial", "extra_data", "parameters_text")
"""Columns that tell nothing where every row says the same: then the heading of the board says it."""


def images_text(n: int, limit: int | None, size: int | None) -> str:
    """`500 test images`, `250 of 10,000 test images`, `200 held-out images`."""
    if limit is not None:
        return f"{n:,} of {size:,} test images" if size else f"{n:,} test images"
    return f"{n:,} test images" if size is None or n == size else f"{n:,} held-out images"


def address(board: Board, ending: str = "html") -> str:
    """Where the page of a board lies, and the files beside it."""
    return f"boards/{board.board_id}.{ending}"


def threat_title(board: Board) -> str:
    """`ℓ∞, ε = 0.1`."""
    standard = board.standard
    return f"{NORMS[standard.norm]}, {budget_text('eps', standard.eps)}"


def _named(part: Part, names: Names) -> str:
    """`PGD (50) at ε = 0.1`; behind it the precision that is asked for, and which others may stand for it."""
    told = titled(f"{names.attack(part.spec)} at {budget_text('eps', part.spec.budget)}", part.spec.precision)
    others = " or ".join(other.precision for other in part.others)
    return f"{told} (or {others})" if others else told


def board_view(board: Board, about: About) -> dict[str, Any]:
    """Everything `board.html` and the files need; values in percent."""
    standard, names = board.standard, about.names
    made = rows(board, about)
    same = {name: made[0][name] for name in SINGLE if len({row[name] for row in made}) == 1}
    references = [ref for ref in about.references if ref.dataset == standard.dataset]
    return {
        "board_id": board.board_id,
        "title": standard.title,
        "protocol": standard.name,
        "version": standard.version,
        "standard_id": standard.standard_id,
        "succeeded_by": standard.succeeded_by,
        "dataset": standard.dataset,
        "threat": threat_title(board),
        "norm": standard.norm,
        "eps": standard.eps,
        "seeds_demanded": standard.seeds,
        "recipes": board.recipes,
        "n": standard.images,
        "images": images_text(standard.images, standard.limit, standard.size),
        "date": _newest(board),
        "standard": [_named(part, names) for part in standard.parts],
        "columns": _titles(board, names),
        "rows": made,
        "plots": plots(made),
        "same": same,
        "ranked": len(board.ranked),
        "runs": sum(len(entry.scores) for entry in board.entries),
        "has_blackbox": any(row["blackbox"]["mean"] is not None for row in made),
        "has_audit": any(row["audit"] != "not checked enough" for row in made),
        "has_flags": any(row["flags"] for row in made),
        "has_published": any(row["published"] for row in made),
        "published": beside(
            references,
            names,
            lambda ref: (
                (ref.budget_name, ref.budget) == ("eps", standard.eps) and names.norm(ref.attack) == standard.norm
            ),
        ),
    }


def _newest(board: Board) -> str:
    """The day of the newest result that counts on a board."""
    scores = [score for entry in board.entries for score in entry.scores]
    started = [score.run.started for score in scores]
    started += [row.started for score in scores for row in score.parts.values()]
    return max(started, default="")[:10]


def _titles(board: Board, names: Names) -> list[str]:
    return [names.attack(part.spec) for part in columns(board)]


def as_json(view: dict[str, Any]) -> bytes:
    """The board for other programs: what it is, then its rows; accuracies in percent."""
    text = json.dumps(
        {
            "dataset": view["dataset"],
            "threat": {"norm": view["norm"], "eps": view["eps"]},
            "protocol": {"name": view["protocol"], "version": view["version"], "title": view["title"]},
            "standard_id": view["standard_id"],
            "attacks": view["standard"],
            "images": view["n"],
            "newest_result": view["date"],
            "seeds_demanded": view["seeds_demanded"],
            "recipes": view["recipes"],
            "made_by": f"bench {described()}",
            "rows": [_record(view, row) for row in view["rows"]],
        },
        indent=1,
    )
    return (text + "\n").encode()


def as_csv(view: dict[str, Any]) -> bytes:
    """The same rows as a table: one line an entry, no nested values."""
    records = []
    for row in view["rows"]:
        record = _record(view, row)
        cells = record.pop("attacks")
        flat = record | {f"at {title}": value for title, value in cells.items()}
        records.append({
            name: "; ".join(map(str, value)) if isinstance(value, list) else value for name, value in flat.items()
        })  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field(name) for name in records[0]])
    writer.writerows([[field(value) for value in record.values()] for record in records])
    return out.getvalue().encode()


def _record(view: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    verdict, lacking, published = row["verdict"] or {}, row["lacking"] or {}, row["published"] or {}
    return {
        "rank": row["rank"],
        "rank_low": row["best"],
        "rank_high": row["worst_rank"],
        "method": row["method"],
        "title": row["title"],
        "variant": row["mark"],
        "worst_case": row["worst"]["mean"],
        "worst_case_std": row["worst"]["std"],
        "low": row["worst"]["low"],
        "high": row["worst"]["high"],
        "provisional": row["rank"] is None,
        "lacking": lacking.get("parts", []),
        "lead": float(verdict["csv"]) if verdict else None,
        "lead_p": float(verdict["p_csv"]) if verdict else None,
        "lead_is_significant": verdict.get("significant"),
        "lowest_known": row["lowest"]["mean"],
        "lowest_found_by": row["lowest"]["found_by"],
        "published": published.get("value"),
        "clean": row["clean"]["mean"],
        "attacks": {title: cell["mean"] for title, cell in zip(view["columns"], row["cells"], strict=True)},
        "black_box": row["blackbox"]["mean"],
        "seeds": [seed["seed"] for seed in row["seeds"]],
        "runs": [seed["run"] for seed in row["seeds"]],
        "members": row["members"],
        "model": row["model"],
        "parameters": row["parameters"],
        "recipe": row["recipe"],
        "adversarially_trained": row["adversarial"],
        "extra_data": row["extra_data"],
        "paper": row["paper"]["title"] or None,
        "training_seconds": float(row["seconds"]) if row["seconds"] else None,
        "provenance": row["provenance"],
        "stale": row["stale"],
        "audit": row["audit"],
        "flags": row["flags"],
    }
