"""Figures of theory: rank correlations against scipy's, planted ones found again, frames behind the pictures."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import TINY, bench, refused
from scipy.stats import spearmanr
from small_results import QUICK

import bench as package
from bench.report.plots import predict


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "REPLICATES", 100)


def planted(*, methods: int, ensembles: int, slope: float, offset: float) -> pd.DataFrame:
    """Six pairs an ensemble; within a method transfer rises with similarity by `slope`, across by `offset`."""
    generator = np.random.default_rng(3)
    rows = []
    for method in range(methods):
        for seed in range(ensembles):
            for pair in range(6):
                similarity = generator.random()
                about = {"dataset": "digits", "method": f"m{method}", "seed": seed, "run_id": f"{method} {seed}"}
                every = dict.fromkeys(predict.PREDICTORS, similarity)
                told = {"similarity": similarity + method, "transfer": slope * similarity + offset * method}
                rows.append({**about, "eps": 1.0, "source": 1, "target": 2, **every, "cka": method + pair, **told})
    return pd.DataFrame(rows, columns=list(predict.PAIR_COLUMNS))


def test_a_rank_correlation_is_scipys() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.integers(0, 5, 40).astype(float), generator.random(40)
    assert predict.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert math.isnan(predict.spearman(x[:3], y[:3]))
    assert math.isnan(predict.spearman(np.ones(9), y[:9]))


def test_what_holds_across_methods_may_be_turned_round_within_them() -> None:
    found = predict.correlations(planted(methods=12, ensembles=4, slope=-1, offset=5)).set_index(["scope", "predictor"])
    across, within = found.loc["across", "similarity"], found.loc["within", "similarity"]
    assert within["correlation"] == pytest.approx(-1)
    assert across["correlation"] > 0.9
    assert across["low"] > 0.5
    assert (within["low"], within["high"]) == pytest.approx((-1, -1))
    assert (across["ensembles"], across["methods"]) == (48, 12)
    again = predict.correlations(planted(methods=12, ensembles=4, slope=-1, offset=5)).set_index(["scope", "predictor"])
    pd.testing.assert_frame_equal(found, again)


def test_no_interval_is_claimed_where_a_method_has_one_ensemble() -> None:
    found = predict.correlations(planted(methods=5, ensembles=1, slope=1, offset=0)).set_index(["scope", "predictor"])
    assert found.loc["within", "similarity"]["correlation"] == pytest.approx(1)
    assert math.isnan(found.loc["within", "similarity"]["low"])


def test_more_seeds_of_the_same_methods_make_no_narrower_interval_across_them() -> None:
    generator = np.random.default_rng(2)
    levels = [(x, y) for x, y in zip(generator.permutation(8), generator.permutation(8), strict=True)]
    frames = [
        pd.DataFrame(
            [
                {"dataset": "digits", "method": f"m{method}", "seed": seed, "run_id": f"{method} {seed}", "eps": 1.0,
                 "source": 1, "target": 2, **dict.fromkeys(predict.PREDICTORS, x + 1e-3 * seed), "transfer": y}
                for method, (x, y) in enumerate(levels)
                for seed in range(seeds)
            ]
        )
        for seeds in (1, 9)
    ]  # fmt: skip
    few, many = (predict.correlations(f).set_index(["scope", "predictor"]).loc["across", "cka"] for f in frames)
    assert many["ensembles"] == 9 * few["ensembles"]
    assert many["high"] - many["low"] > 0.85 * (few["high"] - few["low"]) > 0.5


def test_a_long_title_leaves_the_legend_its_room() -> None:
    frame = predict.correlations(planted(methods=5, ensembles=2, slope=1, offset=1))
    figure = predict.draw(frame, "a long line about what is drawn here " * 3)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    title = figure._suptitle
    assert title is not None
    assert not title.get_window_extent().overlaps(legend.get_window_extent())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four ensembles of two members with matrices and what `bench theory` measures, on a few images."""
    folder = tmp_path_factory.mktemp("theory plots")
    where = ("--results", folder, "--threads", 1)
    bench(
        "run",
        "-m",
        "ece",
        "-m",
        "cos_only",
        "--seeds",
        "0-1",
        "--members",
        2,
        *QUICK,
        "--set",
        'suites.core.attacks=["fgsm"]',
        "-q",
        *where,
    )
    runs = sorted(path.name for path in folder.glob("runs/*"))
    bench("theory", *runs, "--eps", "0.1", "--limit", 8, *where)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_figures_are_drawn_from_the_frames(results: Path, tmp_path: Path) -> None:
    shared = ("-d", "digits", "--members", 2, *QUICK, "--results", results)
    bench("plot", "theory", "-m", "ece", "-m", "cos_only", *shared, "-o", tmp_path / "t.svg")
    frame = package.load(results / "bench.db").bounds
    seen = frame[frame["reading"] == "seen"]
    drawn = rows_of(tmp_path / "t.csv")
    assert len(drawn) == len(seen) == 4 * 2 * 2
    known = seen.set_index(["evaluation_id", "source", "target"])
    for row in drawn:
        mine = known.loc[(row["evaluation_id"], int(row["source"]), int(row["target"]))]
        assert float(row["transferability"]) == pytest.approx(mine["transferability"])
        assert (row["upper_why"], row["lower_why"]) == (mine["upper_why"], mine["lower_why"])
        assert float(row["low"]) <= float(row["transferability"]) <= float(row["high"])
    picture = " ".join(re.sub("<[^>]*>", " ", (tmp_path / "t.svg").read_text()).split())
    assert "every lower bound says nothing" in picture
    bench("plot", "predict", "--results", results, "-o", tmp_path / "p.png")
    pairs = rows_of(tmp_path / "p.pairs.csv")
    unlike = package.load(results / "bench.db").diversity.set_index("run_id")
    matrices = package.load(results / "bench.db").matrices
    assert len(pairs) == 4 * 2
    for pair in pairs:
        assert float(pair["similarity"]) == pytest.approx(unlike.loc[pair["run_id"]]["cosine"])
        mine = matrices[(matrices["run_id"] == pair["run_id"]) & (matrices["source"] == pair["source"])]
        (cell,) = mine[mine["target"] == pair["target"]].to_dict("records")
        assert float(pair["transfer"]) == pytest.approx(cell["correct_all"])
    table = pd.DataFrame(rows_of(tmp_path / "p.csv"))
    assert set(table["ensembles"]) == {"4"}


def test_compare_tells_the_diversity_of_both(results: Path) -> None:
    text = bench("compare", "ece", "cos_only", "-d", "digits", "--members", 2, *QUICK, "--results", results)
    assert "Diversity of ECE: gradient cosine" in text
    assert "Diversity of Cos-only: gradient cosine" in text


def test_nothing_to_draw_is_one_line(tmp_path: Path) -> None:
    bench("run", "-m", "ece", *TINY, "--attack", "fgsm", "--eps", 0.1, "-q", "--threads", 1, "--results", tmp_path)
    assert "bench theory ID" in refused("plot", "theory", "-m", "ece", "--results", tmp_path)
    assert "0 ensembles have" in refused("plot", "predict", "--results", tmp_path)
