"""`bench perf`: how strong, how fast and how large our attacks, training steps and runs are."""

from __future__ import annotations

import click

from bench.cli.lazy import LazyGroup

_HELP_OF = {
    "attacks": "Compare our attacks with other libraries and the floor.",
    "training": "Time a training step of every method against its floor.",
    "jobs": "Find how many jobs at once on a device are best.",
    "memory": "Peak memory of every method and attack.",
}
COMMANDS = {name: (f"bench.cli.perf.{name}", told) for name, told in _HELP_OF.items()}


@click.command("perf", cls=LazyGroup, modules=COMMANDS, prefix="perf ")
def command() -> None:
    """Measure this program: ratios taken in one run, and memory.

    \b
    Examples:
      bench perf attacks --dataset digits --images 200
      bench perf training --dataset mnist --model lenet
      bench perf jobs --dataset digits --at-once 2
      bench perf memory --dataset cifar10 --model resnet20 --batch 32
    """
