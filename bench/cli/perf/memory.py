"""`bench perf memory`: how much memory a training step of each method and each attack need."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from bench.cli.options import Named
from bench.cli.parameters import MEMBERS, Integer, Once
from bench.cli.perf.options import processor
from bench.cli.say import say_json
from bench.core import numbers
from bench.core.device import pick
from bench.core.errors import unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from bench.perf.memory import Peak


@click.command("memory", cls=Once)
@click.option("-d", "--dataset", type=Named("datasets"), default="digits", show_default=True,
              help="Data set that gives shape and classes; the pixels are random.")  # fmt: skip
@click.option("--model", type=Named("models"), help="Model of the members; that of the data set's recipe unless given.")
@click.option("--members", type=MEMBERS, default=3, show_default=True, help="Number of members.")
@click.option("--batch", type=Integer(4, numbers.BATCH), default=128, show_default=True,
              help="Images in a step or an attack.")  # fmt: skip
@click.option("-m", "--method", "methods", multiple=True, type=Named("methods", "paper", "all"),
              help="Measure this one; repeat for several.  [default: every method and attack]")  # fmt: skip
@click.option("--attack", "attacks", multiple=True, type=Named("attacks"), help="The same for attacks.")
@processor
def command(
    dataset: str, model: str | None, members: int, batch: int, methods: tuple[str, ...], attacks: tuple[str, ...],
    device: str | None, threads: int, changes: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Peak memory of a training step of every method and of every attack: which model and batch fit.

    A peak is what was held at most above data, weights and code: on a CPU the resident memory of a process of its own,
    on a GPU what torch allocated there. The exit code is 1 where one cannot be measured.

    \b
    Examples:
      bench perf memory
      bench perf memory --dataset cifar10 --model resnet20 --batch 32
      bench perf memory --method trs --attack pgd --json
    """
    from rich.text import Text

    from bench.core import config
    from bench.experiment.select import model_spec, resolved_recipe
    from bench.perf import memory
    from bench.report.console import console

    loaded = config.load(changes=changes)
    if dataset not in loaded.config.datasets:
        raise unknown_name("data set", dataset, loaded.config.datasets)
    chosen = memory.names_of(loaded, methods, attacks)
    model = model or resolved_recipe(loaded, None, dataset)[0].model
    if model is not None:
        model_spec(loaded, model)  # a wrong name is reported before anything starts
    setting = memory.CommonSettings(dataset, model, members, batch, pick(device, threads), threads, changes)
    with console(stderr=True).status("") as status:
        peaks = memory.peaks(setting, *chosen, tell=lambda text: status.update(Text(text)))
    if as_json:
        say_json({"setting": asdict(setting), "peaks": [asdict(peak) for peak in peaks]})
    else:
        where = "allocated on the GPU" if setting.device != "cpu" else "resident"
        _print(f"{members} × {model}, {dataset}, batch {batch}: peak MiB {where}", peaks, console())
    return 1 if any(peak.error for peak in peaks) else 0


def _print(title: str, peaks: list[Peak], out: Console) -> None:
    from rich.text import Text

    out.print(title, style="bold", soft_wrap=True)
    for kind in dict.fromkeys(peak.kind for peak in peaks):
        out.print(kind)
        for peak in peaks:
            if peak.kind == kind:
                told = f"{peak.mib:9.1f}" if peak.mib is not None else (str(peak.error), "red")
                out.print(Text.assemble(f"  {peak.name:<24}", told), soft_wrap=True)
