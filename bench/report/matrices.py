"""Transferability matrices for a selection, out of the database."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.precision import USUAL, Precision, titled
from bench.core.terms import Population, Rate
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.report.recipes import recipe_label
from bench.report.results import changes_shown, images_label, run_notes, run_specs
from bench.report.titles import Titles, ensemble_title
from bench.store import queries, rates, standing
from bench.store.database import Database


@dataclass(frozen=True)
class Matrix:
    """A transferability matrix, mean over seeds: rates [N, N+1] in percent, crafted on × evaluated on."""

    method: str
    title: str
    run: RunSpec
    budget_name: str
    budget: float
    population: Population
    """Whose share the rates are; that of the rate where it has its own."""
    rate: str
    seeds: tuple[int, ...]
    attack: str
    recipe: str
    images: str
    notes: tuple[str, ...]
    counts: NDArray[np.int64]
    rates: NDArray[np.float64]
    by_seed: tuple[float, ...] = ()
    """Mean off the diagonal of each training, members only, in percent, in the order of `seeds`."""
    precision: Precision = USUAL
    """Of the passes that the attack asked for; `attack` names it where it is not float32."""

    @property
    def transfer(self) -> float:
        """Mean off the diagonal, members only, in percent."""
        return float(rates.off_diagonal_mean(self.rates))

    @property
    def remark(self) -> str:
        """What the method says a reader of its matrix must know; empty for most."""
        from bench.core import registry

        return str(getattr(registry.load("methods", self.run.plugin), "remark", ""))


def matrices(
    loaded: Loaded,
    selection: Selection,
    db: Database,
    *,
    seeds: tuple[int, ...] | None = None,
    population: Population | None = None,
    rate: Rate = "misclassified",
    targeted: bool | None = None,
) -> list[Matrix]:
    """The transferability matrices of a selection, one a method; methods without one are left out.

    A data set that bench.toml gives no matrix budget for has none.

    `targeted`: those where a target counts that outputs the class the images were led to; by default as the suite of
    the selection has it.

    Raises:
        BenchError: `population` is not the rate's own.
    """
    if population and rates.counted(rate, population) != population:
        raise BenchError(f"{rate} is a share of population {rates.counted(rate, population)}, not of {population}")
    if selection.dataset not in loaded.config.matrix.budgets:
        return []
    if targeted is None:
        suite = None if selection.attacks else loaded.config.suites[select.suite_name(loaded, selection)]
        targeted = suite is not None and suite.matrix == "targeted"
    specs = run_specs(loaded, selection)
    population = population or loaded.config.matrix.population
    titles = Titles(loaded)
    found = []
    for name, run in specs.items():
        if run.members < 2:
            continue
        spec = select.matrix_row(loaded, selection, run, targeted=targeted)
        measured = standing.read(db, family_ids=run.family_id)
        rows = [
            row
            for row in measured.rows
            if row.attack_key == spec.attack_key
            and measured.standings.of(row.evaluation_id).is_current
            and (seeds is None or row.seed in seeds)
        ]
        if not rows:
            continue
        read = queries.transfers(db, [row.evaluation_id for row in rows])
        rows = [row for row in rows if row.evaluation_id in read]
        if not rows:
            continue
        values, counts = zip(
            *(rates.transfer_rates(bits.clean, bits.missed, population, rate) for bits in read.values()), strict=True
        )
        attack = titles.of(spec)
        assert spec.budget_name is not None
        assert spec.budget is not None
        found.append(
            Matrix(
                method=name,
                title=ensemble_title(loaded, name, run.training.precision),
                run=run,
                budget_name=spec.budget_name,
                budget=spec.budget,
                population=rates.counted(rate, population),
                rate="output as the target class" if targeted and rate == "misclassified" else rate,
                seeds=tuple(row.seed for row in rows),
                attack=titled(f"{attack} led to random classes" if targeted else attack, spec.precision),
                recipe=recipe_label(run.recipe, changes_shown(loaded, {name: run}, (spec.attack,)), plugin=run.plugin),
                images=images_label(loaded, selection),
                notes=run_notes({name: run}, db, seeds),
                counts=np.sum(counts, axis=0),
                rates=100 * np.mean(values, axis=0),
                by_seed=tuple(100 * rates.off_diagonal_mean(each) for each in values),
                precision=spec.precision,
            )
        )
    return found
