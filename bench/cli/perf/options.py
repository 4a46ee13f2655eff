"""Options that the commands of `bench perf` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bench.cli.options import data_option
from bench.cli.parameters import JOBS, Integer
from bench.core import numbers

F = TypeVar("F", bound=Callable[..., Any])


def processor(function: F) -> F:
    """`--device`, `--threads`, `--set`, `--json`."""
    for option in reversed(
        (
            click.option("--device", envvar="BENCH_DEVICE", show_envvar=True, help="cpu, cuda; a GPU if there is one."),
            click.option("--threads", type=JOBS, default=1, show_default=True, envvar="BENCH_THREADS",
                         show_envvar=True, help="CPU threads; with one, other programs disturb least."),
            click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="As for `bench run`."),
            click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, progress on stderr."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def rounds(*, repeats: int, least: int) -> Callable[[F], F]:
    """`--data`, and `--repeats` of at least `least`, by default `repeats`."""
    told = "Rounds in which everything is timed in turns" + ("; 0 for no times." if least == 0 else ".")

    def added(function: F) -> F:
        function = click.option("--repeats", type=Integer(least, numbers.MOST), default=repeats, show_default=True,
                                help=told)(function)  # fmt: skip
        return data_option()(function)

    return added
