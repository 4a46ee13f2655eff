"""`bench report`: the leaderboard as a folder of static pages."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import open_database, where
from bench.cli.parameters import Integer, Once
from bench.core.errors import BenchError

if TYPE_CHECKING:
    from rich.console import Console

    from bench.core.config import Loaded
    from bench.report.site import Built
    from bench.store.database import Database


@click.command("report", cls=Once)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path),
              default=Path("site"), show_default=True,
              help="Folder of the site: new, empty, or of an earlier report.")  # fmt: skip
@click.option("--serve", is_flag=True, help="Serve it, and renew it while runs go on; Ctrl-C ends it.")
@click.option("--port", type=Integer(0, 65535), help="Port of --serve; any free one unless given.")
@click.option("--host", metavar="ADDRESS", help="Address of --serve.  [default: 127.0.0.1, this machine only]")
@where
def command(output: Path, serve: bool, port: int | None, host: str | None, results: Path, db: str | None) -> None:
    """Write the leaderboard: a board for each protocol of bench.toml, pages of methods and runs, published values.

    The pages need no network and no server: open index.html, or copy the folder to any web space. The same command
    again makes only the pages that changed, and the front page tells what changed on the boards since the last report
    in this folder. The same database gives the same bytes.

    \b
    Examples:
      bench report                        into site/
      bench report -o ~/public_html/board
      bench report --serve                live, while `bench run` works in another terminal
      bench report --serve --port 8000
    """
    from bench.core import config
    from bench.report.console import console

    if not serve and (port is not None or host is not None):
        raise BenchError("--port and --host go with --serve")
    out = console()
    with open_database(db, results) as base:
        loaded = config.load()
        built = _build(base, output, loaded, results)
        out.print(_told(built, output), soft_wrap=True)
        if serve:
            _serve(base, output, loaded, results, host, port, out)


def _build(base: Database, folder: Path, loaded: Loaded, results: Path, *, again: bool = False) -> Built:
    """The pages; `again`: those that this command has made before, brought up to date in silence."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bench.report.console import console
    from bench.report.site import build
    from bench.store import queries

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    out = console(stderr=True)
    silent = again or not out.is_interactive  # there is nothing to draw over, and rich would end with an empty line
    with Progress(*columns, console=out, transient=True, disable=silent) as bar:
        task = bar.add_task("reading", total=None)

        def shown(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total or None, description=label)

        with base.snapshot():
            loaded = loaded.with_outside(queries.configs(base, plugin="outside"))
            return build(base, folder, loaded=loaded, results=results, progress=shown, adds_up=again)


def _told(built: Built, folder: Path) -> str:
    changed = f"{len(built.written)} of {built.pages} files written"
    gone = f", {len(built.removed)} removed" if built.removed else ""
    return f"{changed}{gone}; open {folder / 'index.html'}"


def _serve(
    base: Database, folder: Path, loaded: Loaded, results: Path, host: str | None, port: int | None, out: Console
) -> None:
    from bench.report.site.serve import LOOPBACK, Server, changes
    from bench.store.database import StoreError

    with Server(folder, host=host or LOOPBACK, port=port or 0) as server:
        out.print(f"serving {server.address} (Ctrl-C ends it)", soft_wrap=True)
        try:
            for _ in changes(lambda: _mark(base), threading.Event()):
                try:
                    built = _build(base, folder, loaded, results, again=True)
                except StoreError as error:  # a busy database: the next change comes
                    out.print(str(error), style="yellow", soft_wrap=True)
                    continue
                if built.written or built.removed:
                    out.print(_told(built, folder), soft_wrap=True)
        except KeyboardInterrupt:
            out.print("ended")
        except OSError as error:
            raise BenchError(f"cannot write to {folder}: {error.strerror or error}") from error


def _mark(base: Database) -> object:
    """Another value whenever results came in."""
    from bench.report.ledger import mark

    return mark(base)
