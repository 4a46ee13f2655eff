"""`bench table`: a suite's table out of the database."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.cli.options import MOST_INCHES, Named, NameList, choose, reading, selectors, where
from bench.cli.parameters import Once, Real
from bench.cli.say import say
from bench.core.errors import BenchError

FORMATS = ("text", "markdown", "latex", "html", "csv", "json")


@click.command("table", cls=Once)
@click.argument("name", required=False, metavar="[SUITE]", type=Named("suites"))
@partial(selectors, dataset=NameList("datasets"))
@click.option("--format", "style", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--paper/--no-paper", default=None,
              help="Published values and differences beside ours; without it for up to three methods.")  # fmt: skip
@click.option("--details/--no-details", default=None,
              help="Clean accuracy of the members and training time; CSV and JSON have them anyway.")  # fmt: skip
@click.option("--long", is_flag=True, help="One row a cell with mean, std, seeds, counts, n, flags (as CSV).")
@click.option("--json", "as_json", is_flag=True, help="One object a cell; the same as --format json.")
@click.option(
    "--width",
    type=Real(MOST_INCHES),
    metavar="INCHES",
    help="What a LaTeX table may take; methods beyond stand below.  [default: 3.25 if that is enough, else 5.5]",
)
@click.option(
    "--variants",
    is_flag=True,
    help="Also what was run with other settings of these methods (--set), each a column named by them.",
)
@where
def command(
    name: str | None, style: str, paper: bool | None, details: bool | None, long: bool, as_json: bool,
    width: float | None, variants: bool, results: Path, db: str | None, **given: Any,
) -> None:  # fmt: skip
    """Print the table of SUITE (or of the data set's own suite): mean ± std over seeds, and published values.

    Without --method every configured method that has a result is a column. All seeds that were run enter the mean,
    unless --seeds picks some. Several data sets, comma-separated, stand below each other. The best of a row is bold;
    underlined is what is not significantly worse on the same images.
    † has a flag (`bench audit`), – is missing, ✗ failed, (…) is of an older version.

    \b
    Examples:
      bench table table1-mnist --paper
      bench table core --dataset digits --format markdown
      bench table core --dataset digits --details --format latex > table.tex
      bench table table1 --dataset cifar10 --recipe quick --format csv
      bench table table1 --dataset mnist,cifar10 --paper --format latex --width 6.75
      bench table -m trs --dataset digits --variants            with what `--set methods.trs…` changed
      bench table --dataset digits --long
    """
    from bench.report import tables
    from bench.report.console import console
    from bench.report.results import collect
    from bench.report.tables.details import with_details
    from bench.report.variants import with_variants

    style = "json" if as_json else "long" if long else style
    for_machines = style in ("json", "long", "csv")
    if width is not None and style != "latex":
        raise BenchError("--width is for --format latex")
    given["suite"] = name or given["suite"]
    several = given.pop("dataset") or (None,)
    found = []
    for dataset in dict.fromkeys(several):
        chosen = choose(**given, dataset=dataset)
        with reading(db, results, printed=bool(paper)) as base:
            if variants:
                loaded, selection = with_variants(chosen.loaded, chosen.selection, base)
                chosen = replace(chosen, loaded=loaded, selection=selection)
            table = collect(chosen.loaded, chosen.selection, base, seeds=chosen.seeds, paper=bool(paper))
            marks = None
            if style != "csv" and len(table.methods) > 1:
                from bench.report.tables.marks import find_ties

                marks = find_ties(table, base)
            if details or (details is None and for_machines):
                table = with_details(table, base, members=for_machines)
        found.append((chosen.loaded.title_of_dataset(table.dataset), table, marks))
    if for_machines:
        rows = [row for _, table, marks in found for row in tables.long_rows(table, marks)]
        if style == "csv":
            say(tables.csv_table(*(table for _, table, _ in found), paper=paper), nl=False)
        else:
            say(tables.json_table(rows) if style == "json" else tables.long_csv(rows), nl=False)
        return
    grid = tables.together({title: tables.layout(table, marks, paper=paper) for title, table, marks in found})
    if style == "text":
        tables.print_grid(grid, console())
    elif style == "latex":
        say(tables.latex_of(grid, width), nl=False)
    else:
        say({"markdown": tables.markdown_of, "html": tables.html_of}[style](grid), nl=False)
