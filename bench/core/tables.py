"""The table that `bench.toml` makes: found, read, laid over the built-in one, completed for every data set."""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.core import places, prepared, registry
from bench.core.errors import BenchError, unknown_name
from bench.core.numbers import parse_number, shown
from bench.core.specs import Config

PACKAGE = Path(__file__).resolve().parent.parent
FILE_BYTES = 1 << 20
DEPTH = 12
"""Of tables and lists within one another; the deepest that means anything has 7."""
INCLUDE = ("default", "nothing")
ANY = "default"
"""In a recipe: any data set that the recipe has no table for."""
BUILT_IN = "built-in"

Table = dict[str, Any]
Note = Callable[[str, Table, Table], object]
"""Takes a table as it is after a step, which step that was, and what that step itself says."""


class Found(NamedTuple):
    """The whole table, the file that holds here, and whether that adds to the built-in one."""

    table: Table
    path: Path
    adds: bool


def defaults(name: str) -> Path:
    """A file or folder that comes with `bench` (`bench.toml`, `published`): of the checkout, or of the wheel."""
    in_wheel = PACKAGE / "_defaults" / name
    if in_wheel.exists():
        return in_wheel
    return PACKAGE.parent / ("results/published" if name == "published" else name)


def locate() -> Path:
    """The `bench.toml` that holds here: `$BENCH_CONFIG`, the nearest above the working folder, or the built-in."""
    named = os.environ.get("BENCH_CONFIG")
    if named:
        if not Path(named).is_file():
            raise BenchError(f"BENCH_CONFIG names {named}, which is not a file")
        return Path(named)
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "bench.toml").is_file():
            return folder / "bench.toml"
    return defaults("bench.toml")


def compose(path: Path, note: Note = lambda origin, table, own: None) -> Found:
    """The table that holds with the file `path`.

    Below it lies the built-in one, unless the file says `include = "nothing"`. A file that has all the tables that one
    must have, and does not say `include`, stands alone too: that is a whole file from before files were added to the
    built-in one, and its results keep their ids whatever is added there.

    Args:
        note: is told of each step.

    Raises:
        BenchError: the file cannot be read, is not TOML, or includes something else.
    """
    own = _read(path)
    built_in = defaults("bench.toml")
    include = own.pop("include", "nothing" if _whole(own) else "default")
    if include not in INCLUDE:
        told = unknown_name("include", include, INCLUDE) if isinstance(include, str) else shown(include)
        raise BenchError(f'{path.name}: include = "default" adds to the built-in file, "nothing" does not; {told}')
    table: Table = {}
    adds = include == "default"
    if adds:
        table = _read(built_in)
        note(BUILT_IN, table, table)
    there_are = prepared.tables(places.data_folder())
    found = {name: there for name, there in there_are.items() if name not in registry.BUILT_IN_DATASETS}
    for name, there in found.items():
        add(table, here := {"datasets": {name: there.table}})
        note(str(there.path), table, here)
    add(table, own)
    note(BUILT_IN if path == built_in else str(path), table, own)
    _add_plugins(table, note)
    for name in found:  # behind the others, wherever these are from
        table["datasets"][name] = table["datasets"].pop(name)
    _complete(table, note, alone=not adds and path != built_in)
    return Found(table, path, adds)


def add(below: Table, over: Table) -> None:
    """Lay a table over another: tables are merged, every other value is replaced.

    A table that names another plug-in (`plugin = …`) takes nothing from the one below: its settings are others.
    """
    for name, value in over.items():
        there = below.get(name)
        if isinstance(value, dict) and isinstance(there, dict) and value.get("plugin", "") in ("", there.get("plugin")):
            add(there, value)
        else:
            below[name] = copy.deepcopy(value)


def _whole(table: Table) -> bool:
    """Whether a table has all that one without any other must have."""
    required = [name for name, field in Config.model_fields.items() if field.is_required()]
    matrix = table.get("matrix")
    return all(name in table for name in required) and isinstance(matrix, dict) and "attack" in matrix


def _read(path: Path) -> Table:
    try:
        if path.stat().st_size > FILE_BYTES:
            raise BenchError(f"{path} is larger than {FILE_BYTES >> 20} MiB, which no bench.toml is")
        return read_toml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: {error}") from error


def read_toml(text: str, where: str) -> Table:
    """A table out of TOML text; `where` names it in messages.

    Raises:
        BenchError: no TOML, a number of thousands of digits, or tables and lists nested deeper than `DEPTH`.
    """
    try:
        table = tomllib.loads(text)
    except RecursionError:
        table = None
    except tomllib.TOMLDecodeError as error:
        raise BenchError(f"{where}: {error}") from error
    except ValueError as error:  # int() refuses
        raise BenchError(f"{where}: it holds a number of thousands of digits") from error
    if table is None or _deeper(table, DEPTH):
        raise BenchError(f"{where}: tables and lists are nested more than {DEPTH} deep")
    return table


def _deeper(table: Table, depth: int) -> bool:
    """Whether something lies deeper; without recursion, since it may be thousands deep."""
    level: list[Any] = [table]
    for _ in range(depth):
        containers = (item.values() if isinstance(item, dict) else item for item in level)
        level = [part for parts in containers for part in parts if isinstance(part, (dict, list))]
    return bool(level)


def _add_plugins(table: Table, note: Note) -> None:
    """Plug-ins that no table configures are configured by their own name, so that an installed one can be used.

    None is loaded here: a broken one is reported when it is used. A table of a plug-in's own name need not say
    `plugin`. A data set gets the suite `core`, or, in a file without it, the first for any data set.
    """
    suites = table.get("suites")
    names = suites if isinstance(suites, dict) else {}
    free = [name for name, suite in names.items() if isinstance(suite, dict) and not suite.get("datasets")]
    suite = "core" if "core" in names else next(iter([*free, *names]), "core")
    for kind in ("methods", "attacks", "models", "datasets"):
        tables = table.setdefault(kind, {})
        if not isinstance(tables, dict):
            raise BenchError(f"{kind} is a table of names, not {shown(tables)}")
        given = (item.get("plugin") for item in tables.values() if isinstance(item, dict))
        used = {plugin for plugin in given if isinstance(plugin, str)}
        for name, entry in registry.entries(kind).items():
            own = tables.get(name, {}) if name not in used and name not in registry.NEED_SETTINGS else None
            if isinstance(own, dict) and "plugin" not in own:
                tables[name] = {"plugin": name, **own}
                note(f"plug-in of {entry.package}", table, {})
        for own in tables.values() if kind == "datasets" else ():
            if isinstance(own, dict):
                own.setdefault("suite", suite)
    note("a suite for any data set", table, {})


def _complete(table: Table, note: Note, *, alone: bool) -> None:
    """What data sets have that no file says: recipes for any data set, and the budgets of one that they are like.

    Settings of methods are part of a training's id. So a data set for which a file that stands `alone` has a recipe
    keeps those that this file gives it. Tables of a wrong shape are left as they are, for `Config` to refuse.
    """
    datasets = table["datasets"]
    recipes = _tables(table.get("recipes"))
    general = [name for name, parts in recipes.items() if isinstance(parts.get(ANY), dict)]
    for name, dataset in _tables(datasets).items():
        if name in registry.BUILT_IN_DATASETS:
            continue  # the file says all that they have
        named = [recipe for recipe, parts in recipes.items() if name in parts]
        if "recipe" not in dataset and len(named) < 2 and (named or general):
            dataset["recipe"] = (named or general)[0]
        for recipe in general:
            if name not in recipes[recipe]:
                recipes[recipe][name] = {"extends": ANY}
        note(f"any data set: recipes.NAME.{ANY}", table, {})
        if traits := _traits(dataset):
            _budgets(table, name, traits, note, methods=not (alone and named))


class _Traits(NamedTuple):
    """What a data set says of its budgets: those of which other it has, and its own radii in ℓ∞."""

    like: str
    eps: list[float]


def _traits(dataset: Table) -> _Traits | None:
    """Of a configured data set; None where its plug-in is broken, which is told where it is used."""
    plugin = str(dataset.get("plugin"))
    try:
        cls = registry.load("datasets", plugin)
    except BenchError:
        return None
    shape = dataset.get("shape", getattr(cls, "shape", None))
    like = dataset.get("like") or cls.like or (plugin if plugin in registry.BUILT_IN_DATASETS else "")
    if not like and isinstance(shape, list | tuple) and shape:
        like = like_of(shape[0])
    return _Traits(str(like), _radii(dataset.get("eps") or cls.eps))


def like_of(channels: Any) -> str:
    """The data set whose budgets one with so many channels has, where it names no other."""
    return "mnist" if channels == 1 else "cifar10"


def _radii(said: Any) -> list[float]:
    """Radii as numbers; none where they are something else, which `Config` refuses."""
    try:
        return [float(parse_number(value)) for value in said] if isinstance(said, list | tuple) else []
    except (TypeError, ValueError, OverflowError):
        return []


def _budgets(table: Table, name: str, traits: _Traits, note: Note, *, methods: bool) -> None:
    """Budgets of a data set, and settings of methods on it if asked for, wherever the table has none for it."""

    def fill(place: Any, own: Any = None) -> None:
        if isinstance(place, dict) and name not in place:
            if own is not None:
                place[name] = own
            elif traits.like in place:
                place[name] = copy.deepcopy(place[traits.like])

    attacks = _tables(table.get("attacks"))
    matrix, blackbox, certify, theory = (
        part if isinstance(part := table.get(key), dict) else {} for key in ("matrix", "blackbox", "certify", "theory")
    )
    if traits.eps:
        for attack in attacks.values():
            if _in_linf(attack):
                fill(attack.setdefault("budgets", {}), list(traits.eps))
        if _in_linf(attacks.get(str(matrix.get("attack")), {})):
            fill(matrix.get("budgets"), max(traits.eps))
        fill(blackbox.get("budgets"), list(traits.eps))
        note(f"eps of {name}", table, {})
    for attack in attacks.values():
        fill(attack.get("budgets"))
    for suite in _tables(table.get("suites")).values():
        rows = suite.get("attacks")
        for row in rows if isinstance(rows, list) and not suite.get("datasets") else ():
            fill(row.get("budgets") if isinstance(row, dict) else None)
    for place in (matrix.get("budgets"), blackbox.get("budgets"), certify.get("sigma"), certify.get("radii")):
        fill(place)
    fill(theory.get("budgets"))
    for method in _tables(table.get("methods")).values() if methods else ():
        fill(method.get("datasets"))
    note(f"as on {traits.like}", table, {})


def _in_linf(attack: Table) -> bool:
    try:
        return bool(registry.load("attacks", str(attack.get("plugin"))).norm == "linf")
    except BenchError:
        return False  # told where it is used


def _tables(of: Any) -> dict[str, Table]:
    """The tables within a table."""
    return {name: part for name, part in of.items() if isinstance(part, dict)} if isinstance(of, dict) else {}
