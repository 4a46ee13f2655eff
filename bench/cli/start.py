"""Where `bench` begins: before anything is imported that takes time, Ctrl-C is made to end without a traceback."""

from __future__ import annotations

from bench.cli import interrupt


def main() -> None:
    """The command `bench`."""
    interrupt.leave_at_once()
    from bench.cli.main import main as begin

    begin()
