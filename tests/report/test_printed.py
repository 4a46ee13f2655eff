"""Figures as they are printed: fonts, sizes of text at the printed width, nothing on top of each other."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from in_process import bench, refused
from small_results import FEW, QUICK

from bench.core.errors import BenchError
from bench.report import heatmap
from bench.report.plots import style
from bench.report.plots.style import FULL, PLAIN, SMALLEST, Page
from bench.report.recipes import change_on_paper
from bench.report.titles import symbol

FIGURES: dict[str, tuple[str, ...]] = {
    "heatmap": ("heatmap",),
    "one matrix": ("heatmap", "-m", "ece", "--seeds", "0"),
    "difference": ("heatmap", "--diff", "cos_only", "ece"),
    "curves": ("plot", "curves"),
    "budget": ("plot", "budget"),
    "convergence": ("plot", "convergence"),
    "ablation": ("plot", "ablation", "-m", "cos_only"),
    "blackbox": ("plot", "blackbox", *FEW),
}


class Pdf:
    """What a PDF of one page says of itself: its width in inches, kinds of fonts, and sizes of text in points."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        box = re.search(rb"/MediaBox \[ ?([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)", raw)
        assert box is not None
        self.width = float(box[3]) / 72
        self.fonts = {kind.decode() for kind in re.findall(rb"/Subtype /(Type3|CIDFontType2|TrueType|Type1)\b", raw)}
        text = b"\n".join(self._streams(raw))
        self.sizes = {float(size) for size in re.findall(rb"/F\d+ ([\d.]+) Tf", text)}

    @staticmethod
    def _streams(raw: bytes) -> Iterator[bytes]:
        for found in re.finditer(rb"stream\r?\n", raw):
            try:
                yield zlib.decompressobj().decompress(raw[found.end() :])
            except zlib.error:
                continue


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_as_wide_as_the_page_and_its_text_is_readable_there(
    on_small: Callable[..., str], tmp_path: Path, name: str
) -> None:
    """TrueType fonts, 6 points or more, in one column of two and without a width."""
    on_small(*FIGURES[name], "--width", 3.25, "--no-title", "-o", tmp_path / "column.pdf")
    on_small(*FIGURES[name], "-o", tmp_path / "page.pdf")
    column, page = Pdf(tmp_path / "column.pdf"), Pdf(tmp_path / "page.pdf")
    assert column.width == pytest.approx(3.25, abs=0.01)
    assert page.width <= FULL + 0.01
    for pdf in (column, page):
        assert pdf.fonts == {"CIDFontType2"}
        assert min(pdf.sizes) >= SMALLEST
    assert max(column.sizes) <= 9


@pytest.mark.parametrize("name", FIGURES)
def test_no_word_of_the_harness_is_in_the_picture(on_small: Callable[..., str], tmp_path: Path, name: str) -> None:
    """The small results are of two seeds, trained otherwise than usual: both is told in words of the field."""
    on_small(*FIGURES[name], "-o", tmp_path / "p.svg")
    words = " ".join(re.sub("<[^>]*>", " ", (tmp_path / "p.svg").read_text()).split())
    ours = r"population|correct_|recipe|definition6|digits_cnn|lambda|alpha|\w+\.\w+=|\bce\b|surrogate"
    assert not re.findall(ours, words)
    assert "epochs = 5" in words
    if name not in ("one matrix", "ablation", "convergence", "blackbox"):  # of one seed
        assert "mean" in words
    assert "epochs" not in quiet(on_small, FIGURES[name], tmp_path)


def quiet(on_small: Callable[..., str], figure: tuple[str, ...], tmp_path: Path) -> str:
    on_small(*figure, "--no-title", "-o", tmp_path / "q.svg")
    return (tmp_path / "q.svg").read_text()


def test_sizes_and_columns_are_those_asked_for(on_small: Callable[..., str], tmp_path: Path) -> None:
    on_small("plot", "budget", "--font-size", 12, "--columns", 4, "--width", 10, "-o", tmp_path / "b.pdf")
    assert Pdf(tmp_path / "b.pdf").sizes >= {11.0, 12.0}
    assert Pdf(tmp_path / "b.pdf").width == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("plot", "budget", "--width", "3", "--columns", "4"), "fewer --columns or more --width"),
        (("heatmap", "--width", "1", "--columns", "2"), "fewer --columns or more --width"),
        (("heatmap", "--font-size", "3"), "between 6 and 30 points"),
        (("heatmap", "--width", "0"), "not a number above 0"),
    ],
)
def test_a_page_without_room_is_refused(small_results: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused(*arguments, *QUICK, "--results", small_results)


@pytest.mark.parametrize(
    ("kind", "along"),
    [("budget", ("method", "attack", "budget")), ("curves", ("method", "step", "quantity", "part"))],
)
def test_the_csv_has_mean_and_spread_over_seeds(
    on_small: Callable[..., str], tmp_path: Path, kind: str, along: tuple[str, ...]
) -> None:
    on_small("plot", kind, "-m", "ece", "-o", tmp_path / "f.svg")
    with (tmp_path / "f.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    value = "robust_accuracy" if kind == "budget" else "value"
    points: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        points.setdefault(tuple(row[name] for name in along), []).append(row)
    assert {len(each) for each in points.values()} == {2}
    for each in points.values():
        values = [float(row[value]) for row in each]
        want = [fmean(values), stdev(values), min(values), max(values)]
        for row in each:
            assert [float(row[name]) for name in ("mean", "std", "lowest", "highest")] == pytest.approx(want, abs=1e-9)


def ten(panels: int = 10, **more: Any) -> list[heatmap._Panel]:
    numbers = np.arange(12.0).reshape(3, 4) * 9
    small = [[f"±{value / 3:.1f}" for value in row] for row in numbers.tolist()]
    titles = ["TRS", "GradientBoost", "A defence with a long name", *map(str, range(20))]
    remark = "members 2 to N predict what the sum of the earlier ones leaves over, not the labels"
    made = [heatmap._Panel(title, ("1", "2", "3"), numbers, small, "") for title in titles[:panels]]
    return [panel._replace(remark=remark) if index in (1, 2) else panel for index, panel in enumerate(made)]


@pytest.mark.parametrize(
    ("panels", "page", "grid"),
    [
        (10, PLAIN, (3, 4)), (10, Page(width=3.25), (5, 2)), (1, Page(width=3.25), (1, 1)),
        (7, Page(columns=3), (3, 3)),
        (3, Page(width=3.25, font_size=10, title=False), (3, 1)), (10, Page(width=12, columns=4), (3, 4)),
    ],
)  # fmt: skip
def test_heatmaps_fill_a_grid_and_nothing_lies_on_anything(panels: int, page: Page, grid: tuple[int, int]) -> None:
    figure = heatmap._draw(
        ten(panels), {"vmin": 0, "vmax": 100, "cmap": "rocket_r"}, "misclassified, % of the images that all get right",
        lambda small: ["digits, 3 × CNN", "PGD (50), ε = 0.2; 500 test images; " * 3], page,
    )  # fmt: skip
    figure.draw_without_rendering()
    boxes = [axis.get_position() for axis in figure.axes[:-1]]
    assert (len({round(box.y0, 3) for box in boxes}), len({round(box.x0, 3) for box in boxes})) == grid
    assert figure.get_figwidth() <= (page.width or FULL) + 1e-6
    extents = [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(lambda each: hasattr(each, "get_window_extent") and hasattr(each, "get_fontsize"))
        if text.get_text() and text.get_visible()
    ]
    assert len(extents) > 12 * panels
    whole = figure.bbox
    for text, box in extents:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= whole.x1 + 1, text
        assert box.y1 <= whole.y1 + 1, text
    labels = [(text, box) for text, box in extents if not re.fullmatch(r"[±\d.]+", text)]
    for (one, a), (other, b) in combinations(labels, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 2 or high <= 2, (one, other)


def test_small_numbers_give_way_where_columns_are_asked_for() -> None:
    page, draw = Page(width=3.25, columns=3), heatmap._places
    assert not draw(ten(3), "%", page, signed=False).small
    assert draw(ten(3), "%", Page(width=3.25), signed=False).small
    with pytest.raises(BenchError, match="no room"):
        draw(ten(10), "%", replace(page, columns=10), signed=False)


def test_settings_and_terms_are_written_as_papers_write_them() -> None:
    assert [symbol(name) for name in ("lambda_a", "alpha", "ce", "delta_start", "step_size", "log_det")] == [
        "λa", "α", "cross-entropy", "δ start", "step size", "log det"]  # fmt: skip
    assert change_on_paper("methods.trs.lambda_a=5") == "λa = 5"


def test_a_decision_boundary_fits_a_column(small_results: Path, tmp_path: Path) -> None:
    run = next(path.name for path in small_results.glob("runs/*") if "cos_only" in (path / "run.json").read_text())
    page = ("--width", 3.25, "--columns", 2, "--no-title")
    plane = ("--images", "0,3", "--radius", 2, "--step", 0.5, "--threads", 1)
    bench("plot", "boundary", run, *plane, *page, "--results", small_results, "-o", tmp_path / "d.pdf")
    assert Pdf(tmp_path / "d.pdf").width == pytest.approx(3.25, abs=0.01)
    assert min(Pdf(tmp_path / "d.pdf").sizes) >= SMALLEST


def test_a_page_that_labels_fill_is_refused_in_one_line() -> None:
    page = Page(width=1.0)
    with style.sheet(page):
        figure, ((axis,),) = style.stacks(1, [], (), page, width=3, height=2, parts=(1.0,), most=1)
        axis.set_yticks([0], ["a label that is much wider than an inch"])
        with pytest.raises(BenchError, match="no room for panels on 1 inches: give fewer --columns or more --width"):
            style.fit(figure, page)
