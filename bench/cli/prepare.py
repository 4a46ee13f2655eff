"""`bench prepare`: bring data sets into a folder and verify them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.parameters import Once
from bench.cli.say import say
from bench.core import registry
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in ("all", *registry.entries("datasets")) if name.startswith(incomplete)]


@click.command("prepare", cls=Once)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete)
@click.option(
    "--data",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    envvar="BENCH_DATA",
    show_envvar=True,
    help="Folder that holds the data sets.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(names: tuple[str, ...], folder: Path, quiet: bool) -> None:
    """Download data sets and verify them.

    NAME is a data set (`bench list datasets` shows them) or `all`. What is there and right is not downloaded again;
    what is damaged or was cut short is. Then images and labels are read: their number, shape and range, and that no
    class is missing. `digits` is built in and needs no preparation.

    \b
    Examples:
      bench prepare mnist                      into ./data
      bench prepare cifar10 cifar100 --data /scratch/data
      BENCH_DATA=/scratch/data bench prepare all

    Without a connection the error names the archive, and where to put it by hand.
    """
    from bench.data.base import verify

    # Unknown names are found before the first download starts.
    chosen = [*registry.entries("datasets")] if "all" in names else list(dict.fromkeys(names))
    plugins: dict[str, Any] = {}
    errors: dict[str, BenchError] = {}
    for name in chosen:
        try:
            plugins[name] = registry.load("datasets", name)
        except registry.PluginError as error:  # a broken one must not keep the others waiting
            errors[name] = error
            if len(chosen) > 1:
                say(f"{name}: {error}", fg="red", err=True)
    folder = folder.expanduser()
    for name, plugin in plugins.items():
        try:
            plugin().prepare(folder, (lambda line: None) if quiet else say)
            verify(name, folder=folder, dataset=plugin())
        except BenchError as error:
            errors[name] = error
            if len(chosen) > 1:
                say(f"{name}: {error}", fg="red", err=True)
    if errors and len(chosen) > 1:
        raise BenchError(f"{len(errors)} of {len(chosen)} data sets could not be prepared: {', '.join(errors)}")
    if errors:
        raise next(iter(errors.values()))
