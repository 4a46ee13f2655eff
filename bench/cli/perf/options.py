"""Options that the commands of `bench perf` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bench.cli.parameters import JOBS, Integer
from bench.core import numbers

F = TypeVar("F", bound=Callable[..., Any])
HELP = {"help_option_names": ["-h", "--help"]}
ROUNDS = "Rounds in which everything is timed in turns"


def machine(*, repeats: int = 3, least: int = 0) -> Callable[[F], F]:
    """`--data`, and what `processor` adds."""

    def added(function: F) -> F:
        folder = click.Path(file_okay=False, path_type=Path)
        return click.option("--data", type=folder, default=Path("data"), show_default=True, envvar="BENCH_DATA",
                            show_envvar=True, help="Folder of the data sets.")(
            processor(repeats=repeats, least=least)(function)
        )  # fmt: skip

    return added


def processor(*, repeats: int = 3, least: int = 0) -> Callable[[F], F]:
    """`--device`, `--threads`, `--repeats` (at least `least`; by default `repeats`, 0: without), `--set`, `--json`."""
    told = f"{ROUNDS}; 0 for no times." if least == 0 else f"{ROUNDS}."
    options = [
        click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, progress on stderr."),
        click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="As for `bench run`."),
        click.option("--repeats", type=Integer(least, numbers.MOST), default=repeats, show_default=True, help=told),
        click.option("--threads", type=JOBS, default=1, show_default=True, envvar="BENCH_THREADS",
                     show_envvar=True, help="CPU threads; with one, other programs disturb least."),
        click.option("--device", envvar="BENCH_DEVICE", show_envvar=True, help="cpu, cuda; a GPU if there is one."),
    ]  # fmt: skip
    if repeats == 0:
        del options[2]

    def added(function: F) -> F:
        for option in options:
            function = option(function)
        return function

    return added


def selection_of(
    dataset: str, methods: Sequence[str], recipe: str, model: str | None, limit: int | None, changes: Sequence[str]
) -> list[str]:
    """What is to be done, as options of `bench run`."""
    selection = ["--dataset", dataset, "--recipe", recipe]
    selection += [part for method in methods for part in ("--method", method)]
    selection += ["--model", model] if model else []
    selection += ["--limit", str(limit)] if limit else []
    return selection + [part for change in changes for part in ("--set", change)]
