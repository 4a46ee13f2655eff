"""Two methods, or two runs, side by side: what of theirs was measured on the same images, and which is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from bench.core import statistics
from bench.core.config import Loaded
from bench.core.errors import BenchError, unknown_name
from bench.core.identity import canonical, short
from bench.core.numbers import several
from bench.core.precision import USUAL, Precision
from bench.core.statistics import ALPHA, Comparison
from bench.experiment import command
from bench.experiment.select import Selection
from bench.report import hints, theory
from bench.report.cells import Bits, Cell, Row, outcome_of
from bench.report.recipes import phrase, recipe_label
from bench.report.results import DRAWN, collect, joined, row_of, run_specs
from bench.report.tables import budget_text, heading
from bench.report.titles import Titles, ensemble_title
from bench.report.worst import asks_members, with_worst_case
from bench.store import queries, standing
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow, RunRow

Cells = Mapping[tuple[str, str], Cell]
MISSING = "Asked for and not compared"


def named(row: Row) -> str:
    """A row in a sentence: `PGD (50) ε = 0.1`."""
    return f"{row.title} {budget_text(row.budget_name, row.budget)}".strip()


@dataclass(frozen=True)
class Pair:
    """One row of a comparison; `p_holm` is corrected over all rows of its family, which are of one precision."""

    row: Row
    seeds: tuple[int, ...]
    comparison: Comparison
    family: Precision = USUAL
    p_holm: float = 1.0

    @property
    def name(self) -> str:
        """`PGD (50) ε = 0.1`."""
        return named(self.row)

    @property
    def fails_over_seeds(self) -> bool:
        """Whether the difference is significant over images, but not over seeds."""
        return self.comparison.fails_over_seeds(self.p_holm)

    @property
    def better(self) -> str:
        """`a`, `b`, or nothing where the difference is not significant (over images, and over seeds if several)."""
        if not self.comparison.is_significant(self.p_holm):
            return ""
        return "a" if self.comparison.difference > 0 else "b"

    def verdict(self, a: str, b: str) -> str:
        """In words."""
        if self.better:
            return f"{a if self.better == 'a' else b} is better"
        return "not significant" + (" over seeds" if self.fails_over_seeds else "")


@dataclass(frozen=True)
class Paired:
    """A comparison of A with B."""

    a: str
    b: str
    heading: str
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    diversity: tuple[Mapping[str, float], ...] = ()
    """Of A and of B, means over pairs of members (`bench.report.theory.MEANS`); empty where it was not measured."""
    missing: tuple[str, ...] = ()
    """Of the notes those on what was asked for by name (attacks, a suite, seeds), and how it is made up for."""

    @property
    def families(self) -> dict[Precision, list[Pair]]:
        """The rows that are corrected together, float32 first: the others are the same attacks a second time."""
        return {
            precision: found
            for precision in get_args(Precision)
            if (found := [pair for pair in self.pairs if pair.family == precision])
        }


def by_id(loaded: Loaded, names: tuple[str, ...], *, selectors: bool) -> bool:
    """Whether two names are the ids of runs; two methods otherwise.

    Args:
        selectors: whether anything else was said of which results are meant, which ids leave nothing to.

    Raises:
        BenchError: not two names, twice the same, one of each kind, or what is neither a method nor looks like an id.
    """
    known = loaded.config.methods
    if len(names) != 2:
        raise BenchError(f"compare takes two methods or two ids of runs, not {len(names)}")
    if names[0] == names[1]:
        raise BenchError(f"{names[0]} is no better and no worse than itself; name two")
    ids = [name for name in names if name not in known]
    methods = [name for name in names if name in known]
    for name in ids:
        if set(name) - set("0123456789abcdef"):
            raise unknown_name("method", name, known)
        if methods:
            raise BenchError(f"{methods[0]} is a method and {name} none: give two methods, or the ids of two runs")
    if ids and selectors:
        raise BenchError("two ids say which runs are meant: leave the other selectors out")
    return bool(ids)


def of_methods(loaded: Loaded, selection: Selection, db: Database, *, seeds: tuple[int, ...] | None) -> Paired:
    """The two methods of a selection under every row of its suite, paired by image and by seed.

    Raises:
        BenchError: not two methods, nothing measured, or nothing on the same images.
    """
    first, second = selection.methods
    results = collect(loaded, selection, db, seeds=seeds)
    for name in selection.methods:
        if not any(cell.seeds for (_, method), cell in results.cells.items() if method == name):
            of_it = replace(selection, methods=(name,))
            again = command.of_selection(loaded, of_it)
            others = hints.measured_with(loaded, of_it, db, run_specs(loaded, of_it))
            told = f"{others}`{again}`{'' if others else ' would'}"
            raise BenchError(f"nothing of {name} has been measured with these selectors; {told}")
    titles = results.titles[first], results.titles[second]
    by_name = bool(selection.attacks or selection.suite)
    found = _paired(loaded, titles, heading(results), results.rows, results.cells, (first, second), db, every=by_name)
    missing = list(found.notes) if by_name else [note for note in found.notes if seeds and note.startswith("seed")]
    there = {seed for pair in found.pairs for seed in pair.seeds}
    if alone := [seed for seed in seeds or () if seed not in there]:
        missing.append(f"{_seeds(alone)} of neither or of one of them only")
    if missing:
        missing.append(f"`{command.of_selection(loaded, selection)}` does what is missing")
    drawn = [f"{results.titles[name]} {DRAWN}" for name in selection.methods if name in results.drawn]
    families = {name: run.family_id for name, run in run_specs(loaded, selection).items()}
    measured = standing.read(db, family_ids=list(families.values()))
    of = {
        name: [
            run.run_id
            for run in measured.runs
            if run.family_id == families[name] and (seeds is None or run.seed in seeds)
        ]
        for name in selection.methods
    }
    diversity = tuple(_unlike(measured, of[name]) for name in selection.methods)
    return replace(found, notes=(*drawn, *found.notes), diversity=diversity, missing=tuple(missing))


def of_runs(loaded: Loaded, first: str, second: str, db: Database) -> Paired:
    """Two runs by the beginnings of their ids, under everything that both were measured with.

    Raises:
        BenchError: an unknown id, twice the same run, other data sets, or nothing on the same images.
    """
    runs = [queries.find_run(db, prefix) for prefix in (first, second)]
    if runs[0].run_id == runs[1].run_id:
        raise BenchError(f"{first} and {second} are the same run")
    if runs[0].dataset != runs[1].dataset:
        told = " and ".join(f"{short(run.run_id)} of {run.dataset}" for run in runs)
        raise BenchError(f"these runs share no images: {told}")
    measured = standing.read(db, run_ids=[run.run_id for run in runs])
    rows: dict[str, Row] = {}
    cells: dict[tuple[str, str], Cell] = {}
    digests: dict[str, list[str]] = {}
    drawn = {each.run_id for each in measured.rows if (right := outcome_of(each)) and right.expected is not None}
    for each in sorted(measured.rows, key=standing.age):
        outcome = outcome_of(each)
        invalid = measured.standings.of(each.evaluation_id).state == "invalid"
        if each.kind not in ("clean", "attack", "blackbox") or outcome is None or invalid:
            continue
        key = f"{each.setting_id if len(drawn) != 1 else _whatever_the_stop(each)} {each.images_digest}"
        rows[key] = _row(loaded, each, key)
        # A run is one training: it stands as the only seed, whatever the seeds of the two are.
        cells[key, each.run_id] = Cell({0: outcome})
        digests.setdefault(each.images_digest, []).append(key)
    order = sorted(rows, key=lambda key: _order(loaded, rows[key]))
    together: list[Row] = []
    filled: dict[tuple[str, str], Cell] = {}
    for keys in digests.values():
        part = [rows[key] for key in order if key in keys]
        some, more = with_worst_case(loaded, part, {at: cell for at, cell in cells.items() if at[0] in keys}, db)
        together += some
        filled |= more
    made = [phrase(recipe_label(run.recipe, plugin=run.plugin)) for run in runs]
    head = " · ".join(
        [
            runs[0].dataset,
            *(f"{short(r.run_id)} {r.method}, seed {r.seed}, {how}" for r, how in zip(runs, made, strict=True)),
        ]
    )
    names = _names(loaded, runs)
    found = _paired(loaded, names, head, together, filled, (runs[0].run_id, runs[1].run_id), db)
    lines = [f"{name} {DRAWN}" for name, run in zip(names, runs, strict=True) if run.run_id in drawn]
    diversity = tuple(_unlike(measured, [run.run_id]) for run in runs)
    return replace(found, notes=(*lines, *found.notes), diversity=diversity)


def _whatever_the_stop(row: EvaluationRow) -> str:
    """What an attack is but for its rule of stopping, which is another one where a member is drawn for each answer."""
    return canonical([row.kind, row.plugin, row.settings, row.budget_name, row.budget, row.precision, row.targets])


def as_records(paired: Paired) -> dict[str, Any]:
    """For machines; accuracies in percent, differences in points."""
    return {
        "a": paired.a,
        "b": paired.b,
        "heading": paired.heading,
        "rows": [_record(paired, pair) for pair in paired.pairs],
        "notes": list(paired.notes),
        "missing": list(paired.missing),
        "diversity": [dict(means) for means in paired.diversity],
    }


def _unlike(measured: standing.Measured, run_ids: Sequence[str]) -> dict[str, float]:
    """Means over the pairs of members of one run, or over several runs; of what was measured of all of them."""
    current = measured.standings.current(measured.rows)
    rows = [theory.measured_diversity(row for row in current if row.run_id == run_id) for run_id in run_ids]
    means = [theory.pair_means(row) for row in rows if row is not None]
    return {name: sum(each[name] for each in means) / len(means) for name in theory.MEANS
            if means and all(name in each for each in means)}  # fmt: skip


def summary(paired: Paired) -> list[str]:
    """What was asked for and is missing; what the rows say, in words.

    That is those in float32 where there are any, so that no attack counts twice.
    """
    counted, *others = paired.families.items()
    verdicts = [f"{paired.a} is better", f"{paired.b} is better", "not significant over seeds", "not significant"]
    groups: dict[str, list[str]] = {verdict: [] for verdict in verdicts}
    for pair in counted[1]:
        groups[pair.verdict(paired.a, paired.b)].append(pair.name)
    lines = [f"{MISSING}: {'; '.join(paired.missing)}."] if paired.missing else []
    lines += [
        f"{verdict} under {len(names)} of {len(counted[1])}: {', '.join(names)}"
        for verdict, names in groups.items()
        if names
    ]
    lines += [f"Not counted: {_rows_in(precision, pairs)}." for precision, pairs in others]
    if any(paired.diversity):
        told = zip((paired.a, paired.b), paired.diversity, strict=True)
        lines += [f"Diversity of {name}: {theory.words(means) or 'not measured'}" for name, means in told]
    return lines


def footnotes(paired: Paired) -> list[str]:
    """How the numbers were made."""
    several = any(len(pair.seeds) > 1 for pair in paired.pairs)
    images = joined(f"{pair.comparison.n:,}" for pair in paired.pairs)
    together = "; the seeds of an image stay together" if several else ""
    families = paired.families
    rows = f"the {_rows(paired.pairs)}"
    if len(families) > 1:
        rows = " and apart over ".join(f"the {_rows_in(*family)}" for family in families.items())
    lines = [
        f"Difference: {paired.a} − {paired.b} in points, with the 95 % paired bootstrap over {images} images.",
        f"p: exact McNemar test over images{together}; Holm-corrected over {rows}.",
    ]
    if several:
        numbers = joined(len(pair.seeds) for pair in paired.pairs)
        lines.append(
            f"Over seeds: 95 % t interval of the differences of n = {numbers} seeds, each row alone. "
            f"Better: p < {ALPHA:g} and this interval without 0."
        )
    else:
        lines.append(f"Better: p < {ALPHA:g}. One training each: this says nothing about other seeds.")
    return lines + [f"Note: {note}" for note in paired.notes if note not in paired.missing]


def _rows(pairs: Sequence[Pair]) -> str:
    return several(len(pairs), "row")


def _rows_in(precision: Precision, pairs: Sequence[Pair]) -> str:
    return f"{_rows(pairs)} in {precision}"


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' if len(numbers) > 1 else ''} {joined(numbers)}"


def pair(
    rows: Iterable[Row],
    cells: Cells,
    names: tuple[str, str],
    titles: tuple[str, str],
    db: Database,
    *,
    every: bool = False,
) -> tuple[list[Pair], dict[str, list[str]]]:
    """The rows under which two columns have current results of the same images and seeds; p is not corrected yet.

    Args:
        cells: of (row's key, name).
        names: of the two columns, A and B; `titles`: what people call them.
        every: rows that neither has are told too.

    Returns:
        The pairs, and why others are none: reason → names of rows.
    """
    pairs: list[Pair] = []
    notes: dict[str, list[str]] = {}
    both = [(row, cells.get((row.key, names[0]), Cell()), cells.get((row.key, names[1]), Cell())) for row in rows]
    known = Bits(db, (cell for _, *cells_of in both for cell in cells_of))
    for row, a, b in both:
        name = named(row)
        lacking = [title for title, cell in zip(titles, (a, b), strict=True) if not cell.seeds or cell.stale]
        if lacking:
            if len(lacking) == 1 or a.stale or b.stale or every:
                notes.setdefault(f"no current result of {' and '.join(lacking)} under", []).append(name)
            continue
        seeds = tuple(sorted(set(a.seeds) & set(b.seeds)))
        alone = sorted(set(a.seeds) ^ set(b.seeds))
        if alone:
            told = f"{_seeds(alone)} of one of them only, left out under"
            notes.setdefault(told, []).append(name)
        if not seeds:
            continue
        if len({cell.seeds[seed].images_digest for cell in (a, b) for seed in seeds}) > 1:
            notes.setdefault("measured on different images, left out:", []).append(name)
            continue
        bits = [known.by_seed(cell) for cell in (a, b)]
        seeds = tuple(seed for seed in seeds if all(seed in found for found in bits))
        if not seeds:
            continue
        left, right = (np.stack([found[seed] for seed in seeds]) for found in bits)
        pairs.append(Pair(row, seeds, statistics.compare(left, right)))
    return pairs, notes


def _paired(
    loaded: Loaded, titles: tuple[str, str], head: str, rows: Iterable[Row], cells: Cells, names: tuple[str, str],
    db: Database, *, every: bool = False,
) -> Paired:  # fmt: skip
    """Pair the cells of two columns; `every`: rows that neither has are told too.

    Raises:
        BenchError: nothing pairs.
    """
    pairs, notes = pair(rows, cells, names, titles, db, every=every)
    told_notes = tuple(f"{reason} {', '.join(names)}" for reason, names in notes.items())
    if not pairs:
        raise BenchError(
            f"{titles[0]} and {titles[1]} were measured with nothing in common: {'; '.join(told_notes) or 'no attack'}"
        )
    return Paired(*titles, heading=head, pairs=_corrected(loaded, pairs), notes=told_notes)


def _corrected(loaded: Loaded, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs with `family` and `p_holm`.

    What asks in float32 whatever is chosen (clean, black-box, attacks on members) goes with the float32 attacks; where
    all others are of another precision, with them.
    """
    always = [_always_usual(loaded, pair.row) for pair in pairs]
    chosen = {pair.row.precision for pair, either in zip(pairs, always, strict=True) if not either}
    rest = USUAL if USUAL in chosen else min(chosen, default=USUAL)
    families = [rest if either else pair.row.precision for pair, either in zip(pairs, always, strict=True)]
    p_holm: dict[int, float] = {}
    for family in set(families):
        indices = [index for index, each in enumerate(families) if each == family]
        p_holm |= zip(indices, statistics.holm([pairs[index].comparison.p for index in indices]), strict=True)
    return tuple(replace(pair, family=families[at], p_holm=p_holm[at]) for at, pair in enumerate(pairs))


def _always_usual(loaded: Loaded, row: Row) -> bool:
    """Whether a row would be in float32 whatever precision attacks are told to ask in."""
    return row.kind in ("clean", "blackbox") or asks_members(loaded, row)


def _row(loaded: Loaded, row: EvaluationRow, key: str) -> Row:
    return row_of(row, Titles(loaded), key)


def _order(loaded: Loaded, row: Row) -> tuple[Any, ...]:
    """Clean first, then attacks in the order of bench.toml; those in float32 before the others."""
    known = list(loaded.config.attacks)
    kind = ("clean", "attack").index(row.kind) if row.kind in ("clean", "attack") else 2
    position = known.index(row.attack) if row.attack in known else len(known)
    return kind, row.precision != USUAL, position, row.attack, row.budget or 0.0, row.key


def _names(loaded: Loaded, runs: Sequence[RunRow]) -> tuple[str, str]:
    titles = [ensemble_title(loaded, run.method, run.precision) for run in runs]
    for detail in ([f"seed {run.seed}" for run in runs], [short(run.run_id) for run in runs]):
        if titles[0] == titles[1]:
            titles = (
                [f"{title}, {more}" for title, more in zip(titles, detail, strict=True)]
                if detail[0] != detail[1]
                else titles
            )
    return titles[0], titles[1]


def _record(paired: Paired, pair: Pair) -> dict[str, Any]:
    found = pair.comparison
    return {
        "attack": pair.row.attack,
        "precision": pair.row.precision,
        "budget_name": pair.row.budget_name,
        "budget": pair.row.budget,
        "n": found.n,
        "seeds": list(pair.seeds),
        "a": _points(found.a),
        "b": _points(found.b),
        "difference": _points(found.difference),
        "over_images": [_points(value) for value in found.over_images],
        "over_seeds": None if found.over_seeds is None else [_points(value) for value in found.over_seeds],
        "per_seed": [
            {"seed": seed, "difference": _points(value), "only_a": each.only_a, "only_b": each.only_b, "p": each.p}
            for seed, value, each in zip(pair.seeds, found.per_seed, found.discordant, strict=True)
        ],
        "p": found.p,
        "p_holm": pair.p_holm,
        "better": pair.better or None,
        "verdict": pair.verdict(paired.a, paired.b),
    }


def _points(share: float) -> float:
    return round(100 * share, 9)
