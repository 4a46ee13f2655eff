"""Heatmaps: the CSV behind them against the files, the difference, the layout of panels."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import TINY, bench, refused
from small_results import QUICK

from bench import load
from bench.core.bits import classes_from_text, from_text
from bench.report import heatmap
from bench.report.plots.style import PLAIN


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
    for row in (each for each in rows if each["source"].isdecimal()):
        table[int(row["source"]) - 1, 3 if row["target"] == "ensemble" else int(row["target"]) - 1] = float(row[column])
    return table


def words_of(picture: Path) -> str:
    """The text of an SVG, lines joined."""
    return " ".join(re.sub("<[^>]*>", " ", picture.read_text()).split())


def test_the_table_behind_the_heatmap_is_that_of_the_bits(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path
) -> None:
    on_small("heatmap", "-o", tmp_path / "h.png")
    for method in ("ece", "cos_only"):
        assert table_of(tmp_path / "h.png", "mean", method) == pytest.approx(rates(small_results, method))


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


def test_every_cell_has_its_interval(small_results: Path, on_small: Callable[..., str], tmp_path: Path) -> None:
    """Of two seeds the standard deviation in the picture and Student's interval; of one seed Wilson's."""
    from scipy.stats import binomtest, t

    on_small("heatmap", "--seeds", "0", "-o", tmp_path / "one.svg")
    on_small("heatmap", "-o", tmp_path / "two.svg")
    tables = {}
    for name in ("one", "two"):
        with (tmp_path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            tables[name] = [row for row in csv.DictReader(file) if row["method"] == "ece"]
    assert [row["source"] for row in tables["one"][::4]] == ["1", "2", "3", "ensemble", "noise"]
    picture = (tmp_path / "one.svg").read_text()
    for row in tables["one"]:
        want = binomtest(int(row["misclassified"]), int(row["images"])).proportion_ci(method="wilson")
        assert [float(row["low"]), float(row["high"])] == pytest.approx([100 * want.low, 100 * want.high], abs=1e-6)
        assert f">{float(row['low']):.0f}–{float(row['high']):.0f}<" in picture
        assert (row["interval"], row["std"]) == ("over images", "")
    picture = (tmp_path / "two.svg").read_text()
    for row in tables["two"]:
        mean, deviation = float(row["mean"]), float(row["std"])
        half = t.ppf(0.975, 1) * deviation / 2**0.5
        assert float(row["low"]) == pytest.approx(max(0.0, mean - half))
        assert float(row["high"]) == pytest.approx(min(100.0, mean + half))
        assert f">±{deviation:.1f}<" in picture
    assert ">noise<" in picture


def test_what_goes_to_the_class_of_the_source_is_a_rate_of_its_own(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path
) -> None:
    on_small("heatmap", "--rate", "same_class", "-m", "ece", "-o", tmp_path / "s.svg")
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["source"], row["target"]): row for row in csv.DictReader(file)}
    assert {source for source, _ in rows} == {"1", "2", "3", "ensemble"}  # of noise nobody knows
    want = 0
    for path in small_results.glob("runs/*/evaluations/*.json"):
        record = json.loads(path.read_text())
        if record["kind"] != "transfer" or json.loads((path.parents[1] / "run.json").read_text())["method"] != "ece":
            continue
        n = record["n"]
        among = np.all([from_text(r["bits"], n) for r in record["clean_rows"] if r["target"] >= 0], axis=0)
        cells = {(cell["source"], cell["target"]): cell for cell in record["cells"]}
        own, other = (classes_from_text(cells[0, target]["classes"], n) for target in (0, 1))
        want += int((among & from_text(cells[0, 1]["bits"], n) & (own == other)).sum())
    assert int(rows["1", "2"]["misclassified"]) == want > 0
    assert "misclassified as the same class as by the source, %" in words_of(tmp_path / "s.svg")


def test_a_matrix_from_before_classes_and_further_sources_is_drawn_as_it_is(
    small_results: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(small_results, old)
    (old / "bench.db").unlink()
    for path in old.glob("runs/*/evaluations/*.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "transfer":
            record.pop("other_cells")
            record["measurements"].pop("other_sources")
            for cell in record["cells"]:
                cell.pop("classes")
            path.write_text(json.dumps(record))
    bench("db", "rebuild", "--results", old)
    bench("heatmap", "-m", "ece", *QUICK, "--results", old, "-o", tmp_path / "old.png")
    with (tmp_path / "old.csv").open(newline="", encoding="utf-8") as file:
        assert {row["source"] for row in csv.DictReader(file)} == {"1", "2", "3"}
    assert table_of(tmp_path / "old.png", "mean", "ece") == pytest.approx(rates(small_results, "ece"))
    told = refused("heatmap", "-m", "ece", "--rate", "same_class", *QUICK, "--results", old)
    assert "from before predicted classes were kept" in told
    assert "--force" in told


def test_other_ensembles_are_sources_on_request(tmp_path: Path) -> None:
    asked = ("-m", "ece", "--suite", "figure3", *TINY, "--set", 'matrix.surrogates=["ece"]', "--results", tmp_path)
    bench("run", *asked, "--threads", 1)
    assert "Nothing to do" in bench("run", *asked, "--threads", 1)
    bench("heatmap", *asked, "-o", tmp_path / "h.svg")
    with (tmp_path / "h.csv").open(newline="", encoding="utf-8") as file:
        assert [row["source"] for row in csv.DictReader(file)][::4] == ["1", "2", "3", "ensemble", "noise", "ECE"]
    plain = ("-m", "ece", "--suite", "figure3", *TINY, "--results", tmp_path)
    assert "no transferability matrix" in refused("heatmap", *plain)  # it is another measurement
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/run.json")]
    assert sorted(record["seed"] for record in records) == [0, 1_000_003]
    bench("db", "export", "-o", tmp_path / "all.zip", "--results", tmp_path)
    bench("db", "import", tmp_path / "all.zip", "--results", tmp_path / "there")
    bench("db", "rebuild", "--results", tmp_path / "there")
    frame = load(tmp_path / "there" / "bench.db").matrices
    assert {record["run_id"] for record in records} & {*frame["source"].astype(str)}
    (unknown,) = [refused("run", "-m", "ece", "--set", 'matrix.surrogates=["ecee"]', "--results", tmp_path)]
    assert "matrix.surrogates: unknown method 'ecee'" in unknown
    assert "did you mean ece" in unknown


@pytest.mark.parametrize(
    ("rate", "population"),
    [("misclassified", "correct_all"), ("definition6", "all"), ("definition6_conditional", "correct_both")],
)
def test_heading_and_csv_name_the_images_that_count(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path, rate: str, population: str
) -> None:
    told = on_small("heatmap", "--rate", rate, "-o", tmp_path / "h.svg")
    heads = {"all": "of all images", "correct_all": "of images that every member gets right"}
    assert heads.get(population, "of images that source and target get right") in " ".join(told.split())
    words = {"all": "% of all images", "correct_all": "% of the images that all members get right"}
    picture = words_of(tmp_path / "h.svg")
    assert words.get(population, "% of the images that both get right") in picture
    assert not [word for word in ("population", "correct_", "recipe", "definition6", "digits_cnn") if word in picture]
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


@pytest.mark.parametrize(
    ("count", "fit", "columns"),
    [(1, 9, 1), (3, 3, 3), (5, 5, 5), (6, 9, 3), (8, 5, 4), (9, 5, 3), (10, 5, 5), (12, 6, 4), (10, 4, 4), (3, 1, 1)],
)
def test_panels_fill_their_lines(count: int, fit: int, columns: int) -> None:
    assert heatmap._columns(count, fit) == columns


def test_the_small_line_of_a_framed_cell_lies_within_its_frame() -> None:
    """Ten matrices with the longest interval there is: the frame of a network's own attack is not drawn across it."""
    numbers = np.full((5, 4), 50.0)
    small = [
        ["99–100" if row == column or (row, column) == (3, 3) else "48–57" for column in range(4)] for row in range(5)
    ]
    panels = [heatmap._Panel(f"M{number}", ("1", "2", "3", "all", "noise"), numbers, small, "") for number in range(10)]
    figure = heatmap._draw(panels, {"vmin": 0, "vmax": 100, "cmap": "rocket_r"}, "%", lambda small: ["digits"], PLAIN)
    figure.canvas.draw()
    seen = 0
    for axis in figure.axes:
        for frame in (patch.get_window_extent() for patch in axis.patches):
            inside = [
                box
                for box in (text.get_window_extent() for text in axis.texts)
                if frame.x0 < (box.x0 + box.x1) / 2 < frame.x1 and frame.y0 < (box.y0 + box.y1) / 2 < frame.y1
            ]
            assert len(inside) == 2
            assert all(frame.x0 < box.x0 and box.x1 < frame.x1 for box in inside)
            seen += 1
    assert seen == 40
