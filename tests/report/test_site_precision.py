"""The site where attacks were asked in bfloat16: on the page of their run, on no board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from exchanged import write_evaluation, write_run
from site_pages import LOADED, Table, board_rows, contents, make, written
from site_records import CORE, Writer

from bench.core import config
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import EvaluationSpec
from bench.report.again import Commands
from bench.store import ingest, queries
from bench.store.database import Database

COARSE: dict[str, Any] = {"precision": "bfloat16"}
N = 500  # images of core-digits
WHY = "not asked in float32 alone"


def stands(count: int) -> Any:
    """Right on so many tenths of the images."""
    return np.arange(N) < count * N // 10


def test_the_same_attacks_in_bfloat16_change_no_score_and_no_rank(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    runs = [writer.run(method, 0) for method in ("trs", "ece")]
    for run in runs:
        for attack, count in (("fgsm", 8), ("bim", 7), ("pgd", 6), ("mim", 7)):
            writer.evaluation(run, stands(count), attack=attack)
    writer.flush()
    make(db, tmp_path / "before")
    for attack in ("fgsm", "pgd", "mim"):
        writer.evaluation(runs[0], stands(3), attack=attack, **COARSE)
    writer.flush()
    make(db, tmp_path / "after")
    before, after = board_rows(tmp_path / "before"), board_rows(tmp_path / "after")
    assert before["TRS"].pop("Lowest known") == "60.0"
    lowest = after["TRS"].pop("Lowest known")  # float32 judged what it found
    assert lowest.startswith("30.0 ")
    assert lowest.endswith(" at ε = 0.1, bfloat16")
    assert before == after
    assert "· 4 attacks" in (tmp_path / "after/index.html").read_text()


def test_methods_measured_in_different_precisions_are_ranked_by_what_is_float32(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    first, second = writer.run("trs", 0), writer.run("ece", 0)
    for attack in CORE:
        writer.evaluation(first, stands(7), attack=attack)
        writer.evaluation(second, stands(7), attack=attack, **COARSE)
    written(writer, tmp_path / "site")
    assert {name: row["Rank"] for name, row in board_rows(tmp_path / "site").items()} == {"TRS": "1"}
    listed = (tmp_path / "site/runs.html").read_text()
    assert all(f"runs/{run}.html" in listed for run in (first, second))


def test_the_page_of_a_run_names_it_and_says_why_it_is_on_no_board(db: Database, tmp_path: Path) -> None:
    random, writer = np.random.default_rng(0), Writer(db, n=N)
    run, other = writer.run("trs", 0), writer.run("ece", 0)
    for one in (run, other):
        writer.evaluation(one, stands(6))
        writer.evaluation(one, stands(7), attack="fgsm")
    writer.evaluation(run, stands(2), **COARSE)
    writer.matrix(run, random.random((4, N)) < 0.9, random.random((3, 4, N)) < 0.5, **COARSE)
    written(writer, tmp_path / "site")
    page = (tmp_path / f"site/runs/{run}.html").read_text()
    _, *rows = Table(page).rows
    assert [(row[1][0], row[2][0]) for row in rows] == [
        ("FGSM", "70.0"), ("PGD (50)", "60.0"), ("PGD (50), bfloat16", "20.0"), ("Worst case", "60.0")
    ]  # fmt: skip
    assert "PGD (50), ε = 0.2, bfloat16" in page
    assert WHY in page
    assert WHY not in (tmp_path / f"site/runs/{other}.html").read_text()
    assert "boards" in (tmp_path / "site/about.html").read_text().partition("bfloat16")[2]


def test_a_run_attacked_in_bfloat16_only_has_its_page_and_no_board(db: Database, tmp_path: Path) -> None:
    writer = Writer(db, n=N)
    run = writer.run("trs", 0)
    writer.evaluation(run, kind="clean")
    writer.evaluation(run, stands(4), **COARSE)
    writer.evaluation(run, stands(5), attack="fgsm", **COARSE)
    written(writer, tmp_path / "site")
    assert not [name for name in contents(tmp_path / "site") if name.startswith("boards/")]
    index = (tmp_path / "site/index.html").read_text()
    assert "Nothing has been attacked" not in index
    assert 'on the pages of <a href="runs.html">the runs</a>' in index
    assert f'href="runs/{run}.html"' in (tmp_path / "site/runs.html").read_text()
    page = (tmp_path / f"site/runs/{run}.html").read_text()
    assert WHY in page
    assert [row[1][0] for row in Table(page).rows[1:]] == ["FGSM, bfloat16", "PGD (50), bfloat16"]
    writer.evaluation(run, stands(6), attack="mim")
    written(writer, tmp_path / "site")
    make(db, tmp_path / "fresh")
    renewed, fresh = (contents(tmp_path / name) for name in ("site", "fresh"))
    told = {"index.html", "changes.json", "manifest.json"}  # the first says what changed since the report before
    assert {name for name in renewed | fresh if renewed.get(name) != fresh.get(name)} <= told
    assert board_rows(tmp_path / "site")["TRS"]["Worst case"] == "60.0"


def test_the_command_of_an_evaluation_asks_in_its_precision(db: Database, tmp_path: Path) -> None:
    run = select.run_spec(LOADED, Selection(), "ece", 0)
    usual = next(each for each in select.evaluations(LOADED, Selection(), run) if each.attack == "pgd")
    coarse = EvaluationSpec.model_validate({**usual.model_dump(), "precision": "bfloat16"})
    write_run(tmp_path, run)
    for one in (usual, coarse):
        write_evaluation(tmp_path, one)
    ingest.sync(db, tmp_path / "runs")
    (row,), stored = queries.runs(db), {each.precision: each for each in queries.evaluations(db)}
    other = tmp_path / "bench.toml"
    table = LOADED.path.read_text()
    assert table.count("[attacks.pgd]\n") == 1
    other.write_text(table.replace("[attacks.pgd]\n", '[attacks.pgd]\nprecision = "bfloat16"\n'))
    for loaded, configured in ((LOADED, "float32"), (config.load(other), "bfloat16")):
        commands = Commands(loaded)
        base = commands.run(row, run.model_dump(mode="json"))
        for precision, each in stored.items():
            made = commands.evaluation(row, each, base)
            assert made.exact
            told = f"--set 'attacks.pgd.precision=\"{precision}\"'"
            assert made.text.endswith(told if precision != configured else "--eps 0.1")
