"""TOML out of a table, each value with a remark behind it: what `bench config` prints, and any reader of TOML reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import date, time
from typing import Any

Place = tuple[str, ...]
"""Of a value: the names of the tables that it is in, and its own."""


def leaves(table: dict[str, Any], above: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value of a table that is no table, and every empty table, with its place."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name), value


def written(table: dict[str, Any], remark: Callable[[Place], str], above: Place = ()) -> Iterator[str]:
    """Lines of TOML: the values of each table, then the tables within it.

    Args:
        remark: what stands in a comment behind the value of a place.
        above: where the table itself is.
    """
    own = {name: value for name, value in table.items() if not isinstance(value, dict) or not value}
    if own and above:
        yield ""
        yield f"[{'.'.join(map(key, above))}]"
    for name, value in own.items():
        yield f"{key(name)} = {literal(value)}  # {remark((*above, name))}"
    for name, value in table.items():
        if name not in own:
            yield from written(value, remark, (*above, name))


def key(name: str) -> str:
    """A key, quoted where it must be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def literal(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key(name)} = {literal(item)}' for name, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | time):
        return value.isoformat()
    return _text(value) if isinstance(value, str) else repr(value)


def _text(value: str) -> str:
    """A basic string; what does not show is escaped."""
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)
