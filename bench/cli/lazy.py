"""Groups whose commands are imported when they are used."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Any

import click

from bench.core.errors import unknown_name

HELP = ["-h", "--help"]


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own, as `command`.

    Args:
        modules: name → module and the line of help, in the order of the help.
        hidden: names that the help leaves out.
        prefix: what stands before a command's name in messages about mistakes, such as `perf `.
    """

    def __init__(
        self, *args: Any, modules: Mapping[str, tuple[str, str]], hidden: Collection[str] = (), prefix: str = "",
        **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **settings)
        self._modules = modules
        self._hidden = hidden
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return [name for name in self._modules if name not in self._hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._modules:
            return None
        command = importlib.import_module(self._modules[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The lines of help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._modules[name][1]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with "did you mean" for an unknown command."""
        if args and args[0] not in self._modules and not args[0].startswith("-"):
            known = [self._prefix + name for name in self.list_commands(ctx)]
            raise unknown_name("command", self._prefix + args[0], known)
        return super().resolve_command(ctx, args)
