"""Training curves: loss terms and accuracies of each epoch, natural and under the attacks that watched the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.core.config import Loaded
from bench.core.precision import titled
from bench.experiment.select import Selection
from bench.report.plots import style
from bench.report.results import CurrentIds, run_specs
from bench.report.tables import budget_text
from bench.report.titles import Titles, ensemble_title
from bench.store import queries
from bench.store.database import Database

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    "method", "title", "seed", "run_id", "phase", "epoch", "step", "quantity", "part", "part_title", "value",
    "accuracy_on", "kept",
)  # fmt: skip
KEPT = "epoch kept"
ACCURACIES = ("ensemble_accuracy", "member_accuracy", "robust_accuracy")


def read(loaded: Loaded, selection: Selection, db: Database, *, seeds: tuple[int, ...] | None = None) -> pd.DataFrame:
    """The curves of the runs of a selection; `step` counts epochs over all phases from 1.

    Quantities: `loss`, `term` (`part` names it), `ensemble_accuracy`, `member_accuracy` (`part`: member from 1),
    `robust_accuracy` (`part`: label of the monitor, `part_title` says its attack). `kept`: the run has the weights of
    this epoch because it was the best of its phase.
    """
    import pandas as pd

    titles = Titles(loaded)
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
                    "accuracy_on": epoch.accuracy_on, "kept": bool(epoch.kept),
                }  # fmt: skip
                values = [("loss", "", "", epoch.loss), ("ensemble_accuracy", "", "", epoch.ensemble_accuracy)]
                values += [("term", part, part, value) for part, value in (epoch.terms or {}).items()]
                values += [
                    ("member_accuracy", str(number), f"member {number}", value)
                    for number, value in enumerate(epoch.member_accuracy or (), start=1)
                ]
                values += [
                    ("robust_accuracy", each["name"], _title_of(each, titles), each["robust_accuracy"])
                    for each in epoch.monitored or ()
                ]
                rows += [
                    {**told, "quantity": quantity, "part": part, "part_title": title, "value": value}
                    for quantity, part, title, value in values
                    if value is not None
                ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _title_of(monitored: Mapping[str, Any], titles: Titles) -> str:
    """`PGD (10), ε = 0.03`, behind the label where it is not the attack's name."""
    name, attack = monitored["name"], monitored["attack"]
    title = titled(titles.attack(attack, monitored["plugin"], monitored["settings"]), monitored["precision"])
    told = f"{title}, {budget_text(monitored['budget_name'], monitored['budget'])}"
    return told if name == attack else f"{name}: {told}"


def draw(frame: pd.DataFrame, *titles: str) -> Figure:
    """A panel a method: accuracies above, terms of the loss below, against epochs; bands over seeds.

    Of one method that was watched by attacks the two stand beside each other, as in the report on TRS.
    """
    methods = list(dict.fromkeys(frame["title"]))
    robust = frame[frame["quantity"] == "robust_accuracy"]
    look = style.looks(dict.fromkeys(robust["part_title"]))
    if len(methods) == 1 and not robust.empty:
        return _beside(frame, look, *titles)
    columns = min(5, len(methods))
    lines = -(-len(methods) // columns)
    with style.sheet():
        figure, axes = style.subplots(
            2 * lines,
            columns,
            size=(max(5.0, 2.7 * columns + 0.3), 4.6 * lines + 0.6),
            height_ratios=[1, 1] * lines,
        )
        lowest = 100 * frame[frame["quantity"].isin(ACCURACIES)]["value"].quantile(0.02)
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
            _accuracies(upper, part, look)
            upper.set(title=methods[index], ylim=(max(0.0, lowest - 5) if robust.empty else 0.0, 101))
            if not robust.empty:  # one legend for all panels, which are too small for it
                upper.get_legend().remove()
            _terms(lower, part)
            lower.set(xlabel="epoch")
            if index % columns == 0:
                upper.set_ylabel("accuracy, %")
                lower.set_ylabel("loss, by term")
        if not robust.empty:
            handles = {label: handle for axis in axes.flat for handle, label in zip(*_handles(axis), strict=True)}
            figure.legend(
                handles.values(), handles.keys(), loc="outside lower left", frameon=False, fontsize=8.5,
                handlelength=2.6, ncols=max(2, min(4, columns)),
            )  # fmt: skip
        style.title(figure, *titles)
        return figure


def _handles(axis: Axes) -> tuple[list[Any], list[str]]:
    """Of a panel that has lost its legend, what that would hold."""
    return axis.get_legend_handles_labels() if axis.get_legend() is None else ([], [])


def _beside(frame: pd.DataFrame, look: Mapping[str, Mapping[str, Any]], *titles: str) -> Figure:
    with style.sheet():
        figure, ((left, right),) = style.subplots(1, 2, size=(9.6, 4.2))
        _accuracies(left, frame, look)
        left.set(title=f"{frame['title'].iloc[0]}: accuracy", ylim=(0, 101), ylabel="accuracy, %", xlabel="epoch")
        _terms(right, frame)
        right.set(title="loss", ylabel="loss, by term", xlabel="epoch")
        style.title(figure, *titles)
        return figure


def _accuracies(axis: Axes, part: pd.DataFrame, look: Mapping[str, Mapping[str, Any]]) -> None:
    members = part[part["quantity"] == "member_accuracy"]
    ensemble = part[part["quantity"] == "ensemble_accuracy"]
    grey = {"color": "#8c8c8c", "linestyle": "-", "marker": "", "linewidth": 0.9}
    for number, one in members.groupby("part", sort=True):
        x, values = style.grouped(one, "step", "value")
        means = [[100 * sum(many) / len(many)] for many in values]
        style.line(axis, x, means, grey, label="members" if number == members["part"].min() else None)
    x, values = style.grouped(ensemble, "step", "value")
    black = {"color": style.INK, "linestyle": "-", "marker": "", "linewidth": 2.0}
    robust = part[part["quantity"] == "robust_accuracy"]
    natural = "ensemble" if robust.empty else "ensemble, natural"
    style.line(axis, x, [[100 * value for value in many] for many in values], black, label=natural)
    for title, one in robust.groupby("part_title", sort=False):
        x, values = style.grouped(one, "step", "value")
        shares = [[100 * value for value in many] for many in values]
        few = {"markevery": max(1, len(x) // 8), "markersize": 0.8 * look[str(title)]["markersize"]}
        style.line(axis, x, shares, {**look[str(title)], **few}, label=str(title))
    kept = sorted({int(step) for step in part[part["kept"]]["step"]})
    for number, step in enumerate(kept):
        axis.axvline(
            step, color="#6b6b6b", linewidth=0.9, linestyle=(0, (4, 2)), zorder=0.5,
            label=None if number else KEPT,
        )  # fmt: skip
    _whole(axis)
    length = 1.6 if robust.empty else 2.6
    axis.legend(loc="lower right" if robust.empty else "best", frameon=False, fontsize=8, handlelength=length)


def _whole(axis: Axes) -> None:
    """No half epochs."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _terms(axis: Axes, part: pd.DataFrame) -> None:
    terms = part[part["quantity"] == "term"]
    if terms.empty:
        terms = part[part["quantity"] == "loss"].assign(part="loss")
    look = style.looks(dict.fromkeys(terms["part"]))
    for name, one in terms.groupby("part", sort=False):
        x, values = style.grouped(one, "step", "value")
        style.line(axis, x, values, {**look[str(name)], "marker": ""}, label=str(name))
    axis.legend(loc="upper right", frameon=False, fontsize=8, handlelength=2.2)
    _whole(axis)
    low = float(terms["value"].min())
    axis.set_ylim(bottom=0 if low >= 0 else None)
