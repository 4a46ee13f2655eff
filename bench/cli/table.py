"""`bench table`: a suite's table out of the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.cli.options import Named, choose, reading, selectors, where
from bench.cli.parameters import Once
from bench.cli.say import say

FORMATS = ("text", "markdown", "latex", "html", "csv", "json")


@click.command("table", cls=Once)
@click.argument("name", required=False, metavar="[SUITE]", type=Named("suites"))
@selectors
@click.option("--format", "style", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--paper/--no-paper", default=None,
              help="Published values and differences beside ours; without it for up to three methods.")  # fmt: skip
@click.option("--details/--no-details", default=None,
              help="Clean accuracy of the members and training time; CSV and JSON have them anyway.")  # fmt: skip
@click.option("--long", is_flag=True, help="One row a cell with mean, std, seeds, counts, n, flags (as CSV).")
@click.option("--json", "as_json", is_flag=True, help="One object a cell; the same as --format json.")
@where
def command(
    name: str | None, style: str, paper: bool | None, details: bool | None, long: bool, as_json: bool, results: Path,
    db: str | None, **given: Any,
) -> None:  # fmt: skip
    """Print the table of SUITE (or of the data set's own suite): mean ± std over seeds, and published values.

    Without --method every configured method that has a result is a column. All seeds that were run enter the mean,
    unless --seeds picks some. The best of a row is bold; underlined is what is not significantly worse on the same
    images. † has a flag (`bench audit`), – is missing, ✗ failed, (…) is of an older version.

    \b
    Examples:
      bench table table1-mnist --paper
      bench table core --dataset digits --format markdown
      bench table core --dataset digits --details --format latex > table.tex
      bench table table1 --dataset cifar10 --recipe quick --format csv
      bench table --dataset digits --long
    """
    from bench.report import tables
    from bench.report.console import console
    from bench.report.results import collect
    from bench.report.tables.details import with_details

    style = "json" if as_json else "long" if long else style
    for_machines = style in ("json", "long", "csv")
    given["suite"] = name or given["suite"]
    chosen = choose(**given)
    marks = None
    with reading(db, results, printed=bool(paper)) as base:
        table = collect(chosen.loaded, chosen.selection, base, seeds=chosen.seeds, paper=bool(paper))
        if style != "csv" and len(table.methods) > 1:
            from bench.report.tables.marks import find_ties

            marks = find_ties(table, base)
        if details or (details is None and for_machines):
            table = with_details(table, base, members=for_machines)
    if style == "text":
        tables.print_grid(tables.layout(table, marks, paper=paper), console())
        return
    write = {
        "json": lambda: tables.json_table(table, marks),
        "long": lambda: tables.long_csv(table, marks),
        "csv": lambda: tables.csv_table(table, paper=paper),
        "markdown": lambda: tables.markdown_table(table, marks, paper=paper),
        "latex": lambda: tables.latex_table(table, marks, paper=paper),
        "html": lambda: tables.html_table(table, marks, paper=paper),
    }
    say(write[style](), nl=False)
