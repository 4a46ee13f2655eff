"""Options that commands share: the selectors, and where data and results lie."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from bench.cli.parameters import IMAGES, JOBS, MEMBERS, PANELS, Budgets, ParamType, Points, Real, Seeds, several
from bench.cli.say import complain, say
from bench.core import places
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.precision import Precision
from bench.core.printable import visible
from bench.core.terms import Split
from bench.jobs import opening
from bench.jobs.choosing import Chosen as Chosen
from bench.jobs.opening import bring_up as bring_up
from bench.jobs.opening import existing_or_scratch as existing_or_scratch
from bench.jobs.opening import open_database as open_database
from bench.jobs.opening import with_published as with_published
from bench.jobs.workplace import Workplace

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from bench.store.database import Database

MOST_INCHES = 100.0
F = TypeVar("F", bound=Callable[..., Any])


class Named(ParamType):
    """A name out of one table of bench.toml; completes, and leaves the checking to the command."""

    def __init__(self, kind: str, *extra: str) -> None:
        self.name = kind.removesuffix("s")
        self._kind = kind
        self._extra = extra

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names of the configuration that holds here."""
        from click.shell_completion import CompletionItem

        from bench.core import config

        try:
            names = [*getattr(config.load().config, self._kind), *self._extra]
        except BenchError:
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class PluginName(ParamType):
    """A registered plug-in of a kind that bench.toml has no table of; completes."""

    def __init__(self, kind: str) -> None:
        self.name = kind.removesuffix("s")
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name."""
        from bench.core import registry

        return registry.entry(self._kind, str(value)).name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that are registered."""
        from click.shell_completion import CompletionItem

        from bench.core import registry

        return [CompletionItem(name) for name in registry.entries(self._kind) if name.startswith(incomplete)]


class NameList(Named):
    """Several names, such as `pgd,fgsm`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names as a tuple."""
        return value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(","))


class RunId(ParamType):
    """An id of a run or evaluation, or the first characters of one; completes from the database."""

    name = "id"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Ids of runs, with what they are."""
        from click.shell_completion import CompletionItem

        from bench.store import queries
        from bench.store.database import Database

        try:
            with Database(
                ctx.params.get("db") or Path(ctx.params.get("results") or "results") / "bench.db"
            ).open() as db:
                rows = queries.runs(db)
        except BenchError:
            return []
        return [
            CompletionItem(short(row.run_id), help=visible(f"{row.method} on {row.dataset}, seed {row.seed}"))
            for row in rows
            if row.run_id.startswith(incomplete)
        ]


def where(function: F) -> F:
    """`--results`, `--db`."""
    function = click.option(
        "--db",
        metavar="FILE|URL",
        envvar="BENCH_DB",
        show_envvar=True,
        help="Database; RESULTS/bench.db unless given.",
    )(function)
    return results_option(function)


def results_option(function: F) -> F:
    """`--results`."""
    return click.option(
        "--results",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("results"),
        show_default=True,
        envvar="BENCH_RESULTS",
        show_envvar=True,
        help="Folder of runs, figures and the database.",
    )(function)


def page_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--width`, `--columns`, `--font-size`, `--no-title`: the `page` that a figure is printed on."""

    @functools.wraps(function)
    def on_page(*, width: float | None, columns: int | None, title: bool, font_size: float | None, **given: Any) -> Any:
        from bench.report.plots.style import Page

        return function(page=Page(width, columns, title, font_size), **given)

    for option in reversed(
        (
            click.option("--width", type=Real(MOST_INCHES), metavar="INCHES",
                         help="Width it is printed at, such as 3.25 for one of two columns; text keeps 6 points or "
                         "more.  [default: as needed, at most 7]"),
            click.option("--columns", type=PANELS, help="Panels in a row.  [default: as many as fit]"),
            click.option("--font-size", type=Points(), metavar="POINTS",
                         help="Of labels, 6 to 30.  [default: 9; 8 where it is narrower than 5 inches]"),
            click.option("--title/--no-title", default=True,
                         help="Whether lines above it say what it shows; a paper has a caption instead."),
        )
    ):  # fmt: skip
        on_page = option(on_page)
    return on_page


def data_option(only: str = "") -> Callable[[F], F]:
    """`--data`; `only` stands before its help, as in `For --export: `.

    While the command runs, the data sets prepared in that folder are among those that are configured.
    """

    def held(context: click.Context, parameter: click.Parameter, folder: Path) -> Path:
        context.with_resource(places.data_in(folder))
        return folder

    return click.option(
        "--data", type=click.Path(file_okay=False, path_type=Path), default=Path("data"), show_default=True,
        envvar="BENCH_DATA", show_envvar=True, help=_begun(only, "Folder of the data sets."), callback=held,
    )  # fmt: skip


def machine(*, batch: bool = True, only: str = "", otherwise: str = "") -> Callable[[F], F]:
    """`--data`, `--device`, `--threads` and `--batch`: the machine's settings, in no id.

    `only` stands before their helps; `otherwise` says what device and threads are unless given.
    """
    device = f"cpu, cuda, cuda:1; {otherwise or 'a GPU if there is one'}."
    threads = f"CPU threads of a job; {otherwise or 'one unless given (beside a GPU, as torch takes)'}."
    images = (
        "Images a batch in evaluations; changes no result. Unless given, what memory allows, at most 250 (GPU: 1,000)."
    )
    options = [
        data_option(only),
        click.option("--device", envvar="BENCH_DEVICE", show_envvar=True, help=_begun(only, device)),
        click.option("--threads", type=JOBS, envvar="BENCH_THREADS", show_envvar=True, help=_begun(only, threads)),
    ]
    if batch:
        options.append(click.option("--batch", type=IMAGES, help=_begun(only, images)))

    def added(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return added


def _begun(only: str, text: str) -> str:
    """A help behind what it is for; an abbreviation such as CPU stays large."""
    small = text[0].lower() + text[1:] if text[1:2].islower() else text
    return f"{only}{small}" if only else text


def precision_option(text: str, default: str | None = "float32") -> Callable[[F], F]:
    """`--precision`; `text` is its help. Without a default it is None unless given: attacks ask as configured."""
    told = "  [default: float32, unless bench.toml or --set say otherwise]" if default is None else ""
    return click.option(
        "--precision", type=click.Choice(get_args(Precision)), default=default, show_default=default is not None,
        help=text + told,
    )  # fmt: skip


def capture_option(function: F) -> F:
    """`--capture`."""
    return click.option(
        "--capture/--no-capture", default=True, show_default=True,
        help="On a GPU: record steps of trainings and attacks and replay them, to the same numbers in less time.",
    )(function)  # fmt: skip


def attack_options(function: F) -> F:
    """`--attack`, `--eps`, `--c`: attacks of one's own choice instead of a suite, each at each of its budgets."""
    for option in reversed(
        (
            several("--attack", kind=NameList("attacks"), text="Attack instead of a suite; repeat, or write pgd,fgsm."),
            several("--eps", kind=Budgets(), text="Radius for --attack, such as 0.03, 8/255 or a list 0.1,0.2."),
            several("--c", kind=Budgets(), text="Weight c for --attack, where the attack has one; repeat, or a list."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def allow_factory(function: F) -> F:
    """`--allow-factory`."""
    return click.option(
        "--allow-factory", "factories", multiple=True, metavar="MODULE:FUNCTION",
        help="Let runs that came from others make their members with this function of your own packages.",
    )(function)  # fmt: skip


def selectors(function: F, *, dataset: ParamType | None = None) -> F:
    """Which results: the same options for every command that runs or shows some.

    Args:
        dataset: what `--dataset` takes; one name unless given.
    """
    for option in reversed(
        (
            click.option(
                "-m", "--method", "methods", multiple=True, type=Named("methods", "paper", "all"),
                help="Configured method; repeat for several. `paper`: the columns of Table 1; `all`: every one.",
            ),
            click.option("-d", "--dataset", type=dataset or Named("datasets"), help="Data set.  [default: digits]"),
            click.option("-s", "--suite", type=Named("suites"), help="Suite; the data set's own unless given."),
            click.option("--recipe", type=Named("recipes"),
                         help="How members are trained; the data set's own unless given, `quick` is for CPUs."),
            click.option("--model", type=Named("models"), help="Model of the members; the recipe's unless given."),
            click.option("--members", type=MEMBERS, help="Number of members; the recipe's unless given."),
            click.option("--seeds", type=Seeds(), help="Seeds such as 0, 0-4 or 0,3."),
            click.option("--limit", type=IMAGES, help="Use this many test images only."),
            click.option("--split", type=click.Choice(get_args(Split)), default="test", show_default=True,
                         help="Images to measure on; `validation` with --set data.validation=N, to choose settings."),
            attack_options,
            precision_option("Of the passes that attacks ask for: tf32 (GPU) and bfloat16 are faster, mixed is "
                             "bfloat16 first and float32 on what stood; float32 judges all. The images of the "
                             "black-box suite are made in float32 always.", default=None),
            click.option("--monitor", "monitors", multiple=True, metavar="ATTACK:SETTINGS",
                         help="Robust accuracy on held-out images after each epoch, such as pgd:eps=0.03,steps=10; "
                         "repeat for several."),
            click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
                         help="Change a setting: methods.trs.lambda_a=50, training.epochs=10, data.validation=200."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def choose(*, needs_method: bool = False, suite: str | None = None, **given: Any) -> Chosen:
    """The selectors of a command; ensembles trained elsewhere that its database knows may be named.

    Raises:
        BenchError: names that are unknown, or options that do not go together.
    """
    from bench.jobs import choosing

    changes = (*given["changes"], *_watching(given.get("monitors", ())))
    wanted = {**given, "changes": changes}
    return choosing.choose(outside=_outside(), warn=complain, needs_method=needs_method, suite=suite, **wanted)


def _watching(monitors: tuple[str, ...]) -> list[str]:
    """`--monitor` as a `--set`."""
    return [f"training.monitor={json.dumps(monitors, ensure_ascii=False)}"] if monitors else []


def _outside() -> list[dict[str, Any]]:
    """Ensembles trained elsewhere that the database of this command knows; none where there is no database."""
    from bench.store import queries
    from bench.store.database import Database

    given = context.params if (context := click.get_current_context(silent=True)) else {}
    database = str(given.get("db") or Path(given.get("results") or "results") / "bench.db")
    if "://" not in database and not Path(database).is_file():
        return []
    try:
        with Database(database).open() as base:
            return queries.configs(base, plugin="outside")
    except BenchError:  # the command itself opens it in a moment, and says what is wrong
        return []


@contextlib.contextmanager
def reading(db: str | None, results: Path, *, printed: bool = False) -> Iterator[Database]:
    """The database as it is now, for a command that shows it: what is written meanwhile is not seen.

    Args:
        printed: before anything was run, one that has the published values alone.
    """
    with (opening.printed_or_read if printed else opening.reading)(db, results) as base:
        _tell_unfinished(results)
        yield base


def _tell_unfinished(results: Path) -> None:
    """Say that a killed command left files and rows that do not agree yet."""
    if any((results / "journal").glob("*.json")):
        from bench.jobs import journal

        if journal.abandoned(workplace(results, Path("data"))):
            say(
                f"Note: a command that was killed left a change in {results} half done; the next command that writes, "
                "such as `bench run` or `bench db gc`, finishes it",
                fg="yellow", err=True,
            )  # fmt: skip


def at_work(db: str | None, results: Path) -> contextlib.AbstractContextManager[Database]:
    """The database for a command that adds to it, beside others that do; what a killed one had begun is done first."""
    return opening.at_work(db, results, warn=lambda line: say(line, fg="yellow", err=True))


def workplace(
    results: Path, data: Path, device: str = "cpu", batch_size: int | None = None, factories: tuple[str, ...] = ()
) -> Workplace:
    """Folders, device and what is allowed as a `Workplace`."""
    return Workplace(results=results, data=data.expanduser(), device=device, batch_size=batch_size, factories=factories)
