"""Heatmaps: the CSV behind them against the files, the difference, the layout of panels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import refused
from small_results import QUICK

from bench.core.bits import from_text
from bench.report import heatmap


def rates(folder: Path, method: str) -> np.ndarray:
    """Mean over seeds of what is misclassified among the images that every member gets right, in percent."""
    found = []
    for path in folder.glob("runs/*/evaluations/*.json"):
        run = json.loads((path.parents[1] / "run.json").read_text())
        record = json.loads(path.read_text())
        if record["kind"] != "transfer" or run["method"] != method or run["settings"].get("lambda_a", 2.0) != 2.0:
            continue
        clean = [from_text(r["bits"], record["n"]) for r in record["clean_rows"] if r["target"] >= 0]
        among = np.all(clean, axis=0)
        table = np.zeros((3, 4))
        for cell in record["cells"]:
            table[cell["source"], cell["target"]] = 100 * from_text(cell["bits"], record["n"])[among].mean()
        found.append(table)
    assert len(found) == 2
    return np.mean(found, axis=0)


def table_of(path: Path, column: str, method: str) -> np.ndarray:
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [row for row in csv.DictReader(file) if row["method"] == method]
    table = np.full((3, 4), np.nan)
    for row in rows:
        table[int(row["source"]) - 1, 3 if row["target"] == "ensemble" else int(row["target"]) - 1] = float(row[column])
    return table


def test_the_table_behind_the_heatmap_is_that_of_the_bits(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path
) -> None:
    on_small("heatmap", "-o", tmp_path / "h.png")
    for method in ("ece", "cos_only"):
        assert table_of(tmp_path / "h.png", "percent", method) == pytest.approx(rates(small_results, method))


def test_the_difference_is_first_minus_second(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path
) -> None:
    on_small("heatmap", "--diff", "cos_only", "ece", "-o", tmp_path / "d.svg")
    want = rates(small_results, "cos_only") - rates(small_results, "ece")
    assert table_of(tmp_path / "d.svg", "difference", "cos_only") == pytest.approx(want)
    picture = (tmp_path / "d.svg").read_text()
    assert "Cos-only − ECE" in picture
    for value in want.flatten():
        assert f">{value:+.0f}<".replace("-", "−").replace("+0", "0").replace("−0", "0") in picture


@pytest.mark.parametrize(
    ("rate", "population"),
    [("misclassified", "correct_all"), ("definition6", "all"), ("definition6_conditional", "correct_both")],
)
def test_heading_and_csv_name_the_images_that_count(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path, rate: str, population: str
) -> None:
    told = on_small("heatmap", "--rate", rate, "-o", tmp_path / "h.svg")
    assert f"population {population}, " in " ".join(told.split())
    assert f"population {population};" in (tmp_path / "h.svg").read_text()
    with (tmp_path / "h.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["population"] for row in rows} == {population}
    counts = {int(row["images"]) for row in rows if row["method"] == "ece"}
    clean = [
        np.array([from_text(line["bits"], record["n"]) for line in record["clean_rows"]])
        for record in map(json.loads, (path.read_text() for path in small_results.glob("runs/*/evaluations/*.json")))
        if record["kind"] == "transfer"
    ]
    images = clean[0].shape[1]
    assert counts == {2 * images} if rate == "definition6" else max(counts) < 2 * images  # two seeds


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--rate", "definition6", "--population", "correct_all"), "a share of population all, not of correct_all"),
        (("--diff", "ece", "ece"), "with itself"),
        (("--diff", "ece", "trs"), "of trs with these selectors; `bench run --method trs"),
        (("--diff", "ece", "cos_only", "-m", "trs"), "leave --method out"),
        (("-m", "ece", "-o", "x.jpg"), "png, svg, pdf"),
    ],
)
def test_what_cannot_be_drawn_is_said(small_results: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused("heatmap", *arguments, *QUICK, "--results", small_results)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (5, 5), (6, 3), (8, 4), (9, 3), (10, 5), (12, 4)])
def test_panels_fill_their_lines(count: int, columns: int) -> None:
    assert heatmap._columns(count) == columns
