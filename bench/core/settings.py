"""Settings of a plug-in: the fields of its dataclass, checked for name and type before anything runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from bench.core.errors import LONGEST, BenchError, unknown_name
from bench.core.identity import canonical
from bench.core.numbers import WHOLE, parse_number, shown

ALLOWED = "settings are numbers, text, true or false, None, and lists or tables of these"
ADDED = "added"  # in a field's metadata

T = TypeVar("T")


def at_least(bound: float, plugin: Any, *names: str) -> None:
    """For a plug-in's `__post_init__`: whether these settings of it are `bound` or more.

    Raises:
        BenchError: one is not.
    """
    for name in names:
        if getattr(plugin, name) < bound:
            raise BenchError(f"{name} is at least {bound:g}, not {shown(getattr(plugin, name))}")


def added(default: T) -> T:
    """The field of a setting that came after results were stored without it: `floor: str = added("product")`.

    `default` is what was done before, and what every record without the setting says: it never changes. At that value
    the setting is in no record and in no id, so results from before it stay current.
    """
    return dataclasses.field(default=default, metadata={ADDED: True})


def build(plugin: type[Any], settings: dict[str, Any], where: str) -> Any:
    """An instance of the plug-in class with these settings.

    `where` names the table in messages (`methods.trs`).

    Raises:
        BenchError: an unknown setting (with the nearest name), a wrong type, a value that the plug-in refuses, or one
            that no file can hold; defaults are checked like what is given.
    """
    if not dataclasses.is_dataclass(plugin):
        raise BenchError(f"{where}: {plugin.__qualname__} is not a dataclass; decorate it with @dataclass(frozen=True)")
    fields = {field.name: field for field in dataclasses.fields(plugin) if field.init}
    for name in settings:
        if name not in fields:
            raise unknown_name(f"setting of {where}", name, fields)
    given = {
        name: parse_number(value) if "float" in str(fields[name].type) else value
        for name, value in {**_defaults(fields, where), **settings}.items()
    }
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BenchError(f"{where}: {name} is a finite number, not {value}")
        if not _fits(value):
            raise BenchError(f"{where}: {name} is nested too deeply, or holds a whole number beyond ±2^53")
    try:
        instance = _adapter(plugin).validate_python(given)
    except ValidationError as error:
        raise BenchError(f"{where}: {explain(error)}") from error
    except PydanticUserError as error:
        told = f"the settings of {plugin.__qualname__} are of types that cannot be checked"
        raise BenchError(f"{where}: {told} ({_first_line(error).partition('. ')[0]}); {ALLOWED}") from error
    except BenchError:
        raise
    except Exception as error:  # a stranger's __post_init__ may raise anything
        told = f"{plugin.__qualname__} cannot be made of its settings"
        raise BenchError(f"{where}: {told} ({type(error).__name__}: {_first_line(error)})") from error
    for name, value in complete(instance).items():
        if not _storable(value):
            raise BenchError(f"{where}: {name} is {shown(value)}, a {type(value).__name__}; {ALLOWED}")
    return instance


def _fits(value: Any, depth: int = 8) -> bool:
    """Whether lists and tables are at most `depth` deep and whole numbers such as any reader of JSON holds exactly."""
    if isinstance(value, (dict, list, tuple)):
        parts = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_fits(part, depth - 1) for part in parts)
    return not isinstance(value, int) or abs(value) <= WHOLE


@cache
def _adapter(plugin: type[Any]) -> TypeAdapter[Any]:
    """Making one takes a millisecond, and a table builds the same few plug-ins a thousand times."""
    return TypeAdapter(plugin)


def defaults(plugin: type[Any]) -> dict[str, Any]:
    """The settings of a plug-in that need not be given, as they are then.

    Raises:
        BenchError: one cannot be made.
    """
    return _defaults({field.name: field for field in dataclasses.fields(plugin) if field.init}, plugin.__qualname__)


def _defaults(fields: dict[str, dataclasses.Field[Any]], where: str) -> dict[str, Any]:
    """What a setting is when it is not given."""
    found = {}
    for name, field in fields.items():
        if field.default is not dataclasses.MISSING:
            found[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            try:
                found[name] = field.default_factory()
            except Exception as error:
                cause = f"{type(error).__name__}: {_first_line(error)}"
                raise BenchError(f"{where}: the default of {name} cannot be made ({cause})") from error
    return found


def _storable(value: Any) -> bool:
    """Whether an id can be made of it: JSON, without NaN."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _storable(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_storable, value))
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or "(no message)"


def plain(instance: Any) -> dict[str, Any]:
    """The settings of an instance as records hold them and ids are made of them, as JSON-like values.

    Defaults are included, but for settings `added` later.
    """
    later = _later(type(instance))
    return {
        name: value
        for name, value in complete(instance).items()
        if name not in later or canonical(value) != canonical(later[name])
    }


def complete(instance: Any) -> dict[str, Any]:
    """All settings of an instance, defaults included, as JSON-like values."""
    return {field.name: _plain(getattr(instance, field.name)) for field in dataclasses.fields(instance) if field.init}


def completed(plugin: type[Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings with those that were `added` and are not in the record, since they are as before."""
    return {**recorded, **_later(plugin), **recorded}


def _later(plugin: type[Any]) -> dict[str, Any]:
    """The settings that were `added` to a plug-in, at their defaults."""
    return {field.name: _plain(field.default) for field in dataclasses.fields(plugin) if ADDED in field.metadata}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def explain(error: ValidationError) -> str:
    """The first fault of a validation error in one line: field, what is wrong, what was given."""
    fault = error.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])[:LONGEST]
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    given = "" if fault["type"] in ("missing", "value_error") else f", not {shown(fault['input'])}"
    more = error.error_count() - 1
    return f"{field + ': ' if field else ''}{message}{given}{f' (and {more} more)' if more else ''}"
