"""The types that records are made of: every one bounded and finite, so that no reader meets what it cannot show."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bench.core.strict_json import CONTROL

LARGEST = 1e39  # any float32 is smaller; sums and squares of some are finite still
LONGEST = 100_000  # items of a list or table, such as the steps of a loss curve
DEPTH = 8  # of settings and the like; those of a black-box suite have five
YEARS = (2000, 2100)
ERROR, TRACEBACK = 2_000, 200_000  # letters that are kept


class Strict(BaseModel):
    """Of exactly these types: no text for a number, no 1 for true; unknown keys are left out."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class Open(BaseModel):
    """What is known of a table; what else it holds is any JSON that is `bounded`."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    @classmethod
    def check(cls, value: dict[str, Any]) -> dict[str, Any]:
        """The table as it is, if it fits.

        Raises:
            ValueError: it does not.
        """
        try:
            cls.model_validate(bounded(value))
        except ValidationError as error:
            raise ValueError(fault_of(error)) from error
        return value


def utc(text: str) -> str:
    """Any ISO-8601 time as UTC to the second: one spelling, so that text order is time order.

    Raises:
        ValueError: it is none, lacks its zone, or lies outside of the years 2000 to 2100.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time needs its zone, as in 2026-11-21T10:00:00Z")
    try:
        time = time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"a time lies in the years {YEARS[0]} to {YEARS[1]}") from error
    if not YEARS[0] <= time.year < YEARS[1]:
        raise ValueError(f"a time lies in the years {YEARS[0]} to {YEARS[1]}")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def clean(text: str) -> str:
    """Text without control characters but tab and line feed.

    Raises:
        ValueError: it has some.
    """
    if CONTROL.search(text):
        raise ValueError("text with control characters")
    return text


def one_line(text: str) -> str:
    """Text that a table can hold in one line.

    Raises:
        ValueError: it holds line breaks or other letters that do not show.
    """
    if not text.isprintable():
        raise ValueError("not printable")
    return text


def link(text: str) -> str:
    """An address on the web of letters that need no escape anywhere.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"https://[A-Za-z0-9._~:/?#@!$&()*+,;=%-]+", text):
        raise ValueError("an address such as https://example.org/paper is wanted")
    return text


def told(text: str) -> str:
    """An error as it was told, its control characters as their codes: a plug-in may say anything, and it is kept."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)[:ERROR]


def bounded(value: Any, depth: int = DEPTH) -> Any:
    """A JSON value that is neither deep, nor long, nor holds a number beyond ±1e39 or control characters.

    Raises:
        ValueError: it is not.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > LONGEST:
            raise ValueError(f"text of over {LONGEST:,} letters")
        return clean(value)
    if isinstance(value, (int, float)):
        if not (math.isfinite(value) and -LARGEST <= value <= LARGEST):
            raise ValueError(f"a number beyond ±{LARGEST:g}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("a whole number of over 63 bits")
        return value
    if not isinstance(value, (dict, list)):
        raise ValueError(f"a {type(value).__name__} is not JSON")
    if depth == 0:
        raise ValueError(f"nested more than {DEPTH} deep")
    if len(value) > LONGEST:
        raise ValueError(f"over {LONGEST:,} items")
    if isinstance(value, list):
        for item in value:
            bounded(item, depth - 1)
        return value
    for key, item in value.items():
        if not isinstance(key, str) or not key.isprintable() or not 0 < len(key) <= 200:
            raise ValueError("a key is 1 to 200 printable letters")
        bounded(item, depth - 1)
    return value


def fault_of(error: ValidationError) -> str:
    """The first fault of a record in one line: field and what is wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = told(".".join(map(str, first["loc"])))[:200]
    why = first["msg"].removeprefix("Value error, ")
    return f"{field}: {why}" if field else why


def stages(value: list[Any]) -> list[Any]:
    """The stages of a loss curve, each a name and its number of steps.

    Raises:
        ValueError: they are not.
    """
    for each in value:
        match each:
            case [str(name), int(steps)] if not isinstance(steps, bool) and 0 <= steps <= LONGEST:
                one_line(name[:200])
            case _:
                raise ValueError("a stage is its name and its number of steps")
    return value


Table = Annotated[dict[str, Any], AfterValidator(bounded)]
Stages = Annotated[list[Any], Field(max_length=LONGEST), AfterValidator(stages)]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
AttemptId = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z_-]{0,63}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(one_line)]
Line = Annotated[str, Field(max_length=2_000), AfterValidator(one_line)]
Text = Annotated[str, Field(max_length=10_000), AfterValidator(clean)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Small = Annotated[int, Field(ge=0, lt=2**31)]
ImageCount = Annotated[int, Field(ge=1, lt=2**31)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Link = Annotated[str, Field(max_length=500), AfterValidator(link)]
Year = Annotated[int, Field(ge=1900, le=3000)]
Time = Annotated[str, Field(max_length=64), AfterValidator(utc)]
Error = Annotated[str, AfterValidator(told)]
FileName = Annotated[str, Field(min_length=1), AfterValidator(told)]
Traceback = Annotated[str, AfterValidator(lambda text: text[:TRACEBACK])]
