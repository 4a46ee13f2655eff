"""`bench evaluate`: rules of fusion other than the mean, and images made on an ensemble from files."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from evaluating import State, bench, evaluate, outcome, refused, saved
from in_process import Done

import bench as python
from bench.attacks.iterative import PGD
from bench.attacks.square import Square
from bench.core import config, versions
from bench.core.bits import from_text
from bench.report import frames as bench_frames
from bench.report.titles import Titles
from bench.store import queries, standing
from bench.store.database import Database


def test_an_ensemble_that_draws_a_member_has_an_expected_accuracy(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    results, states = trained
    files = saved(tmp_path, states)
    told = evaluate(results, files, "--model", "digits_cnn", "--name", "drawn", "--fusion", "random_member")
    assert "fused by drawing one member" in " ".join(told.text.split())
    (row,) = [row for row in bench_frames.Frames(results / "bench.db").evaluations.to_dict("records")
              if (row["method"], row["attack"]) == ("drawn", "pgd")]  # fmt: skip
    assert row["stop"] == "last"  # an image is broken for some draws before it is for all
    shown = json.loads(bench(results, "show", row["evaluation_id"], "--json").out)
    draws = [from_text(text, 60) for text in shown["measurements"]["draws"]]
    assert len(draws) == 3
    assert shown["expected_accuracy"] == pytest.approx(sum(int(bits.sum()) for bits in draws) / 180)
    assert not all((bits == draws[0]).all() for bits in draws)
    card = bench(results, "show", row["evaluation_id"]).out
    assert f"{100 * shown['expected_accuracy']:.1f} % after the attack, over 3 equally probable draws" in card
    assert shown["measurements"]["draws"][0] not in card
    expected = f"{row['budget']:g}: {100 * shown['expected_accuracy']:.1f} %"
    printed = " ".join(told.text.split())
    assert "drawn draws a member for each answer: attacks go on to their last step" in printed
    assert "ranked with no other; expected accuracy over the member drawn: " in printed
    assert expected in printed
    evaluate(results, files, "--model", "digits_cnn", "--name", "mean")
    chosen = ("-d", "digits", "--attack", "pgd", "--eps", "0.1", "--limit", "60")
    for first, second in (("drawn", "mean"), ("mean", "drawn")):  # each has its values, whoever stands first
        table = bench(results, "table", *chosen, "-m", first, "-m", second, "--format", "markdown").out
        (line,) = [line for line in table.splitlines() if line.startswith("| PGD")]
        assert "–" not in line
        assert "**" not in line  # one competes with itself
    compared = bench(results, "compare", "drawn", "mean", *chosen).out
    assert "no current result" not in compared
    assert "drawn draws a member for each answer" in " ".join(compared.split())
    runs = bench_frames.Frames(results / "bench.db").runs.set_index("method")["run_id"]
    by_runs = bench(results, "compare", runs["drawn"], runs["mean"]).out
    assert "PGD" in by_runs
    assert "draws a member for each answer" in " ".join(by_runs.split())
    odds = ("--fusion", "random_member", "--weights", "3,0,1")
    evaluate(results, files, "--model", "digits_cnn", "--name", "odd", *odds)
    (row,) = [row for row in bench_frames.Frames(results / "bench.db").evaluations.to_dict("records")
              if (row["method"], row["attack"]) == ("odd", "pgd")]  # fmt: skip
    shown = json.loads(bench(results, "show", row["evaluation_id"], "--json").out)
    first, _, last = (int(from_text(text, 60).sum()) for text in shown["measurements"]["draws"])
    assert shown["expected_accuracy"] == pytest.approx((0.75 * first + 0.25 * last) / 60)
    assert "after the attack, over 3 draws of unequal odds" in bench(results, "show", row["evaluation_id"]).out


@pytest.mark.parametrize("fusion", ["majority_vote", "max_probability", "crossmax"])
def test_further_rules_are_recorded_and_attacked_as_such(
    trained: tuple[Path, list[State]], tmp_path: Path, fusion: str
) -> None:
    results, states = trained
    files = saved(tmp_path, states)
    found = outcome(evaluate(results, files, "--model", "digits_cnn", "--name", fusion, "--fusion", fusion, "--json"))
    assert 0 <= found["pgd"] < found["clean"]
    runs = bench_frames.Frames(results / "bench.db").runs.to_dict("records")
    (row,) = [row for row in runs if row["method"] == fusion]
    assert row["fusion"] == fusion
    wrong = evaluate(results, files, "--model", "digits_cnn", "--name", "x", "--fusion", fusion[:-1], ok=False)
    assert f"did you mean {fusion}" in refused(wrong)


def test_the_images_of_a_black_box_are_made_on_one_that_was_trained_elsewhere(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    for name, states in (("theirs", trained[1]), ("others", trained[1][::-1]), ("again", trained[1][::-1])):
        (tmp_path / name).mkdir()
        evaluate(results, saved(tmp_path / name, states), "--model", "digits_cnn", "--name", name)

    def black_box(name: str, *more: str, ok: bool = True) -> Done:
        return bench(results, "run", "-m", name, "-d", "digits", "--suite", "figure2", "--limit", 60, "--threads", 1,
                     *("--set", 'blackbox.method="others"', "--set", "blackbox.restarts=1"),
                     *("--set", "blackbox.budgets.digits=[0.1]"), *more, ok=ok)  # fmt: skip

    assert "its own surrogate" in refused(black_box("others", ok=False))
    assert "its own surrogate" in refused(black_box("again", ok=False))  # the same weights under another name
    black_box("theirs", "--model", "digits_cnn")
    frames = bench_frames.load(results / "bench.db")
    rows = frames.blackbox
    assert {*rows["surrogate"]} == {*frames.runs.loc[frames.runs["method"] == "others", "run_id"]}
    # Both are one function, so each image does to the victim what it did to the ensemble that it was made on.
    with closing(sqlite3.connect(results / "bench.db")) as db:
        made = db.execute(
            "SELECT b.attack, b.n_set FROM blackbox b JOIN evaluation USING (evaluation_id) WHERE kind = 'craft'"
        ).fetchall()
    assert sorted(made) == sorted(zip(rows["attack"], rows["n_missed"], strict=True))
    assert min(rows["n_missed"]) > 0
    # What was made on them is no result of theirs.
    assert {*python.results(results=results).query("kind in ('craft', 'blackbox')")["method"]} == {"theirs"}

    def matrix(name: str) -> Done:
        sources = ("--set", 'matrix.surrogates=["others"]')
        asked = ("-m", name, "-d", "digits", "--suite", "figure3", "--limit", 60, *sources)
        bench(results, "run", *asked, "--threads", 1)
        return bench(results, "heatmap", *asked, "-o", tmp_path / f"{name}.svg")

    matrix("theirs")
    matrix("others")  # the ensemble itself is a source of its matrix already
    sources = [
        list(dict.fromkeys(row["source"] for row in csv.DictReader((tmp_path / f"{name}.csv").open(newline=""))))
        for name in ("theirs", "others")
    ]
    assert sources == [["1", "2", "3", "ensemble", "noise", "others"], ["1", "2", "3", "ensemble", "noise"]]
    # Tables and figures name what the images were made on, and say that their victim was trained elsewhere.
    asked = ("-m", "theirs", "-d", "digits", "--limit", 60, "--set", 'blackbox.method="others"',
             "--set", "blackbox.restarts=1", "--set", "blackbox.budgets.digits=[0.1]")  # fmt: skip
    shown = bench(results, "table", "figure2", *asked, "--model", "digits_cnn", "--format", "markdown").out
    assert "| black-box from others | ε = 0.1 |" in shown
    assert "trained elsewhere" in shown
    picture = tmp_path / "box.png"
    bench(results, "plot", "blackbox", *asked, "--model", "digits_cnn", "-o", picture)
    lines = list(csv.DictReader(picture.with_suffix(".csv").read_text().splitlines()))
    assert {row["attack_title"] for row in lines} == {"images made on others: PGD (50), PGD-CW (50)"}
    with Database(results / "bench.db").open() as base:
        titles = Titles(config.load().with_outside(queries.configs(base, plugin="outside")))
        stored = [row for row in queries.evaluations(base) if row.kind == "blackbox"]
    assert [titles.sources(row) for row in stored] == [" from others"]
    # Its weights are asked for by a command that measures nothing new.
    (lost,) = frames.runs.loc[frames.runs["method"] == "others", "run_id"]
    (results / "runs" / lost / "members.safetensors").unlink()
    told = refused(black_box("theirs", "--set", "blackbox.budgets.digits=[0.2]", ok=False))
    assert "others on digits, seed 0 was trained elsewhere and its weights are not here" in told
    assert "--attack pgd --eps 0.1" in told
    assert "blackbox" not in told


def test_what_ends_at_a_success_has_a_version_of_its_own_on_members_that_are_drawn(
    trained: tuple[Path, list[State]], tmp_path: Path
) -> None:
    """There it goes on until no draw is right; what stopped at the first success is stale, on such ensembles alone."""
    results, files = tmp_path / "results", saved(tmp_path, trained[1])
    chosen = ("--attack", "square", "--attack", "pgd", "--eps", "0.1", "--limit", "5",
              "--set", "attacks.square.queries=20")  # fmt: skip
    for name, fusion in (("drawn", "random_member"), ("mean", "mean_probability")):
        bench(results, "evaluate", *files, "-d", "digits", "--model", "digits_cnn", "--name", name, "--fusion", fusion,
              "--threads", "1", "-q", *chosen)  # fmt: skip
    with Database(results / "bench.db").open() as base:
        measured = standing.read(base)
    found = {
        (row.method, row.attack): standing.evaluation_versions(row) for row in measured.rows if row.kind == "attack"
    }
    assert len(measured.standings.current(measured.rows)) == 6
    evaluator = {"evaluator": versions.EVALUATOR}
    assert found == {
        ("drawn", "square"): {"drawn/square": Square.version + 1, **evaluator},
        ("drawn", "pgd"): {"drawn/pgd": PGD.version, **evaluator},
        ("mean", "square"): {"attacks/square": Square.version, **evaluator},
        ("mean", "pgd"): {"attacks/pgd": PGD.version, **evaluator},
    }
    older = [replace(row, attack_version=Square.version) for row in measured.rows if row.attack == "square"]
    told = {row.method: standing.outdated(row, standing.Installed()) for row in older}
    assert told == {
        "drawn": ("on members that are drawn, attack square is version 1, today 2",), "mean": (),
    }  # fmt: skip
