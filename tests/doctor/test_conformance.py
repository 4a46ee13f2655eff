"""Every plug-in of bench's own keeps the rules that a stranger's must keep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.core import config, registry, settings
from bench.data.base import MissingDataError, load_splits
from bench.doctor import attacks, plugins
from bench.doctor.installation import Check

DATA = Path(os.environ.get("BENCH_DATA", "data"))
OURS = config.load().config


def names(kind: str) -> list[str]:
    """What is configured of a kind, and plug-ins that are not."""
    own = [name for name, entry in registry.entries(kind).items() if entry.origin == registry.BUILT_IN]
    return sorted({*getattr(OURS, kind), *own})


def faults(name: str) -> list[Check]:
    """What doctor finds."""
    return [check for check in plugins.check(name, DATA) if not check.ok]


@pytest.mark.parametrize("name", names("methods"))
def test_methods_conform(name: str) -> None:
    assert not faults(name)


@pytest.mark.parametrize("name", names("attacks"))
def test_attacks_conform(name: str) -> None:
    assert not faults(name)


@pytest.mark.parametrize("name", names("models"))
def test_models_conform(name: str) -> None:
    assert not faults(name)


@pytest.mark.parametrize("name", names("datasets"))
def test_data_sets_conform(name: str) -> None:
    try:
        load_splits(OURS.datasets[name].plugin, folder=DATA)
    except MissingDataError:
        pytest.skip(f"set BENCH_DATA to a folder with {name}; {DATA} has none")
    assert not faults(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OURS.attacks))
def test_no_false_alarm_on_twenty_other_networks(name: str) -> None:
    """Two rules of attacks are statistical: the loss rises, and that of the targets falls."""
    spec = OURS.attacks[name]
    attack = settings.build(registry.load("attacks", spec.plugin), spec.settings, name)
    found = {seed: [check for check in attacks.checks(attack, seed) if not check.ok] for seed in range(1, 21)}
    assert not any(found.values())
