"""From selectors (`--method trs --dataset cifar10 --seeds 0-2 …`) to complete specs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from bench.core import registry, settings, versions
from bench.core.config import Loaded
from bench.core.errors import BenchError, unknown_name
from bench.core.numbers import MEMBERS, beyond_pixels, shown
from bench.core.precision import possible
from bench.core.seeds import SURROGATE_SEEDS
from bench.core.specs import RecipeSpec, trained_and_watched
from bench.core.terms import Split, Stop
from bench.experiment import monitors
from bench.experiment.spec import OUTSIDE, EvaluationSpec, RunSpec


@dataclass(frozen=True)
class Selection:
    """What the selectors of a command said; None and empty mean: not said."""

    methods: tuple[str, ...] = ()
    dataset: str = "digits"
    suite: str | None = None
    recipe: str | None = None
    model: str | None = None
    members: int | None = None
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    attacks: tuple[str, ...] = ()
    eps: tuple[float, ...] = ()
    c: tuple[float, ...] = ()
    split: Split = "test"

    def budgets(self, name: str) -> tuple[float, ...] | None:
        """The budgets of this name (`eps` or `c`) that were said; None where none was."""
        return {"eps": self.eps, "c": self.c}.get(name) or None


def method_names(loaded: Loaded, wanted: tuple[str, ...]) -> list[str]:
    """Configured methods for the names given; `paper` stands for the columns of Table 1, `all` for everything."""
    methods = loaded.config.methods
    names: list[str] = []
    for name in wanted:
        if name == "all":
            names += methods
        elif name == "paper":
            names += [key for key, method in methods.items() if method.paper]
        elif name in methods:
            names.append(name)
        else:
            raise unknown_name("method", name, [*methods, "paper", "all"])
    return list(dict.fromkeys(names))


def runs(loaded: Loaded, selection: Selection) -> list[RunSpec]:
    """The runs of a selection: methods × seeds.

    Raises:
        BenchError: an unknown name or a setting that does not fit.
    """
    return [
        run_spec(loaded, selection, method, seed)
        for method in method_names(loaded, selection.methods)
        for seed in selection.seeds
    ]


def run_spec(
    loaded: Loaded, selection: Selection, method: str, seed: int, *, required_by: tuple[str, ...] = ()
) -> RunSpec:
    """One configured method on one data set under one recipe, complete with every default.

    `required_by`: the methods that it is a prerequisite of, if any; then the number of members that its recipe gives
    it stays, whatever the selection says.

    Raises:
        BenchError: an unknown name, a setting that does not fit, or a method that requires itself.
    """
    config = loaded.config
    if method in required_by:
        raise BenchError(f"{method} requires itself: {' → '.join((*required_by, method))}")
    if method not in config.methods:
        told = f"methods.{required_by[-1]} requires another: " if required_by else ""
        raise BenchError(f"{told}{unknown_name('method', method, config.methods)}")
    if selection.dataset not in config.datasets:
        raise unknown_name("data set", selection.dataset, config.datasets)
    if (method, selection.dataset) in loaded.outside or config.methods[method].plugin == OUTSIDE:
        return _outside(loaded, selection, method, seed)
    dataset = config.datasets[selection.dataset]
    name = recipe_name(loaded, selection.recipe, selection.dataset)
    recipe, chain = resolved_recipe(loaded, name, selection.dataset)
    spec = config.methods[method]
    plugin = registry.load("methods", spec.plugin)
    model = selection.model or recipe.model
    if model is None:
        raise BenchError(f"recipe {name!r} names no model for {selection.dataset}; give --model")
    model_plugin, model_settings, model_version = model_spec(loaded, model)
    own = {key: value for step in chain for key, value in step.methods.get(method, {}).items()}
    fixed = own.pop("members", None)
    members = (None if required_by and fixed else selection.members) or fixed or recipe.members or 3
    fits = type(members) is int and 1 <= members <= MEMBERS
    instance = settings.build(plugin, spec.settings_on(selection.dataset, members if fits else 1), f"methods.{method}")
    if not fits or members < instance.minimum_members:
        least = instance.minimum_members
        raise BenchError(f"{method} needs at least {least} members, at most {MEMBERS:,}, not {shown(members)}")
    table = {**recipe.training, **own, **loaded.training}
    try:
        training, watching = trained_and_watched(table)
    except ValidationError as error:
        raise BenchError(f"training of {method} on {selection.dataset}: {settings.explain(error)}") from error
    made = loaded.dataset(selection.dataset)
    validation = held_out(loaded, recipe)
    monitor, keep = monitors.watched(loaded, watching, selection.dataset, validation)
    return RunSpec(
        method=method,
        plugin=spec.plugin,
        settings=settings.plain(instance),
        dataset=selection.dataset,
        dataset_plugin=dataset.plugin,
        dataset_settings=settings.plain(made),
        model=model,
        model_plugin=model_plugin,
        model_settings=model_settings,
        members=members,
        recipe=name,
        recipe_changes=changes_of(loaded, method, model, selection.dataset, kept=keep is not None),
        training=training,
        validation=validation,
        seed=seed,
        versions={
            "method": plugin.version,
            "model": model_version,
            "dataset": made.version,
            "trainer": versions.TRAINER,
            **instance.part_versions,
            **monitors.versions_of(keep),
        },
        monitor=monitor,
        keep=keep,
        requires={
            name: run_spec(loaded, selection, name, seed, required_by=(*required_by, method))
            for name in instance.prerequisites()
        },
    )


def _outside(loaded: Loaded, selection: Selection, name: str, seed: int) -> RunSpec:
    """The spec that was stored with weights from elsewhere; for a seed without any, one that cannot be trained."""
    seeds = loaded.outside.get((name, selection.dataset))
    if not seeds:
        places = ", ".join(dataset for other, dataset in loaded.outside if other == name) or "no data set"
        raise BenchError(f"{name} was trained elsewhere and is known on {places}, not on {selection.dataset}")
    try:
        spec = RunSpec.model_validate(seeds[seed] if seed in seeds else next(iter(seeds.values())))
    except ValidationError as error:
        raise BenchError(
            f"what the database says of {name}, trained elsewhere, is damaged ({error.errors()[0]['msg']}); "
            "`bench db rebuild` takes it from its files again"
        ) from error
    if selection.model not in (None, spec.model) or selection.members not in (None, spec.members):
        raise BenchError(
            f"{name} was trained elsewhere and is {spec.members} × {spec.model}; leave --model and --members out"
        )
    return spec if seed in seeds else spec.model_copy(update={"seed": seed, "weights": None})


def recipe_name(loaded: Loaded, name: str | None, dataset: str) -> str:
    """The recipe that a name or alias means on a data set; for None the one that is its default.

    `[datasets.NAME]` says which that is. Where it says none it is `published`, the default of every data set of older
    files, or else the only recipe that there is.

    Raises:
        BenchError: there is none, or no one of several is the default.
    """
    recipes, there = loaded.config.recipes, loaded.config.recipes_of(dataset)
    if name is None:
        old = "published" if loaded.config.recipe_of("published", dataset) in there else None
        name = loaded.config.datasets[dataset].recipe or old or (there[0] if len(there) == 1 else None)
    if name is None:
        if not there:
            raise BenchError(f"no recipe says anything about {dataset}; add [recipes.NAME.{dataset}] to bench.toml")
        told = f"there are {', '.join(there)}; give --recipe, or add recipe = … to [datasets.{dataset}]"
        raise BenchError(f"no recipe of {dataset} is its default: {told}")
    meant = loaded.config.recipe_of(name, dataset)
    if meant not in recipes:
        aliases = [alias for of, alias in loaded.config.aliases if of == dataset]
        raise unknown_name("recipe", name, dict.fromkeys([*recipes, *aliases]))
    if meant not in there:
        raise BenchError(f"recipe {name!r} says nothing about {dataset}; recipes that do: {', '.join(there) or 'none'}")
    return meant


def resolved_recipe(loaded: Loaded, name: str | None, dataset: str) -> tuple[RecipeSpec, list[RecipeSpec]]:
    """The recipe for a data set with what it extends merged in, and the chain it was merged from (base first).

    Raises:
        BenchError: as `recipe_name`, or it extends itself.
    """
    recipes = loaded.config.recipes
    places = [(recipe_name(loaded, name, dataset), dataset)]
    chain = [recipes[places[0][0]][dataset]]
    while (base := loaded.config.extended(places[0][0], chain[0])) is not None:
        if base in places:
            raise BenchError(f"recipe {places[-1][0]!r}: {base[1]} extends itself")
        places.insert(0, base)
        chain.insert(0, recipes[base[0]][base[1]])
    merged: dict[str, Any] = {"training": {}}
    for step in chain:
        merged["model"] = step.model or merged.get("model")
        merged["members"] = step.members or merged.get("members")
        merged["test_limit"] = step.test_limit or merged.get("test_limit")
        merged["validation"] = merged.get("validation") if step.validation is None else step.validation
        merged["training"].update(step.training)
    return RecipeSpec.model_validate(merged), chain


def model_spec(loaded: Loaded, name: str) -> tuple[str, dict[str, Any], int]:
    """Plug-in, complete settings and version of a configured model, or of `timm/NAME`."""
    if name.startswith("timm/"):
        plugin, raw = "timm", {"name": name.removeprefix("timm/")}
    elif name in loaded.config.models:
        spec = loaded.config.models[name]
        plugin, raw = spec.plugin, spec.settings
    else:
        raise unknown_name("model", name, [*loaded.config.models, "timm/resnet18"])
    cls = registry.load("models", plugin)
    return plugin, settings.plain(settings.build(cls, raw, f"models.{name}")), cls.version


def held_out(loaded: Loaded, recipe: RecipeSpec) -> int:
    """How many training images are held out: as `--set data.validation` says, else the recipe."""
    validation: int = loaded.data.get("validation", recipe.validation or 0)
    return validation


def changes_of(loaded: Loaded, method: str, model: str, dataset: str, *, kept: bool = False) -> tuple[str, ...]:
    """What the command line changed in what decides a run; stored with it and named wherever it is shown.

    By what a training is watched decides nothing, unless an epoch is `kept` by it.
    """
    spec = loaded.config.methods.get(method)
    own = [f"methods.{name}." for name in (method, spec.on if spec else None) if name]
    touched = ("training.", "data.", "recipes.", *own, f"models.{model}.", f"datasets.{dataset}.")
    return tuple(
        change for change in loaded.changes if change.strip().startswith(touched) and (kept or not _watches(change))
    )


def _watches(change: str) -> bool:
    table, *_, name = change.partition("=")[0].strip().split(".")
    return table in ("training", "recipes") and name in ("monitor", "monitor_every")


def test_limit(loaded: Loaded, selection: Selection) -> int | None:
    """How many test images are used: `--limit`, else the recipe's own number; None for all of them."""
    limit = selection.limit
    if selection.split == "validation":
        _check_validation(loaded, selection)
        return None
    if limit is None:
        limit = resolved_recipe(loaded, selection.recipe, selection.dataset)[0].test_limit
    size = loaded.dataset(selection.dataset).test_images
    if limit is not None and size is not None and limit > size:
        raise BenchError(f"{selection.dataset} has {size:,} test images; --limit {limit} is more")
    return None if limit == size else limit


def _check_validation(loaded: Loaded, selection: Selection) -> None:
    """Held-out images are few and are all used.

    Raises:
        BenchError: none are held out, or a limit is given all the same.
    """
    if not held_out(loaded, resolved_recipe(loaded, selection.recipe, selection.dataset)[0]):
        raise BenchError("--split validation needs images held out, e.g. --set data.validation=200")
    if selection.limit is not None:
        raise BenchError("--limit is for test images; with --split validation all held-out images are used")


def suite_name(loaded: Loaded, selection: Selection) -> str:
    """The suite of a selection: the one named, or the data set's own.

    A suite `table1` or `figure3` without a data set stands for the one of this data set.
    """
    config = loaded.config
    name = selection.suite or config.datasets[selection.dataset].suite
    if name not in config.suites and f"{name}-{selection.dataset}" in config.suites:
        name = f"{name}-{selection.dataset}"
    if name not in config.suites:
        raise unknown_name("suite", name, config.suites)
    allowed = config.suites[name].datasets
    if allowed and selection.dataset not in allowed:
        raise BenchError(f"suite {name} is for {', '.join(allowed)}, not {selection.dataset}")
    return name


def evaluations(loaded: Loaded, selection: Selection, run: RunSpec) -> list[EvaluationSpec]:
    """The evaluations of one run: clean accuracy first, then the suite's rows and the matrix, or the attacks named.

    An attack that is named has each of the budgets of its kind that are said, or those of `bench.toml`.

    Raises:
        BenchError: an unknown suite or attack, no budget for the data set, or a setting that does not fit.
    """
    clean = EvaluationSpec.of_clean(run, limit=test_limit(loaded, selection), split=selection.split)
    if selection.attacks:
        return [clean, *(row for name in selection.attacks for row in attack_rows(loaded, selection, run, name, None))]
    name = suite_name(loaded, selection)
    suite = loaded.config.suites[name]
    rows = [clean]
    for attack, budgets in suite_attacks(loaded, name, selection.dataset):
        rows += attack_rows(loaded, selection, run, attack, budgets)
    if suite.blackbox:
        names = suite.blackbox if isinstance(suite.blackbox, tuple) else loaded.blackbox.attacks
        rows += blackbox_rows(loaded, selection, run, names)
    if suite.certify:
        rows += certify_rows(loaded, selection, run)
    if suite.matrix and run.members > 1:
        rows.append(matrix_row(loaded, selection, run, targeted=suite.matrix == "targeted"))
    return rows


def suite_attacks(loaded: Loaded, suite: str, dataset: str) -> list[tuple[str, tuple[float, ...] | None]]:
    """The attacks of a suite, each with its budgets on a data set; None where those of `[attacks]` are meant.

    A suite that gives budgets of its own by data set gives them for every data set that it is used on: others are
    never put in their place.

    Raises:
        BenchError: it gives some, but none for this data set.
    """
    found: list[tuple[str, tuple[float, ...] | None]] = []
    for row in loaded.config.suites[suite].attacks:
        if isinstance(row, str):
            found.append((row, None))
        elif not isinstance(row.budgets, dict):
            found.append((row.attack, row.budgets))
        elif dataset in row.budgets:
            found.append((row.attack, row.budgets[dataset]))
        else:
            raise BenchError(
                f"the suite {suite} gives no budgets of {row.attack} on {dataset}; it has some for "
                f"{', '.join(sorted(row.budgets))}"
            )
    return found


def attack_rows(
    loaded: Loaded, selection: Selection, run: RunSpec, name: str, budgets: tuple[float, ...] | None
) -> list[EvaluationSpec]:
    """One evaluation a budget; when none are given those of the selection, or of `bench.toml` for the data set."""
    attacks = loaded.config.attacks
    if name not in attacks:
        raise unknown_name("attack", name, attacks)
    spec = attacks[name]
    plugin = registry.load("attacks", spec.plugin)
    if budgets is None:
        budgets = selection.budgets(plugin.budget_name) or spec.budgets.get(selection.dataset)
        if budgets is None:
            raise BenchError(
                f"bench.toml gives no budget for {name} on {selection.dataset}; add "
                f"attacks.{name}.budgets.{selection.dataset}, or give one with --eps or --c"
            )
    instance = settings.build(plugin, spec.settings, f"attacks.{name}")
    check_radii(name, plugin.norm, budgets)
    drawn = draws_a_member(run)
    stop: Stop = "last" if drawn else "first_success"
    limit = test_limit(loaded, selection)
    asked = spec.asked() | {"precision": possible(spec.precision, "first_success", asks_members=plugin.asks_members)}
    return [
        EvaluationSpec(
            kind="attack",
            run=run,
            attack=name,
            plugin=spec.plugin,
            settings=settings.plain(instance),
            budget_name=plugin.budget_name,
            budget=budget,
            stop=stop,
            limit=limit,
            split=selection.split,
            **asked,
            versions={"attack": plugin.version_on(drawn), "evaluator": versions.EVALUATOR},
        )
        for budget in budgets
    ]


def check_radii(attack: str, norm: str | None, radii: Iterable[float]) -> None:
    """Raises BenchError where a radius of an attack in this norm is larger than images are."""
    for radius in radii:
        if fault := beyond_pixels(norm, radius):
            raise BenchError(f"{attack}: {fault}")


def draws_a_member(run: RunSpec) -> bool:
    """Whether an ensemble draws a member for each prediction: an image of it is broken more or less, not once."""
    if run.plugin == OUTSIDE:
        rule = run.settings.get("fusion_rule")
    else:
        plugin = registry.load("methods", run.plugin) if run.plugin else None
        rule = plugin and settings.build(plugin, run.settings, f"methods.{run.method}").fusion
    return rule in registry.entries("fusions") and registry.load("fusions", str(rule)).draws_a_member


def blackbox_rows(loaded: Loaded, selection: Selection, run: RunSpec, names: tuple[str, ...]) -> list[EvaluationSpec]:
    """The black-box suite of `[blackbox]`: one evaluation a budget, on the images of all surrogates.

    Surrogates do not depend on the victim or its seed, so that all victims of a data set, model and recipe share them.

    Raises:
        BenchError: nothing is configured, no budget for the data set, or the run itself could be a surrogate.
    """
    spec = loaded.blackbox
    budgets = spec.budgets.get(selection.dataset)
    if budgets is None:
        raise BenchError(
            f"bench.toml gives no black-box budget for {selection.dataset}; add blackbox.budgets.{selection.dataset}"
        )
    if run.seed >= SURROGATE_SEEDS:
        raise BenchError(f"seeds from {SURROGATE_SEEDS:,} on are those of surrogates; a victim takes a smaller one")
    attacks, version = {}, 1
    for name in names:
        if name not in loaded.config.attacks:
            raise unknown_name("attack", name, loaded.config.attacks)
        plugin = registry.load("attacks", loaded.config.attacks[name].plugin)
        if plugin.budget_name != "eps":
            raise BenchError(f"{name} has no ball; the black-box suite takes attacks with ε")
        instance = settings.build(plugin, loaded.config.attacks[name].settings, f"attacks.{name}")
        attacks[name] = {"plugin": loaded.config.attacks[name].plugin, "settings": settings.plain(instance)}
        version = max(version, plugin.version)
    found = (surrogate(loaded, selection, spec.method, members, said="blackbox.method") for members in spec.members)
    surrogates = tuple({each.run_id: each for each in found}.values())  # one from elsewhere has its own members
    limit = _at_most(loaded, selection, spec.limit)
    return [
        EvaluationSpec(
            kind="blackbox",
            run=run,
            attack="blackbox",
            plugin="blackbox",
            settings={
                "attacks": attacks,
                "restarts": spec.restarts,
                "surrogates": [surrogate.run_id for surrogate in surrogates],
            },
            budget_name="eps",
            budget=budget,
            stop="last",
            limit=limit,
            split=selection.split,
            surrogates=surrogates,
            versions={"attack": version, "evaluator": versions.EVALUATOR},
        )
        for budget in budgets
    ]


def _at_most(loaded: Loaded, selection: Selection, most: int | None) -> int | None:
    """How many test images are used where they are no more than `most`; held-out images are all used."""
    limit = test_limit(loaded, selection)
    size = loaded.dataset(selection.dataset).test_images
    more = selection.split == "test" and most is not None and (limit or size or most + 1) > most
    return most if more else limit


def certify_rows(loaded: Loaded, selection: Selection, run: RunSpec) -> list[EvaluationSpec]:
    """Certified accuracy as `[certify]` says: one evaluation a radius.

    Raises:
        BenchError: nothing is configured for the data set.
    """
    spec, dataset = loaded.config.certify, selection.dataset
    if spec is None or dataset not in spec.sigma or dataset not in spec.radii:
        raise BenchError(f"bench.toml gives no noise and radii for {dataset}; add certify.sigma and certify.radii")
    limit = _at_most(loaded, selection, spec.limit)
    return [
        EvaluationSpec(
            kind="certify",
            run=run,
            attack="certify",
            plugin="certify",
            settings={"sigma": spec.sigma[dataset], "n0": spec.n0, "n": spec.n, "alpha": spec.alpha},
            budget_name="eps",
            budget=radius,
            stop="last",
            limit=limit,
            split=selection.split,
            versions={"attack": 1, "evaluator": versions.EVALUATOR},
        )
        for radius in spec.radii[dataset]
    ]


def matrix_row(loaded: Loaded, selection: Selection, run: RunSpec, *, targeted: bool = False) -> EvaluationSpec:
    """The transferability matrix of `[matrix]`; `targeted`: each image is led to a class drawn for it."""
    (row,) = attack_rows(loaded, selection, run, loaded.config.matrix.attack, (matrix_budget(loaded, selection),))
    update: dict[str, Any] = {"kind": "transfer", "stop": "last", "targets": "random" if targeted else None}
    others = tuple(other_sources(loaded, selection, run))
    if others:
        update |= {"surrogates": others, "settings": {**row.settings, "surrogates": [each.run_id for each in others]}}
    return row.model_copy(update=update | {"precision": possible(row.precision, "last")})


def other_sources(loaded: Loaded, selection: Selection, run: RunSpec) -> Iterator[RunSpec]:
    """The ensembles that a matrix names beside the members; the ensemble itself is a source in any case."""
    for name in loaded.config.matrix.surrogates:
        spec = loaded.config.methods.get(name)
        elsewhere = spec is not None and spec.plugin == OUTSIDE
        if not elsewhere or (name, selection.dataset) in loaded.outside:
            other = surrogate(loaded, selection, name, run.members, said="matrix.surrogates")
            if other.run_id != run.run_id:
                yield other


def surrogate(loaded: Loaded, selection: Selection, method: str, members: int, *, said: str) -> RunSpec:
    """An ensemble whose images are tried on others; `said`: the setting that names its method.

    One that is trained here has a seed of surrogates, so that it shares nothing with its victims. One that was trained
    elsewhere is the first of its name, with the network and members that it has.

    Raises:
        BenchError: as `run_spec`.
    """
    if method not in loaded.config.methods:
        raise BenchError(f"{said}: {unknown_name('method', method, loaded.config.methods)}")
    if stored := loaded.outside.get((method, selection.dataset)):
        return run_spec(loaded, replace(selection, members=None, model=None), method, min(stored))
    return run_spec(loaded, replace(selection, members=members), method, SURROGATE_SEEDS + members)


def matrix_budget(loaded: Loaded, selection: Selection) -> float:
    """The budget of the transferability matrix on the data set.

    Raises:
        BenchError: there is none.
    """
    budget = loaded.config.matrix.budgets.get(selection.dataset)
    if budget is None:
        raise BenchError(
            f"bench.toml gives no matrix budget for {selection.dataset}; add matrix.budgets.{selection.dataset}"
        )
    return budget
