"""How options are given: once where they take one value, numbers within bounds, inputs that are files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from bench.cli.lazy import HELP
from bench.core import numbers
from bench.core.errors import BenchError
from bench.core.files import no_input
from bench.core.numbers import BUDGET, MOST, beyond_pixels, read_number, read_whole, shown
from bench.core.printable import begin, forget
from bench.core.seeds import parse_seeds

F = TypeVar("F", bound=Callable[..., Any])
if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic only from click 8.4 on


class Once(click.Command):
    """A command whose options of one value are given once: of two the first would be dropped without a word.

    Options that are `multiple` may be repeated, and so may plain flags, which then say the same. `-h` is help wherever
    the command is asked: click remembers the option from the first time, with a group above it or without.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.context_settings.setdefault("help_option_names", HELP)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's.

        Raises:
            UsageError: an option that takes one value is given again.
        """
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for index, parameter in enumerate(given):
            if _takes_one(parameter) and parameter in given[:index] and not ctx.resilient_parsing:
                raise click.UsageError(f"{parameter.opts[-1]} takes one value and is given twice; {_advice(parameter)}")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click's; before anything is imported that takes time, a terminal shows what was understood."""
        begin(" · ".join([ctx.command_path, *_understood(ctx)]))
        try:
            return super().invoke(ctx)
        finally:
            forget()


def _understood(ctx: click.Context) -> list[str]:
    """What was given on the command line, as it was understood: `trs, ece`, `dataset digits`, `dry run`."""
    told = []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        value = ctx.params.get(name)
        if ctx.get_parameter_source(name) != ParameterSource.COMMANDLINE or value is None:
            continue
        words = ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        title = parameter.opts[-1].lstrip("-").replace("-", " ")
        if isinstance(parameter, click.Argument):
            told.append(words)
        elif isinstance(value, bool):
            told.append(title if value else f"no {title}")
        else:
            told.append(f"{title} {words}")
    return told


def _takes_one(parameter: click.Parameter) -> bool:
    if not isinstance(parameter, click.Option) or parameter.multiple or parameter.count:
        return False
    return not parameter.is_flag or bool(parameter.secondary_opts)


def _advice(parameter: click.Parameter) -> str:
    if parameter.name == "dataset":
        return "one data set a command"
    if isinstance(parameter.type, Seeds):
        return "write several as a list, such as 0,3"
    return "leave one out"


class Integer(ParamType):
    """A whole number from `least` to `most`."""

    name = "integer"

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        try:
            number = value if type(value) is int else read_whole(str(value))
        except ValueError:
            number = self.least - 1
        if not self.least <= number <= self.most:
            self.fail(f"{shown(value)} is not a whole number from {self.least:,} to {self.most:,}", param, ctx)
        return number


class Real(ParamType):
    """A number above 0 and at most `most`."""

    name = "float"

    def __init__(self, most: float) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = _number(value)
        if not 0 < number <= self.most:
            self.fail(f"{shown(value)} is not a number above 0 and up to {self.most:,g}", param, ctx)
        return number


class Points(ParamType):
    """A size of text: 6 to 30 points."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The points."""
        number = _number(value)
        if not 6 <= number <= 30:
            self.fail(f"{shown(value)} is not a size of text between 6 and 30 points", param, ctx)
        return number


class Number(ParamType):
    """A budget: a number of 0 or more, or a fraction such as 8/255."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number as a float."""
        number = _number(value)
        if not 0 <= number <= BUDGET:
            told = f"is not a budget; write a number up to {BUDGET:,.0f} such as 0.03 or 8/255"
            self.fail(f"{shown(value)} {told}", param, ctx)
        return number


class Radius(Number):
    """The radius of an ℓ∞ ball, in units of the pixel range [0, 1]."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The radius as a float, at most 1."""
        radius = super().convert(value, param, ctx)
        if fault := beyond_pixels("linf", radius):
            self.fail(fault, param, ctx)
        return radius


class Budgets(Number):
    """Budgets such as `0.1,8/255`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The budgets as a tuple."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",", MOST)
        if len(parts) > MOST:
            self.fail(f"more than {MOST:,} budgets", param, ctx)
        return tuple(super(Budgets, self).convert(part, param, ctx) for part in parts)


class Numbers(ParamType):
    """`0.5` or `0.49,0.48,0.45`: finite numbers up to a million, above 0 where `positive`."""

    name = "numbers"

    def __init__(self, *, positive: bool = False) -> None:
        self.positive = positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        numbers = tuple(_number(part) for part in str(value).split(",", MOST))
        if len(numbers) > MOST or not all(abs(number) <= BUDGET for number in numbers):
            self.fail(f"{shown(value)} is not a list of numbers; write 0.5 or 0.49,0.48,0.45", param, ctx)
        if self.positive and min(numbers) <= 0:
            self.fail(f"{shown(value)} holds a number that is not above 0", param, ctx)
        return numbers


def _number(text: Any) -> float:
    """The number in a text; NaN, which no comparison lets through, where there is none."""
    try:
        return read_number(str(text))
    except ValueError:
        return math.nan


class Seeds(ParamType):
    """`0`, `0-4`, `0,3`."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The seeds as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return parse_seeds(str(value))
        except ValueError:
            told = f"is not a list of up to {MOST:,} seeds; write 0, 0-4 or 0,3"
            self.fail(f"{shown(value)} {told}", param, ctx)


class InputFile(click.Path):
    """A file to read that ends: no folder, device or pipe.

    Args:
        endings: of the files that are wanted.
    """

    def __init__(self, *endings: str) -> None:
        super().__init__(path_type=Path)
        self._endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path.

        Raises:
            BenchError: something else is there.
        """
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if fault := no_input(path, self._endings):
            raise BenchError(fault)
        return path


def several(name: str, *, kind: ParamType, text: str) -> Callable[[F], F]:
    """An option that takes several values: repeated, or as comma-separated lists; each is kept once, in order.

    `kind` reads a list; `text` is the help.
    """

    def joined(context: click.Context, parameter: click.Parameter, values: Any) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(values)))

    return click.option(name, multiple=True, type=kind, help=text, callback=joined)


IMAGES = Integer(1, numbers.IMAGES)
JOBS = Integer(1, numbers.WORKERS)
MEMBERS = Integer(1, numbers.MEMBERS)
PANELS = Integer(1, 20)
