"""`bench prepare`: bring data sets into a folder and verify them, one's own pictures too."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import data_option
from bench.cli.parameters import Budgets, Once, ParamType
from bench.cli.say import say
from bench.core import registry
from bench.core.errors import BenchError
from bench.core.numbers import shown

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from bench.data.pictures import Pictures, Size

LARGEST = 1024
Tell = Callable[[str], object]


class SizeOf(ParamType):
    """`32`, or `32x48` for height and width."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """The size."""
        from bench.data.pictures import Size

        found = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", str(value))
        height, width = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not (1 <= height <= LARGEST and 1 <= width <= LARGEST):
            self.fail(
                f"{shown(value)} is no size; write 32, or 32x48 for height and width, up to {LARGEST:,}", param, ctx
            )
        return Size(height, width)


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in ("all", *_known()) if name.startswith(incomplete)]


def _known() -> list[str]:
    """Names of registered data sets, and of those prepared from pictures here."""
    from bench.core import places, prepared

    plugins = [name for name in registry.entries("datasets") if name not in registry.NEED_SETTINGS]
    return [*plugins, *(path.parent.name for path in prepared.all_there(places.data_folder()))]


@click.command("prepare", cls=Once)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_complete)
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="PICTURES",
              help="Pictures of one's own: a folder with a sub-folder a class, or an .npz.")  # fmt: skip
@click.option("--test", type=click.Path(path_type=Path), metavar="PICTURES",
              help="The same for testing; unless given, one in five of each class is held out.")  # fmt: skip
@click.option("--size", type=SizeOf(), help="Resize pictures: 32, or 32x48 for height and width.")
@click.option("--eps", type=Budgets(), help="Radii of attacks on it, such as 0.01,8/255; unless given, those of mnist "
              "(grey) or cifar10 (colour).")  # fmt: skip
@data_option()
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    names: tuple[str, ...], source: Path | None, test: Path | None, size: Size | None, eps: tuple[float, ...] | None,
    data: Path, quiet: bool,
) -> None:  # fmt: skip
    """Download data sets and verify them, or make one of pictures of one's own.

    NAME is a data set (`bench list datasets` shows them) or `all`. What is there and right is not downloaded again;
    what is damaged or was cut short is. Then images and labels are read: their number, shape and range, and that no
    class is missing. `digits` is built in and needs no preparation.

    With --from, NAME is that of a new data set: its pictures are copied into the folder of data sets, and
    `bench run -d NAME` and every other command take it. Without --from they are verified.

    \b
    Examples:
      bench prepare mnist                      into ./data
      bench prepare cifar10 cifar100 --data /scratch/data
      BENCH_DATA=/scratch/data bench prepare all
      bench prepare halves --from images/      images/left/*.png, images/right/*.png
      bench prepare halves --from images/ --test test/ --size 32 --eps 0.02,0.04
      bench prepare halves --from halves.npz   images and labels, or x_train, y_train, x_test, y_test

    Without a connection the error names the archive, and where to put it by hand.
    """
    tell: Tell = (lambda line: None) if quiet else say
    folder = data.expanduser()
    if source is None:
        options = {"--test": test, "--size": size, "--eps": eps}
        if given := [name for name, value in options.items() if value]:
            raise BenchError(f"{given[0]} goes with --from, which says where the pictures are")
        _all(names, folder, tell)
        return
    if len(names) > 1:
        raise BenchError(f"--from makes one data set, not {len(names)}: {', '.join(names)}")
    _make(names[0], source, test, size, eps or (), folder, tell)


def _make(
    name: str, source: Path, test: Path | None, size: Size | None, eps: tuple[float, ...], folder: Path, tell: Tell
) -> None:
    """Lay pictures out as the data set `name`, and say what it is now."""
    from bench.core import config, prepared, tables
    from bench.data import pictures
    from bench.data.base import verify
    from bench.data.prepared import LaidOut

    taken = {} if name not in registry.entries("datasets") else {name: registry.entry("datasets", name).label}
    with contextlib.suppress(BenchError):  # a bench.toml may speak of the data set that is made here
        taken |= {other: f"of the plug-in {spec.plugin!r}" for other, spec in config.load().config.datasets.items()
                  if spec.plugin != prepared.PLUGIN}  # fmt: skip
    prepared.check_name(name, taken)
    train, of_test, held_out = pictures.read(source, test, size, tell)
    layout = LaidOut(train, of_test, held_out, eps)
    _check_classes(of_test)
    new = layout.write(folder, name)
    loaded = config.load()
    spec = loaded.config.datasets[name]
    verify(name, folder=folder, dataset=loaded.dataset(name))
    told = layout.description
    shape = "×".join(map(str, told.shape))
    tell(
        f"{name}: {told.train_images:,} training and {told.test_images:,} test images {shape}, "
        f"{len(told.classes)} classes ({_listed(told.classes)}), "
        f"{'in' if new else 'were already in'} {prepared.folder_of(folder, name)}"
    )
    whose = "" if told.eps else f", those of {tables.like_of(told.shape[0])}; --eps says others"
    if pgd := loaded.config.attacks.get("pgd"):
        tell(f"attacks have ε = {', '.join(f'{value:g}' for value in pgd.budgets.get(name, ())) or 'none'}{whose}")
    tell(f"next: bench run --method ece --dataset {name} --recipe quick   (the recipe is {spec.recipe} unless said)")


def _check_classes(test: Pictures) -> None:
    counts = test.labels.bincount(minlength=len(test.classes)).tolist()
    if missing := [name for name, count in zip(test.classes, counts, strict=True) if not count]:
        raise BenchError(f"no test picture of class {_listed(missing)}; every class needs one")


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _all(names: tuple[str, ...], folder: Path, tell: Tell) -> None:
    """Fetch and verify data sets that are known already."""
    from bench.core import prepared
    from bench.data.base import verify

    # Unknown names are found before the first download starts.
    known = _known()
    chosen = known if "all" in names else list(dict.fromkeys(names))
    made: dict[str, Any] = {}
    errors: dict[str, BenchError] = {}

    def failed(name: str, error: BenchError) -> None:
        errors[name] = error
        if len(chosen) > 1:
            say(f"{name}: {error}", fg="red", err=True)

    for name in chosen:
        if name not in known:
            raise prepared.missing(name, known)
        try:
            made[name] = _dataset(name)
        except BenchError as error:  # a broken one must not keep the others waiting
            failed(name, error)
    for name, dataset in made.items():
        try:
            dataset.prepare(folder, tell)
            verify(name, folder=folder, dataset=dataset)
        except BenchError as error:
            failed(name, error)
    if errors and len(chosen) > 1:
        raise BenchError(f"{len(errors)} of {len(chosen)} data sets could not be prepared: {', '.join(errors)}")
    if errors:
        raise next(iter(errors.values()))


def _dataset(name: str) -> Any:
    """A registered data set, or one prepared from pictures."""
    from bench.core import places, prepared, settings
    from bench.data.prepared import Prepared

    path = prepared.folder_of(places.data_folder(), name) / prepared.DESCRIPTION
    if name not in registry.entries("datasets") and path.exists():
        return settings.build(Prepared, prepared.read(path).settings(), f"datasets.{name}")
    return registry.load("datasets", name)()
