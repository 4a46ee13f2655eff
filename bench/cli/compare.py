"""`bench compare`: is one method better than another, and how sure is that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import Named, choose, reading, selectors, where
from bench.cli.parameters import Once
from bench.cli.say import say_json
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console

    from bench.core.statistics import Interval
    from bench.report.pairing import Pair, Paired


@click.command("compare", cls=Once)
@click.argument("names", nargs=-1, metavar="[A B]", type=Named("methods"))
@selectors
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON: percent, differences in points.")
@where
def command(names: tuple[str, ...], as_json: bool, results: Path, db: str | None, **given: Any) -> None:
    """Compare two methods, or two runs by their ids, image by image under each attack.

    Exact McNemar test for each attack, Holm-corrected over all of them; paired bootstrap interval of the difference;
    with several seeds also an interval over seeds. Only what was measured on the same images is compared. Attacks that
    asked in bfloat16 are corrected apart, and not counted in the verdict beside those in float32.

    \b
    Examples:
      bench compare trs ece --dataset digits
      bench compare -m trs -m adp -d cifar10 --suite table1 --seeds 0-2
      bench compare 6e5a2f 061763                two runs, under everything that both have
      bench compare trs dverge -d digits --attack pgd --eps 0.1 --json
    """
    from bench.report import pairing
    from bench.report.console import console

    methods = tuple(given["methods"]) + names
    chosen = choose(**given)
    if by_id := pairing.by_id(chosen.loaded, methods, selectors=False):
        _refuse_selectors(click.get_current_context())
    with reading(db, results) as base:
        if by_id:
            paired = pairing.of_runs(chosen.loaded, methods[0], methods[1], base)
        else:
            selection = replace(chosen.selection, methods=methods)
            paired = pairing.of_methods(chosen.loaded, selection, base, seeds=chosen.seeds)
    if as_json:
        say_json(pairing.as_records(paired))
    else:
        _print(paired, console())


def _refuse_selectors(context: click.Context) -> None:
    """Ids say everything: a selector beside them would be ignored, so it is refused."""
    from click.core import ParameterSource

    own = {"names", "as_json", "results", "db"}
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in own and context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise BenchError(f"two ids say which runs are meant: leave {parameter.opts[0]} out")


def _print(paired: Paired, out: Console) -> None:
    from rich.text import Text

    from bench.report import pairing
    from bench.report.listing import Head, print_listing
    from bench.report.tables import budget_text

    several = any(pair.comparison.over_seeds for pair in paired.pairs)
    titles = paired.a, paired.b
    heads = [
        Head("attack"), Head("budget", whole=True), *(Head(name, right=True) for name in titles),
        Head("difference [95 %]", right=True, whole=True), Head("over seeds [95 %]", 1, right=True, whole=True),
        *(Head(f"only {name} right", 3, right=True) for name in titles),
        Head("p (Holm)", 2, right=True, whole=True), Head("verdict", 4, whole=True),
    ]  # fmt: skip
    rows = []
    for pair in paired.pairs:
        found = pair.comparison
        rows.append(
            [
                pair.row.title, budget_text(pair.row.budget_name, pair.row.budget), f"{100 * found.a:.1f}",
                f"{100 * found.b:.1f}", f"{100 * found.difference:+.1f} {_interval(found.over_images)}",
                _interval(found.over_seeds) if several else "",
                *(str(sum(each[side] for each in found.discordant)) for side in (0, 1)),
                _p(pair), pair.verdict(paired.a, paired.b),
            ]
        )  # fmt: skip
    heading = Text.assemble((f"{titles[0]} against {titles[1]}", "bold"), f": {paired.heading}")
    out.print(heading, soft_wrap=not out.is_terminal)
    print_listing(
        heads, rows, out, styles=[None if pair.better else "dim" for pair in paired.pairs],
        ends=[place for place, pair in enumerate(paired.pairs) if pair.row.kind == "clean"],
    )  # fmt: skip
    for line in pairing.summary(paired):
        out.print(line, style="yellow" if line.startswith(pairing.MISSING) else None, soft_wrap=not out.is_terminal)
    for line in pairing.footnotes(paired):
        out.print(line, style="yellow" if line.startswith("Note") else "dim", soft_wrap=not out.is_terminal)


def _interval(interval: Interval | None) -> str:
    return "–" if interval is None else f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _p(pair: Pair) -> str:
    return "< 0.0001" if pair.p_holm < 0.0001 else f"{pair.p_holm:.4f}"
