"""The command that makes a result again, checked: today's configuration must give it the same id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from bench.core import config
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.specs import Training, added_to
from bench.experiment import monitors, select
from bench.experiment.command import changed, of_run, one_attack, settings_changes
from bench.experiment.select import Selection
from bench.experiment.spec import OUTSIDE, EvaluationSpec, KeepSpec, RunSpec
from bench.store.typed_rows import EvaluationRow, RunRow


@dataclass(frozen=True)
class Command:
    """What to type; `exact`: with this bench and this bench.toml it gives the very id that is shown."""

    text: str
    exact: bool
    changes: tuple[str, ...] = ()
    """What `--set` changes in it beside what the run's record names."""


@dataclass
class Commands:
    """Finds commands for runs and evaluations; remembers what many of them share."""

    loaded: Loaded
    _loaded: dict[tuple[str, ...], Loaded | None] = field(default_factory=dict)
    _attacks: dict[tuple[Any, ...], tuple[tuple[str, ...], bool]] = field(default_factory=dict)

    def run(self, run: RunRow, spec: Mapping[str, Any]) -> Command:
        """The command that trains the run; `spec` is the stored `RunSpec` as JSON."""
        if run.plugin == OUTSIDE:
            return Command(of_run(vars(run)), False)
        made = self._spec(run)
        changes: tuple[str, ...] = ()
        if made is not None and made.run_id != run.run_id:
            more = tuple(_differences(made, spec))
            again = self._spec(run, more) if more else None
            if again is not None and again.run_id == run.run_id:
                made, changes = again, more
        exact = made is not None and made.run_id == run.run_id
        return Command(of_run(vars(run), changes=changes), exact, changes)

    def evaluation(self, run: RunRow, row: EvaluationRow, base: Command) -> Command:
        """The command that makes one white-box evaluation, given the one of its run."""
        key = (run.dataset, run.recipe, run.validation, row.attack, row.attack_key, row.image_limit, row.n)
        if key not in self._attacks:
            self._attacks[key] = self._attack(run, row)
        own, exact = self._attacks[key]
        changes = (*base.changes, *own)
        return Command(of_run(vars(run), changes=changes, **_asked(row)), base.exact and exact, changes)

    def _attack(self, run: RunRow, row: EvaluationRow) -> tuple[tuple[str, ...], bool]:
        """What to change so that today's configuration gives this evaluation, and whether it does then."""
        found = self._evaluation(run, row)
        changes = tuple(_attack_changes(row, found))
        if found is not None and found.attack_key != row.attack_key and changes:
            found = self._evaluation(run, row, changes)
        exact = found is not None and found.attack_key == row.attack_key
        return changes if exact else (), exact

    def _evaluation(self, run: RunRow, row: EvaluationRow, changes: tuple[str, ...] = ()) -> EvaluationSpec | None:
        loaded = self._config((*run.recipe_changes, *changes))
        spec = self._spec(run, changes)
        if loaded is None or spec is None:
            return None
        chosen = Selection(methods=(run.method,), dataset=run.dataset, recipe=run.recipe, **_asked(row))
        try:
            return select.evaluations(loaded, chosen, spec)[-1]
        except BenchError:
            return None

    def _spec(self, run: RunRow, changes: tuple[str, ...] = ()) -> RunSpec | None:
        loaded = self._config((*run.recipe_changes, *changes))
        if loaded is None:
            return None
        selection = Selection(dataset=run.dataset, recipe=run.recipe, model=run.model, members=run.members)
        try:
            return select.run_spec(loaded, selection, run.method, run.seed)
        except (BenchError, KeyError):  # a method, data set or plug-in that is not configured here
            return None

    def _config(self, changes: tuple[str, ...]) -> Loaded | None:
        if changes not in self._loaded:
            try:
                self._loaded[changes] = config.load(self.loaded.path, changes) if changes else self.loaded
            except BenchError:
                self._loaded[changes] = None
        return self._loaded[changes]


def _asked(row: EvaluationRow) -> dict[str, Any]:
    """The fields of a `Selection` that ask for one white-box evaluation."""
    return {"limit": row.image_limit, "split": row.split, **one_attack(row.attack, row.budget_name, row.budget)}


def _differences(made: RunSpec, stored: Mapping[str, Any]) -> list[str]:
    """`--set` changes that bring today's settings and training to the stored ones."""
    kept, training = (dict(_object(stored, name)) for name in ("settings", "training"))
    later = added_to(Training)
    return [
        *settings_changes("methods", made.method, made.plugin, made.settings, kept),
        *changed("training", later | made.training.model_dump(mode="json"), later | training),
        *([f"data.validation={stored.get('validation', 0)}"] if made.validation != stored.get("validation", 0) else []),
        *_kept_otherwise(made, stored),
    ]


def _kept_otherwise(made: RunSpec, stored: Mapping[str, Any]) -> list[str]:
    try:
        keep = KeepSpec.model_validate(stored["keep"]) if stored.get("keep") else None
    except ValidationError:  # of another version
        return []
    same = (made.keep and made.keep.content) == (keep and keep.content)
    return [] if same else monitors.changes(keep)


def _object(stored: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = stored.get(name)
    return value if isinstance(value, dict) else {}


def _attack_changes(row: EvaluationRow, found: EvaluationSpec | None) -> list[str]:
    if found is None or found.plugin != row.plugin:
        return []
    today, stored = ({"precision": each.precision, "targets": each.targets} for each in (found, row))
    return [
        *changed(f"attacks.{row.attack}", today, stored),
        *settings_changes("attacks", row.attack, found.plugin, found.settings, row.settings),
    ]
