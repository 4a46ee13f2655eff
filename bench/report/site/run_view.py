"""A run as its template shows it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.precision import USUAL, titled
from bench.report.recipes import phrase
from bench.report.site import charts, samples
from bench.report.site.again import Command, Commands
from bench.report.site.board_view import images_text
from bench.report.site.boards import NORMS, Threat, threat_of, worst_case
from bench.report.site.details import Details
from bench.report.site.flags import Raised, Shown
from bench.report.site.ledger import Ledger
from bench.report.site.names import Names, exact, percent, plain, recipe_text, seconds, settings_text
from bench.report.site.training import training_charts, training_table
from bench.report.tables import budget_text
from bench.store.answers import EvaluationRow, RunRow
from bench.store.flags import unchecked
from bench.training.outside import OUTSIDE

POPULATIONS = {
    "correct_all": "images that every member gets right",
    "correct_both": "images that source and target get right",
    "all": "all images",
}
LONG = {"loss_curve", "loss_stages", "sources"}  # measurements drawn or shown elsewhere


@dataclass(frozen=True)
class Setting:
    """What all pages of runs share."""

    loaded: Loaded
    names: Names
    ledger: Ledger
    boards: Mapping[Threat, str]
    """Threat → the address of its board."""
    commands: Commands
    flags: Raised
    environments: Mapping[str, dict[str, Any]]
    sizes: Mapping[str, int | None]
    siblings: Mapping[str, list[RunRow]]


def run_view(run: RunRow, details: Details, about: Setting, pictures: list[Path]) -> dict[str, Any]:
    """Everything `run.html` needs."""
    command = about.commands.run(run, details.config)
    evaluations = [_evaluation(run, row, command, about) for row in details.evaluations]
    titles = {row["id"]: row["title"] for row in evaluations}
    return {
        "run": run,
        "title": about.names.method(run.method),
        "short": short(run.run_id),
        "stale": run.run_id in about.ledger.stale,
        "made": phrase(recipe_text(run)),
        "command": command,
        "tiles": _tiles(run, details, about),
        "flags": [_flag(flag, titles) for flag in about.flags.of(run.run_id)],
        "unchecked": unchecked(details.evaluations),
        "notes": [str(note) for note in run.notes],
        "siblings": [
            {"seed": other.seed, "href": f"{other.run_id}.html", "here": other.run_id == run.run_id,
             "stale": other.run_id in about.ledger.stale, "id": short(other.run_id)}
            for other in about.siblings[run.family_id]
        ],
        "requires": [
            {"role": role, "id": short(key), "href": f"{key}.html" if key in about.ledger.runs else None}
            for role, key in sorted(run.requires.items())
        ],
        "threats": _threats(run, details, about),
        "blackbox": [row for row in evaluations if row["kind"] == "blackbox"],
        "matrices": [
            _matrix(run, row, details, about) for row in details.evaluations if row.evaluation_id in details.cells
        ],
        "charts": training_charts(details.curve),
        "curve": training_table(details.curve),
        "samples": [{"title": titles.get(s.name, s.name), "set": s} for s in map(samples.read, pictures)],
        "evaluations": evaluations,
        "failures": about.ledger.failures.get(run.run_id, []),
        "configuration": _configuration(run, details),
        "specification": json.dumps(_specification(run, details), indent=1, sort_keys=True, ensure_ascii=False),
        "environment": _environment(about.environments.get(run.environment_id, {})),
    }  # fmt: skip


def _tiles(run: RunRow, details: Details, about: Setting) -> list[dict[str, str]]:
    clean = [row for row in details.evaluations if row.kind == "clean"]
    tiles = []
    if clean:
        largest = max(clean, key=lambda row: row.n)
        tiles.append({"name": "clean accuracy", "value": percent(100 * largest.n_clean / largest.n), "unit": "%"})
        members = details.clean.get(largest.evaluation_id, {})
        single = [100 * count / largest.n for target, count in sorted(members.items()) if target >= 0]
        if len(single) > 1:
            tiles.append({"name": "single members, clean", "value": " · ".join(map(percent, single)), "unit": "%"})
    parameters = sorted({row["parameters"] for row in details.members})
    if parameters:
        text = f"{parameters[0]:,}" if len(parameters) == 1 else f"{parameters[0]:,} to {parameters[-1]:,}"
        tiles.append({"name": "parameters a member", "value": text, "unit": ""})
    if run.plugin != OUTSIDE:
        tiles.append({"name": "training took", "value": seconds(run.seconds), "unit": ""})
    return tiles


def _threats(run: RunRow, details: Details, about: Setting) -> list[dict[str, Any]]:
    """White-box attacks by threat, each group closed by its pointwise worst case over those in float32."""
    flagged = {flag.evaluation_id: flag for flag in reversed(about.flags.of(run.run_id))}
    void = about.ledger.stale | {key for key, flag in flagged.items() if flag.is_invalid}
    groups: dict[Threat, list[EvaluationRow]] = {}
    for row in details.evaluations:
        threat = threat_of(row, run.dataset, about.ledger.norms[row.protocol_id])
        if threat is not None:
            groups.setdefault(threat, []).append(row)
    shown = []
    for threat in sorted(groups, key=lambda item: item.order):
        within = [row for other, rows in groups.items() if other.lies_in(threat) for row in rows]
        fresh = [row for row in within if row.evaluation_id not in void and row.precision == USUAL]
        bits = [details.outcomes[row.evaluation_id].robust for row in fresh if row.evaluation_id in details.outcomes]
        known = [each for each in bits if each is not None]
        worst = int(worst_case(known).sum()) if known else None
        shown.append(
            {
                "title": threat.title,
                "href": about.boards.get(threat),
                "images": images_text(threat.n, threat.image_limit, about.sizes.get(run.dataset)),
                "rows": [
                    _attack(row, about, flagged.get(row.evaluation_id)) for row in sorted(groups[threat], key=_coarse)
                ],
                "worst": None if worst is None else _share(worst, threat.n),
                "smaller": any(row.budget != threat.budget and not _coarse(row) for row in within),
            }
        )
    return shown


def _coarse(row: EvaluationRow) -> bool:
    return row.precision != USUAL


def _share(count: int, n: int) -> dict[str, Any]:
    value = 100 * count / n
    return {"text": percent(value), "csv": exact(value), "count": count, "n": n, "width": f"{value:.2f}"}


def _attack(row: EvaluationRow, about: Setting, flag: Shown | None) -> dict[str, Any]:
    loss = row.measurements.get("loss_curve")
    passes = None if row.forwards is None else (row.forwards + (row.backwards or 0)) / row.n
    return {
        "id": row.evaluation_id,
        "title": titled(about.names.attack(row), row.precision),
        "coarse": _coarse(row),
        "flag": flag,
        "robust": _share(row.n_robust or 0, row.n),
        "stop": {"first_success": "first success", "last": "last step"}.get(row.stop or "", row.stop or ""),
        "settings": settings_text(row.settings),
        "passes": None if passes is None else f"{passes:,.1f}",
        "seconds": seconds(row.seconds),
        "raw_seconds": exact(row.seconds),
        "spark": charts.sparkline(loss) if isinstance(loss, list) and all(_number(v) for v in loss) else "",
        "stale": row.evaluation_id in about.ledger.stale,
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _evaluation(run: RunRow, row: EvaluationRow, base: Command, about: Setting) -> dict[str, Any]:
    name = about.names.attack(row)
    kinds = {"clean": "clean accuracy", "transfer": f"transferability, {name}", "blackbox": "black-box suite"}
    title = kinds.get(row.kind, name)
    norm = about.ledger.norms[row.protocol_id] if row.kind in ("attack", "blackbox") else "?"
    right = row.n_clean if row.kind == "clean" else row.n_robust
    facts = {
        "norm": NORMS.get(norm, norm) if norm != "?" else None,
        "settings": settings_text(row.settings) or None,
        "images": f"{row.n:,} (digest {row.images_digest})",
        "correct": None if right is None else f"{right:,} of {row.n:,}",
        "passes (images)": None
        if row.forwards is None
        else f"{row.forwards:,} forwards, {row.backwards or 0:,} backwards",
        "took": seconds(row.seconds),
        "made": row.started,
        "versions": f"attack {row.attack_version}, evaluator {row.evaluator_version}",
    }  # fmt: skip
    return {
        "id": row.evaluation_id,
        "short": short(row.evaluation_id),
        "kind": row.kind,
        "title": titled(f"{title} {budget_text(row.budget_name, row.budget)}".strip(), row.precision),
        "result": "matrix" if row.kind == "transfer" or right is None else f"{percent(100 * right / row.n)} %",
        "share": None if right is None else _share(right, row.n),
        "facts": {name: text for name, text in facts.items() if text},
        "measured": {k: plain(v) for k, v in sorted(row.measurements.items()) if k not in LONG},
        "stale": row.evaluation_id in about.ledger.stale,
        "command": about.commands.evaluation(run, row, base) if row.kind == "attack" else None,
        "elsewhere": {}
        if row.environment_id == run.environment_id
        else _environment(about.environments.get(row.environment_id, {})),
    }


def _matrix(run: RunRow, row: EvaluationRow, details: Details, about: Setting) -> dict[str, Any]:
    population = about.loaded.config.matrix.population
    cells = {(cell["source"], cell["target"]): cell for cell in details.cells[row.evaluation_id]}
    members = 1 + max(source for source, _ in cells)
    targets = [*range(members), -1]
    grid = [[_heat(cells[source, target], row.n, population) for target in targets] for source in range(members)]
    off = [c["value"] for s, line in enumerate(grid) for t, c in enumerate(line[:-1]) if s != t]
    known = [value for value in off if value is not None]
    return {
        "title": titled(f"{about.names.attack(row)}, {budget_text(row.budget_name, row.budget)}", row.precision),
        "counted": f"led to a class ({row.settings['targets']}) and give it"
        if "targets" in row.settings
        else "misclassified",
        "population": POPULATIONS[population],
        "heads": [*(str(index + 1) for index in range(members)), "all"],
        "grid": grid,
        "mean": percent(sum(known) / len(known) if known else None),
        "images": images_text(row.n, row.image_limit, about.sizes.get(run.dataset)),
        "remark": _remark(run),
        "stale": row.evaluation_id in about.ledger.stale,
    }


def _heat(cell: Mapping[str, Any], n: int, population: str) -> dict[str, Any]:
    counts = {
        "correct_all": (cell["n_missed_correct_all"], cell["n_correct_all"]),
        "correct_both": (cell["n_missed_correct_both"], cell["n_correct_both"]),
        "all": (cell["n_missed"], n),
    }
    hits, among = counts[population]
    share = hits / among if among else math.nan
    source, target = cell["source"], cell["target"]
    colour, white = charts.heat(0.0 if math.isnan(share) else share)
    where = "the whole ensemble" if target < 0 else "itself" if source == target else f"member {target + 1}"
    lines = [f"crafted on member {source + 1}, evaluated on {where}"]
    lines += [
        f"{percent(100 * h / a if a else None)} % of {POPULATIONS[name]} ({h:,} of {a:,})"
        for name, (h, a) in counts.items()
    ]
    lines.append(f"Definition 6: both fooled on {cell['n_definition6']:,} of {n:,}")
    return {
        "text": "–" if math.isnan(share) else f"{100 * share:.0f}",
        "value": None if math.isnan(share) else 100 * share,
        "csv": "" if math.isnan(share) else exact(100 * share),
        "colour": colour, "white": white, "own": source == target, "tip": "\n".join(lines),
    }  # fmt: skip


def _remark(run: RunRow) -> str:
    """What the method says a reader of its matrix must know; empty for most, and for a plug-in that is not here."""
    if run.plugin not in registry.entries("methods"):
        return ""
    try:
        return str(getattr(registry.load("methods", run.plugin), "remark", ""))
    except BenchError:
        return ""


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


def _flag(flag: Shown, titles: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": flag.name.replace("-", " "),
        "seen": flag.seen,
        "meaning": flag.meaning,
        "invalid": flag.is_invalid,
        "where": titles.get(flag.evaluation_id, ""),
        "id": flag.evaluation_id,
    }
