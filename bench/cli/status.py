"""`bench status`: planned work joined with recorded work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import choose, existing_or_scratch, selectors, where, workplace
from bench.cli.parameters import Once
from bench.cli.say import say_json
from bench.core.identity import short
from bench.core.numbers import several

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from bench.jobs.plan import Plan

LATEST = 20  # failures shown: more scroll the summary away


@click.command("status", cls=Once)
@selectors
@click.option("--json", "as_json", is_flag=True, help="Print a list of jobs as JSON.")
@where
def command(results: Path, db: str | None, as_json: bool, **given: Any) -> None:
    """What `bench run` with the same selectors would find: done, new, stale, failed.

    Without --method it says what the database holds.

    \b
    Examples:
      bench status
      bench status --method paper --dataset digits --seeds 0-2
      bench status --method trs --dataset cifar10 --json
    """
    from rich.text import Text

    from bench.jobs.estimate import from_earlier
    from bench.jobs.plan import make_plan
    from bench.report.console import console
    from bench.store import queries

    chosen = choose(**given)
    out = console()
    with existing_or_scratch(db, results) as base, base.snapshot():
        if chosen.selection.methods:
            plan = make_plan(chosen.loaded, chosen.selection, base, workplace(results, Path("data")))
            seconds = from_earlier(plan, base)
            if as_json:
                say_json(plan_rows(plan, seconds))
            else:
                print_plan(plan, seconds, out)
            return
        totals = queries.totals(base)
        numbers = {"runs": totals.runs, "evaluations": totals.evaluations, "failures": totals.failures}
        if as_json:
            say_json({"database": str(base), **numbers})
            return
        if not results.joinpath("bench.db").exists() and db is None:
            out.print(f"Nothing has been run into {results} yet; `bench run --method trs --dataset digits` would.")
            return
        out.print(f"{base}: " + ", ".join(several(count, name[:-1]) for name, count in numbers.items()), soft_wrap=True)
        standing = [failure for failure in queries.failures(base) if not failure.done]
        for failure in standing[:LATEST]:
            out.print(Text.assemble(("✗", "red"), f" {failure.label}: {failure.error}"), soft_wrap=True)
        if len(standing) > LATEST:
            out.print(
                f"the latest {LATEST} of {len(standing)} standing failures; `bench status --method NAME` has more"
            )
        out.print("`bench list runs` lists them; `bench status --method NAME` says what is missing.")


def plan_rows(plan: Plan, seconds: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Jobs of a plan for machines; `seconds` is what one to do should take (`from_earlier`), null where unknown."""
    return [
        {
            "id": item.job.job_id,
            "kind": item.job.kind,
            "state": item.state,
            "again": item.again,
            "reason": item.reason,
            "seconds": seconds.get(item.job.job_id),
            "run": item.job.run.run_id,
            **item.job.describe(),
        }
        for item in plan.planned
    ]


def print_plan(plan: Plan, seconds: Mapping[str, float | None], out: Console, *, timed: str = "") -> None:
    """Jobs of a plan for people: a line a job with its state and expected time, the counts, and the time of all.

    Args:
        seconds: as `from_earlier` gives them.
        timed: the line of the time of all, where more is known of it than these.
    """
    from rich.text import Text

    from bench.jobs.estimate import spoken
    from bench.report.listing import Head, print_listing
    from bench.report.titles import plain

    colours = {"done": "green", "new": "cyan", "stale": "dim", "failed": "red"}
    heads = [Head("state"), Head("job"), Head("id", 2), Head("time", 1, right=True), Head("why")]
    rows: list[list[Text | str]] = []
    for item in plan.planned:
        state = Text(f"{plain(item.state)}{', again' if item.again else ''}", colours[item.state])
        expected = seconds.get(item.job.job_id)
        time = "" if expected is None else spoken(expected)
        rows.append([state, item.job.label, short(item.job.job_id), time, item.reason])
    print_listing(heads, rows, out)
    counts = ", ".join(f"{plan.count(state)} {plain(state)}" for state in colours if plan.count(state))  # type: ignore[arg-type]
    again = sum(item.again for item in plan.planned)
    out.print(f"{several(len(plan.planned), 'job')}: {counts}{f', {again} to be done again' if again else ''}.")
    if seconds:
        known = [value for value in seconds.values() if value is not None]
        out.print(timed or time_line(known, len(seconds)), soft_wrap=bool(timed))


def time_line(known: list[float], jobs: int) -> str:
    """What earlier runs say about the time of `jobs` jobs, of which that of `known` is known."""
    from bench.jobs.estimate import spoken

    if not known:
        return f"{jobs} to do; nothing of their kind has been done yet, so their time is unknown."
    rest = f"; of {jobs - len(known)} no time is known" if len(known) < jobs else ""
    total = spoken(sum(known))
    return f"{jobs} to do: about {total} one after another, judging by earlier runs of the same kind{rest}."
