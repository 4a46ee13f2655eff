"""`bench perf run`: where the time of a whole `bench run` goes, and how long commands take to start."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import Named
from bench.cli.parameters import IMAGES, Integer, Once
from bench.cli.perf.options import HELP, machine, selection_of
from bench.cli.say import say_json
from bench.core import numbers
from bench.core.errors import unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from bench.perf.imports import Package
    from bench.perf.whole import Whole


@click.command("run", cls=Once, context_settings=HELP)
@click.option("-d", "--dataset", type=Named("datasets"), default="digits", show_default=True, help="Data set.")
@click.option("-m", "--method", "methods", multiple=True, type=Named("methods", "paper", "all"),
              help="As for `bench run`.  [default: trs]")  # fmt: skip
@click.option("--recipe", type=Named("recipes"), default="published", show_default=True, help="As for `bench run`.")
@click.option("--model", type=Named("models"), help="As for `bench run`.")
@click.option("--limit", type=IMAGES, help="Use this many test images only.")
@click.option("--starts", type=Integer(0, numbers.MOST), default=5, show_default=True,
              help="How often each command is started; 0 for none.")  # fmt: skip
@machine(repeats=1, least=1)
def command(
    dataset: str, methods: tuple[str, ...], recipe: str, model: str | None, limit: int | None, starts: int, data: Path,
    device: str | None, threads: int, repeats: int, changes: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Split a whole `bench run` into phases: seconds and share of each, and what of it is overhead.

    Overhead is everything but training steps and attack passes. The run is done from nothing, in a process and a
    folder of its own; nothing of it is kept. On its results some commands are started, over `python -c pass`, and for
    each the packages are named whose import takes more than 20 ms.

    \b
    Examples:
      bench perf run
      bench perf run --dataset mnist --recipe quick --method ece --starts 0
      bench perf run --set training.epochs=3 --repeats 3 --json
    """
    from rich.text import Text

    from bench.cli.device import pick
    from bench.core import config
    from bench.experiment.select import method_names
    from bench.perf import whole
    from bench.report.console import console

    loaded = config.load(changes=changes)  # what is wrong is told before anything starts
    method_names(loaded, methods or ("trs",))
    if dataset not in loaded.config.datasets:
        raise unknown_name("data set", dataset, loaded.config.datasets)
    selection = selection_of(dataset, methods or ("trs",), recipe, model, limit, changes)
    given = ["--data", str(data.expanduser())]
    with console(stderr=True).status("") as status:
        found = whole.measure(
            selection, given, threads=threads, device=pick(device, threads), repeats=repeats, starts=starts,
            tell=lambda text: status.update(Text(text)),
        )  # fmt: skip
    if as_json:
        record = {"command": ["bench", "run", *selection], "threads": threads, "repeats": repeats, **asdict(found)}
        say_json(record)
    else:
        _print(found, " ".join(["bench run", *selection]), console())
    return 0


def _print(found: Whole, title: str, out: Console) -> None:
    from rich.text import Text

    out.print(title, style="bold", soft_wrap=True)
    for phase in found.phases:
        mark = "overhead" if phase.overhead else ""
        line = f"  {phase.name:<24}{phase.seconds:9.2f} s {100 * phase.share:6.1f} %   "
        out.print(Text.assemble(line, (mark, "dim")))
    out.print(f"  {'whole':<24}{found.seconds:9.2f} s")
    out.print(f"overhead (all but training steps and attack passes): {100 * found.overhead:.1f} %")
    if found.starts:
        out.print("\ntime / `python -c pass`")
        for start in found.starts:
            out.print(f"  {start.command:<28}{start.ratio}")
    out.print("\nimports over 20 ms")
    for name, packages in found.imports.items():
        told = ", ".join(
            f"{package.name} {package.milliseconds:.0f} ms{f' ({package.asked})' if _foreign(package) else ''}"
            for package in packages
        )
        out.print(f"  {name:<28}{told or 'none'}", soft_wrap=True, highlight=False)
    out.print(f"Seconds: {found.clock}; ratios: median (smallest–largest) of the rounds, in turns.", style="dim")


def _foreign(package: Package) -> bool:
    """Whether a module of ours asked for it as it was imported itself (not: a function, later)."""
    return bool(package.asked) and package.name != "bench"
