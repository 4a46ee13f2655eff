"""Robust accuracy against the number of steps: whether an attack has converged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bench.core.precision import titled
from bench.report.plots import style
from bench.report.tables import budget_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


COLUMNS = ("panel", "title", "seed", "steps", "robust_accuracy")


def with_several_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `points` that differ in nothing but `steps` for at least two numbers of it; `panel` names the attack."""
    import pandas as pd

    frame = frame[frame["steps"].notna()].copy()
    if frame.empty:
        return frame.assign(panel="")
    frame["other"] = [_other(row["settings"], row["targets"]) for row in frame.to_dict("records")]
    group = ["plugin", "precision", "other", "budget_name", "budget"]
    # A method belongs in a panel only with two points or more: one point is not a line.
    numbers = frame.groupby([*group, "method"])["steps"].transform("nunique")
    frame = frame[numbers > 1].copy()
    several = frame.groupby(["plugin", "precision", "budget_name", "budget"])["other"].transform("nunique") > 1
    frame["panel"] = [
        titled(
            f"{row['plugin'].upper().replace('_', '-')}, {budget_text(row['budget_name'], row['budget'])}",
            row["precision"],
        )
        + (f", {row['other'].strip('{}')}" if several_settings else "")
        for row, several_settings in zip(frame.to_dict("records"), several, strict=True)
    ]
    return pd.DataFrame(frame.drop(columns="other").reset_index(drop=True))


def draw(frame: pd.DataFrame, *titles: str) -> Figure:
    """Robust accuracy (share of all images) against steps: a panel an attack and budget, a line a method.

    Args:
        frame: columns `COLUMNS`.
        titles: lines above the figure.
    """
    from matplotlib.ticker import NullFormatter, NullLocator

    panels = list(dict.fromkeys(frame["panel"]))
    names = style.order_of(frame, ["panel", "steps"])
    look = style.looks(dict.fromkeys(frame["title"]))
    with style.sheet():
        figure, axes = style.panels(len(panels), width=5.2 if len(panels) == 1 else 4.0, height=3.6)
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
            axis.set(title=panel, xlabel="steps", ylim=(0, None), ylabel="robust accuracy, % of all images")
        style.title(figure, *titles, less=1.6)
        style.legend(figure, names, look)
        return figure


def _other(settings: str, targets: str) -> str:
    """The settings but `steps`, with the classes that the attack was led to; the precision is named apart."""
    values = json.loads(settings) | ({"targets": targets} if targets else {})
    values.pop("steps", None)
    return json.dumps(values, sort_keys=True)
