"""Fields of CSV files: text for whoever opens them, whatever it says."""

from __future__ import annotations

from typing import TypeVar

from bench.core.printable import visible

T = TypeVar("T")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def field(value: T) -> T | str:
    """A field; a text that a spreadsheet would take for a formula gets a quote before it.

    Letters that do not show are written as their codes, so that a line of a file is a row. What is not text stays.
    """
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.lstrip(" ").startswith(_FORMULA) else visible(value)
