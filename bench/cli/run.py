"""`bench run`: the whole way from a selection to table and heatmap."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import click
from click.core import ParameterSource

from bench.cli.executor import EXECUTOR_OPTIONS, Interrupts, check_options, executor_options, setting_of
from bench.cli.options import (  # fmt: skip
    Chosen,
    allow_factory,
    at_work,
    capture_option,
    choose,
    existing_or_scratch,
    machine,
    selectors,
    where,
    with_published,
    workplace,
)
from bench.cli.parameters import Once
from bench.cli.say import complain, say, say_json
from bench.cli.status import plan_rows, print_plan, time_line
from bench.core import machine as computer
from bench.core import places
from bench.core.device import others, pick
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.numbers import several
from bench.core.terms import Compile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.text import Text

    from bench.jobs.driver import Summary
    from bench.jobs.estimate import Estimate
    from bench.jobs.executors import Executor
    from bench.jobs.plan import Plan
    from bench.jobs.workplace import Workplace
    from bench.store.database import Database


@click.command("run", cls=Once)
@selectors
@machine()
@click.option("--oom-retry/--no-oom-retry", default=True, show_default=True,
              help="Try an evaluation that runs out of memory again with smaller batches.")  # fmt: skip
@click.option("--deterministic/--no-deterministic", default=None,
              help="Bit-equal from run to run, somewhat slower; operations that cannot be are named.  [default: on a "
              "GPU; a CPU is so anyway]")  # fmt: skip
@capture_option
@click.option("--compile", "compiled", type=click.Choice(get_args(Compile)), default="off", show_default=True,
              help="Compile plain passes of trainings, to numbers equal but for rounding; auto: on a GPU, trainings of "
              "half an hour and more.")  # fmt: skip
@allow_factory
@click.option("--retry-failed", is_flag=True, help="Do only what failed before, and what it held up.")
@click.option("--force", is_flag=True, help="Do again what is done; new results supersede old ones when complete.")
@click.option("--fail-fast", is_flag=True, help="Start nothing more after the first failure.")
@executor_options
@click.option("--dry-run", is_flag=True, help="Print what would be done and how long it should take, and stop.")
@click.option("--probe", is_flag=True, help="With --dry-run: time a few steps here of what was not done before; needs "
              "the data.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON, progress on stderr.")
@where
def command(
    data: Path, device: str | None, threads: int | None, batch: int | None, oom_retry: bool,
    deterministic: bool | None, capture: bool, compiled: Compile,
    factories: tuple[str, ...],
    retry_failed: bool, force: bool, fail_fast: bool, dry_run: bool, probe: bool, quiet: bool, as_json: bool,
    results: Path, db: str | None, **given: Any,
) -> int:  # fmt: skip
    """Train what is not trained, attack what is not attacked, then print the table and draw the heatmap.

    The same command again does only what is missing or failed: interrupt it at any time and repeat it to go on. A
    failed job is recorded, the others go on, and the exit code is 1. Ctrl-C ends after the current epoch or
    measurement; a second one at once. Several of these commands may work on one folder: none does another's jobs.

    \b
    Examples:
      bench run --method trs --dataset digits
      bench run -m trs -d digits --set data.validation=200 --monitor pgd:eps=0.1,steps=10
      bench run -m trs -m ece --dataset mnist --recipe quick --data /scratch/data
      bench run -m trs --dataset cifar10 --attack pgd --eps 8/255        one attack on an existing run
      bench run -m trs -d digits --attack pgd,fgsm --eps .1,.2           each attack at each radius
      bench run -m trs --dataset digits --set methods.trs.lambda_a=5 --seeds 0-2
      bench run -m trs --dataset cifar10 --dry-run
      bench run -m paper --dataset digits --workers 4                    four processes
      bench run -m paper --dataset cifar10 --gpus 0,1 --per-gpu 2        two on each of two GPUs
    """
    from bench.jobs.estimate import from_earlier
    from bench.jobs.locks import Locks
    from bench.jobs.plan import ForcedPass, feasible, jobs_of, plan_of, unwatched
    from bench.report.console import console
    from bench.store import ingest

    if force and retry_failed:
        raise BenchError("--force does everything again, --retry-failed only what failed: leave one out")
    if probe and not dry_run:
        raise BenchError("--probe goes with --dry-run; without it, the estimate is printed as the run starts")
    chosen = choose(needs_method=True, **{key: value for key, value in given.items() if key not in EXECUTOR_OPTIONS})
    jobs = jobs_of(chosen.loaded, chosen.selection)  # a wrong name or value is told before anything is opened
    out = console(stderr=as_json)
    out.quiet = quiet
    with existing_or_scratch(db, results) if dry_run else at_work(db, results) as base:
        place = replace(
            workplace(results, data, batch_size=batch, factories=factories),
            oom_retry=oom_retry, deterministic=deterministic, capture=capture, compile=compiled,
        )  # fmt: skip
        if dry_run:
            with_published(base)
            for fault in ingest.sync(base, place.runs).damaged:
                out.print(f"left out: {fault}", style="yellow")
        else:
            Locks(place.locks).sweep()
        plan = plan_of(jobs, base, place)
        forced = ForcedPass(plan, place, training=not chosen.selection.attacks) if force else None
        if forced:
            plan = plan.forced(forced.superseded)
        if retry_failed:
            plan = plan.failures_only()
        plan, lacking = feasible(plan, place, chosen.loaded, chosen.selection, base)
        for line in lacking:
            complain(f"left out: {line}")
        if unseen := unwatched(plan, base):
            again = "--force without --attack" if chosen.selection.attacks else "--force"
            told = f"{', '.join(unseen)}: trained already, without being watched so; {again} trains again, to the same"
            out.print(f"Note: {told} weights", style="yellow", soft_wrap=True)
        executor = {key: given[key] for key in EXECUTOR_OPTIONS}
        where = _where(plan, place, chosen, device, threads, executor, data=not dry_run) if plan.missing else None
        if dry_run:
            earlier = from_earlier(plan, base)
            probed = _probed(plan, earlier, place, chosen, device, threads) if probe else None
            return _dry_run(plan, earlier, out, as_json, probed)
        summary = None
        if where:
            if not (quiet or as_json):
                _say_what(given, plan)
            if forced:
                forced.begin()
            with Interrupts(quiet) as interrupts:
                summary = _work(plan, base, where, out, chosen, interrupts, fail_fast, threads=threads, **executor)
            if interrupts.asked:
                return _stopped(plan, summary, out)
        elif retry_failed:
            out.print("Nothing to do: nothing of this failed before.")
        else:
            out.print(f"Nothing to do: all {plan.size} results are there (nothing trained, nothing attacked).")
        ok = summary is None or summary.ok
        if forced and ok:
            forced.end()
        if plan.planned:
            with base.snapshot():
                ok &= _report(chosen, base, place, out, plan, summary, as_json, ok)
    return 2 if chosen.refused or lacking else 0 if ok else 1


def _say_what(given: Mapping[str, Any], plan: Plan) -> None:
    """What is about to be done: nothing is said before all names and values are known to be right."""
    trains = any(job.evaluation is None for job in plan.missing)
    told = f"{_asked(given)}: {'trains, ' if trains else ''}attacks, prints the table"
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(told)
    say(textwrap.fill(told, width, break_long_words=False, break_on_hyphens=False))


def _asked(given: Mapping[str, Any]) -> str:
    """`trs and ece on digits, recipe quick`: what was asked for."""
    told = " and ".join(given["methods"])
    told += f" on {given['dataset']}" if given["dataset"] else ""
    told += "".join(f", {name} {given[name]}" for name in ("recipe", "suite", "model") if given.get(name))
    attacks = ", ".join(given.get("attack") or ())
    return told + (f", {attacks}" if attacks else "")


class Placed(NamedTuple):
    """Where the jobs of a plan run: an executor, and the folders and device."""

    executor: str
    is_usual: bool
    """Whether nothing was said of executors: then what there is to do decides."""
    place: Workplace


def _where(
    plan: Plan, place: Workplace, chosen: Chosen, device: str | None, threads: int | None, options: Mapping[str, Any],
    *, data: bool,
) -> Placed:  # fmt: skip
    """Where the missing jobs run, and that they can run there; `data`: that their data sets are there too.

    Raises:
        BenchError: an unknown executor or device, options that do not go together, a network that cannot be built.
    """
    from bench.jobs.executors import executor_class
    from bench.jobs.plan import check_data, check_networks

    name, gpus, workers = options["executor"], options["gpus"], options["workers"]
    if name == "inline" and (gpus or workers) and _from_environment("executor"):
        name = None  # what is typed comes before what is set for all commands
    usual = name is None and not gpus and not workers
    name = name or ("inline" if usual else "local")
    check_options(options["executor_option"])
    if not executor_class(name).here:
        return Placed(name, usual, replace(place, device=device or ("cuda" if gpus else "cpu")))
    if gpus:
        if device is not None:
            raise BenchError("--gpus says on which devices: leave --device out")
        device = f"cuda:{gpus[0]}" if gpus[0].isdecimal() else "cuda"
    elif name != "inline" and device is None:
        device = "cpu"
    place = replace(place, device=pick(device, threads))
    if data:
        check_data(plan, place, chosen.loaded, chosen.selection)
    check_networks(plan, place)
    return Placed(name, usual, place)


def _work(
    plan: Plan, base: Database, where: Placed, out: Console, chosen: Chosen, interrupts: Interrupts, fail_fast: bool, *,
    threads: int | None, **options: Any,
) -> Summary:  # fmt: skip
    """Say how long it takes, do the jobs."""
    from bench.jobs import measured_best
    from bench.jobs.display import Display
    from bench.jobs.driver import Driver
    from bench.jobs.estimate import Outlook, estimate, from_earlier
    from bench.jobs.executors import executor_class
    from bench.jobs.executors.local import usual_workers

    del options["executor"]
    place, kind = where.place, executor_class(where.executor)
    if options["gpus"] and options["per_gpu"] is None and where.executor == "local":
        options["per_gpu"], why = measured_best.per_gpu(place.results, options["gpus"])
        out.print(why, style="dim", soft_wrap=True, highlight=False) if why else None
    if kind.here and place.device == "cpu" and (busy := others()):
        out.print(busy, style="yellow")
    earlier = from_earlier(plan, base)
    before = computer.work_done()
    expected = estimate(plan, earlier, place) if kind.here else None
    used = computer.used_since(before)  # while steps were timed
    if where.is_usual and expected and place.device == "cpu":
        workers = usual_workers(len(plan.missing), expected.total().high, threads)
        if workers > 1:
            kind, options["workers"] = executor_class("local"), workers
    with Display(len(plan.missing), out, jobs=plan.missing) as display:
        executor = kind(setting_of(place, display, interrupts, threads=threads, **options))
        interrupts.renew()
        display.outlook = Outlook(expected, executor.slots) if expected else None
        out.print(_expectation(plan, earlier, expected, place, chosen, executor, used), soft_wrap=not out.is_terminal)
        driver = Driver(
            plan, executor, base, place, watcher=display, fail_fast=fail_fast,
            stopping=lambda: interrupts.asked,
        )  # fmt: skip
        return driver.drive()


def _from_environment(name: str) -> bool:
    """Whether an option was not typed, but set by its environment variable."""
    return click.get_current_context().get_parameter_source(name) == ParameterSource.ENVIRONMENT


def _expectation(
    plan: Plan, earlier: Mapping[str, float | None], expected: Estimate | None, place: Workplace, chosen: Chosen,
    executor: Executor, used: float | None,
) -> Text:  # fmt: skip
    """How much there is to do, where, and how long it should take beside others that have `used` so many cores."""
    from rich.text import Text

    from bench.experiment.select import recipe_name
    from bench.jobs.estimate import LONG

    kinds = {"new": "new", "stale": "of an older version", "failed": "failed before"}
    counts = [f"{plan.count(key)} {text}" for key, text in kinds.items() if plan.count(key)]  # type: ignore[arg-type]
    counts += [f"{again} once more"] if (again := sum(item.again for item in plan.planned)) else []
    line = f"{len(plan.missing)} of {plan.size} jobs to do ({', '.join(counts)})"
    if expected is None:
        return Text(f"{line}. {time_line([value for value in earlier.values() if value is not None], len(earlier))}")
    at_once = f", {executor.slots} jobs at once" if executor.slots > 1 else ""
    slower = computer.slowdown(executor.slots, used) if place.device == "cpu" else 1.0
    line += _told(expected, f"{place.device}{at_once}", executor.slots, slower)
    dataset = chosen.selection.dataset
    recipe = recipe_name(chosen.loaded, chosen.selection.recipe, dataset)
    long = expected.total(executor.slots).high > LONG
    if long and recipe != "quick" and "quick" in chosen.loaded.config.recipes_of(dataset):
        advice = "\nThat is long: `--recipe quick` is meant for CPUs and takes about five minutes a method."
        return Text.assemble(line, (advice, "yellow"))
    return Text(line)


def _told(expected: Estimate, where: str, slots: int = 1, slower: float = 1.0) -> str:
    """An estimate as the end of a sentence; `slower` is how much more the jobs may take than the steps timed."""
    from bench.jobs.estimate import range_spoken
    from bench.jobs.probe import Span

    told, total = "", expected.total(slots)
    total = Span(total.low, total.high * slower)
    if total.high:
        told = f": {range_spoken(total)} on this machine ({where})"
    return told + (f"; of {', '.join(expected.unknown)} the time is unknown." if expected.unknown else ".")


def _stopped(plan: Plan, summary: Summary, out: Console) -> int:
    """Say how far it came after a Ctrl-C, and how to go on."""
    failed = f", {len(summary.failed)} failed" if summary.failed else ""
    out.print(f"Stopped: {len(summary.done)} of {len(plan.missing)} jobs done{failed}. To go on:", style="yellow")
    out.print(f"  {shlex.join(['bench', *sys.argv[1:]])}", soft_wrap=True)
    return 130


def _report(
    chosen: Chosen, base: Database, place: Workplace, out: Console, plan: Plan, summary: Summary | None, as_json: bool,
    ok: bool,
) -> bool:  # fmt: skip
    """Print table and matrix, save the heatmap, say where everything lies; whether the heatmap could be saved."""
    from bench.report import results as report
    from bench.report.console import print_matrix, print_results
    from bench.report.heatmap import file_name, save_heatmap, shows
    from bench.report.matrices import matrices

    seeds = chosen.selection.seeds
    table = report.collect(chosen.loaded, chosen.selection, base, seeds=seeds, every=True)
    found = [] if chosen.selection.attacks else matrices(chosen.loaded, chosen.selection, base, seeds=seeds)
    run_ids = list(dict.fromkeys(item.job.run.run_id for item in plan.planned if item.job.evaluation))
    figure, fault = None, ""
    if found:
        name = "-".join(short(run_id) for run_id in run_ids[:4])
        figure = place.results / "figures" / file_name(f"transfer-{name}", found)
        if summary or not shows(figure, found):  # drawing takes longer than everything else there is to do
            try:
                save_heatmap(found, figure)
            except (BenchError, OSError) as error:  # the results are there all the same
                figure, fault = None, f"the heatmap could not be saved ({error})"
    if as_json:
        say_json(_outcome(plan, summary, table, found, run_ids, figure, base, ok))
        if fault:
            out.print(fault, style="red")
        return not fault
    out.print()
    print_results(table, out)
    for matrix in found:
        out.print()
        print_matrix(matrix, out)
    out.print()
    folders = [str(place.run(run_id).path) for run_id in run_ids]
    out.print(f"runs      {folders[0]}" + (f" and {len(folders) - 1} more" if len(folders) > 1 else ""), soft_wrap=True)
    out.print(f"database  {base}", soft_wrap=True)
    if figure:
        out.print(f"heatmap   {figure}", soft_wrap=True)
    if fault:
        out.print(fault, style="red", soft_wrap=True)
    if summary and summary.left:
        out.print(
            f"{several(len(summary.left), 'job')} not started after the first failure (--fail-fast)", style="yellow"
        )
    if summary and not summary.ok:
        blocked = f", {len(summary.blocked)} not started because of that" if summary.blocked else ""
        them = "it" if len(summary.failed) == 1 else "them"
        out.print(
            f"{several(len(summary.failed), 'job')} failed{blocked}; the same command tries {them} again", style="red"
        )
    there = "" if place.results == places.results_folder(None) else f" --results {shlex.quote(str(place.results))}"
    out.print(f"next      bench show {short(run_ids[0])}{there}", soft_wrap=True)
    return not fault


def _outcome(
    plan: Plan, summary: Summary | None, table: Any, found: Any, run_ids: list[str], figure: Path | None,
    base: Database, ok: bool,
) -> dict[str, Any]:  # fmt: skip
    from bench.report import tables

    return {
        "ok": ok,
        "planned": plan.size,
        "done": len(summary.done) if summary else 0,
        "failed": [{"job": job.label, "error": error} for job, error in summary.failed] if summary else [],
        "blocked": [job.label for job in summary.blocked] if summary else [],
        "left": [job.label for job in summary.left] if summary else [],
        "runs": run_ids,
        "table": tables.long_rows(table),
        "matrices": [
            {
                "method": m.method,
                "precision": m.precision,
                "budget": m.budget,
                "seeds": list(m.seeds),
                # NaN, of an empty population, is not JSON.
                "rates": [[None if isnan(value) else value for value in row] for row in m.rates.tolist()],
                "transfer": None if isnan(m.transfer) else m.transfer,
            }
            for m in found
        ],
        "database": str(base),
        "heatmap": str(figure) if figure else None,
    }


def _probed(
    plan: Plan, earlier: Mapping[str, float | None], place: Workplace, chosen: Chosen, device: str | None,
    threads: int | None,
) -> tuple[Estimate, str]:  # fmt: skip
    """How long the missing jobs should take on the device, from earlier runs or a few timed steps; and its name."""
    from bench.jobs.estimate import estimate
    from bench.jobs.plan import check_data

    place = replace(place, device=pick(device, threads))
    check_data(plan, place, chosen.loaded, chosen.selection)
    return estimate(plan, earlier, place), place.device


def _dry_run(
    plan: Plan, earlier: Mapping[str, float | None], out: Console, as_json: bool, probed: tuple[Estimate, str] | None
) -> int:
    if as_json:
        rows = plan_rows(plan, earlier)
        record = rows if probed is None else {"jobs": rows, "device": probed[1], **_expected(probed[0])}
        say_json(record)
        return 0
    timed = "" if probed is None else f"{len(plan.missing)} to do{_told(*probed)}"
    print_plan(plan, earlier, out, timed=timed)
    return 0


def _expected(estimate: Estimate) -> dict[str, Any]:
    """Seconds for machines; of attacks the most, and what they take if every image breaks at once."""
    attacks = estimate.attacks
    return {
        "training": estimate.training, "attacks": attacks.high, "attacks_least": attacks.low,
        "unknown": [*estimate.unknown],
    }  # fmt: skip
