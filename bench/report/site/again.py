"""The command that makes a result again, checked: today's configuration must give it the same id."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.core import config, registry, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.specs import Training, added_to
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import OUTSIDE, EvaluationSpec, RunSpec
from bench.store.typed_rows import EvaluationRow, RunRow


@dataclass(frozen=True)
class Command:
    """What to type; `exact`: with this bench and this bench.toml it gives the very id that is shown."""

    text: str
    exact: bool


@dataclass
class Commands:
    """Finds commands for runs and evaluations; remembers what many of them share."""

    loaded: Loaded
    _loaded: dict[tuple[str, ...], Loaded | None] = field(default_factory=dict)
    _attacks: dict[tuple[Any, ...], tuple[list[str], bool]] = field(default_factory=dict)

    def run(self, run: RunRow, spec: Mapping[str, Any]) -> Command:
        """The command that trains the run; `spec` is the stored `RunSpec` as JSON."""
        parts = _selectors(run)
        changes = list(run.recipe_changes)
        if run.plugin == OUTSIDE:  # its evaluations: the training is not ours to repeat
            return Command(shlex.join(parts), False)
        made = self._spec(run, changes)
        if made is not None and made.run_id != run.run_id:
            more = changes + _differences(made, spec)
            again = self._spec(run, more) if len(more) > len(changes) else None
            if again is not None and again.run_id == run.run_id:
                made, changes = again, more
        return Command(_join(parts, changes), made is not None and made.run_id == run.run_id)

    def run_of(self, run: RunRow) -> str:
        """The command that goes on with the run, as its record names it."""
        return _join(_selectors(run), [] if run.plugin == OUTSIDE else list(run.recipe_changes))

    def evaluation(self, run: RunRow, row: EvaluationRow, base: Command) -> Command:
        """The command that makes one white-box evaluation, given the one of its run."""
        key = (run.dataset, run.recipe, run.validation, row.attack, row.attack_key, row.image_limit, row.n)
        if key not in self._attacks:
            self._attacks[key] = self._attack(run, row)
        parts, exact = self._attacks[key]
        return Command(f"{base.text} {shlex.join(parts)}", base.exact and exact)

    def _attack(self, run: RunRow, row: EvaluationRow) -> tuple[list[str], bool]:
        parts = ["--attack", row.attack, f"--{row.budget_name}", f"{row.budget!r}"]
        if row.image_limit is not None:
            parts += ["--limit", str(row.image_limit)]
        tail = [] if row.split == "test" else ["--split", row.split]
        found = self._evaluation(run, row, [])
        changes = _attack_changes(row, found)
        if found is not None and found.attack_key != row.attack_key and changes:
            found = self._evaluation(run, row, changes)
        if found is not None and found.attack_key == row.attack_key:
            return [*parts, *tail, *(word for change in changes for word in ("--set", change))], True
        return [*parts, *tail], False

    def _evaluation(self, run: RunRow, row: EvaluationRow, changes: list[str]) -> EvaluationSpec | None:
        loaded = self._config((*run.recipe_changes, *changes))
        spec = self._spec(run, [*run.recipe_changes, *changes])
        if loaded is None or spec is None:
            return None
        budget = () if row.budget is None else (row.budget,)
        eps, c = (budget if row.budget_name == name else () for name in ("eps", "c"))
        chosen = Selection(
            methods=(run.method,), dataset=run.dataset, recipe=run.recipe, limit=row.image_limit,
            attacks=(row.attack,), eps=eps, c=c, split=row.split,
        )  # fmt: skip
        try:
            return select.evaluations(loaded, chosen, spec)[-1]
        except BenchError:
            return None

    def _spec(self, run: RunRow, changes: list[str]) -> RunSpec | None:
        loaded = self._config(tuple(changes))
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


def _selectors(run: RunRow) -> list[str]:
    parts = ["bench", "run", "--method", run.method, "--dataset", run.dataset, "--seeds", str(run.seed)]
    if run.plugin == OUTSIDE:
        return parts
    return [*parts, "--recipe", run.recipe, "--model", run.model, "--members", str(run.members)]


def _join(parts: list[str], changes: list[str]) -> str:
    return shlex.join([*parts, *(word for change in changes for word in ("--set", change))])


def _differences(made: RunSpec, stored: Mapping[str, Any]) -> list[str]:
    """`--set` changes that bring today's settings and training to the stored ones."""
    plugin = registry.load("methods", made.plugin)
    kept, training = (dict(_object(stored, name)) for name in ("settings", "training"))
    later = added_to(Training)
    return [
        *_changed(
            f"methods.{made.method}", settings.completed(plugin, made.settings), settings.completed(plugin, kept)
        ),
        *_changed("training", later | made.training.model_dump(mode="json"), later | training),
        *([f"data.validation={stored.get('validation', 0)}"] if made.validation != stored.get("validation", 0) else []),
    ]


def _object(stored: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = stored.get(name)
    return value if isinstance(value, dict) else {}


def _attack_changes(row: EvaluationRow, found: EvaluationSpec | None) -> list[str]:
    if found is None or found.plugin != row.plugin:
        return []
    plugin = registry.load("attacks", found.plugin)
    today = {"precision": found.precision, "targets": found.targets, **settings.completed(plugin, found.settings)}
    stored = {"precision": row.precision, "targets": row.targets, **settings.completed(plugin, row.settings)}
    return _changed(f"attacks.{row.attack}", today, stored)


def _changed(where: str, today: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    return [f"{where}.{name}={_value(value)}" for name, value in stored.items() if today.get(name) != value]


def _value(value: Any) -> str:
    """A value as `--set` reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'
