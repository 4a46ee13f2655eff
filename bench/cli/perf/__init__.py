"""`bench perf`: how strong, how fast and how large our attacks, training steps and runs are."""

from __future__ import annotations

import importlib

import click

from bench.cli.perf.options import HELP
from bench.core.errors import unknown_name

# Name → the line of help; the command is that of the module of the same name here.
COMMANDS = {
    "attacks": "Compare our attacks with other libraries and the floor.",
    "training": "Time a training step of every method against its floor.",
    "run": "Split a whole `bench run` into phases.",
    "memory": "Peak memory of every method and attack, and growth.",
    "growth": "Draw how cost grows with images, steps, members, size.",
}


class Commands(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"bench.cli.perf.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The lines of help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with "did you mean" for an unknown command."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown_name("command", f"perf {args[0]}", [f"perf {name}" for name in COMMANDS])
        return super().resolve_command(ctx, args)


@click.command("perf", cls=Commands, context_settings=HELP)
def command() -> None:
    """Measure this program: ratios taken in one run, shares, memory, growth.

    \b
    Examples:
      bench perf attacks --dataset digits --images 200
      bench perf training --dataset mnist --model lenet
      bench perf run --dataset digits
      bench perf memory --dataset cifar10 --model resnet20 --batch 32
      bench perf growth -o growth.png
    """
