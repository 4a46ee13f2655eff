"""Tables for machines: CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from bench.core.csv_text import field
from bench.core.precision import USUAL
from bench.report.cells import Cell, Row
from bench.report.results import Results
from bench.report.tables.layout import Marks

OTHER_SETTING = "other-setting"  # where a difference from a published value is of another network or fewer images
LONG_COLUMNS = (
    "suite", "dataset", "model", "members", "recipe", "method", "attack", "precision", "budget_name", "budget", "stop",
    "unit", "mean", "std", "seeds", "values", "counts", "n", "published", "difference", "flags", "tied", "evaluations",
)  # fmt: skip


def csv_table(*tables: Results, paper: bool | None = None) -> str:
    """Columns attack, budget_name, budget and one a method: mean over seeds in percent, empty without a current one.

    METHOD_std beside it where a method has several seeds: the standard deviation (ddof 1). Of several tables their rows
    follow each other, with a column `dataset` in front.

    The row `training_seconds` has seconds. With `paper` each method has columns METHOD_published and METHOD_difference.
    A column `precision` comes after `budget` where an attack asked in another one than float32.
    """
    beside = {method for table in tables for _, method in table.published} if paper else set()
    coarse = any(row.precision != USUAL for table in tables for row in table.rows)
    several = {
        method
        for table in tables
        for (_, method), cell in table.cells.items()
        if len(cell.seeds) > 1 and not cell.stale
    }
    methods = list(dict.fromkeys(method for table in tables for method in table.methods))
    head: list[object] = [*(["dataset"] if len(tables) > 1 else []), "attack", "budget_name", "budget"]
    head += ["precision"] if coarse else []
    for method in methods:
        head += [method, *([f"{method}_std"] if method in several else [])]
        head += [f"{method}_published", f"{method}_difference"] if method in beside else []
    lines = [head]
    for table in tables:
        for row in table.rows:
            line: list[object] = [
                *([table.dataset] if len(tables) > 1 else []),
                row.attack,
                row.budget_name,
                row.budget,
            ]
            line += [row.precision] if coarse else []
            for method in methods:
                cell = table.cell(row, method)
                known = cell.mean is not None and not cell.stale
                line.append(_rounded(cell.mean) if known else None)
                line += [_rounded(cell.std) if known else None] if method in several else []
                if method in beside:
                    line += [table.published.get((row.key, method)), _rounded(_difference(table, row, method))]
            lines.append(line)
    return _csv(lines)


def long_rows(results: Results, marks: Marks | None = None) -> list[dict[str, Any]]:
    """One record a cell.

    `precision` is that of the passes that the attack asked for, float32 for what is not an attack.
    `mean`, `std` and `values` are in `unit`: percent, or seconds for the training. `values` and `counts` (images that
    are right, out of `n`) go with `seeds`, `evaluations` are ids: one a seed, or for a worst case one a seed and
    attack. `flags` holds `stale`, `failed`, `other-setting` (the difference from a published value is of another
    network, training or fewer images), and ids of flags; `tied` says whether a method is not significantly worse than
    the best of the row (null: not tested).
    """
    rows = []
    for row in results.rows:
        for method in results.methods:
            cell = results.cell(row, method)
            is_percent = row.kind != "training"
            seeds, difference = sorted(cell.values), _difference(results, row, method)
            rows.append(
                {
                    "suite": results.suite,
                    "dataset": results.dataset,
                    "model": results.model,
                    "members": results.members[method],
                    "recipe": results.recipes.get(method, results.recipe),
                    "method": method,
                    "attack": row.attack,
                    "precision": row.precision,
                    "budget_name": row.budget_name,
                    "budget": row.budget,
                    "stop": row.stop,
                    "unit": "percent" if is_percent else "seconds",
                    "mean": cell.mean,
                    "std": cell.std,
                    "seeds": seeds,
                    "values": [cell.values[seed] for seed in seeds],
                    "counts": _counts(cell, seeds),
                    "n": cell.n or None,
                    "published": results.published.get((row.key, method)),
                    "difference": difference,
                    "flags": [
                        *(name for name, on in (("stale", cell.stale), ("failed", bool(cell.failed))) if on),
                        *([OTHER_SETTING] if method in results.unlike and difference else []),
                        *cell.flags,
                    ],
                    "tied": _tied(row, method, cell, marks),
                    "evaluations": list(cell.evaluations),
                }
            )
    return rows


def long_csv(rows: Iterable[dict[str, Any]]) -> str:
    """`long_rows` as CSV; lists are joined with spaces."""
    lines: list[list[object]] = [list(LONG_COLUMNS)]
    for row in rows:
        lines.append([" ".join(map(_number, v)) if isinstance(v := row[c], list) else v for c in LONG_COLUMNS])
    return _csv(lines)


def json_table(rows: Iterable[dict[str, Any]]) -> str:
    """`long_rows` as JSON."""
    return json.dumps(list(rows), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _difference(results: Results, row: Row, method: str) -> float | None:
    """Ours − published, in points; None for a value of an older version."""
    cell, published = results.cell(row, method), results.published.get((row.key, method))
    return None if cell.mean is None or cell.stale or published is None else cell.mean - published


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _counts(cell: Cell, seeds: list[int]) -> list[int] | None:
    """Images that are right; a mean over members counts none."""
    counts = [right for seed in seeds if (right := cell.seeds[seed].right) is not None]
    return counts if counts and len(counts) == len(seeds) else None


def _tied(row: Row, method: str, cell: Cell, marks: Marks | None) -> bool | None:
    if marks is None or cell.mean is None or cell.stale or (row.key, method) not in marks.compared:
        return None
    return (row.key, method) in marks.tied


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _csv(lines: list[list[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(
        [field(value) if isinstance(value, str) else _number(value) for value in line] for line in lines
    )
    return buffer.getvalue()
