"""`bench audit`: which results should not be believed, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import RunId, reading, where
from bench.cli.parameters import Once
from bench.cli.say import say_json
from bench.core.identity import short
from bench.core.precision import titled

if TYPE_CHECKING:
    from rich.console import Console

    from bench.store.flags import Flagged
    from bench.store.typed_rows import EvaluationRow, FailureRow


@click.command("audit", cls=Once)
@click.argument("identifier", metavar="[ID]", required=False, type=RunId())
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@where
def command(identifier: str | None, as_json: bool, results: Path, db: str | None) -> int:
    """Flags of the run or evaluation whose id begins with ID, with their evidence; without ID of everything.

    A flag follows from what was stored: gradients that are zero, robust accuracy that rises with the radius, an
    iterative attack that is weaker than FGSM. `invalid` results enter no mean; `suspect` ones are shown with †. The
    exit code is 1 if a result is invalid or a job failed.

    \b
    Examples:
      bench audit
      bench audit 4f0c1a
      bench audit 4f0c1a --json
    """
    from bench.report.console import console
    from bench.store import flags, ids, queries, standing

    with reading(db, results) as base:
        chosen = None if identifier is None else ids.find(base, identifier)
        family = None if chosen is None else queries.find_run(base, chosen.run_id).family_id
        measured = standing.read(base, family_ids=family)
        failures = [row for row in queries.failures(base, family_ids=family) if not row.done]
    rows, found = list(measured.rows), measured.standings.raised
    if chosen is not None:
        rows = [row for row in rows if row.run_id == chosen.run_id]
        unchecked = flags.unchecked(rows)
        if chosen.kind == "evaluation":
            rows = [row for row in rows if row.evaluation_id == chosen.id]
            failures = []
        failures = [row for row in failures if row.run_id == chosen.run_id]
    else:
        unchecked = []
    found = {row.evaluation_id: found[row.evaluation_id] for row in rows if row.evaluation_id in found}
    if as_json:
        say_json(_record(rows, found, failures, unchecked))
    else:
        _print(rows, found, failures, unchecked, console())
    return int(bool(failures) or any(flags.is_invalid(raised) for raised in found.values()))


def _record(
    rows: list[EvaluationRow], found: Flagged, failures: list[FailureRow], unchecked: list[str]
) -> dict[str, Any]:
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
    }  # fmt: skip


def _print(
    rows: list[EvaluationRow], found: Flagged, failures: list[FailureRow], unchecked: list[str], out: Console
) -> None:
    from rich.table import Table
    from rich.text import Text

    from bench.report.tables import budget_text
    from bench.store import flags

    if found:
        table = Table(header_style="bold")
        for name in ("evaluation", "method", "data", "seed", "attack", "flag", "evidence"):
            table.add_column(name)
        for row in rows:
            for item in found.get(row.evaluation_id, ()):
                style = {"invalid": "red", "suspect": "yellow", "note": "dim"}[item.flag.severity]
                attack = titled(f"{row.attack} {budget_text(row.budget_name, row.budget)}", row.precision)
                table.add_row(
                    short(row.evaluation_id), row.method, row.dataset, str(row.seed),
                    f"matrix {attack}" if row.kind == "transfer" else attack,
                    Text(item.flag.id, style), item.evidence,
                )  # fmt: skip
        out.print(table)
        for flag in {item.flag.id: item.flag for raised in found.values() for item in raised}.values():
            out.print(Text.assemble((flag.id, "bold"), f" ({flag.severity}): {flag.when}. {flag.explanation}"))
    for failure in failures:
        told = ", ".join(f"{value}" for value in failure.describe.values() if value is not None)
        out.print(f"✗ {failure.kind} ({told}): {failure.error}", style="red")
    out.print(
        f"{len(found)} of {len(rows)} evaluations flagged"
        + (f", {len(failures)} failed jobs" if failures else "")
        + ("." if found or failures else "; nothing speaks against them.")
    )
    out.print(f"looked for: {', '.join(flags.FLAGS)}", style="dim")
    for reason in unchecked:
        out.print(f"not checked: {reason}", style="dim")
