"""Values that once stopped every reader do not come in, neither from files nor as rows of another database."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mutated import write

from bench.core import config
from bench.exchange.merging import merge_from
from bench.store import ingest
from bench.store.database import Database

LONG = [0.1] * 100_001


@pytest.mark.parametrize(
    ("kind", "where", "value", "words"),
    [
        ("attack", "n", 0, "n: "), ("attack", "measurements.unmoved", "AAAA", "unmoved"),
        ("attack", "measurements.unmoved", 25, "more than 24 images"),
        ("attack", "measurements.loss_curve", -1, "loss_curve"),
        ("attack", "measurements.loss_curve", LONG, "items"), ("attack", "measurements.loss_curve", [1e308], "beyond"),
        ("attack", "measurements.largest_excess", -1.0, "largest_excess"), ("attack", "forwards", None, "forwards"),
        ("attack", "environment.packages", ["torch"], "packages"), ("attack", "settings.steps", "x", "steps"),
        ("attack", "settings.rel_step", "0.1", "another type"), ("attack", "budget", 1e308, "budget"),
        ("attack", "measurements.more", [[[[[[[[[1]]]]]]]]], "deep"), ("blackbox", "attempts", [], "without attempts"),
        ("clean", "measurements.member_accuracy", [2.0], "member_accuracy"),
        ("transfer", "measurements.sources.0.source", 2, "has not"),
        ("run", "notes", [{}], "notes"), ("run", "notes", ["x" * 10_001], "notes"),
        ("run", "seconds", 1e308, "seconds"), ("run", "facts", [], "facts"), ("run", "facts", {"year": "x"}, "year"),
        ("run", "facts", {"url": "javascript:alert(1)"}, "an address such as"),
        ("run", "facts", {"authors": ["x"] * 101}, "authors"), ("run", "facts", {"title": "x" * 301}, "title"),
        ("run", "started", "0001-01-01T00:00:00+23:00", "2000 to 2100"),
        ("run", "finished", "9999-12-31T23:59:59-23:00", "2000 to 2100"),
        ("run", "model_settings.dropout", "x", "dropout|another type"), ("run", "training.epochs", "", "epochs"),
        ("failure", "describe.seed", "x", "describe"), ("failure", "job_id", "[/x]", "job_id"),
    ],
)  # fmt: skip
def test_it_is_refused_with_a_line(tmp_path: Path, kind: str, where: str, value: Any, words: str) -> None:
    made = write(tmp_path / "runs", 0, None, changed=(kind, where, value))
    counts = ingest.rebuild(tmp_path / "bench.db", tmp_path / "runs", config.defaults("published"))
    (line,) = counts.damaged[:1]
    assert str(made.file) in line
    assert words.partition("|")[0] in line or words.partition("|")[2] in line
    assert (counts.runs, counts.evaluations) == ((0, 0) if kind == "run" else (1, 4 - (kind != "failure")))


def test_rows_of_another_database_are_refused_alike(tmp_path: Path) -> None:
    for number, change in enumerate(
        (
            "evaluation SET n = 0", "evaluation SET forwards = NULL",
            "evaluation SET measurements = '{\"unmoved\": \"A\"}'",
            "attack SET settings = '{\"steps\": \"x\"}'", "run SET notes = '[" + "[" * 500 + "]" * 500 + "]'",
            "run SET started = '0001-01-01T00:00:00+23:00'", "outcome SET clean_bits = 'text'",
            "run SET seconds = 1e308",
            "environment SET record = '{\"packages\": []}'", "run SET settings = '{\"x\": " + "9" * 5000 + "}'",
            "job SET traceback = x'ff' WHERE status = 'failed'", "curve SET loss = 'x'", "member SET parameters = -1",
        )
    ):  # fmt: skip
        results = tmp_path / str(number)
        write(results / "runs", number, None)
        ingest.rebuild(results / "bench.db", results / "runs", config.defaults("published"))
        with closing(sqlite3.connect(results / "bench.db")) as connection, connection:
            connection.execute(f"UPDATE {change}")
        with Database(results / "ours.db").open(create=True) as db:
            told, _ = merge_from(db, str(results / "bench.db"))
        assert told.left_out, change
        assert all("\n" not in line and line.isprintable() for line in told.left_out)


def test_an_error_keeps_its_words_and_nothing_moves_a_cursor(tmp_path: Path) -> None:
    write(tmp_path / "runs", 0, None, changed=("failure", "error", "\x1b[2Jgone\r" + "x" * 5000))
    with Database(tmp_path / "bench.db").open(create=True) as db:
        assert ingest.sync(db, tmp_path / "runs").damaged == ()
        with db.read() as connection:
            (error,) = connection.exec_driver_sql("SELECT error FROM job WHERE status = 'failed'").scalars()
    assert error.startswith(r"\x1b[2Jgone\x0dxxx")
    assert len(error) == 2000


def test_records_of_ours_are_as_they_were(tmp_path: Path) -> None:
    made = write(tmp_path / "runs", 0, None)
    record = json.loads((made.folder / "run.json").read_text())
    assert ingest.rebuild(tmp_path / "bench.db", tmp_path / "runs", config.defaults("published")).damaged == ()
    assert record["run_id"] == made.folder.name
