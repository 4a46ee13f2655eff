"""From files to rows: idempotent, equal to a rebuild, strict about damage, done before failed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.core.errors import BenchError
from bench.store import queries
from bench.store.database import Database, StoreError
from bench.store.ingest import ingest_evaluation, ingest_failure, ingest_run, rebuild, sync
from bench.store.published import TABLE1, load_published

CLEAN = [True, True, True, False, True, True, False, True, True, True]
ROBUST = [True, False, True, False, False, True, False, False, True, False]


def edit(path: Path, **changes: Any) -> None:
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in record.items() if value != "(absent)"}))


def test_twice_is_once_and_a_rebuild_holds_the_same_rows(db: Database, files: Any, tmp_path: Path) -> None:
    files.fill()
    files.ingest_all(db)
    once = files.contents(db)
    files.ingest_all(db)
    assert files.contents(db) == once
    counts = rebuild(tmp_path / "again.db", files.root, files.published)
    assert (counts.runs, counts.evaluations, counts.failures, counts.damaged) == (2, 8, 3, ())
    with Database(tmp_path / "again.db").open() as again:
        assert files.contents(again) == once
    assert {name: len(rows) for name, rows in once.items()} == {
        "environment": 1, "run": 2, "member": 6, "curve": 4, "attack": 4, "evaluation": 8, "outcome": 8,
        "clean_row": 16, "transfer": 24, "other_transfer": 0, "blackbox": 4, "job": 13,
        "reference": 2 * 16 * 9 + 4 * 3 + 576, "standing": 0, "score": 0, "pending": 0, "meta": 3,
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.glob("*again*")) == ["again.db"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(11)), repeated=st.lists(st.integers(0, 10), max_size=4))
def test_the_order_of_files_does_not_matter(files: Any, tmp_path: Path, order: list[int], repeated: list[int]) -> None:
    if not any(files.root.iterdir()):
        files.fill()
        rebuild(tmp_path / "straight.db", files.root, files.published)
    steps: list[tuple[Any, Path]] = [
        (ingest_failure if path.parent.name == "failures" else ingest_evaluation, path)
        for path in sorted(files.root.glob("*/*/*.json"))
    ]
    path = tmp_path / "shuffled.db"
    path.unlink(missing_ok=True)
    with Database(path).open(create=True) as shuffled:
        load_published(shuffled, files.published)
        for folder in sorted(files.root.glob("*/run.json"), reverse=order[0] % 2 == 0):
            ingest_run(shuffled, folder.parent)
        for index in (*order, *repeated):
            steps[index][0](shuffled, steps[index][1])
        with Database(tmp_path / "straight.db").open() as straight:
            assert files.contents(shuffled) == files.contents(straight)


def test_what_was_stored_is_what_the_files_say(db: Database, files: Any) -> None:
    folder = files.fill()
    files.ingest_all(db)
    run = queries.find_run(db, folder.name[:6])
    assert (run.method, run.seed, run.training_limit, run.precision) == ("trs", 0, None, "float32")
    assert (run.recipe_changes, run.settings) == (["training.epochs=1"], {"lambda_a": 2.0})
    assert [member.parameters for member in queries.members(db, run.run_id)] == [10, 10, 12]
    assert [(row.epoch, row.loss) for row in queries.curve(db, run.run_id)] == [(1, 2.0), (2, 1.0)]
    by_kind = {row.kind: row for row in queries.evaluations(db, run_ids=run.run_id)}
    row, suite = by_kind["attack"], by_kind["blackbox"]
    assert (row.attack, row.budget_name, row.budget, row.stop) == ("pgd", "eps", 0.1, "first_success")
    assert (row.n, row.n_clean, row.n_robust, row.measurements) == (10, 8, 4, {"unmoved": 0})
    stored = queries.outcomes(db, [row.evaluation_id])[row.evaluation_id]
    assert stored.clean.tolist() == CLEAN
    assert stored.robust is not None
    assert stored.robust.tolist() == ROBUST
    assert [(a.restart, a.bits.tolist()) for a in queries.blackbox(db, suite.evaluation_id)] == [
        (0, ROBUST),
        (1, ROBUST),
    ]
    assert queries.environment(db, run.environment_id) == {"python": "3.11", "device": "cpu"}


def test_a_forced_attempt_takes_the_place_of_the_older_one(db: Database, files: Any, tmp_path: Path) -> None:
    folder = files.run()
    path = files.evaluation(folder, CLEAN, ROBUST)
    ingest_run(db, folder)
    ingest_evaluation(db, path)
    edit(folder / "run.json", attempt_id="second", environment={"device": "cuda"}, started="2026-11-22T10:00:00Z")
    edit(path, attempt_id="third", environment={"device": "cuda"}, n_robust=8, robust_bits=files.text(CLEAN))
    ingest_run(db, folder)
    assert len(queries.evaluations(db)) == 1  # what refers to the run stays
    ingest_evaluation(db, path)
    assert queries.evaluations(db)[0].n_robust == 8
    load_published(db, files.published)
    rebuild(tmp_path / "again.db", files.root, files.published)
    with Database(tmp_path / "again.db").open() as again:
        assert files.contents(again) == files.contents(db)


def test_done_beats_failed_in_either_order(db: Database, files: Any) -> None:
    folder = files.run()
    failure = files.failure(folder, folder.name, started="2026-11-21T09:00:00Z")
    ingest_failure(db, failure)
    assert [(row.job_id, row.done) for row in queries.failures(db)] == [(folder.name, False)]
    ingest_run(db, folder)
    assert queries.failures(db) == []
    assert queries.totals(db).runs == 1
    ingest_failure(db, failure)
    assert queries.failures(db) == []
    # an attempt known to be done stays done whatever a failure file says of it
    ingest_failure(db, files.failure(folder, folder.name, f"attempt-{folder.name}", started="2026-11-23T09:00:00Z"))
    assert queries.failures(db) == []
    # a later attempt that failed is shown, and the result stands
    ingest_failure(db, files.failure(folder, folder.name, "late", started="2026-11-22T11:00:00+02:00"))
    assert [(row.attempt_id, row.done, row.started) for row in queries.failures(db)] == [
        ("late", True, "2026-11-22T09:00:00Z")
    ]
    assert queries.totals(db).runs == 1


def test_only_the_latest_failure_of_a_job_is_told(db: Database, files: Any) -> None:
    folder = files.root / files.hex_id("never")
    job, other, family = (files.hex_id(name) for name in ("job", "other", "family"))
    for day in (3, 1, 2):
        ingest_failure(db, files.failure(folder, job, f"day-{day}", started=f"2026-11-0{day}T00:00:00Z"))
    ingest_failure(db, files.failure(folder, other, "else", started="2026-11-09T00:00:00Z", family_id=family))
    assert [row.attempt_id for row in queries.failures(db)] == ["else", "day-3"]
    assert [row.attempt_id for row in queries.failures(db, family_ids=[family])] == ["else"]
    assert queries.totals(db).failures == 2


def test_a_line_cut_short_by_a_kill_is_ignored_and_a_repeated_epoch_counts_once(
    db: Database, files: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = files.run()
    log = folder / "train.jsonl"
    first, second = log.read_text().splitlines()
    log.write_text(f"{first}\n{second}\n{second.replace('1.0', 'NaN')}\n{second[:20]}")
    ingest_run(db, folder)
    rows = queries.curve(db, folder.name)
    assert [(row.epoch, row.position) for row in rows] == [(1, 0), (2, 1)]
    assert (rows[1].loss, rows[1].seconds) == (None, None)
    assert caplog.text == ""
    log.write_text(f"{first[:20]}\n{second}\n")
    ingest_run(db, folder)
    assert [row.epoch for row in queries.curve(db, folder.name)] == [2]
    assert "line 1" in caplog.text


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"n_robust": 5}, "robust_bits holds 4 images, its count says 5"),
        ({"n": 17}, "clean_bits: 2 bytes of outcomes do not hold 17 images"),
        ({"n": 9}, "more than 9 images"),
        ({"robust_bits": None}, "one of them is null"),
        ({"robust_bits": None, "n_robust": None}, "attack without robust_bits"),
        ({"clean_bits": "@@"}, "base64"),
        ({"images_digest": "(absent)"}, "images_digest: Field required"),
        ({"kind": "guess"}, "kind: Input should be"),
        ({"status": "failed"}, "status: Input should be 'done'"),
        ({"format": 3}, "format: Input should be 1 or 2"),
        ({"started": "yesterday"}, "started"),
        ({"budget": "large"}, "budget"),
        ({"evaluation_id": "0" * 24}, "its content is of evaluation"),
        ({"kind": "transfer", "cells": []}, "clean_rows must hold each member"),
        ({"run_id": "0" * 24}, "not of the run whose folder holds it"),
    ],
)
def test_a_damaged_evaluation_is_named_with_its_fault(
    db: Database, files: Any, changes: dict[str, Any], fault: str
) -> None:
    folder = files.run()
    ingest_run(db, folder)
    path = files.evaluation(folder, CLEAN, ROBUST)
    edit(path, **changes)
    with pytest.raises(BenchError) as error:
        ingest_evaluation(db, path)
    assert str(path) in str(error.value)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)
    assert queries.evaluations(db) == []


def test_a_matrix_without_one_cell_is_refused(db: Database, files: Any) -> None:
    folder = files.run()
    ingest_run(db, folder)
    path = files.matrix(folder, np.ones((3, 4), dtype=bool), np.ones((2, 3, 4), dtype=bool))
    edit(path, cells=json.loads(path.read_text())["cells"][:-1])
    with pytest.raises(BenchError, match="each of 2 sources with each of 3 targets"):
        ingest_evaluation(db, path)


def test_one_key_cannot_stand_for_two_attacks(db: Database, files: Any) -> None:
    first, second = files.run(0), files.run(1)
    for folder in (first, second):
        ingest_run(db, folder)
    ingest_evaluation(db, files.evaluation(first, CLEAN, ROBUST))
    with db.write() as connection:
        connection.exec_driver_sql("UPDATE attack SET setting_id = 'other'")
    with pytest.raises(BenchError, match="stands for another attack"):
        ingest_evaluation(db, files.evaluation(second, CLEAN, ROBUST))


def test_a_run_in_a_folder_of_another_name_is_refused(db: Database, files: Any) -> None:
    folder = files.run()
    moved = folder.rename(folder.with_name("copy"))
    with pytest.raises(BenchError, match="it claims to be copy"):
        ingest_run(db, moved)


def test_a_rebuild_skips_damaged_files_by_name_and_keeps_the_rest(files: Any, tmp_path: Path) -> None:
    folder = files.fill()
    (broken, *_) = sorted((folder / "evaluations").iterdir())
    broken.write_text(broken.read_text()[:100])
    other = files.root / files.spec(1).run_id
    (other / "run.json").write_text("{}")
    (folder / "evaluations" / ".half.json.x.tmp").write_text("{")
    (files.root / "note.txt").write_text("not a run")
    counts = rebuild(tmp_path / "bench.db", files.root, files.published)
    assert (counts.runs, counts.evaluations, counts.failures) == (1, 3, 3)
    assert str(broken) in counts.damaged[0] or str(broken) in counts.damaged[-1]
    assert len(counts.damaged) == 2 + 4  # the evaluations of a run that is unknown say nothing
    assert all("\n" not in line and str(files.root) in line for line in counts.damaged)


def test_a_rebuild_that_fails_loses_nothing(
    db: Database, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.fill()
    files.ingest_all(db)
    before = files.contents(db)

    def full(*_: object) -> str:
        raise StoreError("the disk is full")

    monkeypatch.setattr("bench.store.ingest.ingest_evaluation", full)
    with pytest.raises(StoreError, match="disk is full"):
        rebuild(str(db), files.root, files.published)
    assert files.contents(db) == before
    assert sorted(path.name for path in tmp_path.glob("*.tmp*")) == []
    monkeypatch.undo()
    with pytest.raises(BenchError, match="no folder of runs"):
        rebuild(str(db), tmp_path / "none", files.published)


def test_a_rebuild_replaces_a_damaged_database_and_its_stale_log(files: Any, tmp_path: Path) -> None:
    files.fill()
    path = tmp_path / "bench.db"
    path.write_bytes(b"garbage" * 1000)
    path.with_name("bench.db-wal").write_bytes(b"garbage" * 1000)
    rebuild(path, files.root, files.published)
    assert not path.with_name("bench.db-wal").exists()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("SELECT count(*) FROM evaluation").fetchone() == (8,)


def test_sync_takes_in_what_is_missing_and_reports_damage(db: Database, files: Any, tmp_path: Path) -> None:
    folder = files.fill()
    load_published(db, files.published)
    ingest_run(db, folder)
    counts = sync(db, files.root)
    assert (counts.runs, counts.evaluations, counts.failures, counts.damaged) == (1, 8, 3, ())
    rebuild(tmp_path / "again.db", files.root, files.published)
    with Database(tmp_path / "again.db").open() as again:
        assert files.contents(again) == files.contents(db)
    path = files.evaluation(folder, CLEAN, ROBUST, budget=0.3)
    path.write_text("{")
    counts = sync(db, files.root)
    assert (counts.runs, counts.evaluations, counts.failures) == (0, 0, 0)
    assert [str(path) in line for line in counts.damaged] == [True]


def test_published_values_are_those_of_the_papers(db: Database, files: Any, tmp_path: Path) -> None:
    assert load_published(db, files.published) == load_published(db, files.published) == 876
    cifar10 = queries.references(db, dataset="cifar10")
    values = {(row.attack, row.budget): row.value for row in cifar10 if (row.method, row.source) == ("trs", TABLE1)}
    assert values["pgd", 0.01] == 50.5
    report = [row for row in queries.references(db) if row.method == "pgd_linf_adversarial_training"]
    assert {(row.attack, row.metric, row.value) for row in report} == {
        ("clean", "clean_accuracy", 41.25),
        ("pgd", "robust_accuracy", 37.33),
        ("pgd_l2", "robust_accuracy", 41.71),
    }
    (tmp_path / "table1_mnist.csv").write_text("attack,budget_name,budget,trs\npgd,eps,0.1,many\n")
    with pytest.raises(BenchError, match=r"line 2 has 'many'"):
        load_published(db, tmp_path)
    (tmp_path / "table1_mnist.csv").write_text("attack,budget,trs\n")
    with pytest.raises(BenchError, match="no column 'budget_name'"):
        load_published(db, tmp_path)
    assert queries.totals(db).references == 876
