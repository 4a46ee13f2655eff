"""The `bench` command: commands are imported when they are used, errors become one red line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from bench.cli import interrupt
from bench.cli.lazy import HELP, LazyGroup
from bench.cli.say import complain, say
from bench.core.errors import BenchError
from bench.core.printable import prepare_streams

# Name → module and the line of help, so that `bench --help` imports no command.
COMMANDS = {
    "run": ("bench.cli.run", "Train, attack, measure; do what is missing and print the table."),
    "evaluate": ("bench.cli.evaluate", "Evaluate an ensemble that was trained elsewhere."),
    "judge": ("bench.cli.judge", "Judge adversarial images that somebody else made against a run."),
    "status": ("bench.cli.status", "What a run would find done, missing, stale or failed."),
    "list": ("bench.cli.list", "List methods, attacks, data sets, models, fusions, recipes, suites or runs."),
    "show": ("bench.cli.show", "Everything about one run or evaluation."),
    "table": ("bench.cli.table", "Print a suite's table beside the published values."),
    "audit": ("bench.cli.audit", "Which results should not be believed, and why."),
    "theory": ("bench.cli.theory", "How unlike members are, and what bounds their transferability."),
    "compare": ("bench.cli.compare", "Which of two methods is better, and how sure that is."),
    "papers": ("bench.cli.papers", "What papers conclude, and whether it holds of what was measured."),
    "heatmap": ("bench.cli.heatmap", "Draw transferability matrices."),
    "plot": ("bench.cli.plot", "Draw curves, robustness against budget and steps, decision boundaries."),
    "report": ("bench.cli.report", "Write the leaderboard as a folder of web pages."),
    "prepare": ("bench.cli.prepare", "Download data sets, or make one of your own pictures; verify them."),
    "config": ("bench.cli.config", "Print the configuration that holds here, with where each value is from."),
    "perf": ("bench.cli.perf", "Measure attacks, training, jobs at once and memory, beside public libraries."),
    "doctor": ("bench.cli.doctor", "Check this installation, or one plug-in."),
    "db": ("bench.cli.db", "Look after the database."),
    "exec": ("bench.cli.exec", "Do one job from its file (used by executors)."),
}
HIDDEN = {"exec"}


def _version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """The version, with the commit where it is not a release."""
    if asked:
        from bench.core import release

        say(f"bench, version {release.described()}")
        context.exit()


@click.command(cls=LazyGroup, modules=COMMANDS, hidden=HIDDEN, context_settings={"help_option_names": HELP})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Benchmark and leaderboard for adversarially robust ensembles.

    \b
    Start here:
      bench run --method trs --dataset digits      trains, attacks, prints the table (a minute or two)
      bench run --method trs --method ece --dataset mnist --recipe quick
      bench list methods
      bench heatmap --method trs --dataset digits

    The same command again does only what is missing. Settings stand in bench.toml; --set changes one for a command.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0 done, 1 a job or check failed, 2 wrong use or missing data, 130 interrupted."""
    try:
        code = run(arguments)
    except Exception as error:
        code = _internal(error)
    interrupt.leave_at_once()  # what follows is Python's own end
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    with interrupt.once() as asked:
        try:
            return _run(arguments)
        except Exception:
            if not asked:  # else it is what a library made of the interrupt
                raise
            return _interrupted()


def _run(arguments: Sequence[str] | None) -> int:
    prepare_streams()
    try:
        result = cli.main(args=None if arguments is None else list(arguments), prog_name="bench", standalone_mode=False)
    except BenchError as error:
        complain(str(error))
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        say(told.getvalue(), err=True, nl=False)
        return error.exit_code
    except BrokenPipeError:  # `bench table … | head`
        return _reader_left()
    except SystemExit as error:  # how rich reports the same
        if isinstance(error.__context__, BrokenPipeError):
            return _reader_left()
        raise
    except OSError as error:
        complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return 2
    return result if isinstance(result, int) else 0


def _interrupted() -> int:
    complain("interrupted; the same command goes on where this one stopped")
    return interrupt.INTERRUPTED


def _reader_left() -> int:
    """What reads our output wants no more of it: that is not an error, and nothing is to be said at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _internal(error: Exception) -> int:
    """One line for a fault of the program itself, its traceback in a file; `run` raises it, so that tests see it."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("wb", prefix="bench-error-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)).encode(errors="backslashreplace"))
    cause = next(iter(str(error).splitlines()), "no message")
    complain(f"internal error, not yours: {type(error).__name__}: {cause}; please report {file.name}")
    return 1


if __name__ == "__main__":
    main()
