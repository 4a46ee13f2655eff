"""Frames against the files of the runs, and against numbers worked out by hand."""

from __future__ import annotations

import ast
import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from site_records import Writer, new_database
from sqlalchemy import text

import bench
from bench.core import registry
from bench.core.bits import from_text
from bench.core.errors import BenchError
from bench.report import frames
from bench.store.database import Database


def files(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    found = {}
    for path in folder.glob("runs/*/evaluations/*.json"):
        record = json.loads(path.read_text())
        if record["kind"] == kind:
            found[record["evaluation_id"]] = record
    return found


def test_evaluations_are_shares_beside_their_counts(small_results: Path) -> None:
    frame = bench.load(small_results / "bench.db").evaluations
    attacks = frame[frame["kind"] == "attack"].set_index("evaluation_id")
    wanted = files(small_results, "attack")
    assert set(attacks.index) == set(wanted)
    for identifier, record in wanted.items():
        row = attacks.loc[identifier]
        bits = from_text(record["robust_bits"], record["n"])
        assert row["robust_accuracy"] == pytest.approx(bits.mean())
        assert (row["n"], row["n_robust"], row["budget"]) == (record["n"], bits.sum(), record["budget"])
        assert (None if pd.isna(row["steps"]) else row["steps"]) == record["settings"].get("steps")
    clean = frame[frame["kind"] == "clean"]
    assert clean["robust_accuracy"].isna().all()
    assert (clean["clean_accuracy"] == clean["n_clean"] / clean["n"]).all()
    assert not frame["stale"].any()


def test_matrices_hold_every_cell_with_its_rates(small_results: Path) -> None:
    frame = bench.load(small_results / "bench.db").matrices
    for identifier, record in files(small_results, "transfer").items():
        mine = frame[frame["evaluation_id"] == identifier]
        clean = {r["target"]: from_text(r["bits"], record["n"]) for r in record["clean_rows"]}
        everyone = np.all([bits for target, bits in clean.items() if target >= 0], axis=0)
        for cell in record["cells"]:
            target = "ensemble" if cell["target"] == -1 else str(cell["target"] + 1)
            (row,) = mine[(mine["source"] == str(cell["source"] + 1)) & (mine["target"] == target)].to_dict("records")
            missed = from_text(cell["bits"], record["n"])
            both = clean[cell["source"]] & clean[cell["target"]]
            assert row["all"] == pytest.approx(missed.mean())
            assert row["correct_all"] == pytest.approx(missed[everyone].mean())
            assert row["correct_both"] == pytest.approx(missed[both].mean())
        table = mine.pivot(index="source", columns="target", values="correct_all")
        assert [*table.columns] == ["1", "2", "3", "ensemble"]


def test_curves_are_long(small_results: Path) -> None:
    frame = bench.load(small_results / "bench.db").curves
    for run_id, mine in frame.groupby("run_id"):
        lines = [json.loads(x) for x in (small_results / "runs" / str(run_id) / "train.jsonl").read_text().splitlines()]
        for line in lines:
            epoch = mine[(mine["phase"] == line["phase"]) & (mine["epoch"] == line["epoch"])]
            terms = epoch[epoch["quantity"] == "term"].set_index("part")["value"].to_dict()
            assert terms == pytest.approx(line["terms"])
            members = epoch[epoch["quantity"] == "member_accuracy"].set_index("part")["value"].to_dict()
            assert members == {str(i + 1): pytest.approx(v) for i, v in enumerate(line["member_accuracy"])}


def test_blackbox_has_a_row_an_attempt(small_results: Path) -> None:
    frame = bench.load(small_results / "bench.db").blackbox
    wanted = {
        (identifier, attempt["surrogate"], attempt["attack"], attempt["restart"]): from_text(
            attempt["bits"], record["n"]
        ).mean()
        for identifier, record in files(small_results, "blackbox").items()
        for attempt in record["attempts"]
    }
    keys = frame[["evaluation_id", "surrogate", "attack", "restart"]].itertuples(index=False, name=None)
    assert dict(zip(keys, frame["missed"], strict=True)) == wanted
    assert len(wanted) == 4


def test_runs_and_published_values(small_results: Path) -> None:
    found = bench.load(small_results / "bench.db")
    runs = found.runs.set_index("run_id")
    for path in small_results.glob("runs/*/run.json"):
        record = json.loads(path.read_text())
        row = runs.loc[record["run_id"]]
        assert (row["method"], row["seed"], row["settings"]) == (record["method"], record["seed"], record["settings"])
    published = found.published
    assert (published["accuracy"] == published["value"] / 100).all()
    assert {"cifar10", "mnist"} <= set(published["dataset"])


def test_stale_and_invalid_results_are_marked_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("attacks", "pgd"), "version", 2)
    with new_database(tmp_path / "x.db") as db:
        writer = Writer(db, n=10)
        run = writer.run("trs", 0)
        old = writer.evaluation(run, [True] * 5 + [False] * 5, attack_version=1)
        new = writer.evaluation(run, [True] * 4 + [False] * 6, attack_version=2)
        bad = writer.evaluation(run, [True] * 10, clean=[False] * 10, budget=0.2, attack_version=2)
        writer.flush()
    frame = bench.load(tmp_path / "x.db").evaluations.set_index("evaluation_id")
    assert frame["stale"].to_dict() == {old: True, new: False, bad: False}
    assert frame["standing"].to_dict() == {old: "superseded", new: "current", bad: "invalid"}
    assert frame["invalid"].to_dict() == {old: False, new: False, bad: True}
    assert "robust-above-clean" in frame.loc[bad, "flags"]


def test_an_empty_database_gives_frames_with_columns(tmp_path: Path) -> None:
    new_database(tmp_path / "x.db").close()
    found = bench.load(tmp_path / "x.db")
    for name, columns in {
        "evaluations": frames.EVALUATION_COLUMNS, "matrices": frames.MATRIX_COLUMNS, "curves": frames.CURVE_COLUMNS,
        "blackbox": frames.BLACKBOX_COLUMNS, "published": frames.PUBLISHED_COLUMNS,
    }.items():  # fmt: skip
        frame = getattr(found, name)
        assert (len(frame), tuple(frame.columns)) == (0, columns)


def test_a_missing_database_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no database"):
        bench.load(tmp_path / "none.db")


def test_importing_bench_imports_no_pandas() -> None:
    code = "import bench, sys; print([m for m in ('pandas', 'sqlalchemy', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.nothing


DOCS = Path(__file__).parents[2] / "docs"


def pictures_of(source: str, names: dict[str, Any]) -> list[Any]:
    """What a notebook shows of a cell: the figures that pyplot has open behind it, and a figure that it ends with."""
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    *lines, last = ast.parse(source).body
    exec(compile(ast.Module(lines, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    else:
        value = exec(compile(ast.Module([last], []), "cell", "exec"), names)
    shown = [plt.figure(number) for number in plt.get_fignums()]
    plt.close("all")
    return [*shown, *([value] if isinstance(value, Figure) else [])]


def test_the_notebook_shows_its_three_figures_and_leaves_the_backend(
    small_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    monkeypatch.setenv("BENCH_DB", str(small_results / "bench.db"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: None)
    notebook = json.loads((DOCS / "figures.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    before = mpl.get_backend()
    plt.switch_backend("svg")  # stands for a notebook's own
    plt.close("all")  # what other tests left open
    try:
        pictures = []
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                assert not cell["outputs"]
                pictures += pictures_of("".join(cell["source"]), names)
                assert mpl.get_backend() == "svg"
    finally:
        plt.switch_backend(before)
    titles = [{text.get_text() for text in figure.findobj(mpl.text.Text)} for figure in pictures]
    assert [len({"evaluated on", "ε", "accuracy of the ensemble, %"} & texts) for texts in titles] == [1, 1, 1]
    for number, figure in enumerate(pictures):
        figure.savefig(tmp_path / f"{number}.png", dpi=50)
        assert plt.imread(tmp_path / f"{number}.png")[:, :, :3].std() > 0.02  # something is drawn
    # Another number of steps bears the same name, and is not averaged in.
    for attack in ("mim", "pgd"):
        wanted = [
            100 * record["n_robust"] / record["n"]
            for record in files(small_results, "attack").values()
            if (record["attack"], record["budget"], record["settings"].get("steps")) == (attack, 0.1, 50)
            and json.loads((small_results / "runs" / record["run_id"] / "run.json").read_text())["method"] == "ece"
        ]
        assert names["table"].loc[(attack, 0.1), "ece"] == pytest.approx(np.mean(wanted))
        assert len(wanted) == 2


def test_the_datasette_file_speaks_of_tables_and_columns_that_are_there(small_results: Path) -> None:
    told = json.loads((DOCS / "datasette.json").read_text(encoding="utf-8"))["databases"]["bench"]
    with contextlib.closing(sqlite3.connect(small_results / "bench.db")) as connection:
        there = {
            name: {column[1] for column in connection.execute(f'PRAGMA table_info("{name}")')}
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
            if not name.startswith("sqlite_")
        }
        assert set(told["tables"]) == set(there)
        for name, table in told["tables"].items():
            named = {*table.get("columns", ()), *table.get("facets", ())}
            named |= {table[key] for key in ("sort", "sort_desc", "label_column") if key in table}
            assert named <= there[name]
        counts = {
            name: len(connection.execute(query["sql"], {"dataset": "digits"} if ":" in query["sql"] else {}).fetchall())
            for name, query in told["queries"].items()
        }
    assert counts["robust_accuracy"] > 0
    assert counts["transferability"] > 0


def test_the_questions_of_the_datasette_file_tell_precisions_apart(db: Database) -> None:
    told = json.loads((DOCS / "datasette.json").read_text(encoding="utf-8"))["databases"]["bench"]["queries"]
    writer, clean, missed = Writer(db), np.ones((4, 40), bool), np.zeros((3, 4, 40), bool)
    run_id = writer.run("ece", 0)
    for number, precision in enumerate(("float32", "bfloat16"), start=1):
        writer.evaluation(run_id, np.arange(40) < 10 * number, precision=precision)
        writer.matrix(run_id, clean, missed, precision=precision)
    writer.flush()
    with db.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO reference VALUES "
            "('id', 'TRS paper, Table 1', 'digits', 'ece', 'pgd', 'eps', 0.1, 'robust_accuracy', 30.0)"
        )

    def answers(name: str) -> list[dict[str, Any]]:
        with db.read() as connection:
            asked = {"dataset": "digits"} if name == "robust_accuracy" else {}
            return [dict(row) for row in connection.execute(text(told[name]["sql"]), asked).mappings()]

    robust = {row["precision"]: row["robust"] for row in answers("robust_accuracy")}
    assert robust == {"float32": 25.0, "bfloat16": 50.0}
    assert sorted(row["precision"] for row in answers("transferability")) == ["bfloat16", "float32"]
    assert [row["measured"] for row in answers("measured_and_published")] == [25.0]
