"""One registry for methods, attacks, datasets, models and fusion rules: Python entry points, loaded when first used.

A plug-in is declared in the `pyproject.toml` of its package, the built-in ones included:

    [project.entry-points."bench.methods"]
    mine = "my_package.mine:Mine"

A broken plug-in hurts only itself: what is wrong with it is said when it is used, by `bench list` and by
`bench doctor`. A name of bench's own stays bench's; a name that two other packages declare belongs to neither.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args

from bench.core.errors import BenchError, unknown_name
from bench.core.release import DISTRIBUTION
from bench.core.terms import BudgetName, Norm, TakesWeights

# No use under their own name: each use has settings of its own.
NEED_SETTINGS = ("timm", "factory", "memory", "outside", "at_joint", "igat", "prepared")
BUILT_IN_DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")  # bench.toml has a table of each
BUILT_IN = "bench"  # the origin of what comes with bench, whatever the distribution is called

# Base classes by name: no import goes up from core, and a base is only needed where a plug-in is loaded.
BASES = {
    "methods": "bench.training.method:Method",
    "attacks": "bench.attacks.base:Attack",
    "datasets": "bench.data.base:Dataset",
    "models": "bench.models.base:Model",
    "fusions": "bench.models.fusion:FusionRule",
}
KINDS = tuple(BASES)
# Words of the command line and of recipes.
RESERVED = {"methods": ("all", "paper"), "attacks": ("clean",), "datasets": ("all", "default")}
REQUIRED = {"datasets": ("title", "classes", "shape", "mean", "std")}  # class attributes without a default
ALLOWED = {
    "attacks": {"budget_name": get_args(BudgetName), "norm": (*get_args(Norm), None)},
    "fusions": {"takes_weights": get_args(TakesWeights)},
}


class PluginError(BenchError):
    """A plug-in that cannot be used; `check` says in a few words what it should be and is not."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


@dataclass(frozen=True)
class Registered:
    """One registered plug-in: its name, the package (and its version) it comes from, and how to load it.

    `refused` says why the name does not stand for this plug-in; empty for most.
    """

    kind: str
    name: str
    origin: str
    point: EntryPoint
    version: str = ""
    refused: str = ""

    @property
    def package(self) -> str:
        """The package and its version, `my-package 1.0`."""
        return f"{self.origin} {self.version}".strip()

    @property
    def label(self) -> str:
        """For messages: `method 'mine' of package my-package 1.0`."""
        return f"{self.kind[:-1]} {self.name!r} of package {self.package}"

    def load(self) -> type[Any]:
        """The plug-in class, checked for its shape.

        Raises:
            PluginError: importing it raised, or it is no such class; the message names the package and the cause.
        """
        return self._loaded

    @cached_property
    def _loaded(self) -> type[Any]:
        if self.refused:
            raise PluginError("has a name of its own", self.refused)
        try:
            plugin = self.point.load()
        except (Exception, SystemExit) as error:
            value = self.point.value
            raise PluginError("is loaded", f"{self.label} cannot be loaded from {value!r} ({_cause(error)})") from error
        if not inspect.isclass(plugin):
            raise PluginError("is a class", f"{self.label} ({self.point.value}) is not a class but {plugin!r:.200}")
        _check_class(self, plugin)
        return plugin

    def fault(self, settings: Mapping[str, Any] | None = None) -> str:
        """Why the plug-in cannot be used with these settings (its defaults without any); empty if it can."""
        from bench.core.settings import build

        try:
            plugin = self.load()
            if settings is not None or self.name not in NEED_SETTINGS:
                build(plugin, dict(settings or {}), f"{self.kind}.{self.name}")
        except BenchError as error:
            return str(error)
        return ""

    @property
    def description(self) -> str:
        """The first line of the class docstring."""
        return (inspect.getdoc(self.load()) or "").partition("\n")[0]


def _cause(error: BaseException) -> str:
    """An exception in one line; of a syntax error with its place."""
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {lines[0] or '(no message)'}"


def _check_class(entry: Registered, plugin: type[Any]) -> None:
    """What commands read of a class before they make an instance must be there.

    Raises:
        PluginError: the first thing that is not.
    """
    module, _, name = BASES[entry.kind].partition(":")
    base = getattr(importlib.import_module(module), name)
    if not issubclass(plugin, base):
        raise PluginError(f"derives from {name}", f"{entry.label}: {plugin.__qualname__} is not a {module}.{name}")
    if "__dataclass_params__" not in vars(plugin):
        told = f"{plugin.__qualname__} is not a dataclass; decorate it with @dataclass(frozen=True)"
        raise PluginError("is a frozen dataclass", f"{entry.label}: {told}")
    version = getattr(plugin, "version", None)
    if type(version) is not int or version < 1:
        raise PluginError("has a version", f"{entry.label}: its version is a whole number from 1 on, not {version!r}")
    settings = {field.name for field in fields(plugin)}  # what is one may be said for each use
    for attribute in REQUIRED.get(entry.kind, ()):
        if not hasattr(plugin, attribute) and attribute not in settings:
            raise PluginError(f"has {attribute}", f"{entry.label}: {plugin.__qualname__} does not say its {attribute}")
    if entry.kind == "datasets" and hasattr(plugin, "shape"):  # else it is a setting
        shape = plugin.shape
        if not isinstance(shape, tuple) or len(shape) != 3 or not all(type(size) is int and size > 0 for size in shape):
            told = f"its shape is (channels, height, width), not {shape!r}"
            raise PluginError("has a shape", f"{entry.label}: {told}")
    eps = getattr(plugin, "eps", ()) if entry.kind == "datasets" else ()
    if not isinstance(eps, tuple) or not all(type(value) in (int, float) and value > 0 for value in eps):
        told = f"its eps is a tuple of radii above 0, such as (8 / 255,), not {eps!r}"
        raise PluginError("has radii", f"{entry.label}: {told}")
    for attribute, allowed in ALLOWED.get(entry.kind, {}).items():
        if (value := getattr(plugin, attribute)) not in allowed:
            told = f"its {attribute} is {' or '.join(map(repr, allowed))}, not {value!r}"
            raise PluginError(f"has a known {attribute}", f"{entry.label}: {told}")
    if entry.kind == "fusions" and settings:
        names = ", ".join(field.name for field in fields(plugin))
        told = f"a rule is known by its name alone, and {plugin.__qualname__} has settings ({names})"
        raise PluginError("has no settings", f"{entry.label}: {told}")
    requires = getattr(plugin, "requires", ())
    if not isinstance(requires, tuple) or not all(isinstance(item, str) for item in requires):
        told = f"requires is a tuple of names, not {requires!r}"
        raise PluginError("requires other methods by name", f"{entry.label}: {told}")


@cache
def entries(kind: str) -> dict[str, Registered]:
    """The plug-ins of a kind by name.

    A collision is never resolved silently: a name of bench's own stands for bench's plug-in, and the others are in
    `left_out`; one that several other packages declare stands for none of them, which `Entry.load` tells.
    """
    return {found[0].name: found[0] for _, found in sorted(_scan(kind).items()) if not _reserved(found[0])}


def left_out(kind: str) -> list[Registered]:
    """Plug-ins that cannot be reached since their name stands for something else; `refused` says for what."""
    return [entry for _, found in sorted(_scan(kind).items()) for entry in found[not _reserved(found[0]) :]]


def _scan(kind: str) -> dict[str, list[Registered]]:
    """All that packages declare, by name; first of each list is what the name stands for."""
    assert kind in KINDS, kind
    found: dict[str, list[Registered]] = {}
    for point in entry_points(group=f"bench.{kind}"):
        origin, version = _origin(point)
        found.setdefault(point.name, []).append(Registered(kind, point.name, origin, point, version))
    return {name: _settled(_different(sorted(known, key=_rank))) for name, known in found.items()}


def _different(found: list[Registered]) -> list[Registered]:
    """Each class once: remains of an older installation may declare it too."""
    first: dict[str, Registered] = {}
    for entry in found:
        first.setdefault(entry.point.value, entry)
    return list(first.values())


def _origin(point: EntryPoint) -> tuple[str, str]:
    """The package that declares a plug-in, and its version; another project is called `bench` on the package index."""
    if point.dist is None:
        return "?", ""
    name = re.sub(r"[-_.]+", "-", point.dist.name or "?").lower()
    told = {DISTRIBUTION: BUILT_IN, BUILT_IN: f"the other {BUILT_IN}"}.get(name, point.dist.name or "?")
    return told, point.dist.version or ""


def _settled(found: list[Registered]) -> list[Registered]:
    """The declarations of one name, each with why it cannot have it."""
    first, kind = found[0], found[0].kind[:-1]
    if _reserved(first):
        told = f"is left out: {first.name!r} means something else on the command line; it needs another name"
    elif len(found) == 1:
        return found
    elif first.origin == BUILT_IN:
        told = f"is left out: bench has a {kind} of this name; it needs another"
    else:
        packages = " and ".join(f"{entry.package} ({entry.point.value})" for entry in found)
        told = f"is unusable: two packages declare the {kind} {first.name!r}, {packages}; uninstall one of them"
    refused = [replace(entry, refused=f"{entry.label} {told}") for entry in found]
    return [first, *refused[1:]] if first.origin == BUILT_IN and not _reserved(first) else refused


def _reserved(entry: Registered) -> bool:
    return entry.name in RESERVED.get(entry.kind, ())


def _rank(entry: Registered) -> tuple[bool, str, str]:
    return entry.origin != BUILT_IN, entry.package, entry.point.value


def entry(kind: str, name: str) -> Registered:
    """The plug-in called `name`, or an error with the nearest names."""
    known = entries(kind)
    if not known:  # made by a version that had none of this kind
        told = f"the installation of {BUILT_IN} is older than its code: it declares no {kind}; install it again"
        raise BenchError(told)
    if name not in known:
        raise unknown_name(kind[:-1], name, known)
    return known[name]


def load(kind: str, name: str) -> type[Any]:
    """The class of the plug-in called `name`."""
    return entry(kind, name).load()
