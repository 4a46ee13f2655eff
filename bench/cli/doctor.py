"""`bench doctor`: is this installation sound?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import data_option, where
from bench.cli.parameters import Once
from bench.cli.say import say

if TYPE_CHECKING:
    from bench.core.registry import Entry
    from bench.jobs.health import Check


@click.command("doctor", cls=Once)
@data_option()
@click.option(
    "--plugin", metavar="NAME", help="Check one method, attack, data set or model against what every plug-in must do."
)
@where
def command(data: Path, plugin: str | None, results: Path, db: str | None) -> int:
    """Check packages, device, configuration, plug-ins, data sets and database; exit code 1 if something is wrong.

    With --plugin NAME a method is trained for a few steps, an attack run on small networks, a model built, a data set
    read; of each rule it is told whether what they do keeps it. A broken plug-in that runs all the same is found so.

    \b
    Examples:
      bench doctor
      bench doctor --plugin trs
    """
    from bench.jobs import health

    if plugin:
        from bench.doctor import plugins

        checks = plugins.check(plugin, data)
    else:
        checks = [*health.check(data, results, db), *_unusable()]
    bad = 0
    for check in checks:
        bad += not check.ok
        say("ok  " if check.ok else "FAIL", fg="green" if check.ok else "red", nl=False)
        say(f" {check.name}{': ' + check.detail if check.detail else ''}")
    say("all is well" if not bad else f"{bad} of {len(checks)} checks found fault")
    return 1 if bad else 0


def _unusable() -> list[Check]:
    """Plug-ins that load and cannot be used all the same: their name is another's, or their defaults are refused."""
    from bench.core import config, registry
    from bench.core.errors import BenchError
    from bench.jobs.health import Check

    try:
        loaded = config.load()
    except BenchError:
        return []  # told as a fault of the configuration
    checks = []
    for kind in registry.KINDS:
        tables = getattr(loaded.config, kind)
        faults = [(entry.name, entry.refused) for entry in registry.left_out(kind)]
        for name, entry in registry.entries(kind).items():
            if hidden := config.hidden(kind, name, tables):
                faults.append((name, f"{entry.label} cannot be reached: {hidden}"))
            elif name in tables and _loads(entry) and (fault := entry.fault(tables[name].settings)):
                faults.append((name, fault))
        checks += [Check(f"{kind[:-1]} {name}", False, fault) for name, fault in faults]
    return checks


def _loads(entry: Entry) -> bool:
    from bench.core.registry import PluginError

    try:
        entry.load()
    except PluginError:
        return False  # told above
    return True
