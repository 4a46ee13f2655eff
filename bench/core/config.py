"""`bench.toml`: where it is found, how `--set` changes it, how it is checked."""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError

from bench.core import places, prepared, registry, settings
from bench.core.errors import LONGEST, BenchError, unknown_name
from bench.core.numbers import IMAGES, shown
from bench.core.precision import Precision
from bench.core.settings import explain
from bench.core.specs import (
    BY_MEMBERS,
    OF_TRAINING,
    AttackRows,
    BlackboxSpec,
    Config,
    MethodSpec,
    RecipeSpec,
    Spec,
)
from bench.core.tables import ANY, DEPTH, compose, read_toml
from bench.core.tables import defaults as defaults
from bench.core.tables import locate as locate
from bench.core.toml_text import Place, leaves


@dataclass(frozen=True)
class Loaded:
    """A checked configuration, where it came from, and the changes made on the command line.

    `training` and `data` are the overrides that hold for every run (`--set training.epochs=1`,
    `--set data.validation=200`); they are applied last, so nothing in the file can undo what was typed. `outside`
    holds the specs of ensembles trained elsewhere: (name, data set) → seed → spec. `precision` is that of
    `--precision`, which every attack has here; None where each has its own.
    """

    config: Config
    path: Path
    changes: tuple[str, ...]
    training: dict[str, Any]
    data: dict[str, Any]
    outside: Mapping[tuple[str, str], Mapping[int, dict[str, Any]]] = field(default_factory=dict)
    precision: Precision | None = None
    unchanged: Config | None = None

    @property
    def written(self) -> Config:
        """The configuration as the file has it, before changes on the command line."""
        return self.unchanged or self.config

    def title_of(self, method: str) -> str:
        """What people read of a method: its configured title, else its name."""
        spec = self.config.methods.get(method)
        return (spec.title if spec else "") or method

    def title_of_dataset(self, name: str) -> str:
        """What people read of a data set: its configured title, else its name."""
        spec = self.config.datasets.get(name)
        return (spec.title if spec else "") or name

    def title_of_model(self, name: str) -> str:
        """What people read of a model: its configured title, else its name (of timm without `timm/`)."""
        spec = self.config.models.get(name)
        return (spec.title if spec else "") or name.removeprefix("timm/")

    def dataset(self, name: str) -> Any:
        """The data set that is configured as `name`, with its settings: what its shape, classes and test images are.

        Raises:
            BenchError: its plug-in cannot be used, or its settings do not fit.
        """
        spec = self.config.datasets[name]
        return settings.build(registry.load("datasets", spec.plugin), spec.settings, f"datasets.{name}")

    @property
    def blackbox(self) -> BlackboxSpec:
        """`[blackbox]`.

        Raises:
            BenchError: there is no such table.
        """
        if self.config.blackbox is None:
            raise BenchError(f"{self.path.name} has no [blackbox], which a black-box suite needs")
        return self.config.blackbox

    def with_precision(self, precision: Precision | None) -> Loaded:
        """With every attack asking in this precision, whatever is configured; None leaves them as they are."""
        if precision is None:
            return self
        attacks = {
            name: attack.model_copy(update={"precision": precision}) for name, attack in self.config.attacks.items()
        }
        return replace(self, config=self.config.model_copy(update={"attacks": attacks}), precision=precision)

    def with_outside(self, specs: Iterable[dict[str, Any]]) -> Loaded:
        """With ensembles trained elsewhere (run specs as JSON) as methods of their names, beside the configured ones.

        A configured method of the same name keeps it.
        """
        found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        for spec in specs:
            if spec["method"] not in self.config.methods:
                found.setdefault((spec["method"], spec["dataset"]), {})[spec["seed"]] = spec
        names = {name: MethodSpec(plugin="outside", title=name, description="trained elsewhere") for name, _ in found}
        config = self.config.model_copy(update={"methods": {**self.config.methods, **names}})
        return replace(self, config=config, outside=found)


def load(path: Path | None = None, changes: Iterable[str] = ()) -> Loaded:
    """Read, change and check the configuration.

    Args:
        path: the file; by default the one that `locate` finds.
        changes: `key=value` texts as given to `--set`.

    Raises:
        BenchError: not TOML, an unknown key (with the nearest name), or a value of the wrong type.
    """
    table, path, _ = compose(path or locate())
    changes = tuple(changes)
    written = copy.deepcopy(table) if changes else None
    everywhere: dict[str, dict[str, Any]] = {"training": {}, "data": {}}
    changes = tuple(_apply(table, everywhere, change) for change in changes)
    _known_keys(everywhere)
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        raise _unknown_key(error, path) or BenchError(f"{path.name}: {explain(error)}") from error
    _check_names(config, path)
    unchanged = None if written is None else _valid(written)
    return Loaded(config, path, changes, everywhere["training"], everywhere["data"], unchanged=unchanged)


@dataclass(frozen=True)
class Explained:
    """The table that holds, and where each value is from: `built-in`, a file, a plug-in, a rule, or `--set`.

    `adds`: whether the file at `path` adds to the built-in one.
    """

    table: dict[str, Any]
    path: Path
    adds: bool
    origins: Mapping[Place, str]

    @property
    def told(self) -> str:
        """Which file holds, and how."""
        if self.path == defaults("bench.toml"):
            return f"the built-in {self.path}; a bench.toml of your own, here or in a folder above, adds to it"
        by = ", which BENCH_CONFIG names," if os.environ.get("BENCH_CONFIG") == str(self.path) else ""
        return f"{self.path}{by} {'added to the built-in file' if self.adds else 'alone, without the built-in file'}"


def explained(path: Path | None = None, changes: Iterable[str] = ()) -> Explained:
    """The table of `load`, with where each value is from.

    Raises:
        BenchError: as `load`, but that values are not checked.
    """
    before: dict[Place, Any] = {}
    origins: dict[Place, str] = {}

    def note(origin: str, table: dict[str, Any], own: dict[str, Any]) -> None:
        said = {place for place, _ in leaves(own)}
        now = {place: copy.copy(value) for place, value in leaves(table)}
        for place, value in now.items():
            if place in said or place not in before or before[place] != value:
                origins[place] = origin
        before.clear()
        before.update(now)

    table, path, adds = compose(path or locate(), note)
    everywhere: dict[str, dict[str, Any]] = {"training": {}, "data": {}}
    for change in changes:
        _apply(table, everywhere, change)
        note("--set", table, {})
    return Explained(table, path, adds, origins)


def _valid(table: dict[str, Any]) -> Config | None:
    """The table where it is sound; a change may have mended the file."""
    try:
        return Config.model_validate(table)
    except ValidationError:
        return None


def hidden(kind: str, name: str, configured: Mapping[str, Any]) -> str:
    """Why the plug-in called `name` cannot be reached, where the file gives its name to another; empty otherwise."""
    if name not in configured or any(spec.plugin == name for spec in configured.values()):
        return ""
    other = configured[name].plugin
    return (
        f"bench.toml has a {kind[:-1]} of this name, of the plug-in {other!r}; "
        f"add [{kind}.OTHER_NAME] with plugin = {name!r} to use this one"
    )


def parse_value(text: str, key: str = "") -> Any:
    """The value of a `--set`: TOML (numbers, booleans, lists, quoted text), a fraction `8/255`, or a bare word.

    Raises:
        BenchError: more than one value (a comment or a second line, say), or one that is nested too deeply.
    """
    if re.fullmatch(r"\d+(\.\d+)?/\d+(\.\d+)?", text):
        return text
    if text.lower() in ("none", "null"):
        return None
    brief = f"--set {key[:LONGEST]}={shown(text)}"
    try:
        table = read_toml(f"value = {text}", brief)
    except BenchError as error:
        if not isinstance(error.__cause__, tomllib.TOMLDecodeError):
            raise
        if not text.isprintable():
            raise BenchError(f"{brief}: a bare word has no line breaks or control characters; quote it") from error
        return text
    try:  # within brackets on one line nothing can follow: a comment would swallow the bracket
        (value,) = read_toml(f"value = [{text}]", brief)["value"]
        (_,) = table
    except (BenchError, ValueError) as error:
        raise BenchError(f"{brief} is one value, and nothing after it (no comment either)") from error
    return value


def _apply(table: dict[str, Any], everywhere: dict[str, dict[str, Any]], change: str) -> str:
    """Make a change; returns it, under the name of the recipe where it was said by an alias."""
    key, equals, text = change.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or not 2 <= len(parts) < DEPTH:
        told = shown(change)
        raise BenchError(f"--set takes KEY=VALUE with a dotted key such as methods.trs.lambda_a=50, not {told}")
    value = parse_value(text.strip(), key)
    if parts[0] in everywhere:
        if len(parts) != 2:
            raise BenchError(f"--set {key}: {parts[0]}.NAME takes one name")
        everywhere[parts[0]][parts[1]] = value
        return change
    recipe = _recipe_meant(table, parts)
    if recipe is not None:
        parts[1] = recipe
        change = f"{'.'.join(parts)}={text}"
    if parts[0] not in table:
        raise unknown_name("key of --set", parts[0], [*table, *everywhere])
    node = table
    for depth, part in enumerate(parts[:-1]):
        if part not in node and depth < 2:
            raise unknown_name(parts[0].removesuffix("s"), part, node)
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise BenchError(f"--set {key}: {'.'.join(parts[: depth + 1])} is a value, not a table")
    if parts[0] == "methods" and len(parts) == 3:
        # What was typed wins over what the file says for single data sets and numbers of members.
        own = node.get("datasets")
        for settings in own.values() if isinstance(own, dict) else ():
            _drop(settings, parts[2])
    elif parts[0] == "methods" and len(parts) == 5 and parts[2] == "datasets":
        _drop(node, parts[4])
    node[parts[-1]] = value
    return change


def _recipe_meant(table: dict[str, Any], parts: list[str]) -> str | None:
    """For `recipes.ALIAS.DATASET.…`: the recipe whose alias that is; None for any other key."""
    recipes = table.get("recipes")
    if parts[0] != "recipes" or len(parts) < 4 or not isinstance(recipes, dict):
        return None
    for name, tables in recipes.items():
        part = tables.get(parts[2]) if isinstance(tables, dict) else None
        aliases = part.get("aliases") if isinstance(part, dict) else None
        if isinstance(aliases, list) and parts[1] in aliases:
            return str(name)
    return None


def _drop(settings: Any, name: str) -> None:
    """Take a setting out of a method's table for a data set, and out of its tables for numbers of members."""
    tables = [settings]
    if isinstance(settings, dict) and isinstance(settings.get(BY_MEMBERS), dict):
        tables += settings[BY_MEMBERS].values()
    for table in tables:
        if isinstance(table, dict):
            table.pop(name, None)


def _known_keys(everywhere: dict[str, dict[str, Any]]) -> None:
    for name in everywhere["training"]:
        if name not in OF_TRAINING:
            raise unknown_name("key of --set training", name, OF_TRAINING)
    for name in everywhere["data"]:
        if name != "validation":
            raise unknown_name("key of --set data", name, ["validation"])
    validation = everywhere["data"].get("validation", 0)
    if type(validation) is not int or not 0 <= validation <= IMAGES:
        raise BenchError(f"data.validation is a number of images held out for tuning, not {shown(validation)}")


def _unknown_key(error: ValidationError, path: Path) -> BenchError | None:
    """For an `extra_forbidden` fault: the same with the nearest allowed key."""
    fault = next((item for item in error.errors() if item["type"] == "extra_forbidden"), None)
    if fault is None:
        return None
    *table, name = fault["loc"]
    told = f" [{'.'.join(map(str, table))}]" if table else ""
    return unknown_name(f"key of {path.name}{told}", str(name), _keys(table))


def _keys(table: list[int | str]) -> set[str]:
    """The keys that the table at this address in a validation error may have."""
    spec: Any = Config
    for part in table:
        if part == getattr(spec, "__name__", None):
            continue  # only says which kind of a choice was tried
        if isinstance(spec, type) and issubclass(spec, Spec):
            spec = spec.model_fields[str(part)].annotation
        elif get_origin(spec) is dict:
            spec = get_args(spec)[1]
        elif get_origin(spec) is tuple:
            spec = get_args(spec)[0]
        kinds = {kind.__name__: kind for kind in get_args(spec) if isinstance(kind, type) and issubclass(kind, Spec)}
        if get_origin(spec) in (Union, UnionType) and kinds:
            spec = next(iter(kinds.values()))
    fields = set(spec.model_fields) if isinstance(spec, type) and issubclass(spec, Spec) else set()
    return fields | (set(OF_TRAINING) if spec is RecipeSpec else set())


def _check_names(config: Config, path: Path) -> None:
    """Names that point to other tables must exist there."""

    def check(kind: str, name: str, known: Iterable[str], table: str) -> None:
        if name not in known:
            where = (
                f"; those of pictures are looked for in {places.data_folder() / prepared.PLUGIN} (--data, BENCH_DATA)"
            )
            hint = where if kind == "data set" else ""
            raise BenchError(f"{path.name} [{table}]: {unknown_name(kind, name, known)}{hint}")

    if ANY in config.datasets:
        raise BenchError(f"{path.name} [datasets]: {ANY!r} stands for any data set in a recipe; take another name")
    for name, dataset in config.datasets.items():
        check("suite", dataset.suite, config.suites, f"datasets.{name}")
        if dataset.recipe is not None:
            known = [*config.recipes_of(name), *(alias for of, alias in config.aliases if of == name)]
            check("recipe", dataset.recipe, known, f"datasets.{name}")
    check("attack", config.matrix.attack, config.attacks, "matrix")
    # The methods of `matrix.surrogates` and `blackbox` are looked up where they are used: they may be ensembles that
    # were trained elsewhere, which the database knows.
    if config.blackbox is not None:
        for name in config.blackbox.attacks:
            check("attack", name, config.attacks, "blackbox")
        for name in config.blackbox.budgets:
            check("data set", name, config.datasets, "blackbox.budgets")
    if config.certify is not None:
        for name in {**config.certify.sigma, **config.certify.radii}:
            check("data set", name, config.datasets, "certify")
    for name in config.theory.budgets:
        check("data set", name, config.datasets, "theory.budgets")
    for name, suite in config.suites.items():
        for black in suite.blackbox if isinstance(suite.blackbox, tuple) else ():
            check("attack", black, config.attacks, f"suites.{name}")
        for row in suite.attacks:
            check("attack", row if isinstance(row, str) else row.attack, config.attacks, f"suites.{name}")
            for dataset_name in row.budgets if isinstance(row, AttackRows) and isinstance(row.budgets, dict) else ():
                check("data set", dataset_name, config.datasets, f"suites.{name}.attacks.budgets")
        for dataset_name in suite.datasets:
            check("data set", dataset_name, config.datasets, f"suites.{name}")
    for name, recipe in config.recipes.items():
        for dataset_name, part in recipe.items():
            check("data set", dataset_name, [*config.datasets, ANY], f"recipes.{name}")
            for method_name in part.methods:
                check("method", method_name, config.methods, f"recipes.{name}.{dataset_name}.methods")
            if part.extends is not None and config.extended(name, part) is None:
                others = (f"{key}.{other}" for key, of in config.recipes.items() for other in of)
                check("data set", part.extends, [*recipe, *others], f"recipes.{name}.{dataset_name}")
        if ANY in recipe and recipe[ANY].aliases:
            raise BenchError(f"{path.name} [recipes.{name}.{ANY}]: aliases are for one data set; leave them out")
    for name, protocol in config.protocols.items():
        check("data set", protocol.dataset, config.datasets, f"protocols.{name}")
        check("suite", protocol.suite, config.suites, f"protocols.{name}")
        if protocol.succeeded_by is not None:
            check("protocol", protocol.succeeded_by, config.protocols, f"protocols.{name}")
    for name, statement in config.statements.items():
        check("publication", statement.publication, config.publications, f"statements.{name}")
        for method_name in (*statement.more, *statement.less):
            check("method", method_name, config.methods, f"statements.{name}")
        for attack_name in statement.under:
            check("attack", attack_name, [*config.attacks, "clean", "blackbox"], f"statements.{name}")
    for method_name in config.authors:
        check("method", method_name, config.methods, "authors")
    for dataset_name in config.matrix.budgets:
        check("data set", dataset_name, config.datasets, "matrix.budgets")
    for name, attack in config.attacks.items():
        for dataset_name in attack.budgets:
            check("data set", dataset_name, config.datasets, f"attacks.{name}.budgets")
    for name, method in config.methods.items():
        for dataset_name in method.datasets:
            check("data set", dataset_name, config.datasets, f"methods.{name}.datasets")
        if method.publication is not None:
            check("publication", method.publication, config.publications, f"methods.{name}")
    _check_aliases(config, path)


def _check_aliases(config: Config, path: Path) -> None:
    """On one data set a name means one recipe."""
    for dataset in config.datasets:
        meant: dict[str, str] = {name: name for name in config.recipes_of(dataset)}
        for name in list(meant):
            for alias in dict.fromkeys(config.recipes[name][dataset].aliases):
                if alias in meant:
                    raise BenchError(
                        f"{path.name} [recipes.{name}.{dataset}]: the alias {alias!r} already means the recipe "
                        f"{meant[alias]!r} on {dataset}; leave it out, or choose another"
                    )
                meant[alias] = name
