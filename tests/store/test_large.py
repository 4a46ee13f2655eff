"""Many evaluations: queries go by index, and the commands people type all day stay quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from large import make
from sqlalchemy import text

from bench.core import config
from bench.experiment import select
from bench.store import queries
from bench.store.database import Database

COMMANDS = {
    "table": ["table", "--dataset", "digits"],
    "status": ["status"],
    "status of a method": ["status", "--method", "trs"],
    "list runs": ["list", "runs"],
    "gc": ["db", "gc", "--dry-run", "--stale"],
}


def plan(db: Database, statement: str, *values: str) -> str:
    with db.read() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    return "; ".join(str(row[-1]) for row in rows)


def test_statistics_are_left_for_the_planner_and_tables_are_read_by_index(tmp_path: Path) -> None:
    make(tmp_path / "bench.db", 300)
    with Database(tmp_path / "bench.db").open() as db:
        with db.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'evaluation'")).scalar()
        join = "FROM evaluation e JOIN run r ON r.run_id = e.run_id"
        told = plan(db, f"SELECT * {join} WHERE r.family_id IN (?, ?) AND e.attack_key IN (?, ?)", *"abcd")
        assert "ix_run_family_id" in told
        assert "ix_evaluation_run_id_kind" in told
        assert "SCAN" not in told
        assert "COVERING INDEX" in plan(db, "SELECT run_id, count(*) FROM evaluation GROUP BY run_id")


def test_counts_of_evaluations_are_those_of_the_rows(tmp_path: Path) -> None:
    made = make(tmp_path / "bench.db", 60)
    with Database(tmp_path / "bench.db").open() as db:
        counts = queries.evaluation_counts(db)
        assert sum(counts.values()) == queries.totals(db).evaluations == made["evaluations"]
        for run_id, count in counts.items():
            assert len(queries.evaluations(db, run_ids=run_id)) == count


@pytest.mark.slow
def test_a_hundred_thousand_evaluations_answer_nearly_as_fast_as_a_thousand(tmp_path: Path) -> None:
    seconds: dict[str, dict[str, float]] = {}
    for name, size in (("small", 1_000), ("large", 100_000)):
        (tmp_path / name).mkdir()
        made = make(tmp_path / name / "bench.db", size)
        assert made["evaluations"] >= size
        seconds[name] = {}
        for command, arguments in COMMANDS.items():
            line = [sys.executable, "-m", "bench.cli.main", *arguments, "--results", str(tmp_path / name)]
            times = []
            for _ in range(3):
                start = time.perf_counter()
                subprocess.run(line, capture_output=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
                times.append(time.perf_counter() - start)
            seconds[name][command] = round(min(times), 2)
    print(json.dumps(seconds, indent=1))
    # A ratio, since machines differ; what a command shows (failures, runs) grows with the database.
    for command in COMMANDS:
        assert seconds["large"][command] < 6 * seconds["small"][command], seconds
    loaded = config.load()
    run = select.run_spec(loaded, select.Selection(methods=("trs",)), "trs", 0)
    with Database(tmp_path / "large" / "bench.db").open() as db:
        assert {row.seed for row in queries.evaluations(db, family_ids=run.family_id)} == set(range(5))
