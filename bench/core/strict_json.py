"""JSON that anybody may have written: taken whole or refused with a line, never a trap for who reads on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

DEPTH = 40  # of lists within lists; a record needs nine
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and line feed: what moves a terminal's cursor."""

# What few texts hold and every value has to be looked at for: whole numbers of 19 digits and more, large powers of ten,
# halves of surrogate pairs.
_SUSPECT = re.compile(r"(?<![\d.])\d{19}|[eE]\+?\d{3}|\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def parse(data: bytes | str, *, numbers: bool = True) -> Any:
    """The value that JSON text holds: at most 40 levels deep, of finite numbers, whole ones of at most 63 bits.

    Args:
        numbers: whether `NaN` and `Infinity`, which are not JSON, are refused; they are None otherwise.

    Raises:
        ValueError: it is something else; the message is one line.
    """
    text = data if isinstance(data, str) else _text(data)
    try:
        value = json.loads(text, parse_constant=_refused if numbers else _nothing)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEPTH} deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise ValueError("a whole number of over 63 bits") from error
        raise
    _shallow(value, DEPTH)
    if _SUSPECT.search(text):
        visit(value, _bounded)
    return value


def check(value: Any) -> None:
    """Hold a value that did not come out of JSON text (the column of a database) to the same bounds.

    Raises:
        ValueError: it is beyond them.
    """
    _shallow(value, DEPTH)
    visit(value, _bounded)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON: no UTF-8 text at byte {error.start}") from error


def _shallow(value: Any, depth: int) -> None:
    if depth < 0:
        raise ValueError(f"nested more than {DEPTH} deep")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(item, (dict, list)):
            _shallow(item, depth - 1)


def visit(value: Any, look: Callable[[Any], object]) -> None:
    """Show `look` every key and every value that is not a list or object, in order."""
    if isinstance(value, dict):
        for key, item in value.items():
            look(key)
            visit(item, look)
    elif isinstance(value, list):
        for item in value:
            visit(item, look)
    else:
        look(value)


def _bounded(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("text that is not Unicode") from error
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number that is not finite")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number of over 63 bits")


def _refused(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


def _nothing(_: str) -> None:
    return None
