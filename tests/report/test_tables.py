"""Tables and cells against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from in_process import bench
from small_results import cell

from bench.report import tables
from bench.report.cells import Cell, Row
from bench.report.matrices import Block, Matrix
from bench.report.results import Results
from bench.store.rates import RateCounts

ROOT = Path(__file__).resolve().parents[2]


def results() -> Results:
    clean = Row("clean", "clean", None, None, None, "k0", "clean")
    pgd = Row("pgd", "PGD | (50)", "eps", 8 / 255, "first_success", "k1", "attack")
    cells = {
        ("k0", "a"): cell({0: 90.0, 1: 92.0}),
        ("k1", "a"): cell({0: 50.0, 1: 53.0}),
        ("k1", "b"): cell({0: 60.0}, stale=True),
        ("k0", "c"): Cell(failed="it broke"),
    }
    return Results(
        suite="core", dataset="digits", model="m", members={"a": 3, "b": 3, "c": 1},
        recipe="standard", images="500 test images", methods=("a", "b", "c"),
        titles={"a": "A", "b": "B", "c": "C"}, rows=(clean, pgd), cells=cells, published={("k1", "a"): 55.0}, notes=(),
    )  # fmt: skip


def test_mean_and_standard_deviation_with_ddof_1() -> None:
    found = cell({0: 50.0, 1: 53.0, 2: 56.0})
    assert found.mean == pytest.approx(53.0)
    assert found.std == pytest.approx(3.0)
    assert cell({0: 50.0}).std is None


def test_a_stale_value_is_no_value_for_machines() -> None:
    rows = list(csv.DictReader(io.StringIO(tables.csv_table(results()))))
    assert [row["b"] for row in rows] == ["", ""]
    assert rows[1]["a"] == "51.5"
    stale = [row for row in tables.long_rows(results()) if row["method"] == "b" and row["attack"] == "pgd"]
    assert stale[0]["flags"] == ["stale"]
    assert stale[0]["difference"] is None


def test_published_value_and_difference_stand_beside() -> None:
    text = tables.markdown_table(results())
    assert "| PGD \\| (50) | ε = 8/255 | 51.5 ± 2.1 | 55.0 | -3.5 | (60.0) | – |" in text
    assert "ours can only be lower by this" in text
    assert "✗ it broke" in text


@pytest.mark.parametrize(
    ("budget", "text"), [(0.1, "ε = 0.1"), (8 / 255, "ε = 8/255"), (1.0, "ε = 1"), (0.0, "ε = 0"), (0.2, "ε = 0.2")]
)
def test_budgets_in_words(budget: float, text: str) -> None:
    assert tables.budget_text("eps", budget) == text


def block(sources: str, rates: np.ndarray) -> Block:
    """Rows of a matrix with these percentages of 100 images, of one seed."""
    hits = rates.astype(np.int64)
    return Block.of([*sources], [(rates / 100, RateCounts(hits, np.full_like(hits, 100)))])


def test_the_mean_of_a_matrix_leaves_diagonal_and_ensemble_out() -> None:
    from bench.core import config
    from bench.experiment import select

    run = select.run_spec(config.load(), select.Selection(), "ece", 0)
    rates = np.array([[100.0, 10.0, 99.0], [30.0, 100.0, 99.0]])
    matrix = Matrix(
        method="ece", title="ECE", run=run, budget_name="eps", budget=0.2, population="correct_all",
        rate="misclassified", seeds=(0,), attack="PGD", recipe="standard", setting="digits, 2 × CNN",
        images="5 test images", notes=(),
        members=block("12", rates), others=block("", np.zeros((0, 3))),
    )  # fmt: skip
    assert matrix.transfer == pytest.approx(20.0)


def test_a_table_says_whose_seeds_are_fewer_and_whose_seconds_are_of_another_machine(tmp_path: Path) -> None:
    """ECE's first seed was trained on a CPU and its others on a GPU, as TRS was."""
    bench("db", "import", ROOT / "results/reference/cifar10/runs.zip", "--results", tmp_path)
    of = ("-d", "cifar10", "--recipe", "cpu", "--limit", 1000, "--results", tmp_path)
    words = ("table", *of, "--details", "--no-paper")
    two = bench(*words, "-m", "ece", "-m", "trs", "--seeds", "0-1")
    assert "Mean ± standard deviation over seeds 0, 1 (ddof 1)." in two
    assert "machines differ: AMD EPYC (ECE); NVIDIA H200 (ECE, TRS)" in " ".join(two.split())
    one = bench(*words, "-m", "trs", "--seeds", "0")
    assert "machines differ" not in one
    (run,) = [each["id"] for each in json.loads(bench("list", "runs", "--json", "--results", tmp_path))
              if (each["method"], each["seed"], each["recipe"]) == ("trs", 1, "cpu")]  # fmt: skip
    bench("db", "delete", run, "--yes", "--results", tmp_path)
    fewer = bench(*words, "-m", "ece", "-m", "trs", "--seeds", "0-1")
    assert "Mean ± standard deviation over seeds 0, 1 of ECE; 0 of TRS (ddof 1)." in " ".join(fewer.split())
    latex = bench(*words, "-m", "ece", "-m", "trs", "--seeds", "0-1", "--format", "latex")
    assert "over the n seeds of each" in " ".join(latex.split())
