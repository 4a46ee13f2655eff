"""`bench perf growth`: a figure of how cost grows, and the slopes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import Named
from bench.cli.parameters import Once
from bench.cli.perf.options import HELP, processor
from bench.cli.say import say_json

if TYPE_CHECKING:
    from rich.console import Console

    from bench.perf.growth import Line


@click.command("growth", cls=Once, context_settings=HELP)
@click.option("-o", "--out", "path", type=click.Path(dir_okay=False, path_type=Path), default=Path("growth.png"),
              show_default=True, help="Figure: png, svg or pdf; its points as CSV beside it.")  # fmt: skip
@click.option("--model", type=Named("models"), default="lenet", show_default=True,
              help="Model of the members; it has to take images of several sizes.")  # fmt: skip
@processor(repeats=2, least=1)
def command(
    path: Path, model: str, device: str | None, threads: int, repeats: int, changes: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Draw the time of PGD against images, steps, members and image size, of a TRS step against members and batch.

    Images are random and networks fresh; PGD attacks every image to the end. Of the rounds the fastest counts. The
    slope of log time over log size is 1 where cost is proportional: expected for images, steps, members and batch; for
    pixels a side it is the slope of the counted operations. Nothing passes or fails.

    \b
    Examples:
      bench perf growth -o growth.png
      bench perf growth --model resnet8 --repeats 1 --json
    """
    from rich.text import Text

    from bench.cli.device import pick
    from bench.core import config
    from bench.perf import growth
    from bench.perf.timing import Clock
    from bench.report.console import console
    from bench.report.plots.style import check_format

    check_format(path)
    loaded, place = config.load(changes=changes), pick(device, threads)
    clock = Clock(place).name
    with console(stderr=True).status("") as status:
        lines = growth.measure(
            loaded, model, device=place, repeats=repeats, tell=lambda text: status.update(Text(text))
        )
    figure, table = growth.draw(lines, path, model=model, clock=clock)
    if as_json:
        record = {"model": model, "device": place, "threads": threads, "clock": clock, "figure": str(figure),
                  "table": str(table), "lines": [asdict(line) for line in lines]}  # fmt: skip
        say_json(record)
    else:
        _print(lines, model, clock, console())
        console().print(f"figure    {figure}\npoints    {table}", soft_wrap=True, highlight=False)
    return 0


def _print(lines: list[Line], model: str, clock: str, out: Console) -> None:
    from rich.text import Text

    out.print(f"Slopes in log-log, {model}, {clock}", style="bold")
    for line in lines:
        expected = f"expected {line.expected:.3g}" if line.expected else ""
        low, high = line.axis.values[0], line.axis.values[-1]
        told = f"  {line.axis.work:<10}{line.axis.name:<12}{line.slope:6.2f}   {expected:<14}"
        out.print(Text.assemble(told, (f"{low}–{high}", "dim")))
