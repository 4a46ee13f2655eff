"""`bench list`: what there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.failure import failed_training
from bench.cli.options import reading, where
from bench.cli.parameters import Once
from bench.cli.say import say, say_json
from bench.core.errors import BenchError
from bench.core.identity import short

if TYPE_CHECKING:
    from rich.console import Console

    from bench.core.config import Loaded
    from bench.core.registry import Registered
    from bench.core.specs import AttackSpec

Listing = list[dict[str, Any]]
SHOWN = 200  # runs in a table for people; more take a terminal seconds
BROKEN = "broken: "
# What a narrow terminal may do without, the highest first.
RANKS = {"seconds": 9, "started": 8, "model": 7, "recipe": 6, "evaluations": 5, "origin": 9, "plugin": 8, "budgets": 7,
         "aliases": 9, "members": 8, "matrix": 9, "datasets": 8, "attacks": 7, "shape": 6, "classes": 7}  # fmt: skip


@click.command("list", cls=Once)
@click.argument(
    "what",
    metavar="KIND",
    type=click.Choice(["methods", "attacks", "datasets", "models", "fusions", "recipes", "suites", "runs"]),
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@where
def command(what: str, as_json: bool, results: Path, db: str | None) -> None:
    """List one KIND: methods, attacks, datasets, models, recipes or suites of bench.toml, fusions (rules), or the runs
    of the database, trainings that failed among them.

    Plug-ins of other packages that bench.toml does not configure are listed too, with the package they come from and
    its version. One that cannot be used says why; `bench doctor --plugin NAME` says more.

    \b
    Examples:
      bench list methods
      bench list runs
      bench list suites --json
    """
    from bench.report.console import console

    rows = _runs(results, db) if what == "runs" else _LISTS[what]()
    if as_json:
        say_json(rows)
        return
    if not rows:
        say(f"no {what} yet")
        return
    total = len(rows)
    if what == "runs" and total > SHOWN:
        latest = {id(row) for row in sorted(rows, key=lambda row: str(row["started"]))[-SHOWN:]}
        rows = [row for row in rows if id(row) in latest]
    _print(rows, console())
    if total > len(rows):
        say(f"The latest {len(rows)} of {total:,} runs; --json lists all.")


def _print(rows: Listing, out: Console) -> None:
    """A table without notes, which stand below it, one line each."""
    from rich.text import Text

    from bench.report.listing import Head, print_listing

    hidden = {"version", "notes"} | ({"status"} if all(row.get("status") == "done" for row in rows) else set())
    names = [name for name in rows[0] if name not in hidden]
    heads = [Head("time" if name == "seconds" else name, RANKS.get(name, 0)) for name in names]
    print_listing(heads, [[_cell(row, name) for name in names] for row in rows], out)
    for row in rows:
        for note in row.get("notes") or ():
            style = "red" if row.get("status") == "failed" else "yellow"
            out.print(Text.assemble((str(row["id"]), "bold"), f"  {note}"), style=style, soft_wrap=not out.is_terminal)


def _cell(row: dict[str, Any], name: str) -> str:
    """A value as people read it."""
    from bench.jobs.estimate import spoken

    value = row.get(name)
    if value is None:
        return ""
    if name == "seconds":
        return spoken(float(value))
    if name == "started":
        return str(value).replace("T", " ")[: len("2026-01-31 23:59")]
    if name == "origin" and row.get("version"):
        return f"{value} {row['version']}"
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _plugins(kind: str, configured: dict[str, Any], described: Callable[[Any], str]) -> Listing:
    """Configured names with their plug-in, then registered plug-ins that no name uses."""
    from bench.core import config, registry

    entries = registry.entries(kind)
    rows: Listing = []

    def add(name: str, plugin: str, entry: Registered | None, told: str) -> None:
        origin, version = (entry.origin, entry.version) if entry else ("missing", "")
        rows.append({"name": name, "plugin": plugin, "origin": origin, "version": version, "description": told})

    for name, spec in configured.items():
        entry = entries.get(spec.plugin)
        if entry is None:
            add(name, spec.plugin, None, f"{BROKEN}no package declares a {kind[:-1]} {spec.plugin!r}")
        elif fault := entry.fault(spec.settings):
            add(name, spec.plugin, entry, BROKEN + fault)
        else:
            add(name, spec.plugin, entry, described(spec) or entry.description)
    used = {spec.plugin for spec in configured.values()}
    for name, entry in entries.items():
        if name not in used:
            fault = config.hidden(kind, name, configured) or entry.fault()
            add(name, name, entry, BROKEN + fault if fault else entry.description)
    for entry in registry.left_out(kind):
        add(entry.name, entry.name, entry, BROKEN + entry.refused)
    return rows


def _methods() -> Listing:
    from bench.core import config

    return _plugins("methods", config.load().config.methods, lambda spec: spec.description)


def _attacks() -> Listing:
    from bench.core import config
    from bench.report.titles import budget_number

    attacks = config.load().config.attacks
    rows = _plugins("attacks", attacks, _of_another)
    for row in rows:
        spec = attacks.get(row["name"])
        row["budgets"] = (
            [f"{dataset} {' '.join(map(budget_number, values))}" for dataset, values in spec.budgets.items()]
            if spec
            else []
        )
    return rows


def _of_another(spec: AttackSpec) -> str:
    """`pgd with steps = 10`: what bench.toml changes in a plug-in; nothing where it changes nothing."""
    changed = {**spec.settings, **({} if spec.targets is None else {"targets": spec.targets})}
    return f"{spec.plugin} with {', '.join(f'{name} = {value}' for name, value in changed.items())}" if changed else ""


def _datasets() -> Listing:
    from bench.core import config, registry

    rows: Listing = []
    loaded = config.load()
    datasets = loaded.config.datasets
    for row in _plugins("datasets", datasets, lambda spec: ""):
        if row["name"] in registry.NEED_SETTINGS:
            continue
        broken = row["description"].startswith(BROKEN)
        plugin = None if broken else loaded.dataset(row["name"])
        rows.append(
            {
                "name": row["name"],
                "description": _title(row["name"], row["plugin"], plugin) if plugin else row["description"],
                "classes": plugin.classes if plugin else None,
                "shape": "×".join(map(str, plugin.shape)) if plugin else None,
                "suite": datasets[row["name"]].suite if row["name"] in datasets else None,
                "recipe": _default_recipe(loaded, row["name"]),
                "origin": row["origin"],
                "version": row["version"],
            }
        )
    return rows


def _title(name: str, plugin: str, made: Any) -> str:
    """Of a data set; of one of somebody's own pictures its classes too."""
    from bench.core import places, prepared

    path = prepared.folder_of(places.data_folder(), name) / prepared.DESCRIPTION
    if plugin != prepared.PLUGIN or not path.exists():
        return str(made.title)
    return f"{made.title}: {', '.join(prepared.read(path).classes)}"


def _default_recipe(loaded: Loaded, dataset: str) -> str | None:
    from bench.experiment.select import recipe_name

    try:
        return recipe_name(loaded, None, dataset) if dataset in loaded.config.datasets else None
    except BenchError:  # it has none
        return None


def _models() -> Listing:
    from bench.core import config

    rows = _plugins("models", config.load().config.models, lambda spec: spec.description)
    for row in rows:
        if row["name"] == "timm":
            row["name"] = "timm/NAME"
    return rows


def _fusions() -> Listing:
    from bench.core import registry

    rows = _plugins("fusions", {}, lambda spec: "")
    for row in rows:
        row.pop("plugin")
        broken = row["description"].startswith(BROKEN)
        row["weights"] = None if broken else registry.load("fusions", row["name"]).takes_weights
    return rows


def _recipes() -> Listing:
    from bench.core import config
    from bench.experiment.select import resolved_recipe

    rows: Listing = []
    loaded = config.load()
    for name, parts in loaded.config.recipes.items():
        for dataset in parts:
            recipe = resolved_recipe(loaded, name, dataset)[0]
            training = recipe.training
            if recipe.model is None:
                raise BenchError(f"recipe {name!r} names no model for {dataset}")
            told = f"{training.get('epochs')} epochs, {training.get('optimizer', 'adam')} {training.get('lr', 1e-3):g}"
            limit = f", {training['limit']:,} images" if training.get("limit") else ""
            limit += f", {recipe.test_limit:,} test images" if recipe.test_limit else ""
            rows.append(
                {
                    "name": name,
                    "dataset": dataset,
                    "default": name == _default_recipe(loaded, dataset),
                    "aliases": list(parts[dataset].aliases),
                    "model": recipe.model,
                    "members": recipe.members,
                    "description": told + limit,
                }
            )
    return rows


def _suites() -> Listing:
    from bench.core import config

    return [
        {
            "name": name,
            "description": suite.description,
            "attacks": [row if isinstance(row, str) else row.attack for row in suite.attacks],
            "matrix": suite.matrix,
            "datasets": list(suite.datasets) or ["any"],
        }
        for name, suite in config.load().config.suites.items()
    ]


def _runs(results: Path, db: str | None) -> Listing:
    from bench.experiment.spec import OUTSIDE
    from bench.report.recipes import recipe_label
    from bench.store import queries

    if db is None and not (results / "bench.db").exists():
        return []
    with reading(db, results) as base:
        counts = queries.evaluation_counts(base)
        runs = queries.runs(base)
        failures = [row for row in queries.failures(base) if failed_training(row)]
    rows: Listing = [
        {
            "id": short(run.run_id),
            "status": "done",
            "method": run.method,
            "dataset": run.dataset,
            "model": f"{run.members} × {run.model}",
            "recipe": recipe_label(run.recipe, plugin=run.plugin) + ("*" if run.recipe_changes else ""),
            "seed": run.seed,
            "evaluations": counts.get(run.run_id, 0),
            "seconds": None if run.plugin == OUTSIDE else round(run.seconds, 1),
            "started": run.started,
            "notes": run.notes,
        }
        for run in runs
    ]
    for row in failures:
        told = row.describe
        rows.append(
            {
                "id": short(row.job_id),
                "status": "failed",
                "method": told.get("method"),
                "dataset": told.get("dataset"),
                "model": f"{told['members']} × {told.get('model')}" if "members" in told else told.get("model"),
                "recipe": str(told.get("recipe")) + ("*" if told.get("recipe_changes") else ""),
                "seed": told.get("seed"),
                "evaluations": 0,
                "seconds": round(row.seconds or 0, 1),
                "started": row.started,
                "notes": [row.error],
            }
        )
    return rows


_LISTS: dict[str, Callable[[], Listing]] = {
    "methods": _methods,
    "attacks": _attacks,
    "datasets": _datasets,
    "models": _models,
    "fusions": _fusions,
    "recipes": _recipes,
    "suites": _suites,
}
