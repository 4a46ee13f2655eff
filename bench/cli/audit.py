"""`bench audit`: which results should not be believed, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import RunId, allow_factory, at_work, machine, reading, where, workplace
from bench.cli.parameters import IMAGES, Once, Radius
from bench.cli.say import say_json
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.numbers import several
from bench.core.precision import titled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from bench.jobs.workplace import Workplace
    from bench.store.flags import AuditVerdict, Flagged
    from bench.store.typed_rows import EvaluationRow, FailureRow, RunRow


@click.command("audit", cls=Once)
@click.argument("identifier", metavar="[ID]", required=False, type=RunId())
@click.option("--deep", is_flag=True, help="Run what the checks of a run still lack, and store it: minutes.")
@click.option("--eps", type=Radius(), help="For --deep: radius of the ℓ∞ ball; unless given, that of most attacks.")
@click.option("--limit", type=IMAGES, help="For --deep: test images that are attacked; as many as before unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@machine(only="For --deep: ")
@allow_factory
@where
def command(
    identifier: str | None, deep: bool, eps: float | None, limit: int | None, as_json: bool, data: Path,
    device: str | None, threads: int | None, batch: int | None, factories: tuple[str, ...], results: Path,
    db: str | None,
) -> int:  # fmt: skip
    """Flags of the run or evaluation whose id begins with ID, with their evidence, and the verdict on each run.

    A flag follows from what was stored: gradients that are zero, robust accuracy that rises with the radius, an
    iterative attack that is weaker than FGSM. `invalid` results enter no mean; `suspect` ones are shown with †; a
    `note` casts no doubt. The verdict on a run is *believed*, *doubtful*, or *not checked enough*.

    With --deep the run ID is looked at closely: its gradients, an attack's way step by step, planted adversarial
    images, attacks on its members and without gradients, more steps, a radius of 1. These evaluations are stored like
    any other; the same command again runs only what is missing. docs/audit.md explains each check.

    The exit code is 1 if a result is invalid or a job failed.

    \b
    Examples:
      bench audit
      bench audit 4f0c1a
      bench audit 4f0c1a --deep
      bench audit 4f0c1a --deep --eps 8/255 --limit 200
      bench audit 4f0c1a --json
    """
    from bench.report.console import console
    from bench.store import flags, ids, queries, standing

    if not deep and (eps is not None or limit is not None):
        raise BenchError("--eps and --limit go with --deep")
    if deep:
        if identifier is None:
            raise BenchError("--deep takes one run: bench audit RUN --deep")
        place = workplace(results, data, batch_size=batch, factories=factories)
        if not _deep(identifier, place, db, device, threads, eps, limit, console(stderr=as_json)):
            return 130
    with reading(db, results) as base:
        chosen = None if identifier is None else ids.find(base, identifier)
        family = None if chosen is None else queries.find_run(base, chosen.run_id).family_id
        measured = standing.read(base, family_ids=family)
        failures = [row for row in queries.failures(base, family_ids=family) if not row.done]
    rows, found = list(measured.rows), measured.standings.raised
    verdicts = {key: told for key, told in measured.standings.verdicts.items() if _competes(measured.runs, key)}
    if chosen is not None:
        rows = [row for row in rows if row.run_id == chosen.run_id]
        verdicts = {key: told for key, told in verdicts.items() if key == chosen.run_id}
        failures = [row for row in failures if row.run_id == chosen.run_id and chosen.kind == "run"]
    # What counts of each run, from which its flags come.
    counting: dict[str, list[EvaluationRow]] = {key: [] for key in (verdicts if chosen is None else [chosen.run_id])}
    for row in measured.standings.current(rows):
        if row.run_id in counting:
            counting[row.run_id].append(row)
    lacking = {key: flags.not_looked_for(of_run) for key, of_run in counting.items()}
    unchecked = flags.unchecked(*counting.values()) if len(counting) == 1 else []
    if chosen is not None and chosen.kind == "evaluation":
        rows = [row for row in rows if row.evaluation_id == chosen.id]
    found = {row.evaluation_id: found[row.evaluation_id] for row in rows if row.evaluation_id in found}
    if as_json:
        say_json(_record(rows, found, failures, unchecked, lacking, verdicts))
    else:
        _print(rows, found, failures, unchecked, lacking, verdicts, console())
    return int(bool(failures) or any(flags.is_invalid(raised) for raised in found.values()))


def _competes(runs: Iterable[RunRow], run_id: str) -> bool:
    """Whether a run is no surrogate, which only lends its images."""
    from bench.core.seeds import SURROGATE_SEEDS

    return any(run.run_id == run_id and run.seed < SURROGATE_SEEDS for run in runs)


def _deep(
    identifier: str, place: Workplace, db: str | None, device: str | None, threads: int | None, eps: float | None,
    limit: int | None, out: Console,
) -> bool:  # fmt: skip
    """Run what the checks of a run lack; False where Ctrl-C ended it."""
    from bench.cli.executor import Interrupts, drive_here
    from bench.core import config
    from bench.core.device import pick
    from bench.jobs import audit, ensembles
    from bench.jobs.estimate import Outlook, estimate, from_earlier, range_spoken
    from bench.store import ids

    with reading(db, place.results) as base:
        run_id = ids.find(base, identifier, ("run",)).id
    place = replace(place, device=pick(device, threads))
    with at_work(db, place.results) as base:
        plan = audit.make_plan(config.load(), base, place, run_id, eps=eps, limit=limit)
        if not plan.missing:
            out.print(f"Nothing to run: all {len(plan.planned)} results of this audit are there.")
            return True
        ensembles.splits_of(plan.missing[0].run, place, limit=None)  # missing data is said before anything starts
        expected = estimate(plan, from_earlier(plan, base), place)
        out.print(
            f"{len(plan.missing)} of {len(plan.planned)} evaluations of this audit to run: "
            f"{range_spoken(expected.total())} ({place.device})"
        )
        with Interrupts(quiet=False) as interrupts:
            drive_here(plan, base, place, out, interrupts, threads=threads, outlook=Outlook(expected, 1))
        if interrupts.asked:
            out.print("Stopped; the same command goes on.", style="yellow")
        return not interrupts.asked


def _record(
    rows: list[EvaluationRow], found: Flagged, failures: list[FailureRow], unchecked: list[str],
    lacking: Mapping[str, list[str]], verdicts: Mapping[str, AuditVerdict],
) -> dict[str, Any]:  # fmt: skip
    return {
        "evaluations": len(rows),
        "flags": [
            {
                "evaluation": row.evaluation_id, "run": row.run_id, "method": row.method, "dataset": row.dataset,
                "seed": row.seed, "kind": row.kind, "attack": row.attack, "precision": row.precision,
                "budget": row.budget, "flag": item.flag.id, "severity": item.flag.severity, "when": item.flag.when,
                "evidence": item.evidence, "explanation": item.flag.explanation,
            }
            for row in rows
            for item in found.get(row.evaluation_id, ())
        ],
        "failures": [{"job": row.job_id, "kind": row.kind, **row.describe, "error": row.error} for row in failures],
        "unchecked": unchecked,
        "not_looked_for": dict(lacking),
        "verdicts": [{"run": key, "verdict": told.opinion, "why": [*told.why]} for key, told in verdicts.items()],
    }  # fmt: skip


def _print(
    rows: list[EvaluationRow], found: Flagged, failures: list[FailureRow], unchecked: list[str],
    lacking: Mapping[str, list[str]], verdicts: Mapping[str, AuditVerdict], out: Console,
) -> None:  # fmt: skip
    from rich.text import Text

    from bench.report.listing import Head, print_listing
    from bench.report.tables import budget_text

    if found:
        heads = [Head("evaluation", 3), Head("method"), Head("data", 2), Head("seed", 1), Head("attack", least=10),
                 Head("flag"), Head("evidence", least=16)]  # fmt: skip
        told: list[list[Text | str]] = []
        for row in rows:
            for item in found.get(row.evaluation_id, ()):
                style = {"invalid": "red", "suspect": "yellow", "note": "dim"}[item.flag.severity]
                attack = titled(f"{row.attack} {budget_text(row.budget_name, row.budget)}", row.precision)
                attack = f"matrix {attack}" if row.kind == "transfer" else attack
                told.append(
                    [short(row.evaluation_id), row.method, row.dataset, str(row.seed), attack,
                     Text(item.flag.id, style), item.evidence]
                )  # fmt: skip
        print_listing(heads, told, out)
        for flag in {item.flag.id: item.flag for raised in found.values() for item in raised}.values():
            out.print(Text.assemble((flag.id, "bold"), f" ({flag.severity}): {flag.when}. {flag.explanation}"))
    for failure in failures:
        out.print(f"✗ {failure.label}: {failure.error}", style="red", soft_wrap=not out.is_terminal)
    out.print(
        f"{len(found)} of {several(len(rows), 'evaluation')} flagged"
        + (f", {several(len(failures), 'failed job')}" if failures else "")
        + ("; nothing speaks against them." if _nothing_speaks(rows, found, failures, verdicts) else ".")
    )
    if told_of := _looked_for(lacking):
        out.print(told_of, style="dim", soft_wrap=not out.is_terminal)
    for reason in unchecked:
        out.print(f"not checked: {reason}", style="dim", soft_wrap=not out.is_terminal)
    if len(verdicts) > 1:
        opinions = Counter(told.opinion for told in verdicts.values())
        out.print("verdicts: " + ", ".join(f"{count} {opinion}" for opinion, count in opinions.items()))
        out.print("`bench audit RUN` says why; `bench audit RUN --deep` runs what a verdict lacks", style="dim")
    for run_id, verdict in verdicts.items() if len(verdicts) == 1 else ():
        style = {"believed": "green", "doubtful": "red", "not checked enough": "yellow"}[verdict.opinion]
        out.print(Text.assemble(f"verdict on run {short(run_id)}: ", (verdict.opinion, f"bold {style}")))
        for why in verdict.why:
            out.print(f"  {why}", soft_wrap=not out.is_terminal)


def _looked_for(lacking: Mapping[str, list[str]]) -> str:
    """How many flags were looked for and how many could not be, given the latter by run; empty for no run."""
    from bench.store import flags

    of = len(flags.FLAGS)
    if len(lacking) == 1:
        (names,) = lacking.values()
        looked = ", ".join(name for name in flags.FLAGS if name not in names)
        rest = f"; {len(names)} could not be looked for" if names else ""
        return f"looked for {of - len(names)} of {of} flags: {looked}{rest}"
    short_of = sorted(len(names) for names in lacking.values() if names)
    if not short_of:
        return f"looked for all {of} flags in each of {several(len(lacking), 'run')}" if lacking else ""
    most = short_of[-1]
    missed = f"{short_of[0]} to {most}" if short_of[0] < most else str(most)
    return f"looked for {of} flags in {len(lacking)} runs; in {len(short_of)} of them {missed} could not be looked for"


def _nothing_speaks(
    rows: list[EvaluationRow], found: Flagged, failures: list[FailureRow], verdicts: Mapping[str, AuditVerdict]
) -> bool:
    """Nothing was found, and where it had to show, in attacks without gradients, somebody looked."""
    from bench.store import flags

    looked = {row.run_id for row in rows if flags.is_gradient_free(row)}
    return bool(rows) and not failures and not any(map(flags.doubts, found.values())) and looked >= verdicts.keys()
