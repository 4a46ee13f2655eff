"""The command that makes a result again, checked: today's configuration must give it the same id."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from bench.core import config
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.specs import Training, added_to
from bench.core.terms import Split
from bench.experiment import monitors, select
from bench.experiment.command import FIRST, changed, of_run, one_attack, settings_changes, words
from bench.experiment.select import Selection
from bench.experiment.spec import OUTSIDE, EvaluationSpec, KeepSpec, RunSpec
from bench.store.typed_rows import EvaluationRow, RunRow

MEASURED_BY = ("suite", "attacks", "eps", "c", "limit", "split")
"""The fields of a `Selection` that say what is measured, and on which images."""


@dataclass(frozen=True)
class Command:
    """What to type; `exact`: with this bench and this bench.toml it gives the very id that is shown."""

    text: str
    exact: bool
    changes: tuple[str, ...] = ()
    """What `--set` changes in it beside what the run's record names."""


@dataclass(frozen=True)
class Request:
    """What a command says of what is to be measured: suite or attacks, budgets and images, and what `--set` changes."""

    selection: Selection
    changes: tuple[str, ...] = ()

    @property
    def options(self) -> str:
        """`--attack pgd --eps 0.01 --limit 20`: without what says of which runs."""
        own = replace(FIRST, **{name: getattr(self.selection, name) for name in MEASURED_BY})
        return shlex.join(words(own, self.changes)[4:])  # after bench run --dataset NAME


def asked_for(loaded: Loaded, base: Selection, run: RunSpec, rows: Iterable[EvaluationRow]) -> list[Request]:
    """What has to be asked for to get these evaluations of a run: whole suites, then attacks, then parts of suites.

    Clean accuracy comes with any of them. What no selector asks for (audits, images of others) is left out, and so is
    what today's configuration and versions cannot make.

    Args:
        base: of which runs.
    """
    groups: dict[tuple[int | None, Split], dict[str, EvaluationRow]] = {}
    for row in rows:
        groups.setdefault((row.image_limit, row.split), {})[row.attack_key] = row
    found: list[Request] = []
    for (limit, split), of_group in groups.items():
        kept = {"eps": (), "c": (), "attacks": (), "suite": None, "limit": limit, "split": split}
        chosen = replace(base, **kept)  # type: ignore[arg-type]
        if limit is None and split == "test":
            chosen = replace(chosen, limit=_all_images(loaded, chosen))
        found += _asked_of(loaded, chosen, run, of_group)
    return found


def _all_images(loaded: Loaded, selection: Selection) -> int | None:
    """`--limit` that stands for all test images: the number of them where the recipe would take fewer."""
    size: int | None = loaded.dataset(selection.dataset).test_images
    return None if select.test_limit(loaded, selection) is None else size


def _asked_of(loaded: Loaded, chosen: Selection, run: RunSpec, rows: Mapping[str, EvaluationRow]) -> Iterator[Request]:
    """`asked_for` of evaluations on the same images, by attack key."""
    left = {key: row for key, row in rows.items() if row.kind != "clean"}
    suites = {name: keys for name in loaded.config.suites if (keys := _keys(loaded, replace(chosen, suite=name), run))}
    by_size = sorted(suites, key=lambda name: -len(suites[name]))
    for name in by_size:
        if suites[name] <= rows.keys() and suites[name] & left.keys():
            yield Request(replace(chosen, suite=name))
            left = {key: row for key, row in left.items() if key not in suites[name]}
    alike: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in sorted(left.values(), key=lambda row: (row.attack, row.budget or 0)):
        if (
            row.kind == "attack"
            and row.budget is not None
            and (changes := _changes(loaded, chosen, run, row)) is not None
        ):
            alike.setdefault((changes, row.budget_name), {}).setdefault(row.attack, []).append(row.budget)
    for (changes, budget_name), budgets in alike.items():
        together: dict[Any, list[str]] = {}
        for attack, values in budgets.items():
            together.setdefault(tuple(values), []).append(attack)
        for radii, attacks in together.items():
            yield Request(replace(chosen, attacks=tuple(attacks), **{budget_name: radii}), changes)
    for name in reversed(by_size):
        if any(row.kind != "attack" and key in suites[name] for key, row in left.items()):
            yield Request(replace(chosen, suite=name))
            left = {key: row for key, row in left.items() if key not in suites[name]}


def _keys(loaded: Loaded, selection: Selection, run: RunSpec) -> set[str]:
    """The attack keys of what a selection asks for; none where it does not fit the data set."""
    try:
        return {spec.attack_key for spec in select.evaluations(loaded, selection, run)}
    except BenchError:
        return set()


def _changes(loaded: Loaded, chosen: Selection, run: RunSpec, row: EvaluationRow) -> tuple[str, ...] | None:
    """`_needed` for a run that is given."""

    def asked(changes: tuple[str, ...]) -> EvaluationSpec | None:
        selection = replace(chosen, **one_attack(row.attack, row.budget_name, row.budget))
        try:
            changed = loaded
            if changes:
                changed = config.load(loaded.path, (*loaded.changes, *changes)).with_outside(_specs(loaded))
            return select.evaluations(changed, selection, run)[-1]
        except BenchError:
            return None

    return _needed(row, asked)


def _needed(row: EvaluationRow, asked: Callable[[tuple[str, ...]], EvaluationSpec | None]) -> tuple[str, ...] | None:
    """What to change so that today's configuration gives an evaluation of an attack; None where nothing does.

    Args:
        asked: what asking for it gives under changes; None where that cannot be asked.
    """
    changes: tuple[str, ...] = ()
    found = asked(changes)
    if found is not None and found.attack_key != row.attack_key:
        changes = tuple(_attack_changes(row, found))
        found = asked(changes) if changes else None
    return changes if found is not None and found.attack_key == row.attack_key else None


def _specs(loaded: Loaded) -> list[dict[str, Any]]:
    """The ensembles trained elsewhere that a configuration knows."""
    return [spec for seeds in loaded.outside.values() for spec in seeds.values()]


@dataclass
class Commands:
    """Finds commands for runs and evaluations; remembers what many of them share."""

    loaded: Loaded
    _loaded: dict[tuple[str, ...], Loaded | None] = field(default_factory=dict)
    _attacks: dict[tuple[Any, ...], tuple[tuple[str, ...], bool]] = field(default_factory=dict)

    def run(self, run: RunRow, spec: Mapping[str, Any], rows: Iterable[EvaluationRow] = ()) -> Command:
        """The command that trains the run; of what was trained elsewhere those that make its evaluations.

        Args:
            spec: the stored `RunSpec` as JSON.
            rows: its evaluations.
        """
        made = self._spec(run)
        if run.plugin == OUTSIDE:
            known = made is not None and made.run_id == run.run_id
            base = Selection(methods=(run.method,), dataset=run.dataset, seeds=(run.seed,))
            asked = asked_for(self.loaded, base, made, rows) if made is not None and known else []
            found = [shlex.join(words(each.selection, each.changes)) for each in asked]
            return Command(" && ".join(found) or of_run(vars(run)), known)
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
        changes = _needed(row, lambda more: self._evaluation(run, row, more))
        return changes or (), changes is not None

    def _evaluation(self, run: RunRow, row: EvaluationRow, changes: tuple[str, ...] = ()) -> EvaluationSpec | None:
        loaded = self._config((*run.recipe_changes, *changes))
        spec = self._spec(run, changes)
        if loaded is None or spec is None:
            return None
        recipe = None if run.plugin == OUTSIDE else run.recipe
        chosen = Selection(methods=(run.method,), dataset=run.dataset, recipe=recipe, **_asked(row))
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
                changed = config.load(self.loaded.path, changes) if changes else self.loaded
                self._loaded[changes] = changed.with_outside(_specs(self.loaded)) if changes else changed
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


def _attack_changes(row: EvaluationRow, found: EvaluationSpec) -> list[str]:
    if found.plugin != row.plugin:
        return []
    today, stored = ({"precision": each.precision, "targets": each.targets} for each in (found, row))
    return [
        *changed(f"attacks.{row.attack}", today, stored),
        *settings_changes("attacks", row.attack, found.plugin, found.settings, row.settings),
    ]
