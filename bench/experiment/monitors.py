"""What a training is watched by: monitors as recipes and `--monitor` write them, read against `bench.toml`."""

from __future__ import annotations

import json
from typing import Any

from bench.core import registry, settings, versions
from bench.core.config import Loaded, parse_value
from bench.core.errors import BenchError, unknown_name
from bench.core.numbers import BUDGET, parse_number, shown
from bench.core.specs import Watching
from bench.experiment.spec import CLEAN, KeepSpec, MonitorSpec

WRITTEN = "[LABEL=]ATTACK[:SETTING=VALUE,…] such as pgd:eps=0.03,steps=10"


def watched(
    loaded: Loaded, watching: Watching, dataset: str, validation: int
) -> tuple[tuple[MonitorSpec, ...], KeepSpec | None]:
    """The monitors of a training, and by which of them an epoch is kept; None where it is the last.

    Args:
        validation: images held out of the training set: what monitors measure, since test images are never looked at.

    Raises:
        BenchError: a monitor that cannot be read, two of one label, no held-out images, or a label that is none.
    """
    if (watching.monitor or watching.keep != "last") and not validation:
        raise BenchError(
            "a training is watched on held-out images, never on test images: hold some out, "
            "e.g. with --set data.validation=200"
        )
    found: dict[str, MonitorSpec] = {}
    for text in watching.monitor:
        monitor = read(loaded, text, dataset, watching.monitor_every)
        if monitor.name in found:
            raise BenchError(
                f"two monitors are called {monitor.name}; give one a label of its own: other={shown(text)[1:-1]}"
            )
        found[monitor.name] = monitor
    return tuple(found.values()), _kept(watching.keep, found)


def read(loaded: Loaded, text: str, dataset: str, every: int) -> MonitorSpec:
    """One monitor: an attack of `bench.toml` with changes; without a budget, the first that it has for the data set.

    Raises:
        BenchError: an unknown attack or setting, no budget, or not of the form of `WRITTEN`.
    """
    head, _, rest = text.partition(":")
    label, equals, attack = head.rpartition("=")
    if not attack.strip() or (equals and not label.strip()) or not text.isprintable():
        raise BenchError(f"a monitor is written {WRITTEN}, not {shown(text)}")
    attack = attack.strip()
    name = label.strip() or attack
    known = loaded.config.attacks
    if attack not in known:
        raise BenchError(f"monitor {shown(text)}: {unknown_name('attack', attack, known)}")
    if name == CLEAN:
        raise BenchError(f"monitor {shown(text)}: {CLEAN} stands for natural accuracy; choose another label")
    spec = known[attack]
    plugin = registry.load("attacks", spec.plugin)
    given = _given(text, rest)
    budget = given.pop(plugin.budget_name, None)
    if budget is None:
        budget = next(iter(spec.budgets.get(dataset, ())), None)
    budget = parse_number(budget)
    if not isinstance(budget, int | float) or isinstance(budget, bool) or not 0 <= budget <= BUDGET:
        told = "has no budget" if budget is None else f"has the budget {shown(budget)}"
        raise BenchError(f"monitor {shown(text)} {told}; write {attack}:{plugin.budget_name}=NUMBER")
    instance = settings.build(plugin, {**spec.settings, **given}, f"monitor {attack}")
    return MonitorSpec(
        name=name,
        attack=attack,
        plugin=spec.plugin,
        settings=settings.plain(instance),
        budget_name=plugin.budget_name,
        budget=budget,
        every=every,
        version=plugin.version,
        **spec.asked(),
    )


def versions_of(keep: KeepSpec | None) -> dict[str, int]:
    """The versions of what decides the epoch that is kept, as a run has them beside its own."""
    if keep is None or keep.monitor is None:
        return {}
    return {"monitor": keep.monitor.version, "evaluator": versions.EVALUATOR}


def changes(keep: KeepSpec | None) -> list[str]:
    """`--set` changes under which a training keeps this epoch."""
    if keep is None:
        return ["training.keep=last"]
    by = keep.monitor
    watched_by = [f"training.monitor={json.dumps([by.text])}", f"training.monitor_every={by.every}"] if by else []
    return [*watched_by, f"training.keep=best:{keep.name}"]


def _given(text: str, rest: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in given:
            raise BenchError(f"a monitor is written {WRITTEN}, each setting once, not {shown(text)}")
        given[key] = parse_value(value, key)
    return given


def _kept(keep: str, found: dict[str, MonitorSpec]) -> KeepSpec | None:
    if keep == "last":
        return None
    name = keep.removeprefix("best:")
    if name == CLEAN:
        return KeepSpec()
    if name not in found:
        raise BenchError(f"keep = {shown(keep)}: {unknown_name('monitor', name, [*found, CLEAN])}")
    return KeepSpec(monitor=found[name])
