"""What papers conclude, answered by what was measured: `[statements.NAME]` of bench.toml, on each data set.

A statement is a set of comparisons, each of one method with another in one row. Robust accuracies are tested as in
`bench compare`: paired by image and by seed. Transferabilities are shares of other images for each ensemble, so they
are tested over trainings only (Student's test, paired by seed). p is Holm-corrected over all comparisons of the
statement on the data set. It holds if every comparison is significantly as the paper says; it does not if one is
significantly the other way; else it cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from bench.core import statistics
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.specs import StatementSpec
from bench.core.statistics import ALPHA
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.report import matrices, pairing, results
from bench.report.cells import Row
from bench.report.matrices import Matrix
from bench.report.tables import budget_text
from bench.report.titles import Titles
from bench.store import queries
from bench.store.database import Database

Side = Literal["as said", "the other way", "not significant", "not measured"]
Verdict = Literal["holds", "does not hold", "cannot be told"]


@dataclass(frozen=True)
class Compared:
    """One comparison: `more` should have more than `less` (names of methods) in the row.

    Attributes:
        row: `PGD (50) ε = 0.1`.
        a, b: what `more` and `less` have, in percent, mean over the seeds that both have; None where nothing pairs.
        published: what the paper prints for the two, in percent; None where it prints none.
        seeds: that both have.
        n: images; 0 where trainings alone are compared.
        p: Holm-corrected.
        fails_over_seeds: whether other images could not turn it, but other trainings could.
        why: why nothing pairs.
    """

    row: str
    more: str
    less: str
    side: Side = "not measured"
    a: float | None = None
    b: float | None = None
    published: tuple[float, float] | None = None
    seeds: tuple[int, ...] = ()
    n: int = 0
    p: float | None = None
    fails_over_seeds: bool = False
    why: str = ""


@dataclass(frozen=True)
class Finding:
    """A statement on one data set."""

    name: str
    statement: StatementSpec
    dataset: str
    compared: tuple[Compared, ...]

    def count(self, side: Side) -> int:
        """Comparisons that came out so."""
        return sum(each.side == side for each in self.compared)

    @property
    def verdict(self) -> Verdict:
        """In words."""
        if self.count("the other way"):
            return "does not hold"
        return "holds" if self.count("as said") == len(self.compared) else "cannot be told"

    @property
    def measured(self) -> int:
        """Comparisons that could be made."""
        return len(self.compared) - self.count("not measured")


def answers(loaded: Loaded, db: Database, dataset: str) -> list[Finding]:
    """The statements of bench.toml of which something was measured on a data set, in their order.

    With the default recipe of the data set, its model and members; on all test images, or as many as a protocol has,
    whichever makes more comparisons possible.
    """
    statements = loaded.config.statements
    sizes = {None, *(each.images for each in loaded.config.protocols.values() if each.dataset == dataset)}
    best: dict[str, Finding] = {}
    if not statements or dataset not in loaded.config.datasets:
        return []
    for limit in sorted(sizes, key=lambda size: (size is not None, -(size or 0))):
        try:
            measured = _Evidence(loaded, db, dataset, limit)
        except BenchError:  # fewer images than that, or a data set without this recipe
            continue
        for name, statement in statements.items():
            answer = Finding(name, statement, dataset, tuple(measured.compared(statement)))
            if answer.measured > (best[name].measured if name in best else 0):
                best[name] = answer
    return [best[name] for name in statements if name in best]


class _Evidence:
    """What all statements ask for, of one data set and number of test images: read once."""

    def __init__(self, loaded: Loaded, db: Database, dataset: str, limit: int | None) -> None:
        every = loaded.config.statements.values()
        self.loaded, self.db = loaded, db
        self.selection = Selection(dataset=dataset, limit=limit)
        if select.test_limit(loaded, self.selection) != limit:
            raise BenchError("the same images as without a limit")
        self.specs: dict[str, RunSpec] = {}
        for name in dict.fromkeys(name for each in every for name in (*each.more, *each.less)):
            try:
                self.specs[name] = select.run_spec(loaded, self.selection, name, 0)
            except BenchError:  # of a plug-in that is not here, say
                continue
        attacks = dict.fromkeys(name for each in every for name in each.under)
        self.rows = {name: self._rows(name) for name in attacks}
        rows = [row for found in self.rows.values() for row in found]
        self.cells = results.cells_of(self.specs, rows, db)
        self.printed = results.published_beside(
            loaded, self.selection, rows, self.specs, queries.references(db, dataset=self.selection.dataset)
        )

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """Transferability by method."""
        selection = replace(self.selection, methods=tuple(self.specs))
        return {each.method: each for each in matrices.matrices(self.loaded, selection, self.db, targeted=False)}

    def _rows(self, attack: str) -> list[Row]:
        """The rows of an attack, smallest budget first; none of one that has no budget on the data set."""
        run = next(iter(self.specs.values()), None)
        if run is None:
            return []
        try:
            if attack == "blackbox":
                specs = select.blackbox_rows(self.loaded, self.selection, run, self.loaded.blackbox.attacks)
            else:
                specs = select.attack_rows(self.loaded, self.selection, run, attack, None)
        except BenchError:
            return []
        titles = Titles(self.loaded)
        return [
            results.row_of(spec, titles, spec.attack_key) for spec in sorted(specs, key=lambda each: each.budget or 0.0)
        ]

    def compared(self, statement: StatementSpec) -> list[Compared]:
        """Every comparison of a statement."""
        if statement.of == "transferability":
            return self._transfers(statement)
        part = {"all": slice(None), "smallest": slice(1), "largest": slice(-1, None)}[statement.budgets]
        rows = [row for name in statement.under for row in self.rows[name][part]]
        found: list[Compared] = []
        tests: list[tuple[int, pairing.Pair]] = []
        for more, less in _pairs(statement):
            titles = self.loaded.title_of(more), self.loaded.title_of(less)
            pairs, notes = pairing.pair(rows, self.cells, (more, less), titles, self.db)
            paired = {pair.row.key: pair for pair in pairs}
            why = {name: reason.removesuffix(" under") for reason, names in notes.items() for name in names}
            for row in rows:
                told = pairing.named(row)
                if row.key in paired:
                    tests.append((len(found), paired[row.key]))
                beside = self._beside(row, more, less)
                found.append(Compared(told, more, less, published=beside, why=why.get(told, "no result of either")))
        corrected = statistics.holm([pair.comparison.p for _, pair in tests])
        for (index, pair), p in zip(tests, corrected, strict=True):
            pair = replace(pair, p_holm=p)
            made, better = pair.comparison, pair.better
            side: Side = "as said" if better == "a" else "the other way" if better == "b" else "not significant"
            found[index] = replace(
                found[index], side=side, a=100 * made.a, b=100 * made.b, seeds=pair.seeds, n=made.n, p=p,
                fails_over_seeds=pair.fails_over_seeds, why="",
            )  # fmt: skip
        return found

    def _beside(self, row: Row, more: str, less: str) -> tuple[float, float] | None:
        a, b = (self.printed.get((row.key, name)) for name in (more, less))
        return None if a is None or b is None else (a, b)

    def _transfers(self, statement: StatementSpec) -> list[Compared]:
        found: list[Compared] = []
        tests: list[tuple[int, float, float]] = []
        for more, less in _pairs(statement):
            known = [self.matrices.get(name) for name in (more, less)]
            row = next((f"{m.attack} {budget_text(m.budget_name, m.budget)}" for m in known if m is not None), "")
            lacking = [self.loaded.title_of(name) for name in (more, less) if name not in self.matrices]
            a, b = ({} if matrix is None else _by_seed(matrix) for matrix in known)
            seeds = tuple(sorted(a.keys() & b.keys()))
            if len(seeds) < 2:
                why = f"no current matrix of {' and '.join(lacking)}" if lacking else "fewer than two trainings of both"
                found.append(Compared(row, more, less, why=why))
                continue
            differences = [a[seed] - b[seed] for seed in seeds]
            tests.append((len(found), statistics.t_test(differences), float(np.mean(differences))))
            means = [float(np.mean([each[seed] for seed in seeds])) for each in (a, b)]
            found.append(Compared(row, more, less, a=means[0], b=means[1], seeds=seeds))
        corrected = statistics.holm([p for _, p, _ in tests])
        for (index, _, difference), p in zip(tests, corrected, strict=True):
            side: Side = "not significant" if p >= ALPHA else "as said" if difference > 0 else "the other way"
            found[index] = replace(found[index], side=side, p=p)
        return found


def _by_seed(matrix: Matrix) -> dict[int, float]:
    return {seed: value for seed, value in zip(matrix.seeds, matrix.by_seed, strict=True) if not np.isnan(value)}


def _pairs(statement: StatementSpec) -> Iterable[tuple[str, str]]:
    return ((more, less) for more in statement.more for less in statement.less)
