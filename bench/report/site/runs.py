"""The list of all runs: those that were trained, and those whose training failed."""

from __future__ import annotations

from typing import Any

from bench.core.identity import safe_name, short
from bench.core.seeds import SURROGATE_SEEDS
from bench.experiment.spec import OUTSIDE
from bench.report.ledger import Ledger
from bench.report.site.names import Names, exact, percent, plain, recipe_text, seconds
from bench.store.flags import doubts
from bench.store.typed_rows import RunRow


def run_row(run: RunRow, ledger: Ledger, names: Names) -> dict[str, Any]:
    """A run as a row of `runs.html`."""
    rows = ledger.of_run[run.run_id]
    clean = max((row for row in rows if row.kind == "clean"), key=lambda row: row.n, default=None)
    value = None if clean is None or clean.share is None else 100 * clean.share
    outside = run.plugin == OUTSIDE
    return {
        "href": f"runs/{run.run_id}.html", "id": run.run_id[:12], "title": names.run(run),
        "dataset": run.dataset, "seed": run.seed, "model": run.model, "members": run.members,
        "recipe": recipe_text(run), "clean": percent(value), "value": value, "evaluations": len(rows),
        "started": run.started, "seconds": "" if outside else exact(run.seconds),
        "time": "–" if outside else seconds(run.seconds),
        "stale": not ledger.standings.of(run.run_id).is_current,
        "provenance": ledger.source(run.run_id),
        "kind": "surrogate" if run.seed >= SURROGATE_SEEDS else "competitor",
        "failures": len(ledger.failures.get(run.run_id, ())),
        "flags": sorted({item.flag.id for item in doubts(item for _, item in ledger.flags(run.run_id))}),
    }  # fmt: skip


def failed_runs(ledger: Ledger) -> list[dict[str, Any]]:
    """Runs of which nothing is stored but that they failed: a page for each."""
    found = []
    for run_id, failures in sorted(ledger.failures.items()):
        if run_id in ledger.runs:
            continue
        told: dict[str, Any] = {}
        for failure in failures:
            told |= failure.describe if isinstance(failure.describe, dict) else {}
        found.append(
            {
                "page": f"runs/failed-{safe_name(run_id)}.html",
                "id": short(run_id),
                "title": plain(told.get("method", "a run")),
                "dataset": plain(told.get("dataset", "–")),
                "seed": plain(told.get("seed", "–")),
                "facts": {str(name): plain(value) for name, value in sorted(told.items())},
                "failures": [
                    {"kind": each.kind, "error": each.error, "type": each.error_type, "traceback": each.traceback,
                     "started": each.started}
                    for each in failures
                ],
            }
        )  # fmt: skip
    return found
