"""`bench perf jobs`: how many jobs at once on one device are best."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import Named, results_option
from bench.cli.parameters import IMAGES, Integer, Once, Seeds
from bench.cli.perf.options import processor, rounds
from bench.cli.say import say_json
from bench.core import numbers
from bench.core.device import free_cores, pick

if TYPE_CHECKING:
    from rich.console import Console

    from bench.perf.jobs import Throughput


@click.command("jobs", cls=Once)
@click.option("-d", "--dataset", type=Named("datasets"), default="digits", show_default=True, help="Data set.")
@click.option("-m", "--method", "methods", multiple=True, type=Named("methods", "paper", "all"),
              help="As for `bench run`.  [default: ece]")  # fmt: skip
@click.option("--recipe", type=Named("recipes"), default="quick", show_default=True, help="As for `bench run`.")
@click.option("--model", type=Named("models"), help="As for `bench run`.")
@click.option("--seeds", type=Seeds(), default="0-3", show_default=True,
              help="Seeds such as 0-3: as many trainings a method can run at once.")  # fmt: skip
@click.option("--limit", type=IMAGES, help="Use this many test images only.")
@click.option("--at-once", multiple=True, type=Integer(2, numbers.WORKERS), metavar="K",
              help="Jobs at once; repeat for several.  [default: 2 and 4 on a GPU; on a CPU powers of two up to its "
              "cores]")  # fmt: skip
@rounds(repeats=1, least=1)
@processor
@results_option
def command(
    dataset: str, methods: tuple[str, ...], recipe: str, model: str | None, seeds: tuple[int, ...], limit: int | None,
    at_once: tuple[int, ...], data: Path, repeats: int, device: str | None, threads: int, changes: tuple[str, ...],
    as_json: bool, results: Path,
) -> int:  # fmt: skip
    """Time the same runs one job after another and with K jobs at once, on one device, and say which K is best.

    Each time the runs are done from nothing, in processes and a folder of their own; nothing of them is kept. On a GPU
    (the first, or the one of --device) K is `--per-gpu` of `bench run`, on a CPU `--workers`, each job with `--threads`
    CPU threads. The best K on a GPU is noted in the results folder, by the name of the card: `bench run --gpus` has as
    many at once there unless --per-gpu is given. Ratios are wall-clock time, one after another / K at once: higher is
    better. Nothing else should be running. Nothing passes or fails.

    \b
    Examples:
      bench perf jobs
      bench perf jobs --dataset mnist --method trs --at-once 2 --at-once 3 --repeats 3
      bench perf jobs --dataset cifar10 --device cuda:1 --at-once 4 --set training.epochs=2 --json
    """
    from rich.text import Text

    from bench.core import config
    from bench.experiment.command import words
    from bench.experiment.select import Selection
    from bench.jobs import measured_best
    from bench.jobs.plan import jobs_of
    from bench.perf import jobs
    from bench.report.console import console

    loaded = config.load(changes=changes)
    selection = Selection(
        methods=methods or ("ece",), dataset=dataset, recipe=recipe, model=model, seeds=seeds, limit=limit
    )
    planned = jobs_of(loaded, selection)  # what is wrong is reported before anything starts
    where = pick(device, threads)
    ways = at_once or jobs.usual(where, threads)
    err = console(stderr=True)
    trainings, measurements = jobs.abreast(planned)
    if max(ways) > trainings:
        err.print(
            f"Of this selection at most {trainings} of the trainings and {measurements} of the measurements "
            f"run at once: of {max(ways)} workers some wait; more --seeds keep them busy.",
            style="yellow",
            soft_wrap=True,
        )
    free, told = free_cores()
    if told and free < max(ways) * threads:
        err.print(f"Other programs use this machine ({told}): the ratios are of what they leave.", style="yellow")
    run = words(selection, loaded.changes)
    options = {number: _at_once(number, where, threads) for number in (1, *ways)}
    start = [sys.executable, "-m", "bench.cli.main", *run[1:], "--quiet", "--data", str(data.expanduser())]
    with err.status("") as status:
        found = jobs.measure(
            {number: [*start, *own] for number, own in options.items()}, threads=threads, repeats=repeats,
            tell=lambda text: status.update(Text(text)),
        )  # fmt: skip
    best = found.best.jobs if found.best else 1
    noted = measured_best.keep(results, where, best) if jobs.on_gpu(where) else None
    if as_json:
        several = [{**asdict(one), "options": options[one.jobs]} for one in found.at_once]
        say_json({"command": run, "device": where, "threads": threads, "repeats": repeats, "seconds": found.seconds,
                  "at_once": several, "best": best, "noted": bool(noted)})  # fmt: skip
    else:
        _print(found, options, shlex.join(run), console())
        if noted:
            card, path = noted
            told = f"Noted in {path}: `bench run --gpus` with --results {results} has {best} at once on each {card}."
            console().print(told, soft_wrap=True, highlight=False)
    return 0


def _at_once(jobs: int, device: str, threads: int) -> list[str]:
    """What tells `bench run` to do `jobs` at once on `device`, each with `threads` on the CPU.

    One job needs no worker: it is done in the process of the command.

    Raises:
        BenchError: no jobs can share such a device.
    """
    from bench.perf.jobs import on_gpu

    own = ["--threads", str(threads)]
    if jobs == 1:
        return ["--executor", "inline", "--device", device, *own]
    if on_gpu(device):
        return ["--gpus", device.partition(":")[2] or "0", "--per-gpu", str(jobs), *own]
    return ["--workers", str(jobs), *own]


def _print(found: Throughput, options: Mapping[int, Sequence[str]], title: str, out: Console) -> None:
    from rich.text import Text

    out.print(title, style="bold", soft_wrap=True, highlight=False)
    out.print("one after another / at once")
    for one in found.at_once:
        line = f"  {one.jobs:>3} at once   {one.ratio!s:<20}"
        out.print(Text.assemble(line, (" ".join(options[one.jobs]), "dim")), soft_wrap=True)
    best = found.best
    if best is None:
        out.print("Best: one after another; none of these is faster.")
    else:
        doubt = "" if best.ratio.low > 1 else ", though not in every round"
        told = f"{best.jobs} at once, {best.ratio.median:.2f} × as fast as one after another{doubt}"
        out.print(f"Best: {told}: bench run {' '.join(options[best.jobs])}", soft_wrap=True, highlight=False)
    out.print(
        "Ratios of wall-clock time of the whole command: median (smallest–largest) of the rounds, in turns; "
        "higher is better.",
        style="dim",
        soft_wrap=True,
    )
