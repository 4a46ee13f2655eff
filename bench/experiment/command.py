"""How a result is repeated: the command that makes it, quoted for a shell. Whoever prints such a command asks here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from bench.core import registry, settings
from bench.core.config import Loaded
from bench.core.precision import Precision
from bench.core.seeds import seeds_text
from bench.core.terms import BudgetName
from bench.experiment.names import unmarked
from bench.experiment.records import GivenRecord
from bench.experiment.select import Selection
from bench.experiment.spec import FACTORY, MEMORY, OUTSIDE, RunSpec

FIRST = Selection()  # what the options are when nothing is said


def words(selection: Selection, changes: Iterable[str] = (), precision: Precision | None = None) -> list[str]:
    """`bench run` of a selection, word by word; read again by the command line it is this selection.

    Args:
        changes: what `--set` changed, as it was typed.
        precision: that of `--precision`; None where it was not given.
    """
    said: dict[str, Any] = {
        "dataset": selection.dataset,
        "suite": selection.suite,
        "recipe": selection.recipe,
        "model": selection.model,
        "members": selection.members,
        "seeds": None if selection.seeds == FIRST.seeds else seeds_text(selection.seeds),
        "attack": ",".join(selection.attacks) or None,
        "eps": ",".join(map(repr, selection.eps)) or None,
        "c": ",".join(map(repr, selection.c)) or None,
        "limit": selection.limit,
        "split": None if selection.split == FIRST.split else selection.split,
        "precision": precision,
    }
    options = [
        *(("method", name) for name in selection.methods),
        *((name, value) for name, value in said.items() if value is not None),
        *(("set", change) for change in changes),
    ]
    return ["bench", "run", *(word for name, value in options for word in (f"--{name}", str(value)))]


def of_selection(loaded: Loaded, selection: Selection, *, suite: str | None = None) -> str:
    """The command that makes what a selection asks for; `suite` is the one to name where no attacks are.

    Where no method is selected it names one as an example.
    """
    named = replace(
        selection,
        methods=selection.methods or ("trs",),
        suite=None if selection.attacks else suite or selection.suite,
    )
    return shlex.join(words(named, loaded.changes, loaded.precision))


def of_run(
    told: Mapping[str, Any], *, changes: Iterable[str] = (), precision: Precision | None = None, **more: Any
) -> str:
    """The command that makes a run, by the names that a record or a row tells of it.

    What was trained elsewhere is not trained again: then the command makes its evaluations.

    Args:
        told: `method`, `dataset`, `seed`, `recipe` and `model`; `members` and `recipe_changes` where they are known.
        changes, precision: of its evaluations, as for `words`.
        more: further fields of the `Selection`, such as `attacks`.
    """
    names: dict[str, Any] = {name: told.get(name) for name in ("recipe", "model", "members")}
    own = tuple(told.get("recipe_changes") or ())
    if unmarked(told["recipe"]) == OUTSIDE:
        names, own = {}, ()
    selection = Selection(methods=(told["method"],), dataset=told["dataset"], seeds=(told["seed"],), **names, **more)
    return shlex.join(words(selection, (*own, *changes), precision))


def of_weights(
    run: RunSpec, fusion_weights: Sequence[float] | None = None, given: GivenRecord | None = None, *,
    asked: Selection | None = None, changes: Iterable[str] = (), precision: Precision | None = None,
) -> str:  # fmt: skip
    """The command that brings the weights of a run that was trained elsewhere, under the same id.

    Of networks in memory the call in Python.

    Args:
        fusion_weights: of its record.
        given: how the files were understood; without it they are for the reader to name.
        asked: what is measured on it: suite, attacks, budgets, test images; the data set's own suite unless said.
        changes, precision: of its evaluations, as for `words`.
    """
    if run.model_plugin == MEMORY:
        return f"bench.evaluate([…], name={run.method!r}, dataset={run.dataset!r}, seed={run.seed})"
    files = [file.name if file.name[0] != "-" else f"./{file.name}" for file in given.files] if given else []
    named = {"factory" if run.model_plugin == FACTORY else "model": run.model, "name": run.method}
    understood = [*named.items(), *_understood(run, fusion_weights, given)]
    options = [word for name, value in understood for word in (f"--{name}", *([] if value is None else [value]))]
    measured = replace(
        asked or FIRST, methods=(), dataset=run.dataset, seeds=FIRST.seeds, recipe=None, model=None, members=None,
        split=FIRST.split,
    )  # fmt: skip
    options += ["--seed", str(run.seed), *words(measured, changes, precision)[2:]]
    return f"bench evaluate {shlex.join(files) or 'FILE…'} {shlex.join(options)}"


def _understood(
    run: RunSpec, fusion_weights: Sequence[float] | None, given: GivenRecord | None
) -> Iterator[tuple[str, str | None]]:
    """The options of `bench evaluate` by which files are understood as they were, where its defaults may differ."""
    if given is not None:
        yield from (("prefix", prefix) for prefix in given.prefix)
        yield from (("map", renamed) for renamed in given.map)
        if given.by_order:
            yield "by-order", None
        if given.normalisation == ["given"]:
            yield "mean", _numbers(given.mean[0])
            yield "std", _numbers(given.std[0])
        elif given.normalisation != ["file"] and len(given.normalisation) == 1:
            usual = "none" if run.model_plugin == FACTORY else "dataset"
            if given.file_normalises or given.normalisation != [usual]:
                yield "normalisation", given.normalisation[0]
    if (rule := str(run.settings["fusion_rule"])) != "mean_probability":
        yield "fusion", rule
    if fusion_weights:
        yield "weights", _numbers(fusion_weights)
    if (activation := str(run.settings["member_activation"])) != "relu":
        yield "activation", activation


def _numbers(values: Iterable[float]) -> str:
    return ",".join(map(repr, values))


def attack_changes(loaded: Loaded, name: str, recorded: Mapping[str, Any]) -> list[str]:
    """`settings_changes` from what bench.toml says of an attack; none where it is not configured, or not of these."""
    spec = loaded.config.attacks.get(name)
    if spec is None:
        return []
    kind = registry.load("attacks", spec.plugin)
    today = settings.plain(settings.build(kind, spec.settings, f"attacks.{name}"))
    same = settings.completed(kind, today).keys() == settings.completed(kind, recorded).keys()
    return settings_changes("attacks", name, spec.plugin, today, recorded) if same else []


def settings_changes(
    kind: str, name: str, plugin: str, today: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
    """`--set` changes that bring today's settings of a configured plug-in to those of a record.

    Args:
        kind, name: its table in bench.toml: `methods`, `trs`.
    """
    found = registry.load(kind, plugin)
    return changed(f"{kind}.{name}", settings.completed(found, today), settings.completed(found, wanted))


def changed(where: str, today: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """`--set` changes that make the values of the table `where` those that are wanted."""
    return [f"{where}.{name}={_value(value)}" for name, value in wanted.items() if today.get(name) != value]


def _value(value: Any) -> str:
    """A value as `--set` reads it."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_value(item)}' for key, item in value.items())} }}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)


def one_attack(name: str, budget_name: str | None, budget: float | None) -> dict[str, Any]:
    """The fields of a `Selection` that ask for one attack, at one budget where it has one."""
    fields: dict[str, Any] = {"attacks": (name,)}
    if budget_name in get_args(BudgetName):
        fields[str(budget_name)] = (budget,)
    return fields
