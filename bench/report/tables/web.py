"""HTML: one table that can be pasted into any page, and carries its own style."""

from __future__ import annotations

import html

from bench.core.printable import visible
from bench.report.results import Results
from bench.report.tables.layout import CellText, Grid, Marks, layout
from bench.report.tables.words import spans

# In attributes, since pages that take pasted HTML often drop <style>; colours follow the page, light or dark.
_TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums;line-height:1.35"
_CAPTION = "caption-side:top;text-align:left;font-weight:bold;padding:.4em 0"
_RULE = "border-bottom:1px solid currentColor"
_LEFT = "text-align:left;padding:.15em .8em .15em 0;white-space:nowrap;font-weight:normal"
_RIGHT = "text-align:right;padding:.15em 0 .15em 1.2em;white-space:nowrap"
_GREY = "opacity:.6"
_NOTES = "text-align:left;font-size:.85em;padding-top:.6em"


def escape(text: str) -> str:
    """Text that is shown as it is, in elements and attributes; letters that do not show as their codes."""
    return html.escape(visible(text))


def html_table(results: Results, marks: Marks | None = None, *, paper: bool | None = None) -> str:
    """A `table` element; best of a row in bold, what is tied with it underlined."""
    return html_of(layout(results, marks, paper=paper))


def html_of(grid: Grid) -> str:
    """A grid as one `table` element with caption and footnotes."""
    width = 2 + len(grid.columns) + (0 if grid.stacked else 2 * grid.papers)
    top = f"{_RULE};border-top:2px solid currentColor"
    lines = [f'<table style="{_TABLE}">', f'<caption style="{_CAPTION}">{escape(grid.heading)}</caption>', "<thead>"]
    heads = [f'<th scope="col" style="{_LEFT};{top}">{name}</th>' for name in ("attack", "budget")]
    for column in grid.columns:
        below = [column.seeds, *(["paper (diff.)"] if column.paper and grid.stacked else [])]
        small = "".join(_small(part) for part in below if part)
        heads.append(f'<th scope="col" style="{_RIGHT};{top}">{escape(column.title)}{small}</th>')
        if column.paper and not grid.stacked:
            heads += [
                f'<th scope="col" style="{_RIGHT};{top};font-weight:normal"><span style="{_GREY}">{name}</span></th>'
                for name in ("published", "diff.")
            ]
    lines += [f"<tr>{''.join(heads)}</tr>", "</thead>", "<tbody>"]
    for index, line in enumerate(grid.lines):
        last = index == len(grid.lines) - 1
        rule = ";border-bottom:2px solid currentColor" if last else f";{_RULE}" if line.ends else ""
        if line.section:
            lines.append(
                f'<tr><th colspan="{width}" style="{_LEFT};{_RULE};font-weight:bold">{escape(line.section)}</th></tr>'
            )
        cells = [f'<th scope="row" style="{_LEFT}{rule}">{escape(line.title)}</th>']
        cells.append(f'<td style="{_LEFT}{rule}">{escape(line.budget)}</td>')
        for column, entry in zip(grid.columns, line.entries, strict=True):
            told = f"{entry.published} ({entry.difference})" if entry.difference else entry.published
            small = _small(told) if grid.stacked and told else ""
            cells.append(f'<td style="{_RIGHT}{rule}">{_cell(entry)}{small}</td>')
            if column.paper and not grid.stacked:
                cells += [
                    f'<td style="{_RIGHT}{rule}"><span style="{_GREY}">{text}</span></td>'
                    for text in (entry.published, entry.difference)
                ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "<tfoot>", f'<tr><td colspan="{width}" style="{_NOTES}">']
    lines.append("<br>\n".join(_note(note) for note in grid.notes))
    return "\n".join([*lines, "</td></tr>", "</tfoot>", "</table>"]) + "\n"


def _note(note: str) -> str:
    return "".join(f"<code>{escape(text)}</code>" if is_code else escape(text) for is_code, text in spans(note))


def _small(text: str) -> str:
    return f'<br><small style="font-weight:normal;{_GREY}">{escape(text)}</small>'


def _cell(entry: CellText) -> str:
    text = escape(entry.plain)
    if entry.best or entry.tied:
        tag = "b" if entry.best else "u"
        text = f"<{tag}>{entry.value}</{tag}>{text.removeprefix(entry.value)}"
    return f'<span style="{_GREY}">{text}</span>' if entry.state == "stale" else text
