"""Whether what theory speaks of predicts the heatmap: rank correlations with measured transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.core.precision import USUAL
from bench.core.seeds import SURROGATE_SEEDS
from bench.report import theory
from bench.report.plots import style
from bench.report.plots.style import PLAIN, Page
from bench.store import queries, standing
from bench.store.database import Database
from bench.store.typed_rows import EvaluationRow

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PREDICTORS = {
    "similarity": "gradient similarity (cosine)",
    "absolute": "gradient similarity (absolute)",
    "roughness": "largest β seen",
    "combination": "both, as in Theorem 2",
    "cka": "CKA",
    "distillation": "DVERGE's diversity",
    "loss_variance": "variance of the loss",
    "disagreement": "disagreement",
}
PAIR_COLUMNS = ("dataset", "method", "seed", "run_id", "eps", "source", "target", "transfer", *PREDICTORS)
COLUMNS = ("dataset", "scope", "predictor", "correlation", "low", "high", "ensembles", "methods")
LEAST = 4  # points that a rank correlation is computed of, methods that an interval across them is
REPLICATES = 1_000


def read(db: Database, *, dataset: str | None = None) -> pd.DataFrame:
    """A row for each ordered pair of members of each stored ensemble that all of it is known of: `PAIR_COLUMNS`.

    `transfer`: share of the images that all members get right which the target gets wrong when they are crafted on the
    source, in the matrix of `bench heatmap`. `roughness`: the larger β of both, at the radius `eps`, the largest that
    all ensembles of the data set share. `combination`: ε·g·(1 + √((1 + cos)/2)) + βε², what Theorem 2 takes from
    ℓ_min, with mean gradient size g and mean cosine in place of extremes. Surrogates are left out.
    """
    import pandas as pd

    measured = standing.read(db)
    runs = {run.run_id: run for run in measured.runs if run.seed < SURROGATE_SEEDS and run.members > 1}
    own: dict[str, list[EvaluationRow]] = {}
    for row in measured.standings.current(measured.rows):
        if row.run_id in runs and row.split == "test" and dataset in (None, row.dataset):
            own.setdefault(row.run_id, []).append(row)
    cells: dict[str, list[Any]] = {}
    for cell in queries.cells(db, run_ids=list(own)) if own else ():
        cells.setdefault(cell.evaluation_id, []).append(cell)
    known: dict[str, tuple[EvaluationRow, EvaluationRow, dict[float, EvaluationRow]]] = {}
    for run_id, rows in own.items():
        unlike = theory.measured_diversity(rows)
        matrices = [r for r in rows if r.kind == "transfer" and r.targets is None and r.precision == USUAL]
        matrix = max(matrices, key=lambda row: (row.n, row.evaluation_id), default=None)
        at = {row.budget: row for row in rows if row.kind == "theory" and row.budget is not None}
        if unlike is not None and matrix is not None and at:
            known[run_id] = unlike, matrix, at
    records = []
    for name in dict.fromkeys(runs[run_id].dataset for run_id in known):
        mine = {run_id: parts for run_id, parts in known.items() if runs[run_id].dataset == name}
        shared = set.intersection(*(set(at) for _, _, at in mine.values()))
        for run_id, (unlike, matrix, at) in mine.items() if shared else ():
            eps = max(shared)
            about = {name: getattr(runs[run_id], name) for name in ("dataset", "method", "seed", "run_id")}
            pairs = _pairs(unlike, at[eps], cells.get(matrix.evaluation_id, []), eps)
            records += [{**about, "eps": eps, **pair} for pair in pairs]
    return pd.DataFrame(records, columns=list(PAIR_COLUMNS))


def _pairs(unlike: EvaluationRow, bounds: EvaluationRow, cells: Iterable[Any], eps: float) -> Iterable[dict[str, Any]]:
    pairs = {(pair["first"], pair["second"]): pair for pair in unlike.measurements["pairs"]}
    sizes = [member["gradient"] for member in unlike.measurements["members"]]
    rough = [member["searched"] for member in bounds.measurements["members"]]
    for cell in cells:
        pair = pairs.get((min(cell.source, cell.target), max(cell.source, cell.target)))
        if pair is None or not cell.n_correct_all:  # the ensemble, or a member itself
            continue
        beta, size = max(rough[cell.source], rough[cell.target]), (sizes[cell.source] + sizes[cell.target]) / 2
        cosine = pair["cosine"]
        both = None if cosine is None else eps * size * (1 + math.sqrt(max(0, (1 + cosine) / 2))) + beta * eps**2
        yield {
            "source": cell.source + 1, "target": cell.target + 1,
            "transfer": cell.n_missed_correct_all / cell.n_correct_all,
            "similarity": cosine, "absolute": pair["absolute_cosine"], "roughness": beta, "combination": both,
            "cka": pair["cka"], "distillation": pair["feature_distillation"], "loss_variance": pair["loss_variance"],
            "disagreement": pair["disagreement"] / unlike.n,
        }  # fmt: skip


def correlations(pairs: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of each predictor with transfer, by data set: `COLUMNS`.

    `scope`: `across` methods, a point an ensemble (means over its pairs); `within` methods, a point an ordered pair,
    the mean of the methods' own correlations, weighted by their pairs. Intervals: 95 % percentile bootstrap, across
    over methods with all their ensembles, as those of one method are alike (none of fewer than four methods), within
    over the ensembles of each method (none where a method has one alone). A seeded generator: same data, same interval.
    """
    import pandas as pd

    records = []
    for dataset, part in pairs.groupby("dataset", sort=False):
        means = part.groupby(["method", "run_id"], sort=True)[["transfer", *PREDICTORS]].mean(numeric_only=True)
        for name in PREDICTORS:
            points = means[["transfer", name]].dropna()
            clusters = [own.to_numpy(dtype=float) for _, own in points.groupby("method", sort=True)]
            records.append(
                {"dataset": dataset, "scope": "across", "predictor": name, **_across(clusters),
                 "ensembles": len(points), "methods": len(clusters)}
            )  # fmt: skip
            rows = part[["method", "run_id", "transfer", name]].dropna()
            groups = [
                [np.asarray(one[["transfer", name]], dtype=float) for _, one in own.groupby("run_id", sort=True)]
                for _, own in rows.groupby("method", sort=True)
            ]
            records.append(
                {"dataset": dataset, "scope": "within", "predictor": name, **_within(groups),
                 "ensembles": sum(map(len, groups)), "methods": len(groups)}
            )  # fmt: skip
    return pd.DataFrame(records, columns=list(COLUMNS))


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Rank correlation, ties with mean ranks; NaN where one of them is constant or there are fewer than four points."""
    if len(x) < LEAST:
        return math.nan
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length > 0 else math.nan


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, ties with their mean: scipy's `rankdata`, whose checks take most of a bootstrap's time."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _across(groups: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    def of(chosen: Sequence[NDArray[np.float64]]) -> float:
        points = np.concatenate(chosen)
        return spearman(points[:, 0], points[:, 1])

    def drawn(generator: np.random.Generator) -> float:
        return of([groups[k] for k in generator.integers(len(groups), size=len(groups))])

    value = of(groups) if groups else math.nan
    return {"correlation": value, **_interval(drawn if len(groups) >= LEAST else None)}


def _within(groups: Sequence[Sequence[NDArray[np.float64]]]) -> dict[str, float]:
    def of(chosen: Sequence[Sequence[NDArray[np.float64]]]) -> float:
        together = [np.concatenate(each) for each in chosen]
        found = [(spearman(each[:, 0], each[:, 1]), len(each)) for each in together]
        sure = [(value, weight) for value, weight in found if not math.isnan(value)]
        weights = sum(weight for _, weight in sure)
        return sum(value * weight for value, weight in sure) / weights if weights else math.nan

    def drawn(generator: np.random.Generator) -> float:
        return of([[each[k] for k in generator.integers(len(each), size=len(each))] for each in groups])

    several = all(len(each) > 1 for each in groups) and groups
    return {"correlation": of(groups), **_interval(drawn if several else None)}


def _interval(drawn: Callable[[np.random.Generator], float] | None) -> dict[str, float]:
    if drawn is None:
        return {"low": math.nan, "high": math.nan}
    generator = np.random.Generator(np.random.PCG64(0))
    values = np.array([drawn(generator) for _ in range(REPLICATES)])
    values = values[~np.isnan(values)]
    if not len(values):
        return {"low": math.nan, "high": math.nan}
    low, high = np.quantile(values, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def draw(frame: pd.DataFrame, *titles: str, page: Page = PLAIN) -> Figure:
    """A panel a data set; for each predictor its correlation across and within methods, with intervals."""
    looks: dict[str, dict[str, Any]] = {
        "across": {"color": "#0173b2", "marker": "o"},
        "within": {"color": "#de8f05", "marker": "s"},
    }
    scopes = [f"{scope} methods" for scope in looks]
    with style.sheet(page):
        datasets = list(dict.fromkeys(frame["dataset"]))
        figure, axes = style.panels(len(datasets), scopes, titles, page, width=5.0, height=3.6)
        for axis, dataset in zip(axes, datasets, strict=True):
            part = frame[frame["dataset"] == dataset]
            for shift, (scope, look) in zip((-0.13, 0.13), looks.items(), strict=True):
                own = part[part["scope"] == scope].set_index("predictor")
                for place, name in enumerate(PREDICTORS):
                    row = own.loc[name]
                    if math.isnan(row["correlation"]):
                        continue
                    at = place + shift
                    if not math.isnan(row["low"]):
                        axis.plot([row["low"], row["high"]], [at, at], color=look["color"], linewidth=1.6)
                    label = f"{scope} methods" if place == 0 else None
                    axis.plot([row["correlation"]], [at], linestyle="", markersize=6, label=label, **look)
            axis.axvline(0, color="#8c8c8c", linewidth=0.8)
            axis.set_yticks(range(len(PREDICTORS)), list(PREDICTORS.values()))
            axis.invert_yaxis()
            count, methods = part["ensembles"].max(), part["methods"].max()
            axis.set(title=f"{dataset}: {count} ensembles, {methods} methods", xlim=(-1.05, 1.05))
            axis.set(xlabel="rank correlation with transfer")
        style.legend(figure, scopes, {}, page, handles=axes[0].get_legend_handles_labels()[0])
        return style.fit(figure, page)
