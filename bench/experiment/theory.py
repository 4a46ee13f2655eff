"""What `bench theory` measures on a run, as specs: its diversity, and the terms of the theorems at each radius."""

from __future__ import annotations

from bench.core import registry, settings, versions
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.terms import Targets
from bench.experiment.spec import EvaluationSpec, RunSpec

ATTACK = "pgd_l2"  # whose ball the theorems speak of


def evaluations(
    loaded: Loaded, run: RunSpec, *, size: int, eps: tuple[float, ...] = (), targets: Targets | None = None,
    limit: int | None = None,
) -> list[EvaluationSpec]:  # fmt: skip
    """Diversity first, then at each radius the terms for an attack that leads to a class and for one that does not.

    Args:
        run: of two members or more.
        size: how many test images there are.
        eps, targets, limit: in place of what `[theory]` says.

    Raises:
        BenchError: a single member, more images than there are, a radius of 0, or no radius for the data set.
    """
    spec, config = loaded.config.theory, loaded.config
    if run.members < 2:
        raise BenchError(f"the theorems are about pairs of members; {run.label} has one")
    if limit is not None and limit > size:
        raise BenchError(f"{run.dataset} has {size:,} test images; --limit {limit} is more")
    budgets = eps or spec.budgets.get(run.dataset, ())
    if not budgets:
        raise BenchError(
            f"bench.toml gives no radius for {run.dataset}; add theory.budgets.{run.dataset}, or give some with --eps"
        )
    if min(budgets) <= 0:
        raise BenchError("at ε = 0 nothing is attacked; give radii above 0")
    chosen = min(limit or spec.limit, size)
    images = None if chosen == size else chosen
    plugin = registry.load("attacks", ATTACK)
    table = config.attacks[ATTACK].settings if ATTACK in config.attacks else {}
    attack = settings.build(plugin, {**table, "steps": spec.steps}, f"attacks.{ATTACK}")
    searching = {"pairs": spec.pairs, "searched": spec.searched, "steps": spec.ascent, "floor": spec.floor}
    radius = config.matrix.budgets.get(run.dataset) or max(budgets)
    unlike = EvaluationSpec(
        kind="diversity", run=run, attack="diversity", plugin="diversity",
        settings={"eps": radius, "steps": spec.distillation}, limit=images,
        versions={"attack": 1, "evaluator": versions.EVALUATOR},
    )  # fmt: skip
    bounds = [
        EvaluationSpec(
            kind="theory", run=run, attack="theory", plugin="theory",
            settings={"attacks": {ATTACK: {"plugin": ATTACK, "settings": settings.plain(attack)}}, **searching},
            budget_name="eps", budget=budget, stop="last", targets=led, limit=images,
            versions={"attack": plugin.version, "evaluator": versions.EVALUATOR},
        )
        for budget in sorted(set(budgets))
        for led in (targets or spec.targets, None)
    ]  # fmt: skip
    return [unlike, *bounds]
