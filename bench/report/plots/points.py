"""Robust accuracies of a selection as a tidy frame, whatever budget or number of steps they were measured with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.precision import titled
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import EvaluationSpec
from bench.report.results import KINDS, run_specs
from bench.report.titles import Titles
from bench.store import standing
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "method", "title", "seed", "attack", "attack_title", "plugin", "precision", "targets", "budget_name", "budget",
    "steps", "settings", "n", "n_clean", "n_robust", "clean_accuracy", "robust_accuracy", "run_id", "evaluation_id",
)  # fmt: skip


def white_box(
    loaded: Loaded, selection: Selection, db: Database, *, seeds: tuple[int, ...] | None = None
) -> pd.DataFrame:
    """Every white-box attack on the runs of a selection, of today's versions, at any budget and with any settings.

    Invalid results (`bench audit`) are left out. Columns: `COLUMNS`; accuracies are shares of all n images.
    """
    limit = select.test_limit(loaded, selection)

    def chosen(row: EvaluationRow) -> bool:
        return (row.kind, row.split, row.image_limit) == ("attack", selection.split, limit)

    return _frame(loaded, _rows(loaded, selection, db, seeds, chosen))


def black_box(loaded: Loaded, selection: Selection, db: Database, *, seeds: tuple[int, ...] | None) -> pd.DataFrame:
    """The black-box suite on the runs of a selection, as `white_box`; its attacks are those of the selected suite.

    Raises:
        BenchError: the suite of the selection has no black-box part.
    """
    name = select.suite_name(loaded, selection)
    if not loaded.config.suites[name].blackbox:
        having = ", ".join(key for key, suite in loaded.config.suites.items() if suite.blackbox)
        raise BenchError(f"suite {name} has no black-box part; these have: {having or 'none'}")
    run = next(iter(run_specs(loaded, selection).values()))
    keys = {spec.attack_key for spec in select.evaluations(loaded, selection, run) if spec.kind == "blackbox"}
    return _frame(loaded, _rows(loaded, selection, db, seeds, lambda row: row.attack_key in keys))


def of_suite(loaded: Loaded, selection: Selection, frame: pd.DataFrame) -> pd.DataFrame:
    """Those rows of `white_box` whose attack is one of the selection's, with the settings it is configured with."""
    run = next(iter(run_specs(loaded, selection).values()))
    wanted = {spec.attack: spec for spec in select.evaluations(loaded, selection, run) if spec.kind == "attack"}
    keep = [
        row["attack"] in wanted and (row["settings"], row["targets"], row["precision"]) == _asked(wanted[row["attack"]])
        for row in frame.to_dict("records")
    ]
    return frame.loc[np.array(keep, dtype=bool)].reset_index(drop=True)


def _rows(
    loaded: Loaded,
    selection: Selection,
    db: Database,
    seeds: tuple[int, ...] | None,
    chosen: Callable[[EvaluationRow], bool],
) -> Iterator[tuple[str, EvaluationRow]]:
    names: dict[str, list[str]] = {}
    for name, run in run_specs(loaded, selection).items():
        names.setdefault(run.family_id, []).append(name)
    measured = standing.read(db, family_ids=list(names))
    methods, attacks = list(loaded.config.methods), [*loaded.config.attacks, *KINDS]
    found = [
        (name, row)
        for row in measured.standings.current(measured.rows)
        if chosen(row) and row.n_robust is not None and (seeds is None or row.seed in seeds)
        for name in names[row.family_id]
    ]

    def order(item: tuple[str, EvaluationRow]) -> tuple[Any, ...]:
        name, row = item
        known = attacks.index(row.attack) if row.attack in attacks else len(attacks)
        return methods.index(name), known, row.attack, row.seed, row.budget or 0.0, row.evaluation_id

    yield from sorted(found, key=order)


def _frame(loaded: Loaded, rows: Iterator[tuple[str, EvaluationRow]]) -> pd.DataFrame:
    import pandas as pd

    titles = Titles(loaded)
    lines = [
        {
            **{name: getattr(row, name) for name in COLUMNS if hasattr(row, name)},
            "method": name,
            "title": loaded.title_of(name),
            "attack_title": titled(titles.of(row), row.precision),
            "steps": row.steps,
            "settings": _plain(row.settings),
            "targets": row.targets or "",
            "clean_accuracy": row.n_clean / row.n,
            "robust_accuracy": (row.n_robust or 0) / row.n,
        }
        for name, row in rows
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype({"steps": "Int64"})


def _asked(spec: EvaluationSpec) -> tuple[str, str, str]:
    return _plain(spec.settings), spec.targets or "", spec.precision


def _plain(settings: dict[str, Any]) -> str:
    """Settings as text that is equal for equal settings."""
    from bench.core.identity import canonical

    return canonical(settings)
