"""`bench heatmap`: transferability matrices as a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from bench.cli.options import Named, choose, page_options, reading, selectors, where
from bench.cli.parameters import Once
from bench.core.errors import BenchError
from bench.core.terms import Population, Rate

if TYPE_CHECKING:
    from bench.report.plots.style import Page


@click.command("heatmap", cls=Once)
@selectors
@click.option("--population", type=click.Choice(get_args(Population)),
              help="Images that count for `misclassified`; that of bench.toml unless given.")  # fmt: skip
@click.option("--rate", type=click.Choice(get_args(Rate)), default="misclassified", show_default=True,
              help="What is counted; Definition 6 is a share of all images, or of those both get right.")  # fmt: skip
@click.option("--diff", nargs=2, type=Named("methods"), metavar="A B", help="Draw the difference of two methods.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="Picture to write: .png, .svg, .pdf.  [default: RESULTS/figures/transfer-DATASET.png]")  # fmt: skip
@page_options
@where
def command(
    population: Population | None, rate: Rate, diff: tuple[str, str] | None, output: Path | None, page: Page,
    results: Path, db: str | None, **given: Any,
) -> None:  # fmt: skip
    """Draw the transferability matrices (Figure 3 of the TRS paper), one panel a method.

    Rows: the member that the images were crafted on, then the whole ensemble, noise of the same size, and the
    ensembles of matrix.surrogates. Columns: the member they are evaluated on, then the whole ensemble. Small in a cell:
    the deviation over seeds, or of one seed the 95 % interval. Colours always run from 0 to 100 %.

    \b
    Examples:
      bench heatmap --method trs --dataset digits
      bench heatmap --dataset digits -o figure3.pdf              every method that has a matrix
      bench heatmap -m trs -m ece -d digits --width 3.25 --no-title -o column.pdf      one column of a paper
      bench heatmap -m trs --dataset mnist --rate definition6
      bench heatmap -m trs --dataset digits --rate same_class
      bench heatmap --diff trs ece --dataset digits              where attacks on trs transfer less
    """
    from bench.experiment.command import of_selection
    from bench.experiment.select import matrix_budget
    from bench.report.console import console, print_matrix
    from bench.report.heatmap import file_name, save_difference, save_heatmap
    from bench.report.matrices import matrices

    if given["attack"]:
        raise BenchError(
            "a heatmap shows the attack of [matrix] in bench.toml; change it with --set matrix.attack=… and "
            "--set matrix.budgets.DATASET=…"
        )
    if diff:
        if given["methods"]:
            raise BenchError("--diff names the two methods: leave --method out")
        given["methods"] = tuple(dict.fromkeys(diff))
        if len(given["methods"]) < 2:
            raise BenchError(f"--diff of {diff[0]} with itself is 0 everywhere; name two methods")
    chosen = choose(**given)
    with reading(db, results) as base:
        found = matrices(chosen.loaded, chosen.selection, base, seeds=chosen.seeds, population=population, rate=rate)
    if not found:
        if chosen.selection.members == 1:
            raise BenchError("a single network has no transferability matrix; an ensemble of two or more has")
        matrix_budget(chosen.loaded, chosen.selection)
        suite = f"figure3-{chosen.selection.dataset}"
        command = of_selection(chosen.loaded, chosen.selection, suite=suite)
        raise BenchError(f"no transferability matrix with these selectors; `{command}` makes one")
    if diff and len(found) < 2:
        (lacking,) = set(diff) - {found[0].method}
        command = of_selection(chosen.loaded, replace(chosen.selection, methods=(lacking,)))
        raise BenchError(f"no transferability matrix of {lacking} with these selectors; `{command}` makes one")
    name = f"transfer-{'-minus-'.join(diff)}" if diff else "transfer"
    path = output or results / "figures" / file_name(f"{name}-{chosen.selection.dataset}", found)
    if diff:
        first, second = sorted(found, key=lambda matrix: diff.index(matrix.method))
        save_difference(first, second, path, page)
    else:
        save_heatmap(found, path, page)
    out = console()
    for matrix in found:
        print_matrix(matrix, out)
    out.print(f"saved {path} and {path.with_suffix('.csv')}", soft_wrap=True)
