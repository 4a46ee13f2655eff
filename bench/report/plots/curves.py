"""Training curves: loss terms and accuracies of each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.config import Loaded
from bench.experiment.select import Selection
from bench.report.plots import style
from bench.report.results import CurrentIds, run_specs
from bench.report.titles import ensemble_title
from bench.store import queries
from bench.store.database import Database

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("method", "title", "seed", "run_id", "phase", "epoch", "step", "quantity", "part", "value", "accuracy_on")


def read(loaded: Loaded, selection: Selection, db: Database, *, seeds: tuple[int, ...] | None = None) -> pd.DataFrame:
    """The curves of the runs of a selection; `step` counts epochs over all phases from 1.

    Quantities: `loss`, `term` (`part` names it), `ensemble_accuracy`, `member_accuracy` (`part`: member from 1).
    """
    import pandas as pd

    planned = CurrentIds(loaded, selection)
    rows = []
    for name, spec in run_specs(loaded, selection).items():
        for run in queries.runs(db, family_ids=spec.family_id):
            if (seeds is not None and run.seed not in seeds) or planned.run_id(name, run.seed) != run.run_id:
                continue
            for epoch in queries.curve(db, run.run_id):
                told = {
                    "method": name, "title": ensemble_title(loaded, name, spec.training.precision), "seed": run.seed,
                    "run_id": run.run_id, "phase": epoch.phase, "epoch": epoch.epoch, "step": epoch.position + 1,
                    "accuracy_on": epoch.accuracy_on,
                }  # fmt: skip
                values = [("loss", "", epoch.loss), ("ensemble_accuracy", "", epoch.ensemble_accuracy)]
                values += [("term", part, value) for part, value in (epoch.terms or {}).items()]
                values += [
                    ("member_accuracy", str(number), value)
                    for number, value in enumerate(epoch.member_accuracy or (), start=1)
                ]
                rows += [
                    {**told, "quantity": quantity, "part": part, "value": value}
                    for quantity, part, value in values
                    if value is not None
                ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def draw(frame: pd.DataFrame, *titles: str) -> Figure:
    """A panel a method: members and ensemble above, terms of the loss below, against epochs; bands over seeds."""
    methods = list(dict.fromkeys(frame["title"]))
    columns = min(5, len(methods))
    lines = -(-len(methods) // columns)
    with style.sheet():
        figure, axes = style.subplots(
            2 * lines,
            columns,
            size=(max(5.0, 2.7 * columns + 0.3), 4.6 * lines + 0.6),
            height_ratios=[1, 1] * lines,
        )
        lowest = 100 * frame[frame["quantity"].isin(["ensemble_accuracy", "member_accuracy"])]["value"].quantile(0.02)
        for index in range(lines * columns):
            upper, lower = (
                axes[2 * (index // columns)][index % columns],
                axes[2 * (index // columns) + 1][index % columns],
            )
            if index >= len(methods):
                upper.axis("off")
                lower.axis("off")
                continue
            part = frame[frame["title"] == methods[index]]
            _accuracies(upper, part)
            upper.set(title=methods[index], ylim=(max(0.0, lowest - 5), 101))
            _terms(lower, part)
            lower.set(xlabel="epoch")
            if index % columns == 0:
                upper.set_ylabel("accuracy, %")
                lower.set_ylabel("loss, by term")
        style.title(figure, *titles)
        return figure


def _accuracies(axis: Axes, part: pd.DataFrame) -> None:
    members = part[part["quantity"] == "member_accuracy"]
    ensemble = part[part["quantity"] == "ensemble_accuracy"]
    grey = {"color": "#8c8c8c", "linestyle": "-", "marker": "", "linewidth": 0.9}
    for number, one in members.groupby("part", sort=True):
        x, values = style.grouped(one, "step", "value")
        means = [[100 * sum(many) / len(many)] for many in values]
        style.line(axis, x, means, grey, label="members" if number == members["part"].min() else None)
    x, values = style.grouped(ensemble, "step", "value")
    black = {"color": style.INK, "linestyle": "-", "marker": "", "linewidth": 2.0}
    style.line(axis, x, [[100 * value for value in many] for many in values], black, label="ensemble")
    axis.legend(loc="lower right", frameon=False, fontsize=8, handlelength=1.6)


def _terms(axis: Axes, part: pd.DataFrame) -> None:
    terms = part[part["quantity"] == "term"]
    if terms.empty:
        terms = part[part["quantity"] == "loss"].assign(part="loss")
    look = style.looks(dict.fromkeys(terms["part"]))
    for name, one in terms.groupby("part", sort=False):
        x, values = style.grouped(one, "step", "value")
        style.line(axis, x, values, {**look[str(name)], "marker": ""}, label=str(name))
    axis.legend(loc="upper right", frameon=False, fontsize=8, handlelength=2.2)
    low = float(terms["value"].min())
    axis.set_ylim(bottom=0 if low >= 0 else None)
