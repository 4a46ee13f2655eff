"""Every plug-in of bench's own keeps the rules that a stranger's must keep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.core import config, registry, settings
from bench.data.base import MissingDataError, load_splits
from bench.doctor import attacks, plugins

DATA = Path(os.environ.get("BENCH_DATA", "data"))
OURS = config.load().config


def ours() -> list[tuple[str, str]]:
    """Every plug-in that is configured or registered, by kind and name."""
    own = [
        (kind, name)
        for kind in registry.KINDS
        for name, entry in registry.entries(kind).items()
        if entry.origin == registry.BUILT_IN and (kind, name) != ("datasets", "prepared")
    ]  # is one of pictures there
    return sorted({*((kind, name) for kind in registry.KINDS for name in getattr(OURS, kind)), *own})


@pytest.mark.parametrize(("kind", "name"), ours())
def test_it_conforms(kind: str, name: str) -> None:
    if kind == "datasets":
        try:
            load_splits(OURS.datasets[name].plugin, folder=DATA)
        except MissingDataError:
            pytest.skip(f"set BENCH_DATA to a folder with {name}; {DATA} has none")
    assert [check for check in plugins.check(name, DATA) if not check.ok] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OURS.attacks))
def test_no_false_alarm_on_twenty_other_networks(name: str) -> None:
    """Two rules of attacks are statistical: the loss rises, and that of the targets falls."""
    spec = OURS.attacks[name]
    attack = settings.build(registry.load("attacks", spec.plugin), spec.settings, name)
    found = {seed: [check for check in attacks.checks(attack, seed) if not check.ok] for seed in range(1, 21)}
    assert not any(found.values())
