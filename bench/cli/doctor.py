"""`bench doctor`: is this installation sound?"""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import data_option, where
from bench.cli.parameters import Once
from bench.cli.say import say


@click.command("doctor", cls=Once)
@data_option()
@click.option(
    "--plugin",
    metavar="NAME",
    help="Check one method, attack, data set, model or fusion rule against what every plug-in must do.",
)
@where
def command(data: Path, plugin: str | None, results: Path, db: str | None) -> int:
    """Check packages, device, configuration, plug-ins, data sets and database; exit code 1 if something is wrong.

    With --plugin NAME a method is trained for a few steps, an attack run on small networks, a model built, a data set
    read, a fusion rule tried on logits, and each check printed with whether it was kept. So a plug-in that is broken
    and runs all the same is found.

    \b
    Examples:
      bench doctor
      bench doctor --plugin trs
    """
    from rich.text import Text

    from bench.report.console import console

    if plugin:
        from bench.doctor import plugins

        checks = plugins.check(plugin, data)
    else:
        from bench.doctor import installation

        checks = installation.check(data, results, db)
    bad, out = 0, console()
    for check in checks:
        bad += not check.ok
        mark = ("ok   ", "green") if check.ok else ("FAIL ", "red")
        told = Text.assemble(mark, f"{check.name}{': ' + check.detail if check.detail else ''}")
        out.print(told, soft_wrap=not out.is_terminal)
    say("all is well" if not bad else f"{bad} of {len(checks)} checks found fault")
    return 1 if bad else 0
