"""`bench perf training`: one training step of every method beside its floor."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import click

from bench.cli.options import Named
from bench.cli.parameters import MEMBERS, Integer, Once
from bench.cli.perf import printing
from bench.cli.perf.options import processor, rounds
from bench.cli.say import say_json
from bench.core import numbers
from bench.core.device import pick
from bench.core.memory import keep_freed_memory
from bench.core.numerics import numerics, usual_mode


@click.command("training", cls=Once)
@click.option("-d", "--dataset", type=Named("datasets"), default="digits", show_default=True, help="Data set.")
@click.option("--model", type=Named("models"), help="Model of the members; that of the data set's recipe unless given.")
@click.option("--members", type=MEMBERS, default=3, show_default=True, help="Number of members.")
@click.option("-m", "--method", "names", multiple=True, type=Named("methods", "paper", "all"),
              help="Configured method; repeat for several; every one unless given.")  # fmt: skip
@click.option("--batch", type=Integer(4, numbers.BATCH), default=128, show_default=True, help="Images in the step.")
@click.option("--streams/--one-stream", default=True, show_default=True,
              help="On a GPU: members of a recorded step on streams of their own.")  # fmt: skip
@rounds(repeats=3, least=0)
@processor
def command(
    dataset: str, model: str | None, members: int, names: tuple[str, ...], batch: int, data: Path, device: str | None,
    threads: int, repeats: int, streams: bool, changes: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Time one training step of every method against its floor, and of TRS against the authors' step.

    The floor of a step is the bare passes that the method's formula needs, counted and made on the same members, and
    the optimiser's update. `trs_official` is also timed against the public TRS code's step, written again from its
    description; the losses of both have to be equal to 1e-5, and the exit code is 1 where they are not. Time never
    passes or fails. Printed too is how many seconds the floor's passes would take at the rates of a matrix product and
    of a copy on this machine.

    \b
    Kinds of passes, through one member:
      forward     forward only
      images      forward, gradient of the images
      train       forward, gradient of the parameters
      curvature   forward, gradient of the images, and its own gradient with respect to the images
      second      forward, gradient of the images, gradient of both with respect to the parameters
      target      forward up to a layer
      features    forward up to a layer, gradient of the images
      layers      forward, gradients of convolutions' outputs, gradient of all with respect to the parameters
      maps        each layer alone: one vector forward and back, others forward, gradient of the parameters

    \b
    Examples:
      bench perf training --dataset digits
      bench perf training --dataset mnist --model lenet --method trs --method trs_official
      bench perf training --dataset cifar10 --model resnet20 --batch 32 --repeats 2 --json
    """
    from rich.text import Text

    from bench.core import config
    from bench.data.base import load_splits
    from bench.experiment.select import method_names
    from bench.jobs.ensembles import dataset_of
    from bench.perf import training as perf
    from bench.perf.roofline import measure_rates
    from bench.perf.steps import run_of
    from bench.report.console import console
    from bench.training.streams import one_stream

    keep_freed_memory()  # as a run does; for everybody here
    loaded, place = config.load(changes=changes), pick(device, threads)
    chosen = method_names(loaded, names or ("all",))
    runs = [run_of(loaded, name, dataset=dataset, model=model, members=members) for name in chosen]
    source = dataset_of(runs[0])
    images = load_splits(
        runs[0].dataset_plugin, dataset=source, folder=data.expanduser(), training_limit=batch, device=place
    ).train
    out = console()
    done: list[perf.Step] = []
    rates = measure_rates(place) if repeats else None
    if not as_json:
        head = (f"One step of {members} × {runs[0].model}", "bold")
        out.print(Text.assemble(head, f", {dataset}, batch {batch}"), soft_wrap=True)
        if rates:
            printing.rates(rates, out)
    with (
        numerics(deterministic=usual_mode(place)),
        nullcontext() if streams else one_stream(),
        console(stderr=True).status("") as status,
    ):  # as a run computes; for everybody here
        for run in runs:
            status.update(Text(run.method))
            done.append(perf.measure(run, images, repeats=repeats, rates=rates))
            if not as_json:
                printing.step(done[-1], out)
    if as_json:
        record = {"dataset": dataset, "threads": threads, "device": place,
                  "rates": asdict(rates) if rates else None,
                  "steps": [{**asdict(step), "equal": step.equal} for step in done]}  # fmt: skip
        say_json(record)
    else:
        printing.steps_summary(done, out)
    return 1 if any(step.equal is False for step in done) else 0
