"""Robust accuracy against the radius ε, all methods in one panel an attack (Figure 2 of the TRS paper)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core import registry
from bench.report.plots import style
from bench.report.plots.style import PLAIN, Page
from bench.report.titles import budget_number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = ("attack_title", "title", "seed", "budget", "robust_accuracy")


def with_clean(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of `points` and, at ε = 0, the clean accuracy on the same images; mean and spread over seeds beside."""
    import pandas as pd

    frame = frame[(frame["budget_name"] == "eps") & (frame["budget"] > 0)]
    clean = frame.drop_duplicates(["method", "seed", "attack"]).assign(budget=0.0, evaluation_id="")
    clean["robust_accuracy"], clean["n_robust"] = clean["clean_accuracy"], clean["n_clean"]
    return spread(pd.concat([clean, frame], ignore_index=True))


def short_of_everything(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the ℓ∞ ball that holds every image (ε = 1, a check of `bench audit --deep`), no point of a curve."""
    norms = {name: registry.load("attacks", name).norm for name in frame["plugin"].unique()}
    return frame[(frame["plugin"].map(norms) != "linf") | (frame["budget"] < 1)]


def spread(frame: pd.DataFrame) -> pd.DataFrame:
    """With mean and spread over the seeds of each point."""
    return style.with_spread(frame, ["method", "attack", "budget"], "robust_accuracy")


def draw(frame: pd.DataFrame, *titles: str, of: str = "all images", page: Page = PLAIN) -> Figure:
    """Robust accuracy (share of all images) against ε: a panel an attack, a line a method, a band over seeds.

    Args:
        frame: columns `COLUMNS`; a row a method (`title`), attack, seed and budget.
        titles: lines above the figure.
        of: the images that the shares are of.
        page: where it is printed.
    """
    attacks = list(dict.fromkeys(frame["attack_title"]))
    names = style.order_of(frame, ["attack_title", "budget"])
    look = style.looks(dict.fromkeys(frame["title"]))
    with style.sheet(page):
        single = len(attacks) == 1
        width, height = (5.0, 3.5) if single else (2.9, 2.3)
        figure, axes = style.panels(len(attacks), names, titles, page, width=width, height=height)
        for axis, attack in zip(axes, attacks, strict=True):
            part = frame[frame["attack_title"] == attack]
            for name in reversed(names):  # the best on top
                x, values = style.grouped(part[part["title"] == name], "budget", "robust_accuracy")
                if x:
                    style.line(axis, x, [[100 * value for value in many] for many in values], look[name])
            reach = float(part["budget"].max())
            budgets = sorted(set(part["budget"]))
            axis.set_xticks(budgets, [budget_number(each) for each in budgets])
            axis.set_xlim(-0.02 * reach, 1.02 * reach)
            axis.set(title=attack, xlabel="ε", ylim=(0, 102))
            style.outer(axis, f"robust accuracy, % of {of}")
        style.legend(figure, names, look, page)
        return style.fit(figure, page)
