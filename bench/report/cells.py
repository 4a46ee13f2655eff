"""Rows and cells of tables: what each training came to under one row, by seed; and which images stood there."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.core.bits import Bools
from bench.core.precision import USUAL, Precision
from bench.experiment.measurements import expected_accuracy
from bench.store.database import Database
from bench.store.images import ImageOutcomes
from bench.store.typed_rows import EvaluationRow


@dataclass(frozen=True)
class Row:
    """A row of a table: an attack at a budget; `clean` has none."""

    attack: str
    title: str
    budget_name: str | None
    budget: float | None
    stop: str | None
    key: str
    kind: str
    precision: Precision = USUAL
    """Of the passes that the attack asked for; a worst case is of one precision, and of attacks on members."""


@dataclass(frozen=True)
class SeedOutcome:
    """One training under one row.

    Attributes:
        value: what the table shows: accuracy in percent of all images, or seconds.
        evaluations: that say so: one, or for a worst case one for each attack.
        right: how many of `n` images are right; None where images are not counted.
        is_clean: right without any attack.
        expected: of an ensemble that draws a member for each prediction, its expected accuracy in percent; `value` is
            that of the most probable prediction there.
    """

    value: float
    evaluations: tuple[str, ...] = ()
    right: int | None = None
    n: int = 0
    images_digest: str = ""
    is_clean: bool = False
    expected: float | None = None


@dataclass(frozen=True)
class Cell:
    """One method under one attack: an outcome a seed.

    Attributes:
        stale: the outcomes are of an older version; there is no current one.
        failed: why there is none, where something failed.
        flags: ids of those of `bench.store.flags` that cast doubt; what one of them calls invalid is no outcome.
    """

    seeds: Mapping[int, SeedOutcome] = field(default_factory=dict)
    stale: bool = False
    failed: str = ""
    flags: tuple[str, ...] = ()

    @property
    def values(self) -> dict[int, float]:
        """By seed: accuracy in percent of all test images."""
        return {seed: outcome.value for seed, outcome in self.seeds.items()}

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Ids of all evaluations behind it."""
        return tuple(each for outcome in self.seeds.values() for each in outcome.evaluations)

    @property
    def n(self) -> int:
        """Images of a seed; 0 without any."""
        return next((outcome.n for outcome in self.seeds.values()), 0)

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None without a value."""
        return statistics.fmean(self.values.values()) if self.seeds else None

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (ddof 1); None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.seeds) > 1 else None


def outcome_of(row: EvaluationRow) -> SeedOutcome | None:
    """The outcome of one evaluation; None where it counts nothing."""
    if row.n_right is None or row.share is None:
        return None
    expected = expected_accuracy(row.kind, row.measurements, row.n)
    return SeedOutcome(
        100 * row.share, (row.evaluation_id,), row.n_right, row.n, row.images_digest, is_clean=row.kind == "clean",
        expected=None if expected is None else 100 * expected,
    )  # fmt: skip


class Bits:
    """Which images stand, by outcome; reads the bits of all cells given at once."""

    def __init__(self, db: Database, cells: Iterable[Cell]) -> None:
        self._images = ImageOutcomes(db, (each for cell in cells for each in cell.evaluations))

    def of(self, outcome: SeedOutcome) -> Bools | None:
        """Right, [n]; None where the outcomes are gone."""
        if outcome.is_clean:
            return self._images.clean(outcome.evaluations[0])
        return self._images.robust(outcome.evaluations)

    def by_seed(self, cell: Cell) -> dict[int, Bools]:
        """Right, [n], by seed; seeds whose outcomes are gone are left out."""
        found = {seed: self.of(outcome) for seed, outcome in cell.seeds.items()}
        return {seed: bits for seed, bits in found.items() if bits is not None}

    def worst(self, parts: Iterable[SeedOutcome]) -> SeedOutcome | None:
        """The outcome of an image that has to stand in every part; None where they are not of the same images."""
        parts = list(parts)
        ids = tuple(each for part in parts for each in part.evaluations)
        bits = self._images.robust(ids) if len({part.images_digest for part in parts}) == 1 else None
        if bits is None:
            return None
        return SeedOutcome(100 * float(bits.mean()), ids, int(bits.sum()), len(bits), parts[0].images_digest)
