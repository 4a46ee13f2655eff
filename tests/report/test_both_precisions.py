"""Results of `--precision bfloat16` beside those in float32: named, in files of their own, never mixed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchanged import write_evaluation, write_run
from in_process import bench
from small_results import QUICK

from bench.core import config
from bench.core.bits import from_text
from bench.core.precision import titled
from bench.experiment import select
from bench.experiment.select import Selection
from bench.experiment.spec import EvaluationSpec
from bench.report import frames
from bench.report.plots import convergence, points
from bench.report.results import collect
from bench.report.worst import with_worst_case
from bench.store import ingest, published
from bench.store.database import Database

COARSE = ("--precision", "bfloat16")
ONE = ("-m", "ece", "-m", "cos_only", "--seeds", 0)


@pytest.fixture(scope="module")
def both(small_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods under the core suite in float32 and in bfloat16."""
    folder = tmp_path_factory.mktemp("both") / "results"
    shutil.copytree(small_results, folder)
    bench("run", *ONE, *QUICK, *COARSE, "--results", folder, "--threads", 1, "-q")
    return folder


@pytest.fixture
def on_both(both: Path) -> Callable[..., str]:
    return lambda *arguments: bench(*arguments, *ONE, *QUICK, "--results", both)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# ---------------------------------------------------------------------------------------------------------- the matrix


def test_each_precision_has_a_figure_of_its_own_that_the_other_does_not_draw_again(
    on_both: Callable[..., str],
) -> None:
    def figure(*more: object) -> tuple[Path, int]:
        told = json.loads(on_both("run", "--threads", 1, "--json", *more))
        assert {matrix["precision"] for matrix in told["matrices"]} == {"bfloat16" if more else "float32"}
        return Path(told["heatmap"]), Path(told["heatmap"]).stat().st_mtime_ns

    usual, coarse = figure(), figure(*COARSE)
    assert coarse[0] == usual[0].with_name(f"{usual[0].stem}-bfloat16.png")
    assert (figure(), figure(*COARSE)) == (usual, coarse)


def test_heatmaps_name_the_precision_in_title_table_and_file(both: Path, on_both: Callable[..., str]) -> None:
    usual, coarse = on_both("heatmap"), on_both("heatmap", *COARSE)
    assert "bfloat16" not in usual
    assert "misclassified in %, PGD (50), bfloat16, ε = 0.2" in coarse
    figures = both / "figures"
    assert "bfloat16" not in (figures / "transfer-digits.csv").read_text()
    named = rows_of((figures / "transfer-digits-bfloat16.csv").read_text())
    assert {row["attack"] for row in named} == {"PGD (50), bfloat16"}
    on_both("heatmap", *COARSE, "-o", both / "h.svg")
    assert "PGD (50), bfloat16" in (both / "h.svg").read_text()


# -------------------------------------------------------------------------------------------------------------- tables


def test_tables_for_machines_have_the_precision(on_both: Callable[..., str]) -> None:
    for more, attacks in (((), "float32"), (COARSE, "bfloat16")):
        for rows in (json.loads(on_both("table", *more, "--json")), rows_of(on_both("table", *more, "--long"))):
            told = {(row["attack"] in ("clean", "training_seconds") or "member" in row["attack"], row["precision"])
                    for row in rows}  # fmt: skip
            assert told == {(True, "float32"), (False, attacks)}
    wide = rows_of(on_both("table", *COARSE, "--format", "csv"))
    assert {row["precision"] for row in wide if row["attack"] == "pgd"} == {"bfloat16"}
    assert "precision" not in on_both("table", "--format", "csv")


def robust(folder: Path, attack: str, budget: float, precision: str) -> np.ndarray:
    """What withstood an attack on `ece`, seed 0, [n], by the file of the run."""
    for path in folder.glob("runs/*/evaluations/*.json"):
        record, run = json.loads(path.read_text()), json.loads((path.parents[1] / "run.json").read_text())
        found = (record["kind"], record["attack"], record["budget"], record.get("precision", "float32"))
        whose = (run["method"], run["seed"], record["settings"].get("steps", 50))
        if (found, whose) == (("attack", attack, budget, precision), ("ece", 0, 50)):
            return from_text(record["robust_bits"], record["n"])
    raise AssertionError(f"no {attack} {budget} in {precision}")


def test_a_worst_case_is_of_one_precision_and_named_so(both: Path, on_both: Callable[..., str]) -> None:
    mixed = ("--set", "attacks.fgsm.precision=bfloat16", "--set", "attacks.mim.precision=bfloat16")
    rows = {
        (row["precision"], row["budget"]): row["mean"]
        for row in json.loads(on_both("table", *mixed, "--json"))
        if row["attack"] == "worst_linf" and row["method"] == "ece"
    }
    for precision, attacks in (("float32", ("bim", "pgd")), ("bfloat16", ("fgsm", "mim"))):
        stands = [robust(both, attack, 0.1, precision) for attack in attacks]
        assert rows[precision, 0.1] == pytest.approx(100 * np.logical_and.reduce(stands).mean())
    assert rows.keys() == {(p, b) for p in ("float32", "bfloat16") for b in (0.1, 0.15)}
    text = on_both("table", *mixed, "--format", "markdown")
    assert "| worst case " in text
    assert "| worst case, bfloat16 " in text
    assert "every attack of its precision above" in text
    assert "every attack above" in on_both("table", *COARSE, "--format", "markdown")


STRONG = Selection(methods=("ece",), suite="strong")


@pytest.fixture
def strong(tmp_path: Path) -> Iterator[tuple[config.Loaded, Database, dict[tuple[Any, ...], np.ndarray]]]:
    """The suite `strong` in both precisions, and what stood, [n], by attack, budget and precision."""
    loaded = config.load(config.defaults("bench.toml"))
    run = select.run_spec(loaded, STRONG, "ece", 0)
    both = (*select.evaluations(loaded, STRONG, run),
            *select.evaluations(loaded.with_precision("bfloat16"), STRONG, run))  # fmt: skip
    stood = {}
    write_run(tmp_path, run)
    for draw, one in enumerate({one.evaluation_id: one for one in both}.values()):
        record = json.loads(write_evaluation(tmp_path, one, draw=draw).read_text())
        if one.kind == "attack":
            stood[one.attack, one.budget, one.precision] = from_text(record["robust_bits"], record["n"])
    with Database(tmp_path / "bench.db").open(create=True) as db:
        assert not ingest.sync(db, tmp_path / "runs").damaged
        yield loaded, db, stood


def test_attacks_on_members_count_in_the_worst_case_of_each_precision(strong: Any) -> None:
    loaded, db, stood = strong
    assert {precision for attack, _, precision in stood if attack == "mora"} == {"float32"}
    for precision in ("float32", "bfloat16"):
        found = collect(loaded.with_precision(precision), STRONG, db)
        worst = {row.budget: row for row in found.rows if row.kind == "worst"}
        assert {row.precision for row in worst.values()} == {precision}
        assert {row.title for row in worst.values()} == {titled("worst case", precision)}
        for budget, row in worst.items():
            parts = [bits for (attack, within, asked), bits in stood.items()
                     if within <= budget and (asked == precision or attack == "mora")]  # fmt: skip
            assert len(parts) == (4 if budget == 0.1 else 8)
            assert found.cell(row, "ece").mean == pytest.approx(100 * np.logical_and.reduce(parts).mean())
        assert worst.keys() == {0.1, 0.15}


def test_there_is_no_worst_case_of_a_precision_over_attacks_on_members_alone(strong: Any) -> None:
    loaded, db, _ = strong
    found = collect(loaded.with_precision("bfloat16"), STRONG, db)
    at = {(row.attack, row.budget): row for row in found.rows}
    mora, cells = at["mora", 0.1], dict(found.cells)
    ila = replace(mora, attack="ila", key="ila")
    cells["ila", "ece"] = cells[mora.key, "ece"]
    rows, _ = with_worst_case(loaded, [mora, ila, at["apgd_ce", 0.15]], cells, db)
    worst = {(row.budget, row.precision) for row in rows if row.kind == "worst"}
    assert worst == {(0.1, "float32"), (0.15, "bfloat16")}


def test_the_recipe_of_a_table_is_the_same_however_its_precision_was_said(on_both: Callable[..., str]) -> None:
    every = [part for name in ("fgsm", "bim", "pgd", "mim") for part in ("--set", f"attacks.{name}.precision=bfloat16")]
    assert on_both("table", *every, "--format", "markdown") == on_both("table", *COARSE, "--format", "markdown")


def test_published_values_stand_beside_both_however_the_precision_was_said(tmp_path: Path) -> None:
    with Database(tmp_path / "bench.db").open(create=True) as db:
        published.load_published(db, config.defaults("published"))
        selection = Selection(methods=("trs",), dataset="mnist", suite="table1")
        usual = config.load(config.defaults("bench.toml"))

        def beside(loaded: config.Loaded) -> dict[Any, float]:
            found = collect(loaded, selection, db, every=True)
            rows = {row.key: row for row in found.rows if row.attack == "pgd"}
            return {rows[key].budget: value for (key, _), value in found.published.items() if key in rows}

        said = config.load(config.defaults("bench.toml"), ["attacks.pgd.precision=bfloat16"])
        assert beside(usual)
        assert beside(usual) == beside(usual.with_precision("bfloat16")) == beside(said)
        changed = config.load(config.defaults("bench.toml"), ["attacks.pgd.precision=bfloat16", "attacks.pgd.steps=5"])
        assert not beside(changed)


# ------------------------------------------------------------------------------------------------- figures and frames


def test_figures_name_the_precision_and_lie_in_files_of_their_own(both: Path, on_both: Callable[..., str]) -> None:
    told = [on_both("plot", "budget", *more).split()[1] for more in ((), COARSE)]
    assert [Path(path).name for path in told] == ["budget-digits.png", "budget-digits-bfloat16.png"]
    for path, title in zip(told, ("PGD (50)", "PGD (50), bfloat16"), strict=True):
        rows = rows_of(Path(path).with_suffix(".csv").read_text())
        assert {row["attack_title"] for row in rows if row["attack"] == "pgd"} == {title}
    where = ("--set", "methods.cos_only.lambda_a=5", *QUICK, *COARSE, "--results", both, "--threads", 1, "-q")
    bench("run", "-m", "cos_only", *where)
    drawn = bench("plot", "ablation", "-m", "cos_only", *QUICK, *COARSE, "--results", both).split()[1]
    assert Path(drawn).name == "ablation-cos_only-digits-bfloat16.png"
    rows = rows_of(Path(drawn).with_suffix(".csv").read_text())
    assert {row["row"] for row in rows} == {"clean", "worst case, bfloat16 ε = 0.1", "worst case, bfloat16 ε = 0.15"}


def test_numbers_of_steps_in_two_precisions_are_two_panels(both: Path, on_both: Callable[..., str]) -> None:
    five = ("--attack", "pgd", "--eps", 0.1, "--set", "attacks.pgd.steps=5")
    bench("run", "-m", "ece", "--seeds", 0, *QUICK, *five, *COARSE, "--results", both, "--threads", 1, "-q")
    on_both("plot", "convergence", "-o", both / "c.png")
    rows = rows_of((both / "c.csv").read_text())
    assert {row["panel"] for row in rows} == {"PGD, ε = 0.1", "PGD, ε = 0.1, bfloat16"}


def test_an_attack_led_to_classes_is_neither_drawn_nor_counted_with_the_usual_one(tmp_path: Path) -> None:
    loaded, selection = config.load(config.defaults("bench.toml")), Selection(methods=("ece",), attacks=("pgd",))
    run = select.run_spec(loaded, selection, "ece", 0)
    usual = next(each for each in select.evaluations(loaded, selection, run) if each.attack == "pgd")
    write_run(tmp_path, run)
    for steps in (5, 50):
        for targets in (None, "random"):
            changes = {"settings": {**usual.settings, "steps": steps}, "targets": targets}
            write_evaluation(tmp_path, EvaluationSpec.model_validate({**usual.model_dump(), **changes}))
    with Database(tmp_path / "bench.db").open(create=True) as db:
        assert ingest.sync(db, tmp_path / "runs").evaluations == 4
        frame = points.white_box(loaded, selection, db)
        drawn = convergence.with_several_steps(frame)
        assert {panel: sorted(rows["steps"]) for panel, rows in drawn.groupby("panel")} == {
            panel: [5, 50] for panel in set(drawn["panel"])
        }
        assert sorted("random" in panel for panel in set(drawn["panel"])) == [False, True]
        (shown,) = points.of_suite(loaded, selection, frame).to_dict("records")
        assert (shown["steps"], shown["targets"]) == (50, "")


def test_frames_have_the_precision(both: Path) -> None:
    found = frames.load(both / "bench.db")
    for frame in (found.evaluations[found.evaluations["kind"] == "attack"], found.matrices):
        assert set(frame["precision"]) == {"float32", "bfloat16"}


def test_an_attack_with_a_setting_of_its_own_called_precision_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.store.door._check_attack", lambda *_: None)  # as if PGD had such a setting
    loaded, selection = config.load(config.defaults("bench.toml")), Selection(methods=("ece",))
    run = select.run_spec(loaded, selection, "ece", 0)
    usual = next(each for each in select.evaluations(loaded, selection, run) if each.attack == "pgd")
    made = [
        EvaluationSpec.model_validate({**usual.model_dump(), **changes})
        for changes in ({"settings": {**usual.settings, "precision": "high"}}, {"precision": "bfloat16"})
    ]
    write_run(tmp_path, run)
    for one in made:
        write_evaluation(tmp_path, one)
    with Database(tmp_path / "bench.db").open(create=True) as db:
        assert ingest.sync(db, tmp_path / "runs").evaluations == 2
        frame = points.white_box(loaded, selection, db)
    assert set(frame["evaluation_id"]) == {one.evaluation_id for one in made}
    assert set(frame["attack_title"]) == {"PGD (50)", "PGD (50), bfloat16"}
