"""Scores: what one training comes to under one standard. The worst case over exactly the standard's attacks.

Beside it stands what is *lowest known*: the images that withstood everything that was ever measured on this training
within the threat, whatever it was. It is never mixed into the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bench.core import registry
from bench.core.bits import Bools
from bench.core.errors import BenchError
from bench.core.seeds import SURROGATE_SEEDS
from bench.core.terms import MEASURED, Norm
from bench.experiment.names import MARK
from bench.experiment.protocols import Part, Standard
from bench.store import standing
from bench.store.database import Database
from bench.store.images import ImageOutcomes
from bench.store.standing import Standings, on_other_weights, suite_plugins
from bench.store.typed_rows import EvaluationRow, RunRow

SAID = "training.precision="  # how a change of a recipe begins that says a training's precision


@dataclass(frozen=True)
class Score:
    """One training under one standard; bits are over the standard's images, [images].

    Attributes:
        parts: what stands for each part that was measured, current or, for want of that, stale.
        lacking: parts without a current result.
        robust: right after every one of `parts`.
        lowest: right after everything known.
        found_by: what broke images that the parts had left standing, the most harmful first.
    """

    run: RunRow
    standard: Standard
    parts: Mapping[Part, EvaluationRow]
    lacking: tuple[Part, ...]
    clean: Bools
    robust: Bools
    lowest: Bools
    found_by: tuple[EvaluationRow, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every attack of the standard has a current result."""
        return not self.lacking

    @property
    def percent(self) -> float:
        """Robust accuracy in percent: the score, or where parts lack the provisional value."""
        return 100 * float(self.robust.mean())


def recipe_class(run: RunRow) -> str:
    """`complete`: all training images and nothing changed but to TF32, or trained elsewhere; `reduced`: all else."""
    if run.plugin == "outside":
        return "complete"
    told = run.recipe.endswith(MARK)  # what was changed is not known
    changed = [each for each in run.recipe_changes if not (run.precision == "tf32" and each.startswith(SAID))]
    whole = run.training_limit is None and not run.validation and not changed and not told
    return "complete" if whole else "reduced"


def scores(
    db: Database,
    standards: Sequence[Standard],
    runs: Iterable[RunRow],
    rows: Mapping[str, Sequence[EvaluationRow]],
    standings: Standings,
) -> Iterator[Score]:
    """The score of every run under every standard of its data set of which at least one attack was measured on it.

    Args:
        rows: the evaluations of each run, by run id.
        standings: of these runs and evaluations.
    """
    keys: dict[tuple[str, int | None], tuple[dict[str, Part], dict[str, Part]]] = {}

    def parts_by_key(standard: Standard, limit: int | None) -> tuple[dict[str, Part], dict[str, Part]]:
        """The parts by the key of what is asked for, and by those of what may stand for it."""
        key = standard.standard_id, limit
        if key not in keys:
            keys[key] = (
                {part.key(limit): part for part in standard.parts},
                {other: part for part in standard.parts for other in part.other_keys(limit)},
            )
        return keys[key]

    for run in runs:
        if run.seed >= SURROGATE_SEEDS:
            continue
        own = [row for row in rows.get(run.run_id, ()) if standings.of(row.evaluation_id).state != "invalid"]
        own.sort(key=standing.age, reverse=True)
        own.sort(key=lambda row: standings.of(row.evaluation_id).state == "superseded")  # as cells: the newest counts
        bits: ImageOutcomes | None = None
        for standard in standards:
            if standard.dataset != run.dataset:
                continue
            found: dict[Part, EvaluationRow] = {}
            for limit in standard.limits({row.image_limit for row in own}):
                for parts in parts_by_key(standard, limit):
                    for row in own:
                        part = parts.get(row.attack_key)
                        if part is not None and _whole(row, standard) and _better(row, found.get(part), standings):
                            found[part] = row
            if not found:
                continue
            bits = bits or ImageOutcomes(db, (row.evaluation_id for row in own if row.kind in MEASURED))
            score = _score(run, standard, found, own, bits, standings)
            if score is not None:
                yield score


def _better(row: EvaluationRow, other: EvaluationRow | None, standings: Standings) -> bool:
    """Whether `row` takes the place of what stands for a part already: only a current one that of a stale one."""
    if other is None:
        return True
    return standings.of(row.evaluation_id).is_current and not standings.of(other.evaluation_id).is_current


def _score(
    run: RunRow,
    standard: Standard,
    found: dict[Part, EvaluationRow],
    own: Sequence[EvaluationRow],
    bits: ImageOutcomes,
    standings: Standings,
) -> Score | None:

    def after(row: EvaluationRow) -> Bools:
        known = bits.robust([row.evaluation_id])
        return np.ones(standard.images, dtype=bool) if known is None else _counted(standard, row, known)

    lacking = [p for p in standard.parts if p not in found or not standings.of(found[p].evaluation_id).is_current]
    first = next(iter(found.values()))
    clean = bits.clean(first.evaluation_id)
    if clean is None:  # gone meanwhile
        return None
    robust = np.logical_and.reduce([after(row) for row in found.values()])
    harmful: list[tuple[int, EvaluationRow]] = []
    lowest = robust
    for row in own:
        if row not in found.values() and _within(row, run, standard):
            left = after(row)
            broken = int((robust & ~left).sum())
            if broken:
                harmful.append((broken, row))
                lowest = lowest & left
    harmful.sort(key=lambda item: (-item[0], item[1].evaluation_id))
    return Score(
        run=run, standard=standard, parts=found, lacking=tuple(lacking), clean=_counted(standard, first, clean),
        robust=robust, lowest=lowest, found_by=tuple(row for _, row in harmful),
    )  # fmt: skip


def _within(row: EvaluationRow, run: RunRow, standard: Standard) -> bool:
    """Whether a result is of the threat of the standard: its ball, its images, this training's weights."""
    if row.kind not in MEASURED or row.n_robust is None or row.split != "test":
        return False
    if row.budget_name != "eps" or row.budget is None or row.budget > standard.eps or norm_of(row) != standard.norm:
        return False
    other = on_other_weights(row.weights_digest, run.weights_digest)
    return not other and _whole(row, standard) and row.image_limit in standard.limits([row.image_limit])


def _whole(row: EvaluationRow, standard: Standard) -> bool:
    """Whether a result has an outcome for each image that its limit names."""
    return row.n == (standard.size if row.image_limit is None else row.image_limit)


def _counted(standard: Standard, row: EvaluationRow, bits: Bools) -> Bools:
    """The outcomes of the standard's images among those that were measured."""
    if row.image_limit == standard.limit:
        return bits
    assert standard.size is not None
    found: Bools = bits[_places(standard.plugin, standard.size, standard.images, row.image_limit)]
    return found


@cache
def _places(plugin: str, size: int, images: int, limit: int | None) -> NDArray[np.int64]:
    """Where the first images of the fixed order stand among those that a larger limit keeps, [images]."""
    from bench.data.base import test_subset  # torch, which most databases can be read without

    own, among = (test_subset(plugin, size, n).numpy() for n in (images, limit))
    found: NDArray[np.int64] = np.searchsorted(among, own)
    return found


def norm_of(row: EvaluationRow) -> str | None:
    """The norm of an attack's ball: `linf`, `l2`, None without a ball, `?` where its plug-in is not installed.

    Of a black-box suite that of its attacks, where all have the same; of others' images what was said with them.
    """
    if row.kind == "judged":
        said = row.settings.get("norm")
        return said if said in (*get_args(Norm), None) else "?"
    if row.plugin != "blackbox":
        return norm(row.plugin)
    norms = {norm(name) for name in suite_plugins(row.settings)}
    return norms.pop() if len(norms) == 1 else "?"


def norm(plugin: str) -> str | None:
    """The norm of the ball of an attack's plug-in; `?` where it is not installed."""
    if plugin not in registry.entries("attacks"):
        return "?"
    try:
        found: str | None = registry.load("attacks", plugin).norm
    except BenchError:
        return "?"
    return found


def light(row: EvaluationRow) -> EvaluationRow:
    """The row without its measurements, which are most of its size."""
    return replace(row, measurements={})
