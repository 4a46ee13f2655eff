"""Robust accuracy against the number of steps: whether an attack has converged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bench.core.precision import titled
from bench.report.plots import style
from bench.report.plots.style import PLAIN, Page
from bench.report.tables import budget_text
from bench.report.titles import setting_text, symbol

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


COLUMNS = ("panel", "title", "seed", "steps", "robust_accuracy")


def with_several_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `points` that differ in nothing but `steps` for at least two numbers of it; `panel` names the attack."""

    frame = frame[frame["steps"].notna()].copy()
    if frame.empty:
        return frame.assign(panel="")
    frame["other"] = [_other(row["settings"], row["targets"]) for row in frame.to_dict("records")]
    group = ["plugin", "precision", "other", "budget_name", "budget"]
    # A method belongs in a panel only with two points or more: one point is not a line.
    numbers = frame.groupby([*group, "method"])["steps"].transform("nunique")
    frame = frame[numbers > 1].copy()
    beside = frame.groupby(["plugin", "precision", "budget_name", "budget"])["other"]
    alike = {key: [json.loads(each) for each in dict.fromkeys(others)] for key, others in beside}
    frame["panel"] = [
        titled(
            f"{row['plugin'].upper().replace('_', '-')}, {budget_text(row['budget_name'], row['budget'])}",
            row["precision"],
        )
        + _told(json.loads(row["other"]), alike[row["plugin"], row["precision"], row["budget_name"], row["budget"]])
        for row in frame.to_dict("records")
    ]
    frame = frame.drop(columns="other").reset_index(drop=True)
    return style.with_spread(frame, ["panel", "method", "steps"], "robust_accuracy")


def draw(frame: pd.DataFrame, *titles: str, page: Page = PLAIN) -> Figure:
    """Robust accuracy (share of all images) against steps: a panel an attack and budget, a line a method.

    Args:
        frame: columns `COLUMNS`.
        titles: lines above the figure.
        page: where it is printed.
    """
    from matplotlib.ticker import NullFormatter, NullLocator

    panels = list(dict.fromkeys(frame["panel"]))
    names = style.order_of(frame, ["panel", "steps"])
    look = style.looks(dict.fromkeys(frame["title"]))
    with style.sheet(page):
        width = 4.8 if len(panels) == 1 else 2.9
        figure, axes = style.panels(len(panels), names, titles, page, width=width, height=0.75 * width)
        for axis, panel in zip(axes, panels, strict=True):
            part = frame[frame["panel"] == panel]
            for name in names:
                x, values = style.grouped(part[part["title"] == name], "steps", "robust_accuracy")
                if x:
                    style.line(axis, x, [[100 * value for value in many] for many in values], look[name])
            numbers = sorted(part["steps"].unique())
            axis.set_xscale("log")
            axis.set_xticks(numbers, [str(number) for number in numbers])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set(title=panel, xlabel="steps", ylim=(0, None))
            style.outer(axis, "robust accuracy, % of all images")
        style.legend(figure, names, look, page)
        return style.fit(figure, page)


def _other(settings: str, targets: str) -> str:
    """The settings but `steps`, with the classes that the attack was led to; the precision is named apart."""
    values = json.loads(settings) | ({"targets": targets} if targets else {})
    values.pop("steps", None)
    return json.dumps(values, sort_keys=True)


def _told(own: dict[str, Any], alike: list[dict[str, Any]]) -> str:
    """`, restarts = 5`: what tells settings from others of the same attack and budget; nothing where there are none."""
    names = [name for name in own if any(name not in other or other[name] != own[name] for other in alike)]
    return "".join(f", {symbol(name)} = {setting_text(own[name])}" for name in names)
