"""What a result is worth: whoever is asked, the answer is the same, whichever part has another version today."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exchanged import brought_up, place, write_evaluation, write_run
from sqlalchemy import text

from bench.core import config, registry, versions
from bench.experiment import select
from bench.jobs import plan
from bench.report import frames, ledger, results
from bench.report.plots import points
from bench.store import derived, gc, ingest, standing
from bench.store.database import Database

LOADED = config.load(config.defaults("bench.toml"))
SELECTION = select.Selection(
    methods=("dverge",), dataset="digits", members=2, limit=20, seeds=(0,), attacks=("pgd",), eps=(0.1,)
)
PUBLISHED = config.defaults("published")


@pytest.fixture
def results_folder(tmp_path: Path) -> Path:
    """A run of a method that needs another run, both with a clean pass and PGD, made with the versions of today."""
    run = select.run_spec(LOADED, SELECTION, "dverge", 0)
    for each in (*run.requires.values(), run):
        write_run(tmp_path, each)
        for draw, evaluation in enumerate(select.evaluations(LOADED, SELECTION, each)):
            write_evaluation(tmp_path, evaluation, draw=draw)
    ingest.rebuild(tmp_path / "bench.db", tmp_path / "runs", PUBLISHED)
    return tmp_path


def answers(where: Path) -> dict[str, set[str]]:
    """What each of those who can be asked says is not current, of the evaluations of the one run: `clean`, `pgd`."""
    with Database(where / "bench.db").open() as db:
        brought_up(db)
        run = select.run_spec(LOADED, SELECTION, "dverge", 0)
        told = standing.read(db, family_ids=run.family_id)
        rows = {row.evaluation_id: row for row in told.rows}
        table = results.collect(LOADED, SELECTION, db)
        shown = points.white_box(LOADED, SELECTION, db)
        sql = {row["id"] for row in db.rows(text("SELECT id FROM stale WHERE kind = 'evaluation'"))}
        rubbish = {row.evaluation_id for row, _ in gc.stale_evaluations(db)}
        pages = ledger.read(db, LOADED)
        planned = plan.make_plan(LOADED, SELECTION, db, place(where)).planned
    frame = frames.load(where / "bench.db").evaluations
    stale = frame[frame["stale"] & (frame["run_id"].isin({row.run_id for row in rows.values()}))]
    attacks = {"pgd"} if shown.empty else set()
    return {
        "standing": {row.attack for row in rows.values() if not told.standings.of(row.evaluation_id).is_current},
        "table": {row.attack for row in table.rows if table.cell(row, "dverge").stale},
        "plots": attacks | {"clean"} if "clean" in set(stale["attack"]) else attacks,  # they draw attacks only
        "frames": set(stale["attack"]),
        "SQL": {rows[each].attack for each in sql if each in rows},
        "site": {
            row.attack
            for row in pages.evaluations
            if row.evaluation_id in rows and not pages.standings.of(row.evaluation_id).is_current
        },
        "gc": {rows[each].attack for each in rubbish if each in rows},
        "status": {
            item.job.evaluation.attack
            for item in planned
            if item.job.evaluation and item.job.run.method == "dverge" and item.state != "done"
        },
    }


def raised(kind: str, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def change(patch: pytest.MonkeyPatch) -> None:
        cls = registry.load(kind, name)
        patch.setattr(cls, "version", cls.version + 1)

    return change


EVERYTHING, ATTACKS = {"clean", "pgd"}, {"pgd"}
PARTS = {
    "nothing": (lambda _: None, set(), ""),
    "method": (raised("methods", "dverge"), EVERYTHING, "method dverge is version"),
    "model": (raised("models", "digits_cnn"), EVERYTHING, "model digits_cnn is version"),
    "data set": (raised("datasets", "digits"), EVERYTHING, "data set digits is version"),
    "trainer": (lambda patch: patch.setattr(versions, "TRAINER", 99), EVERYTHING, "trainer is version"),
    "attack": (raised("attacks", "pgd"), ATTACKS, "attack pgd is version"),
    "another attack": (raised("attacks", "fgsm"), set(), ""),
    "evaluator": (lambda patch: patch.setattr(versions, "EVALUATOR", 99), EVERYTHING, "evaluator is version"),
    "a prerequisite's method": (raised("methods", "ece"), EVERYTHING, "method ece is version"),
    "another method": (raised("methods", "gal"), set(), ""),
}


@pytest.mark.parametrize("part", PARTS)
def test_all_who_are_asked_say_the_same(results_folder: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, expected, why = PARTS[part]
    change(monkeypatch)
    found = answers(results_folder)
    assert found == dict.fromkeys(found, expected)
    with Database(results_folder / "bench.db").open() as db:
        told = standing.read(db)
        run = select.run_spec(LOADED, SELECTION, "dverge", 0)
        for row in told.rows:
            if row.family_id == run.family_id and row.attack in expected:
                assert any(why in line for line in told.standings.of(row.evaluation_id).why)


def test_what_was_measured_on_other_weights_is_stale_for_all(results_folder: Path) -> None:
    with Database(results_folder / "bench.db").open() as db, db.write() as connection:
        connection.exec_driver_sql(f"UPDATE evaluation SET weights_digest = '{'e' * 24}' WHERE kind = 'attack'")
        connection.exec_driver_sql("DELETE FROM meta WHERE key = 'derived'")
    found = answers(results_folder)
    assert found == dict.fromkeys(found, ATTACKS)


def test_a_result_that_was_made_again_supersedes_the_older_one(
    results_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised("attacks", "pgd")(monkeypatch)
    run = select.run_spec(LOADED, SELECTION, "dverge", 0)
    (newer,) = (each for each in select.evaluations(LOADED, SELECTION, run) if each.attack == "pgd")
    write_evaluation(results_folder, newer, draw=7)
    with Database(results_folder / "bench.db").open() as db:
        ingest.sync(db, results_folder / "runs")
        told = standing.read(brought_up(db), family_ids=run.family_id)
        states = {row.evaluation_id: told.standings.of(row.evaluation_id).state for row in told.rows}
        assert states.pop(newer.evaluation_id) == "current"
        assert sorted(states.values()) == ["current", "superseded"]
        assert {row.evaluation_id for row, _ in gc.stale_evaluations(db) if row.family_id == run.family_id} == {
            each for each, state in states.items() if state == "superseded"
        }
        cell = results.collect(LOADED, SELECTION, db).cells
        assert not any(each.stale for each in cell.values())
        # What superseded it goes: it is stale still, and SQL says so.
        gc.delete_evaluations(db, [newer.evaluation_id])
        query = text("SELECT w.state FROM stale w JOIN run r ON r.run_id = w.run_id WHERE r.family_id = :family")
        assert [row["state"] for row in brought_up(db).rows(query.bindparams(family=run.family_id))] == ["stale"]


def test_what_is_written_while_others_bring_it_up_is_brought_up_next(
    results_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = select.run_spec(LOADED, SELECTION, "dverge", 0)
    pending = text("SELECT run_id FROM pending")
    with Database(results_folder / "bench.db").open() as db:
        with brought_up(db).write() as connection:
            derived.mark(connection, run.run_id)
        read = standing.read

        def meanwhile(*arguments: Any, **more: Any) -> standing.Measured:
            found = read(*arguments, **more)
            with db.write() as connection:
                derived.mark(connection, run.run_id)
            return found

        monkeypatch.setattr(standing, "read", meanwhile)
        assert len(brought_up(db).rows(pending)) == 1
        monkeypatch.undo()
        assert brought_up(db).rows(pending) == []


def test_a_stale_surrogate_makes_the_black_box_stale_in_whatever_order_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = select.Selection(dataset="digits", members=2, limit=20)
    run = select.run_spec(LOADED, selection, "ece", 0)
    (suite, *_) = select.blackbox_rows(LOADED, selection, run, LOADED.config.blackbox.attacks)
    surrogate = suite.surrogates[0]
    for each in (run, surrogate):
        write_run(tmp_path, each)
    path = write_evaluation(tmp_path, suite)
    monkeypatch.setattr(registry.load("models", surrogate.model_plugin), "version", 99)
    rows = []
    for name, order in (("before", (surrogate, run)), ("after", (run, surrogate))):
        with Database(tmp_path / f"{name}.db").open(create=True) as db:
            for each in order:
                ingest.ingest_run(db, tmp_path / "runs" / each.run_id)
                if each is run:
                    ingest.ingest_evaluation(db, path)
                brought_up(db)
            rows.append(db.rows(text("SELECT * FROM standing ORDER BY id")))
    assert rows[0] == rows[1]
    (told,) = (row["why"] for row in rows[0] if row["kind"] == "evaluation")
    assert f"surrogate {surrogate.run_id[:12]} is stale" in told


def test_a_run_from_elsewhere_is_stale_when_its_fusion_rule_has_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first version is in no record: what is stored from before rules had one stays current."""
    config = {
        "plugin": "outside", "settings": {"fusion_rule": "crossmax"}, "versions": {"method": 1, "trainer": 1},
    }  # fmt: skip
    found = standing.run_versions(config, 1, 1)
    assert found["fusions/crossmax"] == 1
    assert not any("fusion" in line for line in standing.Installed().older(found))
    monkeypatch.setattr(registry.load("fusions", "crossmax"), "version", 2)
    assert "fusion rule crossmax is version 1, today 2" in standing.Installed().older(found)
    later = config | {"versions": {"method": 1, "trainer": 1, "fusion": 2}}
    assert standing.run_versions(later, 1, 1)["fusions/crossmax"] == 2
