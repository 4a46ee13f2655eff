"""`bench papers`: what papers conclude, and whether it holds of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import NameList, reading, where
from bench.cli.parameters import Once
from bench.cli.say import say
from bench.core.errors import BenchError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from bench.report.papers import Papers


@click.command("papers", cls=Once)
@click.option("-d", "--dataset", "datasets", type=NameList("datasets"), metavar="NAME[,NAME…]",
              help="Data sets; unless given, those on which something was measured.")  # fmt: skip
@click.option("--format", "style", type=click.Choice(("text", "markdown", "csv")), default="text", show_default=True,
              help="markdown: with the comparison that decides; csv: every comparison.")  # fmt: skip
@where
def command(datasets: tuple[str, ...] | None, style: str, results: Path, db: str | None) -> None:
    """What papers conclude ([statements] in bench.toml), and whether it holds of what was measured here.

    A statement is a set of comparisons of one method with another, tested as in `bench compare` (paired by image and by
    seed; transferability over trainings), Holm-corrected. It holds if every one is significantly as the paper says,
    does not hold if one is significantly the other way; else it cannot be told. Weights that authors published are
    asked apart from what was trained here.

    \b
    Examples:
      bench papers
      bench papers -d digits,mnist --format markdown
      bench papers --format csv > comparisons.csv
    """
    from bench.core import config
    from bench.report import papers, statements
    from bench.report.console import console

    loaded = config.load()
    for name in datasets or ():
        if name not in loaded.config.datasets:
            raise unknown_name("data set", name, loaded.config.datasets)
    with reading(db, results) as base:
        found = {name: statements.answers(loaded, base, name) for name in datasets or loaded.config.datasets}
    made = papers.Papers(loaded, found, datasets or ())
    if style == "csv":
        say(papers.csv_of(made), nl=False)
    elif style == "markdown":
        say(papers.markdown_of(made), nl=False)
    elif made.columns:
        _print(made, console())
    else:
        raise BenchError("nothing that a paper concludes of has been measured; `bench run -m paper -d digits` would")


def _print(made: Papers, out: Console) -> None:
    from rich.text import Text

    from bench.report.listing import Head, print_listing

    for paper, statements in made.papers():
        out.print(Text(f"{paper.title} ({paper.venue} {paper.year})", "bold"), soft_wrap=not out.is_terminal)
        rows = [[each.words, *(made.told(name, column) for column in made.columns)] for name, each in statements]
        print_listing([Head("it says"), *(Head(made.title(column), 1) for column in made.columns)], rows, out)
