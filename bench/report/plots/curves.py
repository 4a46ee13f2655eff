"""Training curves: loss terms and accuracies of each epoch, natural and under the attacks that watched the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.core.config import Loaded
from bench.core.precision import titled
from bench.core.seeds import SURROGATE_SEEDS
from bench.experiment.select import Selection
from bench.report.plots import style
from bench.report.plots.style import PLAIN, Page
from bench.report.results import CurrentIds, run_specs
from bench.report.tables import budget_text
from bench.report.titles import Titles, ensemble_title, symbol
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
    this epoch because it was the best of its phase. Mean and spread are over seeds; surrogates are left out.
    """
    import pandas as pd

    titles = Titles(loaded)
    planned = CurrentIds(loaded, selection)
    rows = []
    for name, spec in run_specs(loaded, selection).items():
        for run in queries.runs(db, family_ids=spec.family_id):
            if run.seed >= SURROGATE_SEEDS or (seeds is not None and run.seed not in seeds):
                continue
            if planned.run_id(name, run.seed) != run.run_id:
                continue
            for epoch in queries.curve(db, run.run_id):
                told = {
                    "method": name, "title": ensemble_title(loaded, name, spec.training.precision), "seed": run.seed,
                    "run_id": run.run_id, "phase": epoch.phase, "epoch": epoch.epoch, "step": epoch.position + 1,
                    "accuracy_on": epoch.accuracy_on, "kept": bool(epoch.kept),
                }  # fmt: skip
                values = [("loss", "", "", epoch.loss), ("ensemble_accuracy", "", "", epoch.ensemble_accuracy)]
                values += [("term", part, symbol(part), value) for part, value in (epoch.terms or {}).items()]
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
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return style.with_spread(frame, ["method", "step", "quantity", "part"], "value")


def _title_of(monitored: Mapping[str, Any], titles: Titles) -> str:
    """`PGD (10), ε = 0.03`, behind the label where it is not the attack's name."""
    name, attack = monitored["name"], monitored["attack"]
    title = titled(titles.attack(attack, monitored["plugin"], monitored["settings"]), monitored["precision"])
    told = f"{title}, {budget_text(monitored['budget_name'], monitored['budget'])}"
    return told if name == attack else f"{name}: {told}"


def draw(frame: pd.DataFrame, *titles: str, page: Page = PLAIN) -> Figure:
    """A panel a method: accuracies above, terms of the loss below, against epochs; bands over seeds.

    Of one method that was watched by attacks the two stand beside each other, as in the report on TRS.
    """
    methods = list(dict.fromkeys(frame["title"]))
    robust = frame[frame["quantity"] == "robust_accuracy"]
    terms = _terms_of(frame)
    look = style.looks([*dict.fromkeys(robust["part_title"]), *dict.fromkeys(terms["part_title"])])
    beside = len(methods) == 1 and not robust.empty
    names = [
        "members",
        "ensemble, natural" if len(robust) else "ensemble",
        *look,
        *([KEPT] if frame["kept"].any() else []),
    ]
    with style.sheet(page):
        if beside:
            figure, (left, right) = style.panels(2, names, titles, page, width=2.9, height=2.6)
            found: list[tuple[Axes, ...]] = [(left, right)]
        else:
            figure, found = style.stacks(
                len(methods), names, titles, page, width=2.0, height=2.9, parts=(1, 1), most=5, below=True
            )  # fmt: skip
        lowest = 100 * frame[frame["quantity"].isin(ACCURACIES)]["value"].quantile(0.02)
        for (upper, lower), method in zip(found, methods, strict=True):
            part = frame[frame["title"] == method]
            _accuracies(upper, part, look)
            upper.set(title=method, ylim=(max(0.0, lowest - 5) if robust.empty else 0.0, 101))
            _terms(lower, _terms_of(part), look)
            for axis in (upper, lower):
                _whole(axis)
            for axis in (upper, lower) if beside else (lower,):
                axis.set_xlabel("epoch")
            upper_label, lower_label = "accuracy, %", "terms of the loss"
            style.outer(upper, upper_label)
            if beside:
                lower.set_ylabel(lower_label)
            else:
                style.outer(lower, lower_label)
        handles = {
            label: handle
            for axis in figure.axes
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        shown = [handles[name] for name in names if name in handles]
        style.legend(figure, names, look, page, handles=shown, below=not beside)
        return style.fit(figure, page)


def _terms_of(part: pd.DataFrame) -> pd.DataFrame:
    """The terms of the loss; the loss itself where a method tells none."""
    terms = part[part["quantity"] == "term"]
    told = set(terms["method"])
    whole = part[(part["quantity"] == "loss") & ~part["method"].isin(told)].assign(part="loss", part_title="loss")
    return whole if terms.empty else terms if whole.empty else _joined(terms, whole)


def _joined(*frames: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(frames)


def _accuracies(axis: Axes, part: pd.DataFrame, look: Mapping[str, Mapping[str, Any]]) -> None:
    members = part[part["quantity"] == "member_accuracy"]
    ensemble = part[part["quantity"] == "ensemble_accuracy"]
    grey = {"color": "#8c8c8c", "linestyle": "-", "marker": "", "linewidth": 0.9}
    for number, one in members.groupby("part", sort=True):
        x, values = style.grouped(one, "step", "value")
        means = [[100 * sum(many) / len(many)] for many in values]
        style.line(axis, x, means, grey, label="members" if number == members["part"].min() else None)
    x, values = style.grouped(ensemble, "step", "value")
    black = {"color": style.INK, "linestyle": "-", "marker": "", "linewidth": 1.8}
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


def _whole(axis: Axes) -> None:
    """No half epochs."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _terms(axis: Axes, terms: pd.DataFrame, look: Mapping[str, Mapping[str, Any]]) -> None:
    for name, one in terms.groupby("part_title", sort=False):
        x, values = style.grouped(one, "step", "value")
        style.line(axis, x, values, {**look[str(name)], "marker": ""}, label=str(name))
    low = float(terms["value"].min())
    axis.set_ylim(bottom=0 if low >= 0 else None)
