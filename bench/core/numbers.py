"""Numbers from outside: how they are read, how large they may be, and how any value is shown in a message.

Options of the command line and `bench.toml` share these bounds. They are far above what anybody needs; what lies beyond
would only fill memory, overflow a column of the database, or never end.
"""

from __future__ import annotations

import re
import reprlib
from fractions import Fraction
from typing import Any

BATCH = 1_000_000
BUDGET = 1e6
"""Of a radius ε or a weight c; also of lengths and means."""
EPOCHS = 1_000_000
IMAGES = 1_000_000_000
"""Of a data set or a limit."""
MEMBERS = 1000
ENSEMBLE = -1  # the place of the ensemble among its members, in matrices and tables
MOST = 1000
"""Of things that one command names or repeats: seeds, budgets, rounds."""
SEED = 2**31 - 1
"""An integer column of PostgreSQL holds no more."""
WHOLE = 2**53
"""Whole numbers in settings of a plug-in (steps, restarts): what any reader of JSON holds exactly."""
WORKERS = 1024
"""Of threads, processes, jobs at once."""

_LONGEST = 60
_HUGE = re.compile(r"e[+-]?[\d_]{4}", re.IGNORECASE)  # a power of ten that would be written out in full

_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxother, _brief.maxlong = 3, 80, 80, 40
_brief.maxdict = _brief.maxlist = _brief.maxtuple = _brief.maxset = 4


def beyond_pixels(norm: str | None, radius: float) -> str | None:
    """What is wrong with a radius in a norm, None where nothing is: pixels lie in [0, 1], an ℓ∞ ball of 1 holds all."""
    if norm != "linf" or radius <= 1:
        return None
    return f"eps is in units of the pixel range [0, 1], not {radius:g}: {radius:g}/255 is meant, perhaps"


def read_number(text: str) -> float:
    """`0.03`, `1e-3` or `8/255`, rounded once; a text of any size is read or refused at once.

    Raises:
        ValueError: the text is something else.
    """
    if len(text) > _LONGEST or _HUGE.search(text):
        raise ValueError(f"{shown(text)} is not a number of a usual size")
    try:
        exact = Fraction(text)
        number = float(exact)
    except (ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"{shown(text)} is not a finite number") from error
    if exact and not number:
        raise ValueError(f"{shown(text)} is too close to 0")
    return number


def read_whole(text: str) -> int:
    """A whole number of at most 20 digits.

    Raises:
        ValueError: the text is something else, or longer.
    """
    if not re.fullmatch(r"[+-]?\d{1,20}", text.strip(), re.ASCII):
        raise ValueError(f"{shown(text)} is not a whole number")
    return int(text)


def parse_number(value: Any) -> Any:
    """A budget may be a number or a fraction such as "8/255"; anything else is left for the validator to refuse."""
    if isinstance(value, str):
        try:
            return read_number(value)
        except ValueError:
            return value
    return value


def several(count: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def shown(value: object) -> str:
    """`repr(value)` for a message: never longer than a line, whatever its size, depth or number of digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length():,} bits"  # its digits would take long, or are refused by Python
    if isinstance(value, (dict, list, tuple, set)) and _holds_large(value):
        return f"a {type(value).__name__} of {len(value)}"
    text = _brief.repr(value)
    return text if len(text) <= 200 else f"{text[:120]}…"


def _holds_large(value: object, depth: int = 3) -> bool:
    if isinstance(value, int):
        return value.bit_length() > 128
    if not isinstance(value, (dict, list, tuple, set)) or not depth:
        return False
    return any(_holds_large(each, depth - 1) for each in (value.values() if isinstance(value, dict) else value))
