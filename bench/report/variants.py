"""Methods as they were run with other settings: columns of their own, named by what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.core import registry
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import canonical
from bench.core.seeds import SURROGATE_SEEDS
from bench.core.settings import completed
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import OUTSIDE, RunSpec
from bench.report.results import run_specs
from bench.report.titles import setting_text, symbol
from bench.store import queries, standing
from bench.store.database import Database
from bench.store.typed_rows import RunRow


def with_variants(loaded: Loaded, selection: Selection, db: Database) -> tuple[Loaded, Selection]:
    """The configuration and selection with what was run of these methods with other settings or another training.

    A variant is a method beside the one that it changes: `trs lambda_a=5`, titled `TRS, λa = 5`. Recipe, model, members
    and held-out images are those of the selection. Runs that today's configuration cannot make again are left out.
    """
    specs = run_specs(loaded, selection)
    taken = {spec.family_id for spec in specs.values()}
    found: dict[str, list[str]] = {}
    for name, spec in specs.items():
        method = loaded.config.methods[name]
        if spec.plugin == OUTSIDE or method.on is not None:
            continue
        for run in _alike(db, name, spec):
            settings, training = _differences(run, spec)
            told = {**settings, **training}
            if run.family_id in taken or not told:
                continue
            variant = f"{name} {' '.join(f'{key}={value}' for key, value in told.items())}"
            title = ", ".join(f"{symbol(key)} = {setting_text(value)}" for key, value in told.items())
            changed = _configured(loaded, spec, name, variant, f"{loaded.title_of(name)}, {title}", run, training)
            if _family(changed, selection, variant) == run.family_id:
                loaded = changed
                taken.add(run.family_id)
                found.setdefault(name, []).append(variant)
    methods = [each for name in select.method_names(loaded, selection.methods) for each in (name, *found.get(name, ()))]
    return loaded, replace(selection, methods=tuple(methods)) if selection.methods else selection


def _alike(db: Database, name: str, spec: RunSpec) -> list[RunRow]:
    """Current runs of the method on the same data, recipe, model, members and held-out images."""
    runs = queries.runs(db, plugin=spec.plugin, dataset=spec.dataset, model=spec.model)
    standings = standing.judge(runs)
    return [
        run
        for run in runs
        if (run.method, run.recipe, run.members, run.validation) == (name, spec.recipe, spec.members, spec.validation)
        and canonical(run.model_settings) == canonical(spec.model_settings)
        and run.seed < SURROGATE_SEEDS
        and standings.of(run.run_id).is_current
    ]


def _differences(run: RunRow, spec: RunSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of settings and of training, as the run has them."""
    plugin = registry.load("methods", spec.plugin)
    settings = _unequal(completed(plugin, run.settings), completed(plugin, spec.settings))
    return settings, _unequal(run.training, spec.training.model_dump(mode="json"))


def _unequal(own: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if canonical(value) != canonical(usual.get(name))}


def _configured(
    loaded: Loaded, spec: RunSpec, name: str, variant: str, title: str, run: RunRow, training: Mapping[str, Any]
) -> Loaded:
    """With the variant as a method behind the one that it changes, and its training in the recipe."""
    own = loaded.config.methods[name].model_copy(
        update={"title": title, "settings": dict(run.settings), "datasets": {}, "paper": False, "published": None}
    )
    methods = {}
    for key, method in loaded.config.methods.items():
        methods[key] = method
        if key == name:
            methods[variant] = own
    recipes = dict(loaded.config.recipes)
    part = recipes[spec.recipe][spec.dataset]
    _, chain = select.resolved_recipe(loaded, spec.recipe, spec.dataset)
    usual = {key: value for step in chain for key, value in step.methods.get(name, {}).items()}
    part = part.model_copy(update={"methods": {**part.methods, variant: {**usual, **training}}})
    recipes[spec.recipe] = {**recipes[spec.recipe], spec.dataset: part}
    return replace(loaded, config=loaded.config.model_copy(update={"methods": methods, "recipes": recipes}))


def _family(loaded: Loaded, selection: Selection, variant: str) -> str | None:
    try:
        return select.run_spec(loaded, selection, variant, 0).family_id
    except BenchError:
        return None
