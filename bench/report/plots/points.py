"""Robust accuracies of a selection as a tidy frame, whatever budget or number of steps they were measured with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core import registry, versions
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.precision import titled
from bench.jobs import select
from bench.jobs.select import Selection
from bench.jobs.spec import EvaluationSpec, RunSpec
from bench.report.results import KINDS, Planned, run_specs
from bench.report.titles import Titles
from bench.store import flags, queries
from bench.store.answers import EvaluationRow
from bench.store.database import Database

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "method", "title", "seed", "attack", "attack_title", "plugin", "precision", "budget_name", "budget", "steps",
    "settings", "n", "n_clean", "n_robust", "clean_accuracy", "robust_accuracy", "run_id", "evaluation_id",
)  # fmt: skip


def white_box(
    loaded: Loaded, selection: Selection, db: Database, *, seeds: tuple[int, ...] | None = None
) -> pd.DataFrame:
    """Every white-box attack on the runs of a selection, of today's versions, at any budget and with any settings.

    Invalid results (`bench audit`) are left out. Columns: `COLUMNS`; accuracies are shares of all n images.
    """
    limit = select.test_limit(loaded, selection)
    runs: dict[tuple[str, int], RunSpec] = {}

    def is_current(name: str, row: EvaluationRow) -> bool:
        if (name, row.seed) not in runs:
            runs[name, row.seed] = select.run_spec(loaded, selection, name, row.seed)
        specs = _specs_of(row, runs[name, row.seed], selection, limit)
        return row.evaluation_id in [spec.evaluation_id for spec in specs]

    return _frame(loaded, _rows(loaded, selection, db, "attack", seeds, is_current))


def black_box(
    loaded: Loaded, selection: Selection, db: Database, *, seeds: tuple[int, ...] | None = None
) -> pd.DataFrame:
    """The black-box suite on the runs of a selection, as `white_box`; its attacks are those of the selected suite.

    Raises:
        BenchError: the suite of the selection has no black-box part.
    """
    name = select.suite_name(loaded, selection)
    if not loaded.config.suites[name].blackbox:
        having = ", ".join(key for key, suite in loaded.config.suites.items() if suite.blackbox)
        raise BenchError(f"suite {name} has no black-box part; these have: {having or 'none'}")
    planned = Planned(loaded, selection)
    return _frame(
        loaded, _rows(loaded, selection, db, "blackbox", seeds, lambda method, row: planned.is_current(row, method))
    )


def of_suite(loaded: Loaded, selection: Selection, frame: pd.DataFrame) -> pd.DataFrame:
    """Those rows of `white_box` whose attack is one of the selection's, with the settings it is configured with."""
    run = next(iter(run_specs(loaded, selection).values()))
    wanted = {spec.attack: spec for spec in select.evaluations(loaded, selection, run) if spec.kind == "attack"}
    keep = [
        row["attack"] in wanted and row["settings"] == _plain(wanted[row["attack"]].recorded_settings)
        for row in frame.to_dict("records")
    ]
    return frame.loc[np.array(keep, dtype=bool)].reset_index(drop=True)


def _rows(
    loaded: Loaded, selection: Selection, db: Database, kind: str, seeds: tuple[int, ...] | None, is_current: Any
) -> Iterator[tuple[str, EvaluationRow]]:
    names: dict[str, list[str]] = {}
    for name, run in run_specs(loaded, selection).items():
        names.setdefault(run.family_id, []).append(name)
    measured = queries.evaluations(db, family_ids=list(names))
    raised = flags.find(measured)
    methods, attacks = list(loaded.config.methods), [*loaded.config.attacks, *KINDS]
    found = [
        (name, row)
        for row in measured
        if row.kind == kind
        and row.n
        and row.n_robust is not None
        and (seeds is None or row.seed in seeds)
        and not flags.is_invalid(raised.get(row.evaluation_id, ()))
        for name in names[row.family_id]
        if is_current(name, row)
    ]

    def place(item: tuple[str, EvaluationRow]) -> tuple[Any, ...]:
        name, row = item
        known = attacks.index(row.attack) if row.attack in attacks else len(attacks)
        return methods.index(name), known, row.attack, row.seed, row.budget or 0.0, row.evaluation_id

    yield from sorted(found, key=place)


def _specs_of(row: EvaluationRow, run: RunSpec, selection: Selection, limit: int | None) -> list[EvaluationSpec]:
    """What may be measured today with the settings of a stored attack; nothing where its plug-in is gone."""
    try:
        version = registry.load("attacks", row.plugin).version
    except BenchError:
        return []
    record = {
        "kind": row.kind, "attack": row.attack, "plugin": row.plugin, "settings": row.settings,
        "budget_name": row.budget_name, "budget": row.budget, "stop": row.stop, "limit": limit,
        "split": selection.split, "attack_version": version, "evaluator_version": versions.EVALUATOR,
    }  # fmt: skip
    return EvaluationSpec.readings(record, run)


def _frame(loaded: Loaded, rows: Iterator[tuple[str, EvaluationRow]]) -> pd.DataFrame:
    import pandas as pd

    methods, titles = loaded.config.methods, Titles(loaded)
    lines = [
        {
            **{name: getattr(row, name) for name in COLUMNS if hasattr(row, name)},
            "method": name,
            "title": methods[name].title or name,
            "attack_title": titled(titles.attack(row.attack, row.plugin, row.settings), row.precision),
            "steps": row.steps,
            "settings": _plain(row.settings),
            "clean_accuracy": row.n_clean / row.n,
            "robust_accuracy": (row.n_robust or 0) / row.n,
        }
        for name, row in rows
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype({"steps": "Int64"})


def _plain(settings: dict[str, Any]) -> str:
    """Settings as text that is equal for equal settings."""
    from bench.core.identity import canonical

    return canonical(settings)
