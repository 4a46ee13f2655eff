"""`bench perf memory`: how much memory methods and attacks need, and whether it grows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from bench.cli.options import Named
from bench.cli.parameters import MEMBERS, Integer, Once
from bench.cli.perf.options import HELP, processor
from bench.cli.say import say_json
from bench.core import numbers
from bench.core.errors import unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from bench.perf.memory import Growth, Peak

GROWING = {"trs": False, "pgd": True}  # and whether it is an attack


@click.command("memory", cls=Once, context_settings=HELP)
@click.option("-d", "--dataset", type=Named("datasets"), default="digits", show_default=True,
              help="Data set that gives shape and classes; the pixels are random.")  # fmt: skip
@click.option("--model", type=Named("models"), help="Model of the members; that of the published recipe unless given.")
@click.option("--members", type=MEMBERS, default=3, show_default=True, help="Number of members.")
@click.option("--batch", type=Integer(4, numbers.BATCH), default=128, show_default=True,
              help="Images in a step or an attack.")  # fmt: skip
@click.option("-m", "--method", "methods", multiple=True, type=Named("methods", "paper", "all"),
              help="Measure this one; repeat for several.  [default: every method and attack]")  # fmt: skip
@click.option("--attack", "attacks", multiple=True, type=Named("attacks"), help="The same for attacks.")
@click.option("--steps", type=Integer(0, numbers.EPOCHS), default=1000, show_default=True,
              help="Of trs and of PGD in the growth check, 10 or more; 0 for none.")  # fmt: skip
@processor(repeats=0)
def command(
    dataset: str, model: str | None, members: int, batch: int, methods: tuple[str, ...], attacks: tuple[str, ...],
    steps: int, device: str | None, threads: int, changes: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Peak memory of a training step of every method and of every attack, and whether memory grows.

    A peak is what was held at most above data, weights and code: on a CPU the resident memory of a process of its own,
    on a GPU what torch allocated there. For the growth check the resident memory after a tenth of `--steps` is
    compared with that after all of them, and so is the number of living tensors; growth above noise is a FAIL, and
    the exit code is 1.

    \b
    Examples:
      bench perf memory
      bench perf memory --dataset cifar10 --model resnet20 --batch 32 --steps 0
      bench perf memory --method trs --attack pgd --json
    """
    from rich.text import Text

    from bench.cli.device import pick
    from bench.core import config
    from bench.core.errors import BenchError
    from bench.experiment.select import resolved_recipe
    from bench.perf import memory
    from bench.report.console import console

    if 0 < steps < 10:
        raise BenchError("--steps is 10 or more, since memory is looked at ten times; 0 leaves the growth check out")
    loaded = config.load(changes=changes)
    if dataset not in loaded.config.datasets:
        raise unknown_name("data set", dataset, loaded.config.datasets)
    setting = memory.Setting(dataset, model, members, batch, pick(device, threads), threads, changes)
    chosen = memory.names_of(loaded, methods, attacks)
    with console(stderr=True).status("") as status:
        peaks = memory.peaks(setting, *chosen, tell=lambda text: status.update(Text(text)))
        grown = []
        for name, attack in GROWING.items() if steps else ():
            status.update(Text(f"{steps} steps of {name}"))
            grown.append(memory.growth(setting, name, steps, attack=attack))
    if as_json:
        record = {"setting": asdict(setting), "peaks": [asdict(peak) for peak in peaks],
                  "growth": [asdict(one) for one in grown]}  # fmt: skip
        say_json(record)
    else:
        where = "allocated on the GPU" if setting.device != "cpu" else "resident"
        model = model or resolved_recipe(loaded, "published", dataset)[0].model
        title = f"{members} × {model}, {dataset}, batch {batch}: peak MiB {where}"
        _print(title, peaks, grown, console())
    return 1 if any(peak.error for peak in peaks) or not all(one.passed for one in grown) else 0


def _print(title: str, peaks: list[Peak], grown: list[Growth], out: Console) -> None:
    from rich.text import Text

    out.print(title, style="bold", soft_wrap=True)
    for kind in dict.fromkeys(peak.kind for peak in peaks):
        out.print(kind)
        for peak in peaks:
            if peak.kind == kind:
                told = f"{peak.mib:9.1f}" if peak.mib is not None else (str(peak.error), "red")
                out.print(Text.assemble(f"  {peak.name:<24}", told), soft_wrap=True)
    if grown:
        out.print("growth")
    for one in grown:
        verdict = ("PASS", "green") if one.passed else ("FAIL", "red")
        first = one.steps // len(one.resident)
        out.print(
            Text.assemble(
                f"  {one.name:<24}",
                verdict,
                f"  {one.resident[0]:.1f} MiB after {first:,} steps, {one.resident[-1]:.1f} after "
                f"{one.steps:,} (growth {one.growth:+.2f}, noise {one.noise:.2f}); tensors {one.tensors[0]} → "
                f"{one.tensors[-1]}",
            ),
            soft_wrap=True,
        )
