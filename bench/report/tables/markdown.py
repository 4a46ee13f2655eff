"""GitHub-flavoured Markdown."""

from __future__ import annotations

import re

from bench.core.printable import visible
from bench.report.results import Results
from bench.report.tables.layout import CellText, Grid, Marks, layout
from bench.report.tables.words import spans


def markdown_table(results: Results, marks: Marks | None = None, *, paper: bool | None = None) -> str:
    """Heading, table and footnotes; best of a row in bold, what is tied with it underlined."""
    return markdown_of(layout(results, marks, paper=paper))


def markdown_of(grid: Grid) -> str:
    """A grid as Markdown."""
    head = ["attack", "budget"]
    for column in grid.columns:
        head.append(escape(column.title) + (f", {column.seeds}" if column.seeds else ""))
        head += ["published", "diff."] if column.paper else []
    lines = [f"**{escape(grid.heading)}**", "", _bar(head), _bar(["---", "---", *["---:"] * (len(head) - 2)])]
    for line in grid.lines:
        if line.section:
            lines.append(_bar([f"**{escape(line.section)}**", *[""] * (len(head) - 1)]))
        cells = [escape(line.title), escape(line.budget)]
        for column, entry in zip(grid.columns, line.entries, strict=True):
            cells.append(_cell(entry))
            cells += [entry.published, entry.difference] if column.paper else []
        lines.append(_bar(cells))
    notes = ["".join(f"`{text}`" if is_code else escape(text) for is_code, text in spans(note)) for note in grid.notes]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"


def escape(text: str) -> str:
    """Text that is shown as it is: no markup, no HTML, no end of the cell or line."""
    text = visible(re.sub(r"\s", " ", text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
    return re.sub(r"(?i)://", "&#58;//", re.sub(r"(?i)\bwww\.", "www&#46;", text))  # GitHub makes links of these


def _cell(entry: CellText) -> str:
    text = entry.plain
    if entry.best or entry.tied:
        mark = ("**", "**") if entry.best else ("<ins>", "</ins>")
        text = f"{mark[0]}{entry.value}{mark[1]}{text.removeprefix(entry.value)}"
    return text


def _bar(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
