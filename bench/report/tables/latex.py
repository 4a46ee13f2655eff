"""LaTeX with booktabs."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from bench.core.printable import visible
from bench.report.results import Results
from bench.report.tables.layout import CellText, Column, Grid, Marks, TableLine, layout
from bench.report.tables.words import is_foreign

COLUMN = 3.25  # inches: one of two columns; a table that fits is put there
TEXT = 5.5  # inches that a wider table takes, unless more are given: every usual page has them
LINES = 48  # of a float; what is longer is continued in another
LETTER, SMALL = 4.25, 3.98  # points of a digit in \footnotesize and \scriptsize of a class with 10 points
APART = 8.0  # points between two columns

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': "''", "ε": r"$\varepsilon$", "λ": r"$\lambda$",
    "ℓ": r"$\ell$", "σ": r"$\sigma$", "μ": r"$\mu$", "δ": r"$\delta$", "α": r"$\alpha$", "β": r"$\beta$",
    "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "∞": r"$\infty$",
    "²": r"$^2$", "₁": r"$_1$", "₂": r"$_2$", "†": r"$^\dagger$", "‡": r"$^\ddagger$", "–": "--", "—": "---",
    "…": r"\ldots{}", "✗": r"$\times$", "→": r"$\to$", "[": "{[}",
    "]": "{]}", "*": "{*}", "’": "'", "‘": "`", "“": "``", "”": "''", "\u00a0": "~",
}  # fmt: skip


def latex_table(results: Results, marks: Marks | None = None, *, paper: bool | None = None) -> str:
    """A table as `latex_of` writes it; best of a row in bold, what is tied with it underlined."""
    return latex_of(layout(results, marks, paper=paper))


def latex_of(grid: Grid, width: float | None = None) -> str:
    """A grid for a paper: `table` where it fits in a column, else `table*`, in \\footnotesize and never shrunk.

    Methods that have no room beside the others stand in a further part below; parts that fill a page are continued in
    another float. What only an author needs (packages, notes of runs, errors) stands in comments.

    Args:
        width: inches that the table may take; by default 3.25 where that is enough, else 5.5.
    """
    grid = _published_alone(grid)
    everything = list(range(len(grid.columns)))
    whole = _width(grid, everything)
    fits = whole <= 72 * min(COLUMN, width or COLUMN) or (width is not None and width < TEXT - 1)
    kind = "table" if fits else "table*"
    parts = _parts(grid, 72 * (width or (COLUMN if fits else TEXT)))
    long = (len(grid.lines) + 3) * (2 if grid.stacked else 1)
    each = max(1, LINES // max(1, long))
    floats = [parts[start : start + each] for start in range(0, len(parts), each)]
    body: list[str] = []
    for number, own in enumerate(floats):
        told = " ".join(grid.caption) or grid.heading
        if number:
            body.append(r"\addtocounter{table}{-1}")
        body += [
            rf"\begin{{{kind}}}[tbp]", r"\centering",
            rf"\caption{{{escape(told)}}}" if not number else r"\caption[]{(continued)}",
            *([] if number else [rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]+', '-', grid.label)}}}"]),
            rf"\par\smallskip\footnotesize\setlength{{\tabcolsep}}{{{APART / 2:g}pt}}",
        ]  # fmt: skip
        for place, indices in enumerate(own):
            body += [*([r"\par\medskip"] if place else []), *_tabular(grid, indices)]
        if number == len(floats) - 1 and grid.printed:
            body += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright"]
            body += [*(rf"{escape(note)}\par" for note in grid.printed), r"\end{minipage}"]
        body.append(rf"\end{{{kind}}}")
    packages = ["booktabs"] + (["xcolor"] if any(r"\textcolor" in line for line in body) else [])
    head = [f"% \\usepackage{{{name}}}" for name in packages]
    if re.search("[^\x00-\u017f]", "".join(body)):
        head.append("% Some letters need LuaLaTeX or XeLaTeX with a font that has them.")
    own_notes = [note for note in grid.notes if is_foreign(note) or note.startswith("Audit:")]
    head += [f"% {escape(note.replace('`', ''))}" for note in own_notes]
    return "\n".join([*head, *body]) + "\n"


def _published_alone(grid: Grid) -> Grid:
    """A grid without any value of ours as the published table: its values in our place, each column once."""
    entries = [entry for line in grid.lines for entry in line.entries]
    if not any(entry.published for entry in entries) or any(entry.value for entry in entries):
        return grid
    columns: dict[tuple[str, ...], int] = {}
    for index in range(len(grid.columns)):
        columns.setdefault(tuple(line.entries[index].published for line in grid.lines), index)
    kept = [index for values, index in columns.items() if any(values)]
    lines, section = [], ""
    for line in grid.lines:
        section = line.section or section
        shown = tuple(line.entries[index].published for index in kept)
        if any(shown):
            values = tuple(CellText("value", value) if value else CellText("missing") for value in shown)
            lines.append(replace(line, entries=values, section=section))
            section = ""
    return replace(
        grid, columns=tuple(replace(grid.columns[index], paper=False) for index in kept), lines=tuple(lines),
        printed=(), caption=("Published values: robust accuracy in % of all test images.",),
    )  # fmt: skip


def _parts(grid: Grid, most: float) -> list[list[int]]:
    """The columns in as few parts as fit into so many points, as even as can be."""
    left, parts = list(range(len(grid.columns))), 0
    while left:
        number = len(left)
        while number > 1 and _width(grid, left[:number]) > most:
            number -= 1
        left, parts = left[number:], parts + 1
    count = len(grid.columns)
    for number in range(max(1, parts), count + 1):
        edges = [round(place * count / number) for place in range(number + 1)]
        found = [list(range(start, end)) for start, end in pairwise(edges)]
        if number == count or all(_width(grid, each) <= most for each in found):
            return found
    return [list(range(count))]


def _width(grid: Grid, indices: list[int]) -> float:
    """Points that these columns take, estimated from the letters."""
    titles = max((len(line.title) for line in grid.lines), default=0), 6
    budgets = max((len(line.budget) for line in grid.lines), default=0), 6
    total = sum(LETTER * max(each) + APART for each in (titles, budgets))
    for index in indices:
        column = grid.columns[index]
        cells = [line.entries[index] for line in grid.lines]
        own = [LETTER * len(column.title), *(_cell_width(entry) for entry in cells)]
        if column.paper and grid.stacked:
            own += [SMALL * (len(entry.published) + len(entry.difference) + 3) for entry in cells if entry.published]
        total += max(own) + APART
        if column.paper and not grid.stacked:
            total += LETTER * len("published") + LETTER * 6 + 2 * APART
    return total - APART


def _cell_width(entry: CellText) -> float:
    small = len(entry.std) + 3 if entry.std else 0
    small += len(entry.seeds) + 3 if entry.seeds else 0
    return LETTER * (len(entry.value) or 1) + SMALL * (small + entry.flagged)


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; no command, no comment, no end of the cell or line."""
    text = visible(re.sub(r"\s", " ", text))
    pieces = text.split("--")  # which LaTeX would join to a dash
    return "-{}-".join("".join(_SPECIAL.get(letter, letter) for letter in piece) for piece in pieces)


def _tabular(grid: Grid, indices: list[int]) -> list[str]:
    columns = [grid.columns[index] for index in indices]
    shape = "".join("r" if grid.stacked or not column.paper else "rrr" for column in columns)
    heads, below = ["attack", "budget"], ["", ""]
    alike = len({column.seeds for column in grid.columns}) == 1  # said in the caption
    for column in columns:
        heads += _beside(grid, column, escape(column.title), "published", "diff.")
        told = ["" if alike else column.seeds, *(["paper (diff.)"] if column.paper and grid.stacked else [])]
        small = rf"{{\scriptsize {', '.join(part for part in told if part)}}}" if any(told) else ""
        below += _beside(grid, column, small, "", "")
    lines = [rf"\begin{{tabular}}{{ll{shape}}}", r"\toprule", _row(heads)]
    if any(below):
        lines.append(_row(below))
    lines.append(r"\midrule")
    for line in grid.lines:
        if line.section:
            lines.append(_row([rf"\multicolumn{{{2 + len(shape)}}}{{l}}{{\textit{{{escape(line.section)}}}}}"]))
        lines += _line(grid, line, indices)
        if line.ends:
            lines.append(r"\midrule")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _line(grid: Grid, line: TableLine, indices: list[int]) -> list[str]:
    cells = [escape(line.title), escape(line.budget)]
    below = ["", ""]
    for column, entry in ((grid.columns[index], line.entries[index]) for index in indices):
        cells += _beside(grid, column, _cell(entry), entry.published, _signed(entry.difference))
        told = f"{entry.published} ({_signed(entry.difference)})" if entry.difference else entry.published
        below.append(rf"{{\scriptsize {told}}}" if told else "")
    if not grid.stacked or not any(below):
        return [_row(cells)]
    return [_row(cells) + "[-.6ex]", _row(below) + "[.2ex]"]


def _beside(grid: Grid, column: Column, own: str, published: str, difference: str) -> list[str]:
    return [own, published, difference] if column.paper and not grid.stacked else [own]


def _cell(entry: CellText) -> str:
    if entry.state in ("missing", "failed"):
        return escape(entry.plain)
    value = rf"\textbf{{{entry.value}}}" if entry.best else entry.value
    value = rf"\underline{{{entry.value}}}" if entry.tied else value
    value += rf" {{\scriptsize $\pm$ {entry.std}}}" if entry.std else ""
    value += _SPECIAL["†"] if entry.flagged else ""
    value += rf" {{\scriptsize ({entry.seeds})}}" if entry.seeds else ""
    return rf"\textcolor{{gray}}{{({value})}}" if entry.state == "stale" else value


def _signed(text: str) -> str:
    return text.replace("-", "$-$").replace("+", "$+$").replace("‡", _SPECIAL["‡"])


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
