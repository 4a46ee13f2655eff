"""Every command of the program with its words, out of the real tree."""

from __future__ import annotations

from collections.abc import Iterator

import click

from bench.cli.main import cli


def commands(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """`(("db", "gc"), command)` and so on; hidden ones too."""
    context = click.Context(group)
    for name in [*group.list_commands(context), *(("exec",) if group is cli else ())]:
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command
