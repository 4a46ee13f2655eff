"""LaTeX with booktabs."""

from __future__ import annotations

import re

from bench.core.printable import visible
from bench.report.results import Results
from bench.report.tables.layout import CellText, Column, Grid, Marks, TableLine, layout
from bench.report.tables.words import spans

WIDE = 6  # columns of numbers from which on a table is shrunk to the width of the text where that is narrower

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': "''", "ε": r"$\varepsilon$", "λ": r"$\lambda$",
    "ℓ": r"$\ell$", "σ": r"$\sigma$", "μ": r"$\mu$", "δ": r"$\delta$", "α": r"$\alpha$", "β": r"$\beta$",
    "±": r"$\pm$", "×": r"$\times$", "−": "$-$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "∞": r"$\infty$",
    "²": r"$^2$", "₁": r"$_1$", "₂": r"$_2$", "†": r"$^\dagger$", "–": "--", "—": "---",
    "…": r"\ldots{}", "✗": r"$\times$", "→": r"$\to$", "[": "{[}",
    "]": "{]}", "*": "{*}", "’": "'", "‘": "`", "“": "``", "”": "''", "\u00a0": "~",
}  # fmt: skip


def latex_table(results: Results, marks: Marks | None = None, *, paper: bool | None = None) -> str:
    """A `table` environment; best of a row in bold, what is tied with it underlined."""
    return latex_of(layout(results, marks, paper=paper))


def latex_of(grid: Grid) -> str:
    """A grid as a `table` environment, with the packages that it needs in comments."""
    body = _tabular(grid)
    numbers = len(grid.columns) + (0 if grid.stacked else 2 * grid.papers)
    if numbers >= WIDE:
        fit = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
        body = [fit, *body[:-1], body[-1] + "}"]
    notes = [
        "".join(rf"\texttt{{{escape(text)}}}" if is_code else escape(text) for is_code, text in spans(note))
        for note in grid.notes
    ]
    lines = [
        r"\begin{table}[tbp]", r"\centering", rf"\caption{{{escape(grid.heading)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]+', '-', grid.label)}}}", *body, r"\par\medskip",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright", *(rf"{note}\par" for note in notes),
        r"\end{minipage}", r"\end{table}",
    ]  # fmt: skip
    packages = ["booktabs"]
    packages += ["xcolor"] if any(r"\textcolor" in line for line in lines) else []
    packages += ["graphicx"] if numbers >= WIDE else []
    head = [f"% \\usepackage{{{name}}}" for name in packages]
    if re.search("[^\x00-\u017f]", "".join(lines)):
        head.append("% Some letters need LuaLaTeX or XeLaTeX with a font that has them.")
    return "\n".join([*head, *lines]) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; no command, no comment, no end of the cell or line."""
    text = visible(re.sub(r"\s", " ", text))
    pieces = text.split("--")  # which LaTeX would join to a dash
    return "-{}-".join("".join(_SPECIAL.get(letter, letter) for letter in piece) for piece in pieces)


def _tabular(grid: Grid) -> list[str]:
    shape = "".join("r" if grid.stacked or not column.paper else "rrr" for column in grid.columns)
    heads = ["attack", "budget"]
    below = ["", ""]
    for column in grid.columns:
        heads += _beside(grid, column, escape(column.title), "published", "diff.")
        told = [column.seeds, *(["paper (diff.)"] if column.paper and grid.stacked else [])]
        small = rf"{{\scriptsize {', '.join(part for part in told if part)}}}" if any(told) else ""
        below += _beside(grid, column, small, "", "")
    lines = [rf"\begin{{tabular}}{{ll{shape}}}", r"\toprule", _row(heads)]
    if any(below):
        lines.append(_row(below))
    lines.append(r"\midrule")
    for line in grid.lines:
        lines += _line(grid, line)
        if line.ends:
            lines.append(r"\midrule")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _line(grid: Grid, line: TableLine) -> list[str]:
    cells = [escape(line.title), escape(line.budget)]
    below = ["", ""]
    for column, entry in zip(grid.columns, line.entries, strict=True):
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
    return text.replace("-", "$-$").replace("+", "$+$")


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
