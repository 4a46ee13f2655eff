"""What runs, measurements and jobs are called for people, of their specs or of what a database says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core.precision import USUAL, Precision, titled
from bench.core.seeds import SURROGATE_SEEDS
from bench.core.terms import UNATTACKED


def run_label(method: str | None, dataset: str | None, seed: int | None, members: int | None) -> str:
    """What a run is called for people, of its spec or of what else says as much of it (None: unknown)."""
    if isinstance(seed, int) and seed >= SURROGATE_SEEDS:  # a record of a failure may say anything
        return f"surrogate {_known(method)} × {_known(members)} on {_known(dataset)}"
    return f"{_known(method)} on {_known(dataset)}, seed {_known(seed)}"


def _known(value: object) -> str:
    """A value in a label; a dash where it is unknown."""
    return "–" if value is None else str(value)


def evaluation_label(
    kind: str, attack: str | None, *, budget_name: str | None, budget: float | None, precision: Precision = USUAL,
    targets: str | None = None,
) -> str:  # fmt: skip
    """What a measurement on a run is called for people (None: it has none, or it is unknown)."""
    if kind in UNATTACKED:
        return {"clean": "clean accuracy"}.get(kind, kind)
    attack = _known(attack)
    kinds = {
        "transfer": f"transferability, {attack}",
        "craft": "images of black-box attacks",
        "blackbox": "black-box",
        "judged": f"images {attack}",
        "certify": "certified, ℓ2",
        "audit": f"audit of {attack.replace('_', ' ')}",
        "theory": f"theory, {'targeted' if targets else 'untargeted'},",
    }
    name = kinds.get(kind, attack)
    if budget is not None:
        told = f"{budget:g}" if isinstance(budget, (int, float)) else str(budget)  # as above
        name += f" {'ε' if budget_name == 'eps' else budget_name}={told}"
    return titled(name, precision)


def failed_label(kind: str, told: Mapping[str, Any]) -> str:
    """What a job is called of which `Job.describe` is left: as the job itself."""
    run = run_label(*(told.get(name) for name in ("method", "dataset", "seed", "members")))
    if kind == "train":
        return job_label(run)
    about = {name: told.get(name) for name in ("budget_name", "budget", "targets")}
    return job_label(run, evaluation_label(kind, told.get("attack"), precision=told.get("precision") or USUAL, **about))


def job_label(run: str, evaluation: str | None = None) -> str:
    """What a job is called, by the labels of its run and of its evaluation; without one it trains."""
    return f"{run}: {evaluation or 'train'}"
