"""Which names a result has here: looked up by content in the configuration that holds, never taken on trust."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any

from bench.core import config, registry, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import canonical
from bench.core.specs import AttackSpec, trained_and_watched
from bench.experiment import monitors, select
from bench.experiment.names import RunNames, claimed, recipe_today, unmarked
from bench.experiment.select import Selection
from bench.experiment.spec import OUTSIDE, EvaluationSpec, RunSpec, of_attack

FIXED = {  # kinds whose attack has no name of its own
    "clean": "clean", "craft": "blackbox", "blackbox": "blackbox", "certify": "certify", "diversity": "diversity",
    "theory": "theory",
}  # fmt: skip


def configured() -> Configured:
    """The names of the bench.toml that holds here.

    Raises:
        BenchError: it is damaged.
    """
    return Configured(config.load())


class Configured:
    """Names of contents under one configuration (`bench.experiment.names.Namer`).

    A name that a record claims is kept where it stands for the same content here, with the changes (`--set`) that the
    record tells applied. Else the content has the name that it has here; else the claim is marked as one.

    Args:
        loaded: the configuration, as its file has it.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._base = loaded
        self.aliases: Mapping[tuple[str, str], str] = loaded.config.aliases
        self._changed = lru_cache(maxsize=256)(self._load)

    def run(self, spec: RunSpec) -> RunNames:
        """The names of a run's method, data set, model and training."""
        told = self._changed(spec.recipe_changes)
        both = (self._base,) if told is None else (told, self._base)
        dataset = self._dataset(spec, both)
        model = self._model(spec, both)
        if spec.plugin == OUTSIDE:
            return RunNames(self._given(spec), dataset, model, OUTSIDE, ())
        method = self._method(spec, dataset, both)
        return RunNames(method, dataset, model, *self._recipe(spec, method, dataset, model, told))

    def attack(self, spec: EvaluationSpec) -> str:
        """The name of an attack.

        One whose settings were changed for a command keeps the name of its plug-in: they are shown beside it.
        """
        if spec.kind in FIXED:
            return FIXED[spec.kind]
        if spec.kind in ("judged", "audit"):  # what somebody called the images, or a probe: of no configuration
            return spec.attack
        known, name = self._base.config.attacks, unmarked(spec.attack)
        content = _content("attacks", spec.plugin, of_attack(spec.kind, spec.settings))
        same = self._attacks.get(content, [])
        names = [name, *same] if name in same else same
        for precise in (True, False):
            for other in names:
                if _leads_as(known[other], spec, precise):
                    return other
        if name in known and known[name].plugin == spec.plugin and _leads_as(known[name], spec, False):
            return name
        return claimed(name)

    @cached_property
    def _attacks(self) -> dict[str, list[str]]:
        """Content → the attacks that are configured so."""
        found: dict[str, list[str]] = {}
        for name, table in self._base.config.attacks.items():
            found.setdefault(_configured("attacks", table), []).append(name)
        return found

    def _load(self, changes: tuple[str, ...]) -> Loaded | None:
        """The configuration with the changes of a record; None where they cannot be made."""
        if not changes:
            return self._base
        try:
            return config.load(self._base.path, changes)
        except Exception:  # whatever a stranger's text does to the parsers
            return None

    def _dataset(self, spec: RunSpec, both: Iterable[Loaded]) -> str:
        content = _content("datasets", spec.dataset_plugin, spec.dataset_settings)
        return self._found("datasets", spec.dataset, content, (loaded.config.datasets for loaded in both))

    def _model(self, spec: RunSpec, both: Iterable[Loaded]) -> str:
        content, name = _content("models", spec.model_plugin, spec.model_settings), unmarked(spec.model)
        found = self._found("models", name, content, (loaded.config.models for loaded in both))
        if found == claimed(name):
            # Models that need no table of their own: their names are their settings.
            own_names = {"timm": ("name", "timm/"), "factory": ("function", ""), "memory": ("networks", "")}
            key, before = own_names.get(spec.model_plugin, ("", ""))
            own = spec.model_settings.get(key)
            if isinstance(own, str) and own.isprintable() and before + own not in self._base.config.models:
                return (before + own)[:200]
        return found

    def _method(self, spec: RunSpec, dataset: str, both: Iterable[Loaded]) -> str:
        def tables(loaded: Loaded) -> dict[str, Any]:
            return {
                name: method.model_copy(update={"settings": method.settings_on(dataset, spec.members)})
                for name, method in loaded.config.methods.items()
            }

        content = _content("methods", spec.plugin, spec.settings)
        return self._found("methods", spec.method, content, (tables(loaded) for loaded in both))

    def _found(self, kind: str, told: str, content: str, tables: Iterable[Mapping[str, Any]]) -> str:
        """The name of a content: the one told, in one of the tables; else another of the last of them."""
        name = unmarked(told)
        table: Mapping[str, Any] = {}
        plugins = {key: each.plugin for key, each in getattr(self._base.config, kind).items()}
        for table in tables:
            # A change may give a name other settings, never another plug-in.
            if name in plugins and table[name].plugin == plugins[name] and _configured(kind, table[name]) == content:
                return name
        return next((key for key, each in table.items() if _configured(kind, each) == content), claimed(name))

    def _given(self, spec: RunSpec) -> str:
        """The name of an ensemble trained elsewhere is its own, and part of its id; not one that is taken here."""
        name, known = spec.settings.get("name"), self._base.config.methods
        if name != unmarked(spec.method) or name in ("paper", "all"):
            return claimed(spec.method)
        return claimed(name) if name in known and known[name].plugin != OUTSIDE else unmarked(spec.method)

    def _recipe(
        self, spec: RunSpec, method: str, dataset: str, model: str, told: Loaded | None
    ) -> tuple[str, tuple[str, ...]]:
        name, changes = unmarked(recipe_today(self, dataset, spec.recipe)), spec.recipe_changes
        if told is not None:
            # They too may name a recipe by an alias.
            here = select.changes_of(told, method, model, dataset, kept=spec.keep is not None)
            if len(here) == len(changes) and _trained_as(told, name, spec, method, dataset, model):
                return name, here
        for other in self._base.config.recipes:
            if _trained_as(self._base, other, spec, method, dataset, model):
                return other, ()
        return claimed(name), changes


def _trained_as(loaded: Loaded, recipe: str, spec: RunSpec, method: str, dataset: str, model: str) -> bool:
    """Whether the recipe gives the training of a run, and of what that needs."""
    try:
        merged, chain = select.resolved_recipe(loaded, recipe, dataset)
        own = {key: value for step in chain for key, value in step.methods.get(method, {}).items() if key != "members"}
        training, watching = trained_and_watched({**merged.training, **own, **loaded.training})
        validation = select.held_out(loaded, merged)
        if training != spec.training or validation != spec.validation:
            return False
        _, keep = monitors.watched(loaded, watching, dataset, validation)
        if (keep and keep.content) != (spec.keep and spec.keep.content):
            return False
        if not spec.requires:
            return True
        selection = Selection(dataset=dataset, recipe=recipe, model=model, members=spec.members)
        made = select.run_spec(loaded, selection, method, spec.seed).requires
    except (BenchError, ValueError, KeyError):  # it says nothing about this data set, method or model
        return False
    return {role: run.family_id for role, run in made.items()} == {
        role: run.family_id for role, run in spec.requires.items()
    }


def _leads_as(configured: AttackSpec, spec: EvaluationSpec, precise: bool) -> bool:
    """Whether an attack leads to classes as the spec says (of a matrix, its suite says that), and asks as precisely."""
    return (spec.kind == "transfer" or configured.targets == spec.targets) and (
        not precise or configured.precision == spec.precision
    )


def _configured(kind: str, table: Any) -> str:
    return _content(kind, table.plugin, table.settings)


def _content(kind: str, plugin: str, given: Mapping[str, Any]) -> str:
    try:
        return _whole(kind, plugin, canonical(dict(given)))
    except (TypeError, ValueError):  # what no id can be made of, in somebody's bench.toml
        return ""


@lru_cache(maxsize=4096)
def _whole(kind: str, plugin: str, given: str) -> str:
    """Plug-in and all of its settings, defaults included where it is installed: what equal contents have equal."""
    values = json.loads(given)
    try:
        made = settings.build(registry.load(kind, plugin), values, f"{kind}.{plugin}")
    except BenchError:  # not here, broken, or of another version: as it stands
        return canonical([plugin, values])
    return canonical([plugin, settings.plain(made)])
