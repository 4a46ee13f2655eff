"""Tables of results: one layout, drawn as text, Markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

from bench.report.tables.latex import latex_of, latex_table
from bench.report.tables.layout import Grid, Marks, layout, together
from bench.report.tables.machine import LONG_COLUMNS, csv_table, json_table, long_csv, long_rows
from bench.report.tables.markdown import markdown_of, markdown_table
from bench.report.tables.text import TextTable, matrix_table, print_grid
from bench.report.tables.web import html_of, html_table
from bench.report.tables.words import heading, matrix_heading
from bench.report.titles import budget_text

__all__ = [
    "LONG_COLUMNS", "Grid", "Marks", "TextTable", "budget_text", "csv_table", "heading", "html_of", "html_table",
    "json_table", "latex_of", "latex_table", "layout", "long_csv", "long_rows", "markdown_of", "markdown_table",
    "matrix_heading", "matrix_table", "print_grid", "together",
]  # fmt: skip
