"""The numbers behind the figures against the files of the runs, and the geometry of boundary plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import bench, refused
from small_results import FEW, QUICK

from bench.evaluation import boundary
from bench.report.plots import style


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The evaluation files of a kind, with method, seed and settings of their run."""
    found = []
    for path in folder.glob("runs/*/evaluations/*.json"):
        run = json.loads((path.parents[1] / "run.json").read_text())
        record = json.loads(path.read_text())
        if record["kind"] == kind:
            found.append({**record, "method": run["method"], "seed": run["seed"], "of": run["settings"]})
    return found


def test_budget_draws_every_radius_that_was_run(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path
) -> None:
    on_small("plot", "budget", "--attack", "pgd", "-o", tmp_path / "b.svg")
    drawn = {(r["method"], r["seed"], float(r["budget"])): int(r["n_robust"]) for r in rows_of(tmp_path / "b.svg")}
    want = {
        (r["method"], str(r["seed"]), r["budget"]): r["n_robust"]
        for r in records(small_results, "attack")
        if r["attack"] == "pgd" and r["settings"]["steps"] == 50 and r["of"].get("lambda_a", 2.0) == 2.0
    }
    clean = {(r["method"], str(r["seed"]), 0.0): r["n_clean"] for r in records(small_results, "clean")
             if r["of"].get("lambda_a", 2.0) == 2.0 and r["seed"] < 1000}  # fmt: skip
    assert drawn == want | clean
    assert ("ece", "1", 0.05) in drawn
    picture = (tmp_path / "b.svg").read_text()
    assert all(word in picture for word in ("ECE", "Cos-only", "ε", "robust accuracy"))


def test_a_ball_that_holds_every_image_is_no_point_of_a_curve() -> None:
    import pandas as pd

    from bench.report.plots import budget

    radii = [("pgd", 0.1), ("pgd", 1.0), ("pgd_l2", 1.0)]
    frame = pd.DataFrame(
        [{"method": "ece", "title": "ECE", "seed": 0, "attack": plugin, "plugin": plugin, "budget_name": "eps",
          "budget": eps, "n": 10, "n_clean": 9, "n_robust": 5, "clean_accuracy": 0.9, "robust_accuracy": 0.5}
         for plugin, eps in radii]
    )  # fmt: skip
    drawn = budget.with_clean(budget.short_of_everything(frame))
    shown = set(zip(drawn["plugin"], drawn["budget"], strict=True))
    assert shown == {("pgd", 0.0), ("pgd", 0.1), ("pgd_l2", 0.0), ("pgd_l2", 1.0)}


def test_convergence_takes_what_differs_in_steps_alone(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path
) -> None:
    on_small("plot", "convergence", "-o", tmp_path / "c.png")
    drawn = {(r["method"], int(r["seed"]), int(r["steps"])): int(r["n_robust"]) for r in rows_of(tmp_path / "c.png")}
    assert drawn == {
        (r["method"], r["seed"], r["settings"]["steps"]): r["n_robust"]
        for r in records(small_results, "attack")
        if r["plugin"] == "pgd" and r["budget"] == 0.1 and r["method"] == "ece"
    }
    assert {steps for *_, steps in drawn} == {5, 50}


def test_ablation_takes_runs_that_differ_in_one_setting(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path
) -> None:
    on_small("plot", "ablation", "-m", "cos_only", "-o", tmp_path / "a.png")
    rows = rows_of(tmp_path / "a.png")
    assert {(r["setting"], r["value"], r["configured"]) for r in rows} == {
        ("lambda_a", "2", "True"), ("lambda_a", "5", "False")}  # fmt: skip
    clean = {(float(r["value"]), int(r["seed"])): float(r["accuracy"]) for r in rows if r["row"] == "clean"}
    assert clean == {
        (r["of"]["lambda_a"], r["seed"]): pytest.approx(r["n_clean"] / 60)
        for r in records(small_results, "clean")
        if r["method"] == "cos_only"
    }
    assert {r["row"] for r in rows} == {"clean", "worst case ε = 0.1", "worst case ε = 0.15"}


def test_ablation_knows_a_setting_that_older_records_do_not_name(tmp_path: Path) -> None:
    official = ("-m", "cos_only", "--attack", "fgsm", "--eps", 0.1, "--set", "methods.cos_only.terms=official", *QUICK,
                "--results", tmp_path)  # fmt: skip
    bench("run", *official, "--threads", 1, "-q")
    bench("run", *official, "--threads", 1, "-q", "--set", "methods.cos_only.cosine_floor=each")
    bench("plot", "ablation", *official, "-o", tmp_path / "a.png")
    rows = rows_of(tmp_path / "a.png")
    assert {(r["setting"], r["value"], r["configured"]) for r in rows} == {
        ("cosine_floor", "product", "True"), ("cosine_floor", "each", "False")}  # fmt: skip
    assert (
        "cosine_floor" not in json.loads((tmp_path / "runs" / rows[0]["run_id"] / "run.json").read_text())["settings"]
    )


def test_blackbox_draws_the_share_that_survives_every_attempt(
    small_results: Path, on_small: Callable[..., str], tmp_path: Path
) -> None:
    wanted = {r["budget"]: r for r in records(small_results, "blackbox")}
    for of in ("all", "correct"):
        on_small("plot", "blackbox", "--of", of, *FEW, "-o", tmp_path / f"{of}.png")
        drawn = {float(r["budget"]): float(r["robust_accuracy"]) for r in rows_of(tmp_path / f"{of}.png")}
        among = 60 if of == "all" else wanted[0.1]["n_clean"]
        assert drawn == {
            0.0: pytest.approx(wanted[0.1]["n_clean"] / among),
            0.1: pytest.approx(wanted[0.1]["n_robust"] / among),
            0.2: pytest.approx(wanted[0.2]["n_robust"] / among),
        }


def test_curves_are_those_of_the_training(small_results: Path, on_small: Callable[..., str], tmp_path: Path) -> None:
    on_small("plot", "curves", "-m", "ece", "-o", tmp_path / "t.pdf")
    rows = rows_of(tmp_path / "t.pdf")
    for run in {r["run_id"] for r in rows}:
        lines = [json.loads(x) for x in (small_results / "runs" / run / "train.jsonl").read_text().splitlines()]
        mine = [r for r in rows if r["run_id"] == run]
        loss = [float(r["value"]) for r in mine if r["quantity"] == "loss"]
        assert loss == pytest.approx([line["loss"] for line in lines])
        second = [float(r["value"]) for r in mine if r["quantity"] == "member_accuracy" and r["part"] == "2"]
        assert second == pytest.approx([line["member_accuracy"][1] for line in lines])
    assert {r["seed"] for r in rows} == {"0", "1"}


def test_the_boundary_command_draws_runs_on_the_same_images(small_results: Path, tmp_path: Path) -> None:
    runs = [path.name for path in small_results.glob("runs/*") if "members" in (path / "run.json").read_text()]
    plane = ("--images", "0,3", "--radius", 2, "--step", 0.5, "--threads", 1)
    bench("plot", "boundary", *runs[:2], *plane, "--results", small_results, "-o", tmp_path / "d.png")
    rows = rows_of(tmp_path / "d.png")
    assert len(rows) == 2 * 2 * 9 * 9
    assert {r["image"] for r in rows} == {"0", "3"}


def test_drawing_changes_neither_the_backend_nor_the_settings_nor_the_figures_that_are_open() -> None:
    import matplotlib as mpl
    import pandas as pd
    from matplotlib import pyplot as plt

    from bench.report.plots import budget

    before = mpl.get_backend()
    plt.switch_backend("svg")
    try:
        plt.close("all")
        mine, settings = plt.figure(), dict(mpl.rcParams)
        figure = budget.draw(pd.DataFrame([("PGD", "A", 0, e, 0.9 - e) for e in (0, 0.1)], columns=budget.COLUMNS))
        assert plt.gcf() is mine
        assert plt.get_fignums() == [mine.number]
        assert (mpl.get_backend(), dict(mpl.rcParams)) == ("svg", settings)
        assert figure.axes
    finally:
        plt.switch_backend(before)


class Halves(torch.nn.Module):
    """Class 1 where the first pixel is above .75, else class 0: the boundary is a straight line."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1)[:, 0] - 0.75
        return torch.stack([-score, score], 1)


def test_the_plane_follows_the_gradient_and_stays_orthogonal() -> None:
    image = torch.full((1, 4, 4), 0.5)
    first, second = boundary.plane(Halves(), image, torch.tensor(0), 7)
    want = torch.zeros(1, 4, 4)
    want[0, 0, 0] = 1.0
    assert torch.allclose(first, want)
    assert float((first * second).sum()) == pytest.approx(0, abs=1e-6)
    assert float(second.norm()) == pytest.approx(1, abs=1e-6)


def test_the_boundary_of_a_linear_classifier_is_where_it_is() -> None:
    images = torch.full((1, 1, 4, 4), 0.5)
    frame = boundary.measure(
        [boundary.Subject("halves", "r", Halves())], images, torch.tensor([0]), [0], radius=1.0, step=0.1
    )
    assert len(frame) == 21 * 21
    # The first pixel is .5 + the step along the gradient; the other direction leaves it alone.
    assert ((frame["along_gradient"] > 0.25) == (frame["predicted"] == 1)).all()


def test_images_are_chosen_that_all_classify_correctly() -> None:
    images = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.1]).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    subjects = [boundary.Subject("halves", "r", Halves())]
    assert boundary.chosen_images(subjects, images, torch.tensor([0, 0, 1, 1, 0]), 3) == [1, 2, 4]


def test_nothing_to_draw_is_one_line_with_the_command_that_would_make_it(small_results: Path) -> None:
    where = ("--results", small_results)
    assert "`bench run --method trs --dataset digits" in refused("plot", "budget", "-m", "trs", *QUICK, *where)
    assert "bench run --method trs" in refused("plot", "curves", "-m", "trs", *QUICK, *where)
    assert "--suite figure2" in refused("plot", "blackbox", "-m", "cos_only", *QUICK, *where)
    line = refused("plot", "convergence", "-m", "cos_only", "--attack", "mim", *QUICK, *where)
    assert "--attack mim" in line
    assert "--set attacks.mim.steps=N" in line
    assert "has no radius" in refused("plot", "budget", "--attack", "cw", *QUICK, *where)
    assert "leave --eps" in refused("plot", "budget", "--attack", "pgd", "--eps", "0.1", *QUICK, *where)
    line = refused("plot", "ablation", "-m", "ece", *QUICK, *where)
    assert "--set methods.ece.SETTING=VALUE" in line
    assert "it has: lambda_a" in refused("plot", "ablation", "-m", "cos_only", "--over", "mu", *QUICK, *where)
    assert "png, svg, pdf" in refused("plot", "curves", "-m", "ece", *QUICK, *where, "-o", "x.gif")


def test_the_same_results_give_the_same_bytes(on_small: Callable[..., str], tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        on_small("plot", "budget", "-m", "ece", "-o", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_methods_are_told_apart_without_colour() -> None:
    look = [*style.looks(str(number) for number in range(50)).values()]
    assert len({(each["marker"], str(each["linestyle"])) for each in look}) == 50
    assert len({each["color"] for each in look[:10]}) == 10
