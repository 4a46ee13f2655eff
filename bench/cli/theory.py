"""`bench theory`: what bounds the transferability of an ensemble's members, beside what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from bench.cli.executor import Interrupts, drive_here
from bench.cli.options import RunId, allow_factory, at_work, machine, reading, where, workplace
from bench.cli.parameters import IMAGES, Budgets, Once, several
from bench.cli.say import say_json
from bench.core.device import pick
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.terms import Targets

if TYPE_CHECKING:
    from rich.console import Console

    from bench.jobs.plan import Plan
    from bench.jobs.workplace import Workplace
    from bench.report.theory import Panel, Reading
    from bench.store.database import Database


@click.command("theory", cls=Once)
@click.argument("identifiers", metavar="ID...", nargs=-1, required=True, type=RunId())
@several("--eps", kind=Budgets(), text="Radii of the ℓ2 ball, such as 0.01,0.1.  [default: those of [theory] in "
         "bench.toml]")  # fmt: skip
@click.option("--targets", type=click.Choice(get_args(Targets)), help="The class that a targeted attack leads each "
              "image to.  [default: that of [theory]]")  # fmt: skip
@click.option("--limit", type=IMAGES, help="Use this many test images.  [default: that of [theory]]")
@click.option("--reading", "which", type=click.Choice(["seen", "least"]), default="seen", show_default=True,
              help="Terms as the definitions have them, the most extreme values seen; or the least that the proofs "
              "need on these images.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print every pair with all terms as JSON, progress on stderr.")
@machine()
@allow_factory
@where
def command(
    identifiers: tuple[str, ...], eps: tuple[float, ...], targets: Targets | None, limit: int | None, which: Any,
    as_json: bool, data: Path, device: str | None, threads: int | None, batch: int | None,
    factories: tuple[str, ...], results: Path, db: str | None,
) -> int:  # fmt: skip
    """How unlike the members of runs are, and what Theorems 1 and 2 of the TRS paper say of their transferability.

    Measured for each ordered pair of members, on test images in ℓ2 balls: risk, loss, gradient bound B, smoothness β,
    loss gradient similarity, effectiveness of the attack; from these a lower and an upper bound, beside the
    transferability of Definition 6, targeted and (in a form of ours) untargeted. Where a bound says nothing, the term
    is named that makes it so. docs/theory.md says what each number is and on which side it errs.

    What is there is not measured again. The results are stored as evaluations (diversity, theory).

    \b
    Examples:
      bench theory 4f0c1a
      bench theory 4f0c1a --eps 0.003,0.01 --targets random
      bench theory 4f0c1a 061763 --reading least
      bench theory 4f0c1a --json
    """
    from bench.report.console import console
    from bench.store import door, ids

    with reading(db, results) as base:
        run_ids = list(dict.fromkeys(ids.find(base, identifier, ("run",)).id for identifier in identifiers))
    place = workplace(results, data, pick(device, threads), batch, factories)
    out = console(stderr=as_json)
    with at_work(db, results) as base:
        runs = [door.run_at(place.run(run_id).record).spec for run_id in run_ids]
        plan = _plan(runs, base, place, eps, targets, limit)
        ok, asked = True, False
        if plan.missing:
            with Interrupts(as_json) as interrupts:
                ok = drive_here(plan, base, place, out, interrupts).ok
                asked = interrupts.asked
        if asked:
            out.print("Stopped; the same command goes on.", style="yellow")
            return 130
        wanted = {item.job.job_id for item in plan.planned}
        with base.snapshot():
            _tell(base, run_ids, wanted, which, as_json, console())
    return 0 if ok else 1


def _plan(
    runs: list[Any], base: Database, place: Workplace, eps: tuple[float, ...], targets: Targets | None,
    limit: int | None,
) -> Plan:  # fmt: skip
    from bench.core import config
    from bench.experiment import theory
    from bench.experiment.spec import Job
    from bench.jobs.ensembles import measured_before, mend, splits_of, weights_fault
    from bench.jobs.plan import plan_of

    loaded, jobs = config.load(), []
    for run in runs:
        if fault := weights_fault(run, place):
            where = place.run(run.run_id).path
            again = mend(run, place, **measured_before(base, run.run_id))
            raise BenchError(f"the weights of {short(run.run_id)} in {where} are {fault}; {again}")
        size = len(splits_of(run, place, limit=None).test)
        found = theory.evaluations(loaded, run, size=size, eps=eps, targets=targets, limit=limit)
        jobs += [Job(run=run), *(Job(run=run, evaluation=each) for each in found)]
    return plan_of(jobs, base, place)


def _tell(base: Database, run_ids: list[str], wanted: set[str], which: Reading, as_json: bool, out: Console) -> None:
    from bench.report import theory
    from bench.store import queries

    records = []
    for run_id in run_ids:
        rows = [row for row in queries.evaluations(base, run_ids=run_id) if row.evaluation_id in wanted]
        panel = theory.panel(base, queries.find_run(base, run_id), rows)
        if as_json:
            names = {name: getattr(panel.run, name) for name in ("run_id", "method", "dataset", "seed")}
            records.append({**names, **as_record(panel)})
        else:
            run = panel.run
            out.print(f"{short(run_id)}  {run.method} on {run.dataset}, seed {run.seed}", style="bold")
            print_panel(panel, out, which)
            out.print(f"every pair, term and interval: bench theory {short(run_id)} --json", style="dim")
    if as_json:
        say_json(records)


def as_record(panel: Panel) -> dict[str, Any]:
    """A panel for machines: `diversity` with its means over pairs, and the bounds of each pair at each radius."""
    from bench.report import theory

    unlike = panel.unlike
    means = None if unlike is None else {**unlike.measurements, "means": theory.pair_means(unlike)}
    return {"diversity": means, "bounds": [pair.record for pair in panel.found]}


def print_panel(panel: Panel, out: Console, which: Reading = "seen") -> None:
    """The tables of a run, also in `bench show`."""
    from bench.report.listing import Head, print_listing

    for shown in panel.tables(which):
        heads = [Head(head, right=bool(place) and not head.startswith("at ")) for place, head in enumerate(shown.heads)]
        out.print(shown.title, style="italic")
        print_listing(heads, shown.rows, out)
    for note in panel.notes():
        out.print(note, style="dim")
