"""What papers conclude, answered by what was measured: `[statements.NAME]` of bench.toml, on each data set.

A statement is a set of comparisons, each of one method with another in one row. Robust accuracies are tested as in
`bench compare`: paired by image and by seed. Transferabilities are shares of other images for each ensemble, so they
are tested over trainings only (Student's test, paired by seed). p is Holm-corrected over all comparisons of the
statement on the data set. It holds if every comparison is significantly as the paper says; it does not if one is
significantly the other way; else it cannot be told. Weights that authors published (`[authors]`) are asked apart from
what was trained here.
"""

from __future__ import annotations

import statistics as plain_statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from bench.experiment.spec import OUTSIDE, EvaluationSpec, RunSpec
from bench.report import matrices, pairing, results
from bench.report.cells import Row
from bench.report.matrices import Matrix
from bench.report.recipes import phrase, recipe_label
from bench.report.tables import budget_text
from bench.report.titles import Titles
from bench.store import queries, standing
from bench.store.database import Database
from bench.store.standing import Measured

Side = Literal["as said", "the other way", "not significant", "not measured"]
Verdict = Literal["holds", "does not hold", "cannot be told"]
SIDES: tuple[Side, ...] = ("as said", "the other way", "not significant", "not measured")


@dataclass(frozen=True)
class Compared:
    """One comparison: `more` should have more than `less` (names of methods) in the row.

    Attributes:
        row: `PGD (50) ε = 0.1`.
        a, b: what `more` and `less` have, in percent, mean over the seeds that both have; None where nothing pairs.
        spread: their standard deviations over these seeds (ddof 1), None for one.
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
    spread: tuple[float, float] | None = None
    published: tuple[float, float] | None = None
    seeds: tuple[int, ...] = ()
    n: int = 0
    p: float | None = None
    fails_over_seeds: bool = False
    why: str = ""

    @property
    def difference(self) -> float | None:
        """In points; None where nothing pairs."""
        return None if self.a is None or self.b is None else self.a - self.b

    @property
    def published_difference(self) -> float | None:
        """The one that the paper prints."""
        return None if self.published is None else self.published[0] - self.published[1]

    @property
    def told(self) -> str:
        """How it came out, in words."""
        return f"{self.side} over trainings" if self.fails_over_seeds else self.side


@dataclass(frozen=True)
class MeasuredOn:
    """What a statement was asked of.

    Attributes:
        authors: whether of weights that authors published, else of what was trained here.
        words: network, training and images: `3 × LeNet, recipe cpu`.
        unlike: in what that is not what the published values of the data set are of; empty where it is, or none are.
        has_published: whether the paper printed anything for this data set.
    """

    dataset: str
    authors: bool
    words: str
    unlike: str
    has_published: bool

    @property
    def name(self) -> str:
        """`mnist`; `cifar10, authors' weights`."""
        return f"{self.dataset}, authors' weights" if self.authors else self.dataset


@dataclass(frozen=True)
class Finding:
    """A statement on one data set, of what was trained here or of authors' weights."""

    name: str
    statement: StatementSpec
    setting: MeasuredOn
    compared: tuple[Compared, ...]

    @property
    def dataset(self) -> str:
        """Its data set."""
        return self.setting.dataset

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
    def brief(self) -> str:
        """`6 of 6 comparisons`, `33 of 48 as said, 3 not significant, 12 not measured`."""
        whole = len(self.compared)
        if self.verdict == "holds":
            return f"{whole} of {whole} comparison{'s' if whole != 1 else ''}"
        told = [f"{count} {side}" for side in SIDES[1:] if (count := self.count(side))]
        return ", ".join([f"{self.count('as said')} of {whole} as said", *told])

    @property
    def weakest(self) -> Compared:
        """The comparison that speaks most against it: the surest the other way, else the least sure as said."""

        def in_favour(each: Compared) -> tuple[float, float]:
            sure, difference = 1 - (1.0 if each.p is None else each.p), each.difference or 0.0
            return (sure if difference > 0 else -sure), difference

        return min((each for each in self.compared if each.side != "not measured"), key=in_favour)

    @property
    def measured(self) -> int:
        """Comparisons that could be made."""
        return _measured(self.compared)


def answers(loaded: Loaded, db: Database, dataset: str) -> list[Finding]:
    """What was found of the statements of bench.toml on a data set, in their order; of authors' weights last.

    With the default recipe of the data set, or another under which more comparisons were made, its model and members;
    each comparison over as many trainings as there are of both, then on as many test images as both were measured on.
    """
    if not loaded.config.statements or dataset not in loaded.config.datasets:
        return []
    loaded = loaded.with_outside(queries.configs(db, plugin=OUTSIDE))
    runs = queries.runs(db, dataset=dataset)
    if not runs:
        return []
    stored = {run.recipe for run in runs}
    measured = standing.read(db, family_ids=list({run.family_id for run in runs}))
    try:
        usual = [select.recipe_name(loaded, None, dataset)]
    except BenchError:  # several, and none is the default
        usual = []
    recipes = dict.fromkeys((*usual, *(name for name in loaded.config.recipes_of(dataset) if name in stored)))
    # All test images, or as many as the recipe takes; then each smaller number that something was measured on.
    sizes = {row.image_limit for row in measured.rows if row.split == "test"}
    limits = [None, *sorted(sizes - {None}, key=lambda limit: -(limit or 0))]
    found: list[Finding] = []
    for authors in (False, True):
        asked = [[Selection(dataset=dataset, recipe=name, limit=size) for size in limits] for name in recipes]
        by_recipe = [_by_name(loaded, db, measured, selections, authors=authors) for selections in asked]
        most = max(by_recipe, key=lambda each: sum(answer.measured for answer in each.values()), default={})
        found += [most[name] for name in loaded.config.statements if name in most]
    return found


def _by_name(
    loaded: Loaded, db: Database, measured: Measured, selections: Sequence[Selection], *, authors: bool
) -> dict[str, Finding]:
    """Each statement of which something was measured under a recipe; its selections, of the most images first."""
    evidence: list[_Evidence] = []
    for selection in selections:
        with suppress(BenchError):  # fewer images than that, or a data set without this recipe
            evidence.append(_Evidence(loaded, db, measured, selection, authors=authors))
    found: dict[str, Finding] = {}
    for name, statement in loaded.config.statements.items():
        answer = _transfers if statement.of == "transferability" else _accuracies
        compared, most = answer(statement, evidence)
        if most is not None:
            found[name] = Finding(name, statement, most.setting, compared)
    return found


# The comparisons, and the evidence that most of them are of: None if nothing was measured.
Answer = tuple[tuple[Compared, ...], "_Evidence | None"]


def _transfers(statement: StatementSpec, evidence: Sequence[_Evidence]) -> Answer:
    """Comparisons of transferability, on the images on which most can be made."""
    best: Answer = (), None
    for each in evidence:
        compared = tuple(each.transfers(statement))
        if _measured(compared) > _measured(best[0]):
            best = compared, each
    return best


def _accuracies(statement: StatementSpec, evidence: Sequence[_Evidence]) -> Answer:
    """Comparisons of accuracies: each over as many trainings as there are of both, then on as many images."""
    made: dict[tuple[str, str, str], list[tuple[_Evidence, Compared, pairing.Pair | None]]] = {}
    for each in evidence:
        for compared, pair in each.pairs(statement):
            made.setdefault((compared.more, compared.less, compared.row), []).append((each, compared, pair))
    best = [max(of_place, key=lambda one: _size(one[2])) for of_place in made.values()]
    paired = [(of, compared, pair) for of, compared, pair in best if pair is not None]
    corrected = iter(statistics.holm([pair.comparison.p for _, _, pair in paired]))
    answer = tuple(
        compared if pair is None else of.told(compared, replace(pair, p_holm=next(corrected)))
        for of, compared, pair in best
    )
    return answer, Counter(of for of, _, _ in paired).most_common(1)[0][0] if paired else None


def _measured(compared: Sequence[Compared]) -> int:
    return sum(each.side != "not measured" for each in compared)


def _size(pair: pairing.Pair | None) -> tuple[int, int]:
    """Trainings and images; of what does not pair none."""
    return (0, 0) if pair is None else (len(pair.seeds), pair.comparison.n)


class _Evidence:
    """What all statements ask for, of one selection: read once."""

    def __init__(
        self, loaded: Loaded, db: Database, measured: Measured, selection: Selection, *, authors: bool
    ) -> None:
        every = loaded.config.statements.values()
        self.loaded, self.db, self.selection, self.authors = loaded, db, selection, authors
        self.measured = measured
        limit = select.test_limit(loaded, selection)
        if selection.limit is not None and limit != selection.limit:
            raise BenchError("the same images as without a limit")
        # What is shown for each method: itself, or the weights of its authors.
        named = {name: name for each in every for name in (*each.more, *each.less)}
        self.columns = {name: loaded.config.authors[name] for name in named if name in loaded.config.authors}
        if not authors:
            self.columns = named
        self.specs: dict[str, RunSpec] = {}
        for name, column in self.columns.items():
            try:
                self.specs[name] = select.run_spec(loaded, selection, column, 0)
            except BenchError:  # of a plug-in that is not here, say, or weights of another data set
                continue
        attacks = dict.fromkeys(name for each in every for name in each.under)
        self.rows = {name: self._rows(name) for name in attacks}
        rows = [row for found in self.rows.values() for row in found]
        self.cells = results.cells_of(self.specs, rows, measured)
        references = queries.references(db, dataset=selection.dataset)
        self.printed = results.published_beside(loaded, selection, rows, self.specs, references)

    @cached_property
    def setting(self) -> MeasuredOn:
        """What all of it is of."""
        runs = [run for name, run in self.specs.items() if any(name == of for _, of in self.cells)]
        members = results.sizes(run.members for run in runs)
        models = results.joined(self.loaded.title_of_model(run.model) for run in runs)
        labels = (phrase(recipe_label(run.recipe, plugin=run.plugin)) for run in runs)
        printed = [run for name, run in self.specs.items() if any(name == of for _, of in self.printed)]
        unlike = (results.unlike_published(self.loaded, self.selection, run) for run in printed if run in runs)
        return MeasuredOn(
            self.selection.dataset, self.authors, f"{members} × {models}, {results.joined(labels)}",
            results.joined(filter(None, unlike)), has_published=bool(self.printed),
        )  # fmt: skip

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """Transferability by method."""
        selection = replace(self.selection, methods=tuple(self.columns[name] for name in self.specs))
        found = (
            matrices.matrices(self.loaded, selection, self.db, targeted=False, measured=self.measured)
            if self.specs
            else []
        )
        by_column = {each.method: each for each in found}
        return {name: by_column[self.columns[name]] for name in self.specs if self.columns[name] in by_column}

    def _rows(self, attack: str) -> list[Row]:
        """The rows of an attack, smallest budget first; none of one that has no budget on the data set."""
        run = next(iter(self.specs.values()), None)
        if run is None:
            return []
        try:
            if attack == "clean":
                limit = select.test_limit(self.loaded, self.selection)
                specs = [EvaluationSpec.of_clean(run, limit=limit, split=self.selection.split)]
            elif attack == "blackbox":
                specs = select.blackbox_rows(self.loaded, self.selection, run, self.loaded.blackbox.attacks)
            else:
                specs = select.attack_rows(self.loaded, self.selection, run, attack, None)
        except BenchError:
            return []
        titles = Titles(self.loaded)
        return [
            results.row_of(spec, titles, spec.attack_key) for spec in sorted(specs, key=lambda each: each.budget or 0.0)
        ]

    def pairs(self, statement: StatementSpec) -> Iterator[tuple[Compared, pairing.Pair | None]]:
        """Every comparison of accuracies, not tested yet, with the outcomes that pair: p is not corrected."""
        part = {"all": slice(None), "smallest": slice(1), "largest": slice(-1, None)}[statement.budgets]
        rows = [row for name in statement.under for row in self.rows[name][part]]
        for more, less, asked in self._asked(statement, rows):
            titles = self._title(more), self._title(less)
            pairs, notes = pairing.pair(asked, self.cells, (more, less), titles, self.db)
            paired = {pair.row.key: pair for pair in pairs}
            why = {name: reason.removesuffix(" under") for reason, names in notes.items() for name in names}
            for row in asked:
                told, beside = pairing.named(row), self._beside(row, more, less)
                compared = Compared(told, more, less, published=beside, why=why.get(told, "no result of either"))
                yield compared, paired.get(row.key)

    def told(self, compared: Compared, pair: pairing.Pair) -> Compared:
        """What came of a comparison; p of `pair` is corrected."""
        made, better = pair.comparison, pair.better
        side: Side = "as said" if better == "a" else "the other way" if better == "b" else "not significant"
        return replace(
            compared, side=side, a=100 * made.a, b=100 * made.b, seeds=pair.seeds, n=made.n, p=pair.p_holm,
            spread=self._spread(pair, compared), fails_over_seeds=pair.fails_over_seeds, why="",
        )  # fmt: skip

    def _asked(self, statement: StatementSpec, rows: list[Row]) -> Iterator[tuple[str, str, list[Row]]]:
        """Pairs of methods, the one that should have more first, with the rows of which the paper says so."""
        if statement.of != "published order":
            yield from ((more, less, rows) for more in statement.more for less in statement.less)
            return
        for more in statement.more:
            for less in statement.more:
                beside = ((row, self._beside(row, more, less)) for row in rows)
                if ahead := [row for row, printed in beside if printed is not None and printed[0] > printed[1]]:
                    yield more, less, ahead

    def _title(self, name: str) -> str:
        return self.loaded.title_of(self.columns.get(name, name))

    def _spread(self, pair: pairing.Pair, compared: Compared) -> tuple[float, float] | None:
        if len(pair.seeds) < 2:
            return None
        values = (self.cells[pair.row.key, name].values for name in (compared.more, compared.less))
        a, b = (plain_statistics.stdev(each[seed] for seed in pair.seeds) for each in values)
        return a, b

    def _beside(self, row: Row, more: str, less: str) -> tuple[float, float] | None:
        a, b = (self.printed.get((row.key, name)) for name in (more, less))
        return None if a is None or b is None else (a, b)

    def transfers(self, statement: StatementSpec) -> list[Compared]:
        """Every comparison of transferabilities, over trainings."""
        found: list[Compared] = []
        tests: list[tuple[int, float, float]] = []
        for more, less in ((more, less) for more in statement.more for less in statement.less):
            known = [self.matrices.get(name) for name in (more, less)]
            row = next((f"{m.attack} {budget_text(m.budget_name, m.budget)}" for m in known if m is not None), "")
            lacking = [self._title(name) for name in (more, less) if name not in self.matrices]
            a, b = ({} if matrix is None else _by_seed(matrix) for matrix in known)
            seeds = tuple(sorted(a.keys() & b.keys()))
            if not seeds:
                why = f"no current matrix of {' and '.join(lacking)}" if lacking else "no seed of both"
                found.append(Compared(row, more, less, why=why))
                continue
            values = [[each[seed] for seed in seeds] for each in (a, b)]
            means = [float(np.mean(each)) for each in values]
            made = Compared(row, more, less, "not significant", means[0], means[1], seeds=seeds)
            if len(seeds) < 2:
                found.append(replace(made, why="fewer than two trainings of both"))
                continue
            differences = [a[seed] - b[seed] for seed in seeds]
            tests.append((len(found), statistics.t_test(differences), float(np.mean(differences))))
            spread = [plain_statistics.stdev(each) for each in values]
            found.append(replace(made, spread=(spread[0], spread[1])))
        corrected = statistics.holm([p for _, p, _ in tests])
        for (index, _, difference), p in zip(tests, corrected, strict=True):
            side: Side = "not significant" if p >= ALPHA else "as said" if difference > 0 else "the other way"
            found[index] = replace(found[index], side=side, p=p)
        return found


def _by_seed(matrix: Matrix) -> dict[int, float]:
    return {seed: value for seed, value in zip(matrix.seeds, matrix.by_seed, strict=True) if not np.isnan(value)}
