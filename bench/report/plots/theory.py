"""Measured transferability between the bounds of Theorems 1 and 2, against the radius."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.config import Loaded
from bench.experiment.select import Selection
from bench.report import theory
from bench.report.plots import style
from bench.report.plots.style import PLAIN, Page
from bench.report.results import run_specs
from bench.store import standing
from bench.store.database import Database

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = (
    "method", "title", "seed", "run_id", "evaluation_id", "attack", "eps", "source", "target", "n", "transferability",
    "low", "high", "lower_bound", "lower_why", "upper_bound", "upper_why", "lower_bound_least", "upper_bound_least",
)  # fmt: skip


def read(loaded: Loaded, selection: Selection, db: Database, *, seeds: tuple[int, ...] | None = None) -> pd.DataFrame:
    """A row for each ordered pair of members at each radius: columns `COLUMNS`, shares in [0, 1], members from 1.

    `low` and `high`: 95 % interval of the transferability. A bound is as the theorem has it (below 0 or above 1 where
    it says nothing, missing where its condition fails), `…_why` the term that makes it say nothing; `…_least` with
    the least terms that the proofs need.
    """
    import pandas as pd

    families: dict[str, list[str]] = {}
    for name, run in run_specs(loaded, selection).items():
        families.setdefault(run.family_id, []).append(name)
    measured = standing.read(db, family_ids=list(families))
    rows = [
        row for row in measured.standings.current(measured.rows)
        if row.kind == "theory" and row.split == selection.split and (seeds is None or row.seed in seeds)
    ]  # fmt: skip
    order = list(loaded.config.methods)
    records = [
        {
            "method": name, "title": loaded.title_of(name), "seed": pair.row.seed, "run_id": pair.row.run_id,
            "evaluation_id": pair.row.evaluation_id, "attack": (pair.row.targets or "untargeted").replace("_", " "),
            "eps": pair.row.budget, "source": pair.source + 1, "target": pair.target + 1, "n": pair.row.n,
            "transferability": pair.share, "low": pair.interval.low, "high": pair.interval.high,
            "lower_bound": pair.lower["seen"].value, "lower_why": pair.lower["seen"].why,
            "upper_bound": pair.upper["seen"].value, "upper_why": pair.upper["seen"].why,
            "lower_bound_least": pair.lower["least"].value, "upper_bound_least": pair.upper["least"].value,
        }
        for pair in theory.bounds(db, rows)
        for name in families[pair.row.family_id]
    ]  # fmt: skip
    records.sort(key=lambda row: (order.index(str(row["method"])), row["seed"], row["attack"], row["eps"]))
    frame = pd.DataFrame(records, columns=list(COLUMNS))
    return style.with_spread(frame, ["method", "attack", "eps", "source", "target"], "transferability")


def draw(frame: pd.DataFrame, *titles: str, page: Page = PLAIN) -> Figure:
    """A panel an attack; of each method the measured transferability, mean over pairs, and dashed what bounds it.

    A band is from the lowest to the highest seed.
    A bound that says nothing is drawn as 0 or 1. Where all lower ones say nothing, the panel says so.
    """
    attacks = sorted(set(frame["attack"]), key=lambda name: (name == "untargeted", name))
    shown = frame.assign(
        measured=100 * frame["transferability"],
        most=100 * frame["upper_bound"].astype(float).fillna(1.0).clip(upper=1.0),
        least=100 * frame["lower_bound"].astype(float).fillna(0.0).clip(lower=0.0),
    )
    names = list(dict.fromkeys(frame["title"]))
    look = style.looks(names)
    with style.sheet(page):
        figure, axes = style.panels(len(attacks), names, titles, page, width=2.9, height=2.6)
        for axis, attack in zip(axes, attacks, strict=True):
            part = shown[shown["attack"] == attack]
            for name in names:
                own = part[part["title"] == name]
                if own.empty:
                    continue
                dashed = {**look[name], "linestyle": (0, (2, 1.5)), "marker": "v", "markersize": 3.5, "linewidth": 1.1}
                seeds = own.groupby(["eps", "seed"], as_index=False)[["most", "measured"]].mean()
                x, most = style.grouped(seeds, "eps", "most")
                style.line(axis, x, most, dashed)
                x, values = style.grouped(seeds, "eps", "measured")
                style.line(axis, x, values, look[name])
            if (part["least"] > 0).any():
                x, least = style.grouped(part, "eps", "least")
                axis.plot(x, [max(each) for each in least], color=style.INK, linewidth=1.1, linestyle=":")
            radii = sorted(set(part["eps"]))
            axis.set_xscale("log")
            axis.set_xticks(radii, [f"{eps:g}" for eps in radii])
            axis.minorticks_off()
            told = "" if (part["least"] > 0).any() else "; every lower bound says nothing"
            axis.set(title=f"led to: {attack}{told}" if attack != "untargeted" else f"untargeted{told}")
            axis.set(xlabel="ε (ℓ2)", ylim=(-2, 103))
            style.outer(axis, "transferability, % of all images")
        style.legend(figure, names, look, page)
        return style.fit(figure, page)
