"""Results for a selection: the cells of a table, out of the database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bench.core import registry, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.precision import titled
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import OUTSIDE, EvaluationSpec, RunSpec
from bench.report import hints
from bench.report.cells import Cell, Row, outcome_of
from bench.report.recipes import ELSEWHERE, recipe_label, setting_on_paper
from bench.report.titles import Titles, budget_text, ensemble_title
from bench.report.worst import with_worst_case
from bench.store import queries, standing
from bench.store.database import Database
from bench.store.flags import Opinion, doubts
from bench.store.published import is_comparable
from bench.store.standing import Measured, Standings
from bench.store.typed_rows import EvaluationRow, ReferenceRow

if TYPE_CHECKING:
    from collections.abc import Mapping


DRAWN = "draws a member for each answer: attacks go on to their last step, and what counts is the most probable answer"
KINDS = {"clean": "clean", "blackbox": "black-box"}  # rows that are no configured attack


@dataclass(frozen=True)
class Results:
    """A table's rows × methods, with what a reader must know about them."""

    suite: str
    dataset: str
    model: str
    members: Mapping[str, int]
    recipe: str
    images: str
    methods: tuple[str, ...]
    titles: Mapping[str, str]
    rows: tuple[Row, ...]
    cells: Mapping[tuple[str, str], Cell]
    published: Mapping[tuple[str, str], float]
    notes: tuple[str, ...]
    recipes: Mapping[str, str] = field(default_factory=dict)
    """The recipe of each method."""
    verdicts: Mapping[str, Mapping[int, Opinion]] = field(default_factory=dict)
    """Of the audit, by method and seed."""
    setting: str = ""
    """Data set, members, model and training, for readers who do not know `bench`."""
    unlike: Mapping[str, str] = field(default_factory=dict)
    """What ours of a method is on, where that is not what its published values are of: network, members, images."""
    elsewhere: tuple[str, ...] = ()
    """Values that were published for these methods and rows in another setting, in words."""

    @cached_property
    def drawn(self) -> frozenset[str]:
        """Methods that answer with a member drawn at random: they are shown and ranked with no other."""
        known = ((method, outcome) for (_, method), cell in self.cells.items() for outcome in cell.seeds.values())
        return frozenset(method for method, outcome in known if outcome.expected is not None)

    def ranked(self, row: Row) -> dict[str, Cell]:
        """The current cells of a row that have a value, by method, but for those of `drawn`."""
        cells = {method: self.cell(row, method) for method in self.methods if method not in self.drawn}
        return {method: cell for method, cell in cells.items() if cell.seeds and not cell.stale}

    def cell(self, row: Row, method: str) -> Cell:
        """The cell; empty when nothing was measured."""
        return self.cells.get((row.key, method), Cell())

    @cached_property
    def has_published(self) -> bool:
        """Whether a published value stands beside any of ours, or one of another setting below."""
        return bool(self.published or self.elsewhere)


def collect(
    loaded: Loaded,
    selection: Selection,
    db: Database,
    *,
    seeds: tuple[int, ...] | None = None,
    every: bool = False,
    paper: bool = False,
) -> Results:
    """The table of a selection.

    Args:
        seeds: only these; None for all that were run.
        every: keep methods without any result; otherwise methods that were not named must have one.
        paper: a published value counts as a result.

    Raises:
        BenchError: unknown names, or nothing measured for the selection.
    """
    specs = run_specs(loaded, selection)
    if not specs:
        raise BenchError(f"no method can be shown for {selection.dataset}")
    drawing = {name: run for name, run in specs.items() if select.draws_a_member(run)}
    reference = next((run for name, run in specs.items() if name not in drawing), next(iter(specs.values())))
    suite = ", ".join(selection.attacks) if selection.attacks else select.suite_name(loaded, selection)
    rows = _rows(loaded, selection, reference)
    measured = standing.read(db, family_ids=[run.family_id for run in specs.values()])
    own = {run.family_id: _keys(loaded, selection, run, reference) for run in drawing.values()}
    found = cells_of(specs, rows, measured, seeds, own)
    references = queries.references(db, dataset=selection.dataset)
    printed = published_beside(loaded, selection, rows, specs, references)
    elsewhere = _elsewhere(loaded, rows, specs, references)
    known = {method for _, method in (*found, *(printed if paper else ()))} | (elsewhere.keys() if paper else set())
    shown = {name: run for name, run in specs.items() if every or name in selection.methods or name in known}
    if not known and not every:
        raise BenchError(hints.nothing_measured(loaded, selection, suite, db, specs))
    cells, lost = _with_failures(loaded, selection, found, shown, rows, db, seeds, own)
    if not selection.attacks:
        rows, cells = with_worst_case(loaded, rows, cells, db)
    attacks = [row.attack for row in rows]
    changes = changes_shown(loaded, shown, attacks)
    recipe = select.recipe_name(loaded, selection.recipe, selection.dataset)
    label = recipe_shown(loaded, recipe, shown, changes)
    models, members = [run.model for run in shown.values()], sizes(run.members for run in shown.values())
    return Results(
        suite=suite,
        dataset=selection.dataset,
        model=joined(run.model for run in shown.values()),
        members={name: run.members for name, run in shown.items()},
        recipe=label,
        setting=setting_on_paper(loaded, selection.dataset, members, models, label),
        recipes={
            name: recipe_label(recipe, changes_shown(loaded, {name: run}, attacks), plugin=run.plugin)
            for name, run in shown.items()
        },
        images=images_label(loaded, selection),
        methods=tuple(shown),
        titles={name: ensemble_title(loaded, name, run.training.precision) for name, run in shown.items()},
        rows=tuple(rows),
        cells=cells,
        published={key: value for key, value in printed.items() if key[1] in shown},
        unlike={
            name: told
            for name, run in shown.items()
            if any(method == name for _, method in printed) and (told := unlike_published(loaded, selection, run))
        },
        elsewhere=tuple(line for name in sorted(elsewhere) if name in shown for line in elsewhere[name]),
        notes=(*run_notes(shown, db, seeds), *_expected(rows, cells, loaded), *lost),
        verdicts=_verdicts(shown, measured, seeds),
    )


def _verdicts(
    specs: Mapping[str, RunSpec], measured: Measured, seeds: tuple[int, ...] | None
) -> dict[str, dict[int, Opinion]]:
    """The verdicts of the audit on the runs of a table that count, by method and seed."""
    found: dict[str, dict[int, Opinion]] = {}
    for name, spec in specs.items():
        for run in measured.runs:
            told = measured.standings.verdicts.get(run.run_id)
            shown = run.family_id == spec.family_id and (seeds is None or run.seed in seeds)
            if shown and told and measured.standings.of(run.run_id).is_current:
                found.setdefault(name, {})[run.seed] = told.opinion
    return found


def _expected(rows: Iterable[Row], cells: Mapping[tuple[str, str], Cell], loaded: Loaded) -> Iterator[str]:
    """A line for each method that answers with a member drawn at random: what its cells do not say."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for (key, method), cell in cells.items():
            known = [each.expected for each in cell.seeds.values() if each.expected is not None]
            if key == row.key and known and len(known) == len(cell.seeds):
                told = f"{row.title}, {budget_text(row.budget_name, row.budget)}: {sum(known) / len(known):.1f} %"
                found.setdefault(method, []).append(told)
    for method, each in found.items():
        told = f"{loaded.title_of(method)} {DRAWN}, ranked with no other"
        yield f"{told}; expected accuracy over the member drawn: {'; '.join(each)}"


def run_specs(loaded: Loaded, selection: Selection) -> dict[str, RunSpec]:
    """A run spec for every method of the selection, or for every configured one when none is named."""
    named = select.method_names(loaded, selection.methods)
    specs = {}
    for name in named or loaded.config.methods:
        try:
            specs[name] = select.run_spec(loaded, selection, name, 0)
        except BenchError:
            if named:
                raise
    return specs


def _rows(loaded: Loaded, selection: Selection, run: RunSpec) -> list[Row]:
    rows, titles = [], Titles(loaded)
    for spec in select.evaluations(loaded, selection, run):
        if spec.kind == "transfer":
            continue
        rows.append(row_of(spec, titles, spec.attack_key))
    return rows


def _keys(loaded: Loaded, selection: Selection, run: RunSpec, reference: RunSpec) -> dict[str, str]:
    """The keys of the rows by those of a run whose attacks go on to the last step, where others' stop before."""
    pairs = zip(*(select.evaluations(loaded, selection, each) for each in (run, reference)), strict=True)
    return {own.attack_key: shown.attack_key for own, shown in pairs}


def row_of(of: EvaluationSpec | EvaluationRow, titles: Titles, key: str) -> Row:
    """The row of a planned or stored evaluation, with its title and, where it is not float32, its precision."""
    named = titled(KINDS[of.kind] + titles.sources(of) if of.kind in KINDS else titles.of(of), of.precision)
    return Row(of.attack, named, of.budget_name, of.budget, of.stop, key, of.kind, of.precision)


def cells_of(
    specs: Mapping[str, RunSpec], rows: Iterable[Row], measured: Measured, seeds: tuple[int, ...] | None = None,
    own: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[tuple[str, str], Cell]:  # fmt: skip
    """The cells (row's key, method) that have a result; two configured methods with equal settings share theirs.

    Args:
        measured: all of these runs, since some flags come from comparing attacks that are in no common table.
        own: by family, the keys of rows by the attack keys that its evaluations have instead.
    """
    own = own or {}
    names: dict[str, list[str]] = {}
    for name, run in specs.items():
        names.setdefault(run.family_id, []).append(name)
    by_key: dict[tuple[str, str], list[EvaluationRow]] = {}
    shown = {row.key for row in rows}
    for row in measured.rows:
        key = own.get(row.family_id, {}).get(row.attack_key, row.attack_key)
        if key in shown and row.family_id in names and (seeds is None or row.seed in seeds):
            for name in names[row.family_id]:
                by_key.setdefault((key, name), []).append(row)
    return {place: cell_of(found, measured.standings) for place, found in by_key.items()}


def cell_of(rows: Iterable[EvaluationRow], standings: Standings) -> Cell:
    """The cell of one method under one attack: what is current, or for want of that the latest that is stale."""
    valid, told = [], []
    for row in sorted(rows, key=standing.age):
        found = standings.of(row.evaluation_id)
        raised = standings.raised.get(row.evaluation_id, ())
        if found.state == "invalid":
            told += [item for item in raised if item.flag.severity == "invalid"]
        elif found.state != "superseded":
            valid.append((row, found.is_current, raised))
    current = [each for each in valid if each[1]]
    chosen = {row.seed: (row, raised) for row, _, raised in current or valid}
    seeds = {seed: outcome for seed, (row, _) in chosen.items() if (outcome := outcome_of(row)) is not None}
    shown = [item for _, raised in chosen.values() for item in raised]
    if not seeds:
        shown = told
    return Cell(
        seeds,
        stale=bool(seeds) and not current,
        failed="" if seeds or not told else f"invalid: {told[0].flag.when} ({told[0].evidence})",
        flags=tuple(dict.fromkeys(item.flag.id for item in doubts((*shown, *told)))),
    )


class CurrentIds:
    """The ids that a selection would give today, of runs and evaluations."""

    def __init__(self, loaded: Loaded, selection: Selection) -> None:
        self._loaded = loaded
        self._selection = selection
        self._ids: dict[tuple[str, int], tuple[str, dict[str, EvaluationSpec]]] = {}

    def evaluations(self, method: str, seed: int) -> dict[str, EvaluationSpec]:
        """Evaluations of one run by attack key; the matrix too where there is one."""
        return self._of(method, seed)[1]

    def run_id(self, method: str, seed: int) -> str:
        """The id of one run."""
        return self._of(method, seed)[0]

    def _of(self, method: str, seed: int) -> tuple[str, dict[str, EvaluationSpec]]:
        if (method, seed) not in self._ids:
            run = select.run_spec(self._loaded, self._selection, method, seed)
            specs = select.evaluations(self._loaded, self._selection, run)
            if run.members > 1 and self._selection.dataset in self._loaded.config.matrix.budgets:
                specs += [select.matrix_row(self._loaded, self._selection, run, targeted=t) for t in (False, True)]
            self._ids[method, seed] = (run.run_id, {spec.attack_key: spec for spec in specs})
        return self._ids[method, seed]


def _with_failures(
    loaded: Loaded,
    selection: Selection,
    cells: dict[tuple[str, str], Cell],
    specs: Mapping[str, RunSpec],
    rows: list[Row],
    db: Database,
    seeds: tuple[int, ...] | None,
    own: Mapping[str, Mapping[str, str]],
) -> tuple[dict[tuple[str, str], Cell], list[str]]:
    """Mark cells without a value whose job failed, with the error; and a line for each matrix that failed."""
    filled = dict(cells)
    lost: list[str] = []
    planned = CurrentIds(loaded, selection)
    wanted = {run.family_id for run in specs.values()}
    wanted |= {needed.family_id for run in specs.values() for needed in run.requires.values()}
    for failure in queries.failures(db, family_ids=list(wanted)):
        seed = failure.describe.get("seed")
        if failure.done or not isinstance(seed, int) or (seeds is not None and seed not in seeds):
            continue
        for name, run in specs.items():
            needed = {need.model_copy(update={"seed": seed}).run_id for need in run.requires.values()}
            if failure.job_id in (planned.run_id(name, seed), *needed):
                keys = [row.key for row in rows]
            else:
                about = {spec.evaluation_id: spec for spec in planned.evaluations(name, seed).values()}
                failed = about.get(failure.job_id)
                keys = [failed.attack_key] if failed is not None and failed.kind != "transfer" else []
                keys = [own.get(run.family_id, {}).get(key, key) for key in keys]
                if failed is not None and failed.kind == "transfer":
                    lost.append(f"{name}, seed {seed}: the matrix failed: {failure.error}")
            for key in keys:
                filled.setdefault((key, name), Cell(failed=failure.error))
    return filled, lost


def published_beside(
    loaded: Loaded, selection: Selection, rows: Iterable[Row], specs: Mapping[str, RunSpec],
    references: Iterable[ReferenceRow],
) -> dict[tuple[str, str], float]:  # fmt: skip
    """Published robust accuracies (percent) for rows and methods that have one."""
    # Weights that a method's authors published stand beside what is printed for the method.
    methods = {column: method for method, column in loaded.config.authors.items()}
    columns = {name: loaded.config.methods[of].published_as(of) for name in specs for of in [methods.get(name, name)]}
    table = {
        (value.method, value.attack, value.budget_name, value.budget): value.value
        for value in references
        if value.metric == "robust_accuracy" and is_comparable(value.source)
    }
    found = {}
    changed = {".".join(change.split(".")[:2]) for change in loaded.changes}
    for row in rows:
        if not _is_published(loaded, row.attack):
            continue
        for name, column in columns.items():
            # Beside a method that the command line changed, a published value would mislead.
            if f"methods.{name}" in changed or selection.split != "test":
                continue
            value = table.get((column, row.attack, row.budget_name, row.budget)) if column else None
            if value is not None:
                found[row.key, name] = value
    return found


def unlike_published(loaded: Loaded, selection: Selection, run: RunSpec) -> str:
    """What differs from what published values are of: the data set's own recipe, and as many images as its protocol."""
    usual = replace(selection, recipe=None, model=None, members=None, limit=None)
    try:
        own = select.run_spec(loaded, usual, run.method, run.seed)
    except BenchError:  # trained elsewhere, or by settings that only fit this selection
        own = run
    told = [f"weights {ELSEWHERE}"] if run.plugin == OUTSIDE else []
    if (run.model, run.members) != (own.model, own.members):
        told.append(f"{run.members} × {loaded.title_of_model(run.model)}")
    if run.training != own.training:
        told.append("another training")
    suite, limit = select.suite_name(loaded, replace(selection, attacks=())), select.test_limit(loaded, selection)
    protocols = loaded.config.protocols.values()
    needed = [each.images for each in protocols if (each.dataset, each.suite) == (selection.dataset, suite)]
    if limit is not None and any(number is not None and limit < number for number in needed):
        told.append(f"{limit:,} test images")
    return ", ".join(told)


def _elsewhere(
    loaded: Loaded, rows: Iterable[Row], specs: Mapping[str, RunSpec], references: Iterable[ReferenceRow]
) -> dict[str, list[str]]:
    """What others printed for the same methods and rows in another setting, by method: a line a source."""
    told: dict[tuple[str, str], list[str]] = {}
    titles = {(row.attack, row.budget_name, row.budget): row.title for row in rows if row.kind == "attack"}
    order = {key: place for place, key in enumerate(titles)}
    others = [
        value
        for value in references
        if not is_comparable(value.source)
        and value.method in specs
        and (value.attack, value.budget_name, value.budget) in titles
    ]
    for value in sorted(others, key=lambda each: order[each.attack, each.budget_name, each.budget]):
        row = value.attack, value.budget_name, value.budget
        text = f"{titles[row]}, {budget_text(value.budget_name, value.budget)}: {value.value:.1f}"
        told.setdefault((value.method, value.source), []).append(text)
    lines: dict[str, list[str]] = {}
    for method, source in sorted(told):
        line = f"{loaded.title_of(method)}, {'; '.join(told[method, source])} ({source})"
        lines.setdefault(method, []).append(line)
    return lines


def _is_published(loaded: Loaded, name: str) -> bool:
    """Whether an attack is the paper's: with the plug-in's own settings. (Its row names another precision.)"""
    spec = loaded.config.attacks.get(name)
    if spec is None:
        return True
    try:
        plugin = registry.load("attacks", spec.plugin)
        configured, own = (settings.build(plugin, table, f"attacks.{name}") for table in (spec.settings, {}))
    except BenchError:
        return False
    return spec.targets is None and settings.plain(configured) == settings.plain(own)


def run_notes(specs: Mapping[str, RunSpec], db: Database, seeds: tuple[int, ...] | None) -> tuple[str, ...]:
    """Notes of the runs shown, such as an ensemble that did not learn."""
    families = {run.family_id: name for name, run in specs.items()}
    notes = []
    for run in queries.runs(db, family_ids=list(families)):
        if seeds is None or run.seed in seeds:
            notes += [f"{families[run.family_id]}, seed {run.seed}: {note}" for note in run.notes]
    return tuple(notes)


def changes_shown(loaded: Loaded, specs: Mapping[str, RunSpec], attacks: Iterable[str]) -> tuple[str, ...]:
    """Every `--set` that touches what is shown: runs, and the attacks in question (their precision has titles)."""
    touched = {change for run in specs.values() for change in run.recipe_changes}
    names = tuple(f"attacks.{name}." for name in attacks)
    of_attacks = [each for each in loaded.changes if each.strip().startswith(names) and not _asks_in(each)]
    return tuple(change for change in loaded.changes if change in touched or change in of_attacks)


def _asks_in(change: str) -> bool:
    """Whether a `--set` says the precision of an attack, which titles of rows name and no recipe holds."""
    table, *_, name = change.partition("=")[0].strip().split(".")
    return (table, name) == ("attacks", "precision")


def recipe_shown(loaded: Loaded, recipe: str, shown: Mapping[str, RunSpec], changes: Iterable[str]) -> str:
    """The recipe of all that is shown; what was trained elsewhere is named."""
    elsewhere = [name for name, run in shown.items() if run.plugin == OUTSIDE]
    if elsewhere and len(elsewhere) == len(shown):
        return recipe_label(recipe, changes, plugin=OUTSIDE)
    label = recipe_label(recipe, changes)
    titles = ", ".join(loaded.title_of(name) for name in elsewhere)
    return f"{label}; {titles} {ELSEWHERE}" if elsewhere else label


def images_label(loaded: Loaded, selection: Selection) -> str:
    """`500 test images`, `1,000 of 10,000 test images`, `200 validation images`."""
    if selection.split == "validation":
        recipe, _ = select.resolved_recipe(loaded, selection.recipe, selection.dataset)
        return f"{select.held_out(loaded, recipe):,} validation images"
    size = loaded.dataset(selection.dataset).test_images
    limit = select.test_limit(loaded, selection)
    if limit is None:
        return f"{size:,} test images" if size else "all test images"
    return f"{limit:,} of {size:,} test images" if size else f"{limit:,} test images (--limit)"


def joined(values: Iterable[object]) -> str:
    """Different values in order, comma-separated."""
    return ", ".join(dict.fromkeys(str(value) for value in values))


def sizes(members: Iterable[int]) -> str:
    """Different numbers of members, the smallest first: `1, 3`."""
    return joined(sorted(members))
