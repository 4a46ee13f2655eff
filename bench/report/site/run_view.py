"""A run as its template shows it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from bench.core.config import Loaded
from bench.core.identity import short
from bench.core.precision import USUAL, titled
from bench.core.seeds import SURROGATE_SEEDS
from bench.core.terms import MEASURED, UNSHARED
from bench.experiment.measurements import expected_accuracy
from bench.experiment.spec import OUTSIDE
from bench.report import theory
from bench.report.again import Command, Commands
from bench.report.ledger import Ledger
from bench.report.recipes import phrase
from bench.report.site import charts, heatmaps, samples, tiles
from bench.report.site.board_view import images_text
from bench.report.site.details import Details
from bench.report.site.names import Names, exact, percent, plain, recipe_text, seconds, settings_text
from bench.report.site.threats import NORMS, Threat, threat_of
from bench.report.site.training import training_charts, training_table
from bench.report.tables import budget_text
from bench.store.flags import Raised, doubts, not_looked_for, unchecked
from bench.store.scores import norm_of
from bench.store.standing import surrogates
from bench.store.typed_rows import EvaluationRow, Provenance, RunRow

LONG = {"loss_curve", "loss_stages", "sources", "draws", "radii", "members", "pairs"}  # drawn or shown elsewhere


@dataclass(frozen=True)
class PageContext:
    """What all pages of runs share."""

    loaded: Loaded
    names: Names
    ledger: Ledger
    places: Mapping[str, list[dict[str, Any]]]
    """Run → what it came to on each board (`places`)."""
    commands: Commands
    environments: Mapping[str, dict[str, Any]]
    sizes: Mapping[str, int | None]
    siblings: Mapping[str, list[RunRow]]


def run_view(run: RunRow, details: Details, about: PageContext, pictures: list[Path]) -> dict[str, Any]:
    """Everything `run.html` needs."""
    command = about.commands.run(run, details.config, details.evaluations)
    evaluations = [_evaluation(run, row, command, about) for row in details.evaluations]
    titles = {row["id"]: row["title"] for row in evaluations}
    current = about.ledger.standings.current(details.evaluations)
    return {
        "run": run,
        "title": about.names.run(run),
        "short": short(run.run_id),
        "stale": not about.ledger.standings.of(run.run_id).is_current,
        "why": about.ledger.standings.of(run.run_id).why,
        "made": phrase(recipe_text(run)),
        "source": about.ledger.source(run.run_id),
        "sources": _sources(run, details),
        "method_href": f"../{about.names.page(run.method)}",
        "surrogate": run.seed >= SURROGATE_SEEDS,
        "command": command,
        "tiles": tiles.tiles(run, details, about.places.get(run.run_id, [])),
        "flags": [_flag(row, item, titles) for row, item in about.ledger.flags(run.run_id)],
        "unchecked": unchecked(details.evaluations),
        "not_looked_for": len(not_looked_for(details.evaluations)),
        "verdict": about.ledger.standings.verdicts.get(run.run_id),
        "notes": [str(note) for note in run.notes],
        "siblings": [
            {"seed": other.seed, "href": f"{other.run_id}.html", "here": other.run_id == run.run_id,
             "stale": not about.ledger.standings.of(other.run_id).is_current, "id": short(other.run_id)}
            for other in about.siblings[run.family_id]
        ],
        "requires": [
            {"role": role, "id": short(key), "href": f"{key}.html" if key in about.ledger.runs else None}
            for role, key in sorted(run.requires.items())
        ],
        "threats": _threats(run, details, about),
        "blackbox": [row for row in evaluations if row["kind"] == "blackbox"],
        "judged": [row for row in evaluations if row["kind"] == "judged"],
        "matrices": [
            _matrix(run, row, details, about)
            for row in details.evaluations
            if row.kind == "transfer" and row.evaluation_id in details.cells
        ],
        "theory": theory.Panel(
            run, theory.measured_diversity(current), theory.bounds_of(current, details.clean, details.cells)
        ),
        "charts": training_charts(details.curve),
        "curve": training_table(details.curve),
        "samples": [{"title": titles.get(s.name, s.name), "set": s} for s in map(samples.read, pictures)],
        "evaluations": evaluations,
        "failures": about.ledger.failures.get(run.run_id, []),
        "configuration": _configuration(run, details),
        "specification": json.dumps(_specification(run, details), indent=1, sort_keys=True, ensure_ascii=False),
        "environment": _environment(about.environments.get(run.environment_id, {})),
    }  # fmt: skip


def _sources(run: RunRow, details: Details) -> str:
    """Training and results apart, where they do not all come from the same: `training imported, 9 results …`."""
    found = Counter(row.provenance for row in details.evaluations)
    if set(found) <= {run.provenance}:
        return ""
    results = ", ".join(f"{found[name]} {name}" for name in get_args(Provenance) if found[name])
    return f"training {run.provenance}, results: {results}"


def _threats(run: RunRow, details: Details, about: PageContext) -> list[dict[str, Any]]:
    """White-box attacks by threat, each group closed by its pointwise worst case over those in float32."""
    groups: dict[Threat, list[EvaluationRow]] = {}
    for row in details.evaluations:
        threat = threat_of(row)
        if threat is not None:
            groups.setdefault(threat, []).append(row)
    shown = []
    for threat in sorted(groups, key=lambda item: item.order):
        within = [row for other, rows in groups.items() if other.lies_in(threat) for row in rows]
        counted = [row for row in about.ledger.standings.current(within) if row.precision == USUAL]
        bits = details.images.robust([row.evaluation_id for row in counted]) if counted else None
        shown.append(
            {
                "title": threat.title,
                "images": images_text(threat.n, threat.image_limit, about.sizes.get(run.dataset)),
                "rows": [_attack(row, about) for row in sorted(groups[threat], key=_coarse)],
                "worst": None if bits is None else _share(int(bits.sum()), threat.n),
                "smaller": any(row.budget != threat.budget and not _coarse(row) for row in within),
            }
        )
    return shown


def _coarse(row: EvaluationRow) -> bool:
    return row.precision != USUAL


def _share(count: int, n: int) -> dict[str, Any]:
    value = 100 * count / n
    return {"text": percent(value), "csv": exact(value), "count": count, "n": n, "width": f"{value:.2f}"}


def _attack(row: EvaluationRow, about: PageContext) -> dict[str, Any]:
    flag = next(iter(doubts(item for _, item in about.ledger.flags(row.run_id, [row]))), None)
    loss = row.measurements.get("loss_curve")
    passes = None if row.forwards is None else (row.forwards + (row.backwards or 0)) / row.n
    return {
        "id": row.evaluation_id,
        "title": titled(about.names.attack(row), row.precision),
        "coarse": _coarse(row),
        "flag": flag and {"name": flag.flag.id, "seen": flag.evidence, "invalid": flag.flag.severity == "invalid"},
        "robust": _share(row.n_robust or 0, row.n),
        "stop": {"first_success": "first success", "last": "last step"}.get(row.stop or "", row.stop or ""),
        "settings": settings_text(row.settings),
        "passes": None if passes is None else f"{passes:,.1f}",
        "seconds": seconds(row.seconds),
        "raw_seconds": exact(row.seconds),
        "spark": charts.sparkline(loss) if isinstance(loss, list) and all(_number(v) for v in loss) else "",
        "stale": not about.ledger.standings.of(row.evaluation_id).is_current,
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _evaluation(run: RunRow, row: EvaluationRow, base: Command, about: PageContext) -> dict[str, Any]:
    name = about.names.attack(row)
    kinds = {
        "clean": "clean accuracy", "transfer": f"transferability, {name}", "blackbox": "black-box suite",
        "craft": "images for black-box suites",
        "certify": "certified by smoothing, ℓ2", "theory": f"bounds of transfer, {row.targets or 'untargeted'}",
    }  # fmt: skip
    title = kinds.get(row.kind, name)
    norm = norm_of(row) if row.kind in MEASURED else "?"
    right = row.n_right
    expected = expected_accuracy(row.kind, row.measurements, row.n)
    facts = {
        "norm": NORMS.get(norm, norm) if norm != "?" else None,
        "settings": settings_text(row.settings) or None,
        "images": f"{row.n:,} (digest {row.images_digest})",
        "expected accuracy": None if expected is None else f"{percent(100 * expected)} % over the member drawn",
        "correct": None if right is None else f"{right:,} of {row.n:,}",
        "passes (images)": None
        if row.forwards is None
        else f"{row.forwards:,} forwards, {row.backwards or 0:,} backwards",
        "took": seconds(row.seconds),
        "made": row.started,
        "source": row.provenance,
        "versions": f"attack {row.attack_version}, evaluator {row.evaluator_version}",
    }  # fmt: skip
    return {
        "id": row.evaluation_id,
        "short": short(row.evaluation_id),
        "kind": row.kind,
        "title": titled(f"{title} {budget_text(row.budget_name, row.budget)}".strip(), row.precision),
        "result": f"{percent(100 * right / row.n)} %" if right is not None else UNSHARED.get(row.kind, ""),
        "share": None if right is None else _share(right, row.n),
        "facts": {name: text for name, text in facts.items() if text},
        "measured": {k: plain(v) for k, v in sorted(row.measurements.items()) if k not in LONG},
        "stale": not about.ledger.standings.of(row.evaluation_id).is_current,
        "command": about.commands.evaluation(run, row, base) if row.kind == "attack" else None,
        "elsewhere": {}
        if row.environment_id == run.environment_id
        else _environment(about.environments.get(row.environment_id, {})),
    }


def _matrix(run: RunRow, row: EvaluationRow, details: Details, about: PageContext) -> dict[str, Any]:
    population = about.loaded.config.matrix.population
    grid, mean = heatmaps.full(details.cells[row.evaluation_id], row.n, population)
    named = {run_id: about.ledger.runs.get(run_id) for run_id in surrogates(row.settings)}
    titles = {run_id: about.names.method(other.method) if other else short(run_id) for run_id, other in named.items()}
    return {
        "title": titled(f"{about.names.attack(row)}, {budget_text(row.budget_name, row.budget)}", row.precision),
        "counted": f"led to a class ({row.targets}) and give it" if row.targets else "misclassified",
        "population": heatmaps.POPULATIONS[population],
        "heads": [*(str(index + 1) for index in range(len(grid))), "all"],
        "grid": grid,
        "others": heatmaps.beside(details.other_cells.get(row.evaluation_id, []), row.n, population, titles),
        "mean": percent(mean),
        "images": images_text(row.n, row.image_limit, about.sizes.get(run.dataset)),
        "remark": heatmaps.remark(run),
        "stale": not about.ledger.standings.of(row.evaluation_id).is_current,
    }


def _configuration(run: RunRow, details: Details) -> list[dict[str, Any]]:
    """Groups of names and values."""
    weights = [row["weight"] for row in details.members if row["weight"] is not None]
    main = {
        "method": f"{run.method} (plug-in {run.plugin} of {run.origin}, version {run.method_version})",
        "data set": run.dataset,
        "members": f"{run.members} × {run.model}",
        "fusion": run.fusion + (f", weights {plain(weights)}" if weights else ""),
        "activation": run.activation,
        "seed": str(run.seed),
        "recipe": recipe_text(run),
        "training images": "all" if run.training_limit is None else f"{run.training_limit:,}",
        "held out": f"{run.validation:,} images" if run.validation else "none",
        "trainer version": str(run.trainer_version),
        "trained": f"{run.started} to {run.finished}",
        "source digest": run.source_digest,
    }
    if run.plugin == OUTSIDE:  # of its training nothing is known
        ours = ("training images", "held out", "trainer version")
        main = {name: value for name, value in main.items() if name not in ours}
        main["taken in"] = main.pop("trained")
    training = {} if run.plugin == OUTSIDE else run.training
    groups = [
        ("The run", {name: value for name, value in main.items() if value}),
        ("Settings of the method", {name: plain(value) for name, value in sorted(run.settings.items())}),
        ("Training", {name: plain(value) for name, value in sorted(training.items())}),
        ("Settings of the model", {name: plain(value) for name, value in sorted(run.model_settings.items())}),
    ]
    return [{"title": title, "rows": rows} for title, rows in groups if rows]


def _specification(run: RunRow, details: Details) -> Any:
    """What the id is made of; without the training that stands there for what was trained elsewhere."""
    config = details.config
    if run.plugin == OUTSIDE and isinstance(config, Mapping):
        return {name: value for name, value in config.items() if name not in ("training", "validation")}
    return config


def _environment(record: Mapping[str, Any]) -> dict[str, str]:
    flat = {}
    for name, value in sorted(record.items()):
        if name == "packages" and isinstance(value, Mapping):
            flat["packages"] = ", ".join(f"{key} {version}" for key, version in sorted(value.items()))
        else:
            flat[name] = plain(value)
    return flat


def _flag(row: EvaluationRow, item: Raised, titles: Mapping[str, str]) -> dict[str, Any]:
    flag = item.flag
    return {
        "name": flag.id.replace("-", " "),
        "seen": item.evidence,
        "meaning": f"Raised when {flag.when}. {flag.explanation}",
        "invalid": flag.severity == "invalid",
        "note": flag.severity == "note",
        "where": titles.get(row.evaluation_id, ""),
        "id": row.evaluation_id,
    }
