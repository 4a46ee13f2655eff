"""What `bench audit --deep` runs on a trained ensemble: the checks that its results do not hold yet, as evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.core import registry, settings, versions
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.seeds import SURROGATE_SEEDS
from bench.core.terms import Stop
from bench.experiment import select
from bench.experiment.spec import OUTSIDE, EvaluationSpec, Job, RunSpec
from bench.jobs.ensembles import measured_before, mend, weights_fault
from bench.jobs.plan import Plan, plan_of
from bench.jobs.workplace import Workplace
from bench.store import door, standing
from bench.store.database import Database
from bench.store.rules.base import white_box
from bench.store.typed_rows import EvaluationRow

LOOKED_AT = 200  # images whose gradients are looked at
POINTS = 100  # around each, within half the radius
PLANTED = 50  # images beside which one is planted
BATCH = 128  # training images on which the terms of the loss are compared
LONGER, STARTS = 3, 2  # times the steps, and random starts, of the longer attack


def make_plan(
    loaded: Loaded, base: Database, place: Workplace, run_id: str, *, eps: float | None = None, limit: int | None = None
) -> Plan:
    """The evaluations that an audit of a run needs, joined with what is there.

    Args:
        eps: radius of the ℓ∞ ball that is audited; unless given, the one that most of the run's attacks have, or else
            the smallest of `pgd` in bench.toml.
        limit: test images for the attacks; unless given, as many as the run's attacks at that radius have.

    Raises:
        BenchError: the run's files or weights are not here, it is a surrogate, or nothing says which radius is meant.
    """
    run = door.run_at(place.run(run_id).record).spec
    if run.seed >= SURROGATE_SEEDS:
        raise BenchError(f"{run.label}: it lends its images to others and competes on no board; audit a run that does")
    if fault := weights_fault(run, place):
        raise BenchError(
            f"the weights of run {short(run_id)} are {fault} here; {mend(run, place, **measured_before(base, run_id))}"
        )
    measured = standing.read(base, run_ids=run_id)
    rows = [row for row in measured.standings.current(measured.rows) if row.split == "test"]
    radius, images = _claim(loaded, run, rows, eps, limit)
    specs = specs_of(loaded, run, rows, radius, images)
    return plan_of([Job(run=run, evaluation=spec) for spec in specs], base, place)


def _claim(
    loaded: Loaded, run: RunSpec, rows: Sequence[EvaluationRow], eps: float | None, limit: int | None
) -> tuple[float, int | None]:
    """The radius and the number of test images (None: all) that the audit is about."""
    own = [row for row in white_box(rows) if row.budget_name == "eps" and 0 < (row.budget or 0) < 1]
    own = [row for row in own if row.plugin != "crosscheck"] or own
    if eps is None:
        counts = Counter(row.budget for row in own)
        most = max(counts.values(), default=0)
        eps = min((budget for budget, n in counts.items() if budget and n == most), default=None)
    if eps is None:
        budgets = loaded.config.attacks["pgd"].budgets.get(run.dataset) if "pgd" in loaded.config.attacks else None
        if not budgets:
            raise BenchError(
                f"no attack was run on it and bench.toml has no budget of pgd on {run.dataset}; give --eps"
            )
        eps = min(budgets)
    if limit is None:
        sizes = [row for row in own if row.budget == eps]
        limit = max(sizes, key=lambda row: row.n).image_limit if sizes else None
    return eps, limit


def specs_of(
    loaded: Loaded, run: RunSpec, rows: Sequence[EvaluationRow], eps: float, limit: int | None
) -> list[EvaluationSpec]:
    """Every evaluation of an audit, those of the run that it is held against included."""
    base = next(
        (row for row in white_box(rows) if row.plugin == "pgd" and (row.budget, row.image_limit) == (eps, limit)), None
    )
    own: dict[str, Any] = dict(base.settings) if base is not None else _configured(loaded)
    longer = {**own, "steps": LONGER * own["steps"], "restarts": max(STARTS, own.get("restarts", 1))}
    drawn = select.draws_a_member(run)
    stop: Stop = "last" if drawn else "first_success"
    random = any(row.measurements.get("random_output") for row in rows if row.kind == "clean")
    mean: dict[str, Any] = {"eot": 10} if random else {}

    def attack(plugin: str, values: dict[str, Any], budget: float, name: str = "") -> EvaluationSpec:
        cls = registry.load("attacks", plugin)
        plain = settings.plain(settings.build(cls, values, f"attacks.{name or plugin}"))
        return EvaluationSpec(
            kind="attack", run=run, attack=name or plugin, plugin=plugin, settings=plain, budget_name="eps",
            budget=budget, stop=stop, limit=limit,
            versions={"attack": cls.version_on(drawn), "evaluator": versions.EVALUATOR},
        )  # fmt: skip

    found = [
        EvaluationSpec.of_clean(run, limit=limit, split="test"),
        attack("pgd", own, eps),
        EvaluationSpec.of_audit(
            run, "gradients", {"count": LOOKED_AT, "steps": own["steps"], "points": POINTS}, eps=eps, limit=limit
        ),
        attack("pgd", own, 1.0),
        EvaluationSpec.of_audit(
            run, "planted", {"count": PLANTED, "attack": {"plugin": "pgd", "settings": own}}, eps=eps, limit=limit
        ),
        attack("crosscheck", mean, eps),
        attack("pgd", longer | mean, eps),
    ]
    if run.members > 1 and drawn:
        found.append(attack("arc", {}, eps))
    if run.plugin != OUTSIDE:
        found.append(EvaluationSpec.of_audit(run, "loss_terms", {"count": BATCH}, eps=eps, limit=limit))
    return found


def _configured(loaded: Loaded) -> dict[str, Any]:
    """PGD as bench.toml has it, or as it is by itself."""
    spec = loaded.config.attacks.get("pgd")
    values = spec.settings if spec is not None and spec.plugin == "pgd" else {}
    return settings.plain(settings.build(registry.load("attacks", "pgd"), values, "attacks.pgd"))
