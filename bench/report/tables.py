"""Tables of results as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from typing import TYPE_CHECKING, Any

from bench.report.matrices import Matrix
from bench.report.results import Cell, Results, Row, joined
from bench.store import flags

if TYPE_CHECKING:
    from rich.table import Table


def budget_text(name: str | None, budget: float | None) -> str:
    """`ε = 0.1`, `c = 1`; nothing without a budget. A whole number of 1/255 is shown as such."""
    if name is None or budget is None:
        return ""
    levels = budget * 255
    whole = abs(levels - round(levels)) < 1e-6 and round(levels) > 0 and len(f"{budget:g}") > 4
    value = f"{round(levels)}/255" if whole else f"{budget:g}"
    return f"{'ε' if name == 'eps' else name} = {value}"


def cell_text(cell: Cell) -> str:
    """`64.2`, `64.2 ± 1.3`; – missing, ✗ failed or invalid, (64.2) of an older version, 64.2† with a flag."""
    if cell.mean is None:
        return "✗" if cell.failed else "–"
    text = f"{cell.mean:.1f}" + (f" ± {cell.std:.1f}" if cell.std is not None else "") + ("†" if cell.flags else "")
    return f"({text})" if cell.stale else text


def heading(results: Results) -> str:
    """What the numbers are, in one line."""
    members = f"{joined(results.members.values())} × {results.model}"
    return " · ".join([results.suite, results.dataset, members, f"recipe {results.recipe}", results.images])


def footnotes(results: Results) -> list[str]:
    """What a reader must know to read the numbers rightly."""
    seeds = sorted({seed for cell in results.cells.values() for seed in cell.values})
    lines = ["Robust accuracy in % of all images: still classified correctly after the attack."]
    if len(seeds) > 1:
        lines.append(f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))} (ddof 1).")
    if results.has_published:
        lines.append(
            "Published values judge the last iterate, ours the first success on the way: "
            "ours can only be lower by this."
        )
    if any(row.kind == "worst" for row in results.rows):
        lines.append("Worst case: images that stand against every attack above within this ε.")
    if any(cell.stale for cell in results.cells.values()):
        lines.append("(…) was made by an older version of the method or attack; run the same command to renew it.")
    raised = dict.fromkeys(flag for cell in results.cells.values() if cell.mean is not None for flag in cell.flags)
    lines += [f"† {flag}: {flags.FLAGS[flag].when}; `bench audit` has the evidence." for flag in raised]
    failures = {cell.failed for cell in results.cells.values() if cell.mean is None and cell.failed}
    lines += [f"✗ {failure}" for failure in sorted(failures)]
    return lines + [f"Note: {note}" for note in results.notes]


def text_table(results: Results) -> Table:
    """For the terminal: rows and columns as the paper prints them; best of a row in bold when methods compete."""
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("attack")
    table.add_column("budget")
    for method in results.methods:
        table.add_column(results.titles[method], justify="right")
        if _is_published(results, method):
            table.add_column("published", justify="right", style="dim")
            table.add_column("diff.", justify="right", style="dim")
    for row in results.rows:
        means = {method: results.cell(row, method).mean for method in results.methods}
        ranked = [mean for method, mean in means.items() if mean is not None and not results.cell(row, method).stale]
        line = [row.title, budget_text(row.budget_name, row.budget)]
        for method in results.methods:
            cell = results.cell(row, method)
            text = cell_text(cell)
            if cell.stale:
                text = f"[dim]{text}[/]"
            elif cell.mean is not None and len(ranked) > 1 and round(cell.mean, 1) == round(max(ranked), 1):
                text = f"[bold]{text}[/]"
            line.append(text)
            if _is_published(results, method):
                line += _beside(results, row, method)
        following = results.rows[results.rows.index(row) + 1 :][:1]
        ends = row.kind == "clean" or any(row.kind != other.kind for other in following)
        table.add_row(*line, end_section=ends)
    return table


def markdown_table(results: Results) -> str:
    """GitHub-flavoured Markdown with heading and footnotes."""
    head = ["attack", "budget"]
    for method in results.methods:
        head += [results.titles[method], *(["published", "diff."] if _is_published(results, method) else [])]
    lines = [f"**{heading(results)}**", "", _bar(head), _bar(["---", "---", *["---:"] * (len(head) - 2)])]
    for row in results.rows:
        line = [row.title, budget_text(row.budget_name, row.budget)]
        for method in results.methods:
            line.append(cell_text(results.cell(row, method)))
            if _is_published(results, method):
                line += _beside(results, row, method)
        lines.append(_bar(line))
    return "\n".join([*lines, "", *(f"{note}  " for note in footnotes(results))]).rstrip() + "\n"


def csv_table(results: Results) -> str:
    """Columns attack, budget_name, budget and one a method: the mean in percent, empty without a current value."""
    lines = [["attack", "budget_name", "budget", *results.methods]]
    for row in results.rows:
        lines.append([row.attack, row.budget_name or "", _number(row.budget)])
        for method in results.methods:
            cell = results.cell(row, method)
            lines[-1].append("" if cell.mean is None or cell.stale else _number(round(cell.mean, 4)))
    return _csv(lines)


LONG_COLUMNS = (
    "suite", "dataset", "model", "members", "recipe", "method", "attack", "budget_name", "budget", "stop", "mean",
    "std", "seeds", "n", "published", "difference", "flags",
)  # fmt: skip


def long_rows(results: Results) -> list[dict[str, Any]]:
    """One row a cell, for machines; `seeds` is a list, `flags` holds `stale`, `failed`, and ids of flags."""
    rows = []
    for row in results.rows:
        for method in results.methods:
            cell = results.cell(row, method)
            published = results.published.get((row.key, method))
            ours = None if cell.stale else cell.mean
            rows.append(
                {
                    "suite": results.suite,
                    "dataset": results.dataset,
                    "model": results.model,
                    "members": results.members[method],
                    "recipe": results.recipe,
                    "method": method,
                    "attack": row.attack,
                    "budget_name": row.budget_name,
                    "budget": row.budget,
                    "stop": row.stop,
                    "mean": cell.mean,
                    "std": cell.std,
                    "seeds": sorted(cell.values),
                    "n": cell.n or None,
                    "published": published,
                    "difference": ours - published if ours is not None and published is not None else None,
                    "flags": [
                        *(name for name, on in (("stale", cell.stale), ("failed", bool(cell.failed))) if on),
                        *cell.flags,
                    ],
                }
            )
    return rows


def long_csv(results: Results) -> str:
    """`long_rows` as CSV; lists are joined with spaces."""
    lines: list[list[str]] = [list(LONG_COLUMNS)]
    for row in long_rows(results):
        lines.append([" ".join(map(str, v)) if isinstance(v := row[c], list) else _number(v) for c in LONG_COLUMNS])
    return _csv(lines)


def matrix_table(matrix: Matrix) -> Table:
    """A transferability matrix for the terminal."""
    from rich.table import Table

    members = len(matrix.rates)
    table = Table(header_style="bold")
    table.add_column("crafted on ↓   evaluated on →")
    for index in range(members):
        table.add_column(f"member {index + 1}", justify="right")
    table.add_column("ensemble", justify="right")
    for index, row in enumerate(matrix.rates):
        texts = ["–" if math.isnan(value) else f"{value:.1f}" for value in row]  # an empty population
        values = [f"[dim]{text}[/]" if column == index else text for column, text in enumerate(texts)]
        table.add_row(f"member {index + 1}", *values)
    return table


def matrix_heading(matrix: Matrix) -> str:
    """What the matrix shows, in one line."""
    return (
        f"Transferability of {matrix.title}: {matrix.rate.replace('_', ' ')} in %, {matrix.attack}, "
        f"{budget_text(matrix.budget_name, matrix.budget)}, population {matrix.population}, "
        f"recipe {matrix.recipe}, {matrix.images}, {_seeds(matrix.seeds)}; "
        f"mean off the diagonal {'–' if math.isnan(matrix.transfer) else f'{matrix.transfer:.1f}'}"
    )


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"


def _is_published(results: Results, method: str) -> bool:
    return any(name == method for _, name in results.published)


def _beside(results: Results, row: Row, method: str) -> list[str]:
    """Published value and difference, as text."""
    value = results.published.get((row.key, method))
    if value is None:
        return ["", ""]
    cell = results.cell(row, method)
    fresh = cell.mean is not None and not cell.stale
    return [f"{value:.1f}", f"{cell.mean - value:+.1f}" if fresh and cell.mean is not None else ""]


def _bar(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _csv(lines: list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
