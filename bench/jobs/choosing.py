"""What is asked for, by a command or from Python: selectors, read together with the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.core.errors import BenchError, unknown_name

if TYPE_CHECKING:
    from bench.core.config import Loaded
    from bench.experiment.select import Selection


@dataclass(frozen=True)
class Chosen:
    """The selectors of a command, read together with the configuration."""

    loaded: Loaded
    selection: Selection
    seeds: tuple[int, ...] | None
    """The seeds that were asked for; None when nothing was said."""

    refused: tuple[str, ...] = ()
    """Methods that were named, cannot be used and are left out; said on stderr."""


def choose(
    *,
    outside: Sequence[dict[str, Any]] = (),
    warn: Callable[[str], object] = str,
    needs_method: bool = False,
    suite: str | None = None,
    **given: Any,
) -> Chosen:
    """Turn selector options into a configuration and a selection.

    Args:
        outside: the ensembles trained elsewhere that may be named, as `queries.configs` gives them.
        warn: takes a line for each method that is left out.
        given: the selectors, by their names on the command line.

    Raises:
        BenchError: names that are unknown, or options that do not go together.
    """
    from bench.core import config
    from bench.experiment.select import Selection, method_names, suite_name, test_limit

    loaded = config.load(changes=given["changes"]).with_outside(outside)
    loaded = loaded.with_precision(given["precision"])
    suite = suite or given.get("suite")
    dataset = given["dataset"]
    if dataset is None:
        of_suite = loaded.config.suites[suite].datasets if suite in loaded.config.suites else ()
        dataset = of_suite[0] if of_suite else "digits"
    if dataset not in loaded.config.datasets:
        raise unknown_name("data set", dataset, loaded.config.datasets)
    if needs_method and not given["methods"]:
        raise BenchError(f"name a method, e.g. --method trs; there are: {', '.join(loaded.config.methods)}, paper, all")
    method_names(loaded, given["methods"])
    attacks, eps, c = given["attack"], given["eps"], given["c"]
    _check_attacks(loaded, suite, attacks, eps=eps, c=c)
    selection = Selection(
        methods=tuple(given["methods"]),
        dataset=dataset,
        suite=suite,
        recipe=given["recipe"],
        model=given["model"],
        members=given["members"],
        seeds=given["seeds"] or (0,),
        limit=given["limit"],
        attacks=attacks,
        eps=eps,
        c=c,
        split=given["split"],
    )
    test_limit(loaded, selection)
    if not attacks:
        suite_name(loaded, selection)  # a wrong name is reported before anything is opened
    methods, refused = _usable(loaded, selection, warn)
    return Chosen(loaded, replace(selection, methods=methods), given["seeds"], refused)


def _check_attacks(loaded: Loaded, suite: str | None, attacks: tuple[str, ...], **budgets: tuple[float, ...]) -> None:
    """Attacks of one's own choice exist, and each kind of budget that was given is one of theirs.

    Raises:
        BenchError: they are not, or a suite is named too.
    """
    from bench.core import registry
    from bench.experiment.select import check_radii

    if not attacks:
        if any(budgets.values()):
            raise BenchError("--eps and --c go with --attack")
        return
    if suite is not None:
        raise BenchError("--attack runs attacks instead of a suite; leave one of --attack and --suite out")
    for name in attacks:
        if name not in loaded.config.attacks:
            raise unknown_name("attack", name, loaded.config.attacks)
    plugins = {name: registry.load("attacks", loaded.config.attacks[name].plugin) for name in attacks}
    for kind, values in budgets.items():
        if values and all(plugin.budget_name != kind for plugin in plugins.values()):
            of = plugins[attacks[0]].budget_name
            raise BenchError(f"the budget of {' and '.join(attacks)} is {of}: give --{of}")
    for name, plugin in plugins.items():
        check_radii(name, plugin.norm, budgets["eps"])


def _usable(
    loaded: Loaded, selection: Selection, warn: Callable[[str], object]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The methods to go on with, and those named that cannot be: a broken plug-in must not keep the others waiting.

    Only plug-ins of other packages are left out; one alone, or one that the command line gave a setting, is left as
    it is, for the command to refuse.
    """
    from bench.core import registry
    from bench.experiment.select import Selection, method_names, run_spec

    names = method_names(loaded, selection.methods)
    entries = registry.entries("methods")
    faults = {}
    bare = Selection(dataset=selection.dataset, recipe=selection.recipe, model=selection.model)
    for name in names:
        spec = loaded.config.methods[name]
        changed = any(change.strip().startswith(f"methods.{name}.") for change in loaded.changes)
        if spec.plugin not in entries or entries[spec.plugin].origin == registry.BUILT_IN or changed:
            continue
        try:
            run_spec(loaded, bare, name, 0)
        except BenchError as error:
            faults[name] = str(error)
    left = tuple(name for name in names if not faults.get(name))
    if not left or len(left) == len(names):
        return selection.methods, ()
    for name in names:
        if faults.get(name):
            warn(f"{name} is left out: {faults[name]}")
    return left, tuple(name for name in selection.methods if faults.get(name))
