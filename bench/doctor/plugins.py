"""All checks of one plug-in: what its class is, then what it does with its settings.

Methods, attacks and models run on the built-in digits with a few images and steps, in a folder that is deleted
afterwards; a data set is read whole.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.attacks.base import Attack
from bench.core import config, registry, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError, cause, unknown_name
from bench.core.registry import PluginError
from bench.data.base import Dataset
from bench.doctor import attacks, datasets, fusions, methods, models
from bench.doctor.installation import Check
from bench.doctor.rules import Checks
from bench.models.base import Model
from bench.training.method import Method

QUICK = ("training.epochs=1", "training.limit=128", "training.batch_size=32")


def check(name: str, data: Path = Path("data")) -> list[Check]:
    """All checks of the plug-in called `name`, of whatever kind: a configured name, or one that is registered.

    Raises:
        BenchError: nothing is called so.
    """
    loaded = config.load(changes=QUICK)
    found: list[Check] = []
    known: set[str] = set()
    for kind in registry.KINDS:
        tables, entries = getattr(loaded.config, kind), registry.entries(kind)
        known |= {*tables, *entries}
        if name in tables or name in entries:
            found += _guarded(lambda kind=kind: _plugin(kind, name, loaded, data))  # type: ignore[misc]
        refused = [entry.refused for entry in registry.left_out(kind) if entry.name == name]
        if name in entries and (hidden := config.hidden(kind, name, tables)):
            refused.append(f"{entries[name].label} cannot be reached: {hidden}")
        found += [Check("has a name of its own", False, text) for text in refused]
    if not found:
        raise unknown_name("plug-in", name, known)
    return found


def _guarded(checks: Callable[[], Checks]) -> Checks:
    """Checks up to the first exception, which is itself a fault found."""
    try:
        yield from checks()
    except PluginError as error:
        yield Check(error.check, False, str(error))
    except BenchError as error:
        yield Check("runs", False, str(error))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        yield Check("runs", False, f"{cause(error)} ({Path(frame.filename).name}:{frame.lineno})")


def _plugin(kind: str, name: str, loaded: Loaded, data: Path) -> Checks:
    tables = getattr(loaded.config, kind)
    name = name if name in tables else next((key for key, spec in tables.items() if spec.plugin == name), name)
    spec = tables.get(name)
    entry = registry.entry(kind, spec.plugin if spec else name)
    plugin = entry.load()
    yield from _declared(entry, plugin)
    if kind == "fusions":
        yield from fusions.checks(plugin())
        return
    if spec is None:
        yield Check("has settings", True, "each use brings its own; nothing more is checked here")
        return
    try:
        instance = settings.build(plugin, spec.settings, f"{kind}.{name}")
    except BenchError as error:
        yield Check("has settings", False, str(error))
        return
    yield Check("has settings", True, ", ".join(settings.complete(instance)) or "none")
    if isinstance(instance, Method):
        yield from methods.checks(name, instance, loaded)
    elif isinstance(instance, Attack):
        yield from attacks.checks(instance)
    elif isinstance(instance, Dataset):
        yield from datasets.checks(spec.plugin, instance, data)
    elif isinstance(instance, Model):
        yield from models.checks(spec.plugin, settings.plain(instance))


def _declared(entry: registry.Registered, plugin: type[Any]) -> Checks:
    """The shape of a plug-in class, beyond what loading it has checked."""
    yield Check("is loaded", True, f"{plugin.__module__}.{plugin.__qualname__} of {entry.package}")
    frozen = plugin.__dataclass_params__.frozen
    told = "" if frozen else "decorate it with @dataclass(frozen=True, kw_only=True)"
    yield Check("is a frozen dataclass", frozen, told)
    # A dataclass without a docstring gets its own signature for one.
    first = (inspect.getdoc(plugin) or "").partition("\n")[0]
    described = bool(first) and plugin.__doc__ is not None and not first.startswith(f"{plugin.__name__}(")
    told = "" if described else "the first line of its docstring is what people see"
    yield Check("has a description", described, told)
    yield Check("has a version", True, repr(plugin.version))
