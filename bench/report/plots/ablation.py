"""What a setting of a method does: robust accuracy and training time against its values, all else equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.core import registry
from bench.core.config import Loaded
from bench.core.errors import BenchError
from bench.core.identity import canonical
from bench.core.settings import completed
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import RunSpec
from bench.report.cells import Cell, outcome_of
from bench.report.plots import style
from bench.report.plots.style import PLAIN, Page
from bench.report.results import row_of
from bench.report.tables import budget_text
from bench.report.titles import Titles, symbol
from bench.report.worst import KIND as WORST
from bench.report.worst import with_worst_case
from bench.store import queries, standing
from bench.store.database import Database
from bench.store.typed_rows import RunRow

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    "setting", "value", "position", "configured", "seed", "row", "attack", "budget_name", "budget", "precision",
    "accuracy", "training_seconds", "run_id",
)  # fmt: skip


def read(
    loaded: Loaded,
    selection: Selection,
    db: Database,
    *,
    over: tuple[str, ...] = (),
    seeds: tuple[int, ...] | None = None,
) -> pd.DataFrame:
    """The runs that differ from the selection's method in one setting only, under the attacks of its suite.

    A row a setting, value, seed and row of the table: clean, and the worst case over the suite's attacks at each ε (or
    the attacks themselves where there is no worst case). `position` orders the values; `configured` marks today's.

    Args:
        over: settings to look at; all that were varied unless given.

    Raises:
        BenchError: not one method, or a setting that it does not have.
    """
    import pandas as pd

    names = select.method_names(loaded, selection.methods)
    if len(names) != 1:
        raise BenchError("an ablation is of one method, e.g. --method trs")
    spec = select.run_spec(loaded, selection, names[0], 0)
    plugin = registry.load("methods", spec.plugin)
    configured = completed(plugin, spec.settings)
    for name in over:
        if name not in configured:
            raise BenchError(f"{names[0]} has no setting {name!r}; it has: {', '.join(configured) or 'none'}")
    runs = [
        run
        for run in (replace(run, settings=completed(plugin, run.settings)) for run in _alike(db, spec))
        if run.settings.keys() == configured.keys() and (seeds is None or run.seed in seeds)
    ]
    varied = {run.run_id: _differences(run.settings, configured) for run in runs}
    base = [run for run in runs if not varied[run.run_id]]
    rows = []
    for setting in over or configured:
        others = [run for run in runs if varied[run.run_id] == [setting]]
        if not others:
            continue
        values = _ordered([run.settings[setting] for run in (*base, *others)])
        rows += [
            {
                "setting": setting, "value": value, "position": values.index(value),
                "configured": not varied[run.run_id], "seed": run.seed, "training_seconds": run.seconds,
                "run_id": run.run_id, **result,
            }
            for run in (*base, *others)
            for value in [_text(run.settings[setting])]
            for result in _results(loaded, selection, spec, run, db)
        ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return style.with_spread(frame, ["setting", "value", "row"], "accuracy")


def draw(frame: pd.DataFrame, *titles: str, page: Page = PLAIN) -> Figure:
    """Two panels a setting: accuracies above, seconds of training below; its values evenly spaced.

    Args:
        frame: columns `COLUMNS`.
        titles: lines above the figure.
        page: where it is printed; its columns are of settings.
    """
    settings = list(dict.fromkeys(frame["setting"]))
    rows = list(dict.fromkeys(frame["row"]))
    look = style.looks(rows)
    with style.sheet(page):
        figure, panels = style.stacks(len(settings), rows, titles, page, width=2.6, height=3.8, parts=(2.2, 1), most=3)
        for (upper, lower), setting in zip(panels, settings, strict=True):
            part = frame[frame["setting"] == setting]
            labels = part.drop_duplicates("position").sort_values("position")
            for name in rows:
                x, values = style.grouped(part[part["row"] == name], "position", "accuracy")
                style.line(upper, x, [[100 * value for value in many] for many in values], look[name])
            x, values = style.grouped(part.drop_duplicates("run_id"), "position", "training_seconds")
            plain = {"color": style.INK, "marker": "o", "linestyle": "-"}
            style.line(lower, x, values, plain)
            for axis in (upper, lower):
                axis.set_xticks(labels["position"], labels["value"])
                axis.set_xlim(-0.35, len(labels) - 0.65)
                for position in labels[labels["configured"]]["position"]:
                    axis.axvline(position, color="#bdbdbd", linewidth=6, alpha=0.35, zorder=0)
            upper.set(ylim=(0, 102))
            lower.set(xlabel=symbol(setting), ylim=(0, None))
            style.outer(upper, "accuracy, % of all images")
            style.outer(lower, "training, s")
        style.legend(figure, rows, look, page)
        return style.fit(figure, page)


def _alike(db: Database, spec: RunSpec) -> list[RunRow]:
    """Runs of the same plug-in, data, model, members, training and versions; of equal ones the latest."""
    training = canonical(spec.training.model_dump(mode="json"))
    found = {}
    runs = queries.runs(db, plugin=spec.plugin, dataset=spec.dataset, model=spec.model)
    standings = standing.judge(runs)
    for run in runs:
        same = (
            run.members == spec.members
            and run.validation == spec.validation
            and canonical(run.model_settings) == canonical(spec.model_settings)
            and canonical(run.training) == training
            and standings.of(run.run_id).is_current
        )
        if same:
            found[run.family_id, run.seed] = run
    return list(found.values())


def _differences(settings: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    return [name for name in base if canonical(settings[name]) != canonical(base[name])]


def _ordered(values: list[Any]) -> list[str]:
    """Different values in order, as text: numbers by size, others as they come."""
    numbers = all(isinstance(value, int | float) for value in values)
    return list(dict.fromkeys(_text(value) for value in (sorted(values) if numbers else values)))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _results(loaded: Loaded, selection: Selection, spec: RunSpec, run: RunRow, db: Database) -> list[dict[str, Any]]:
    """The table's column of one run, today's versions only."""
    wanted = {each.attack_key: each for each in select.evaluations(loaded, selection, spec) if each.kind != "transfer"}
    measured = standing.read(db, run_ids=run.run_id)
    cells = {
        (row.attack_key, run.run_id): Cell({run.seed: outcome})
        for row in measured.standings.current(measured.rows)
        if row.attack_key in wanted and (outcome := outcome_of(row)) is not None
    }
    rows, titles = [], Titles(loaded)
    for each in wanted.values():
        rows.append(row_of(each, titles, each.attack_key))
    if not selection.attacks:
        rows, cells = with_worst_case(loaded, rows, cells, db)
    worst = any(row.kind == WORST for row in rows)
    return [
        {
            "row": f"{row.title} {budget_text(row.budget_name, row.budget)}".strip(),
            "attack": row.attack, "budget_name": row.budget_name, "budget": row.budget, "precision": row.precision,
            "accuracy": cells[row.key, run.run_id].values[run.seed] / 100,
        }
        for row in rows
        if (row.key, run.run_id) in cells and (row.kind in ("clean", WORST) or not worst)
    ]  # fmt: skip
