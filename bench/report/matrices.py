"""Transferability matrices for a selection, out of the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import short
from bench.core.precision import USUAL, Precision, titled
from bench.core.statistics import t_interval, wilson
from bench.core.terms import NOISE, WHOLE, Population, Rate
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.report.recipes import recipe_label, setting_on_paper
from bench.report.results import changes_shown, images_label, run_notes, run_specs
from bench.report.titles import Titles, ensemble_title
from bench.store import queries, rates, standing
from bench.store.database import Database
from bench.store.rates import Floats, RateCounts
from bench.store.standing import Measured
from bench.store.typed_rows import TransferBits


@dataclass(frozen=True)
class Block:
    """Rows of a matrix: sources × targets, shapes [S, N+1], in percent, mean over seeds.

    Attributes:
        sources: what each row was crafted on, as people read it: `1`, `all`, `noise`, `ECE`.
        rates: means over seeds; NaN where no image counts.
        deviation: standard deviation over seeds (ddof 1); NaN for one.
        low, high: 95 % interval: over images for one seed (Wilson), else over seeds (t), within 0 and 100.
        counts: hits and images that count, summed over seeds, [2, S, N+1].
    """

    sources: tuple[str, ...]
    rates: NDArray[np.float64]
    deviation: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, sources: Sequence[str], by_seed: Sequence[tuple[Floats, RateCounts]]) -> Block:
        """The mean over seeds of rates in [0, 1]; of no rows where there is no seed."""
        values = np.array([each for each, _ in by_seed])
        counts = np.array([[count.hits, count.population] for _, count in by_seed]).sum(axis=0)
        nothing = np.full(values.shape[1:], np.nan)
        deviation, low, high = nothing, nothing.copy(), nothing.copy()
        if len(values) > 1:
            deviation = values.std(axis=0, ddof=1)
        for at in np.ndindex(*values.shape[1:]):
            own = values[(slice(None), *at)]
            if not np.isnan(own).any():
                hits, among = (int(number) for number in counts[(..., *at)])
                low[at], high[at] = t_interval(own) if len(own) > 1 else wilson(hits, among)
        return cls(
            sources=tuple(sources),
            rates=100 * values.mean(axis=0),
            deviation=100 * deviation,
            low=100 * low.clip(0, 1),
            high=100 * high.clip(0, 1),
            counts=counts,
        )


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
    setting: str
    """Data set, members, model and training, for readers who do not know `bench`."""
    images: str
    notes: tuple[str, ...]
    members: Block
    others: Block
    """Sources beside the members: the ensemble, noise, other ensembles; none where a seed lacks them."""
    by_seed: tuple[float, ...] = ()
    """Mean off the diagonal of each training, members only, in percent, in the order of `seeds`."""
    precision: Precision = USUAL
    """Of the passes that the attack asked for; `attack` names it where it is not float32."""

    @property
    def rates(self) -> NDArray[np.float64]:
        """Of the members, [N, N+1]."""
        return self.members.rates

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
    measured: Measured | None = None,
) -> list[Matrix]:
    """The transferability matrices of a selection, one a method; methods without one are left out.

    A data set that bench.toml gives no matrix budget for has none.

    `targeted`: those where a target counts that outputs the class the images were led to; by default as the suite of
    the selection has it. `measured`: what was read already, all of these families.

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
    measured = measured or standing.read(db, family_ids=[run.family_id for run in specs.values()])
    for name, run in specs.items():
        if run.members < 2:
            continue
        spec = select.matrix_row(loaded, selection, run, targeted=targeted)
        rows = [
            row
            for row in measured.rows
            if row.family_id == run.family_id
            and row.attack_key == spec.attack_key
            and measured.standings.of(row.evaluation_id).is_current
            and (seeds is None or row.seed in seeds)
        ]
        if not rows:
            continue
        read = queries.transfers(db, [row.evaluation_id for row in rows])
        rows = [row for row in rows if row.evaluation_id in read]
        if not rows:
            continue
        if rate == "same_class" and any(bits.classes is None for bits in read.values()):
            raise BenchError(
                f"the matrix of {name} is from before predicted classes were kept, so same_class cannot be told; "
                "`bench run` with --force measures it again"
            )
        found_rates = [
            rates.transfer_rates(bits.clean, bits.missed, population, rate, classes=bits.classes)
            for bits in read.values()
        ]
        attack = titles.of(spec)
        recipe = recipe_label(run.recipe, changes_shown(loaded, {name: run}, (spec.attack,)), plugin=run.plugin)
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
                recipe=recipe,
                setting=setting_on_paper(loaded, selection.dataset, str(run.members), [run.model], recipe),
                images=images_label(loaded, selection),
                notes=run_notes({name: run}, db, seeds),
                members=Block.of([str(number + 1) for number in range(run.members)], found_rates),
                others=_others(list(read.values()), population, rate, _named(loaded, selection, run)),
                by_seed=tuple(100 * rates.off_diagonal_mean(values) for values, _ in found_rates),
                precision=spec.precision,
            )
        )
    return found


def _others(read: Sequence[TransferBits], population: Population, rate: Rate, names: Mapping[str, str]) -> Block:
    """The rows whose sources are no members, of those that every seed has: the ensemble, noise, then surrogates.

    Rates that ask what the source itself made of an image are known of the ensemble alone.
    """
    shared = set.intersection(*(set(bits.others) for bits in read))
    if rate != "misclassified":
        shared &= {WHOLE}
    surrogates = [*(source for source in names if source in shared), *sorted(shared - {WHOLE, NOISE, *names})]
    order = [*(each for each in (WHOLE, NOISE) if each in shared), *surrogates]
    columns = len(read[0].clean)
    found = []
    for bits in read:
        rows = [bits.others[source] for source in order]
        missed = np.array([row.missed for row in rows], dtype=bool).reshape(-1, *bits.clean.shape)
        classes = np.array([row.classes for row in rows], dtype=np.int64).reshape(-1, *bits.clean.shape)
        places = [columns - 1 if source == WHOLE else None for source in order]
        found.append(rates.transfer_rates(bits.clean, missed, population, rate, classes=classes, sources=places))
    shown = {WHOLE: "all", NOISE: "noise"}
    return Block.of([shown.get(source) or names.get(source, short(source)) for source in order], found)


def _named(loaded: Loaded, selection: Selection, run: RunSpec) -> dict[str, str]:
    """What the surrogates of [matrix] are called, by the id of their run."""
    return {other.run_id: loaded.title_of(other.method) for other in select.other_sources(loaded, selection, run)}
