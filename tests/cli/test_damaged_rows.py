"""Rows that no job wrote: every reading command tells each in one line and goes on with the others."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

import pytest

import bench
from bench.cli.main import run
from bench.store import queries
from bench.store.database import Database

ARCHIVE = Path(__file__).parents[1] / "releases" / "first.zip"

# What is planted: the table of the row, and an assignment. Values are as an older version or a hand may leave them.
OF_RUNS = {
    "a note is no list": "notes = '{\"a\": 1}'",
    "settings are no JSON": "settings = 'not JSON'",
    "settings are a number": "settings = '5'",
    "settings are a list": "settings = '[]'",
    "an integer of 5,000 digits": f"settings = '{{\"delta\": {'9' * 5000}}}'",
    "a number beyond all floats": "settings = '{\"delta\": 1e999}'",
    "nested a hundred deep": f"training = '{'[' * 100}{']' * 100}'",
    "epochs are a text": 'training = \'{"epochs": "x"}\'',
    "a learning rate of 1e308": "training = '{\"lr\": 1e308}'",
    "no members": "members = 0",
    "members in words": "members = 'three'",
    "infinite seconds": "seconds = 9e999",
    "a seed in words": "seed = 'zero'",
    "versions are a list": "versions = '[1]'",
    "versions are no JSON": "versions = '{'",
    "a version in words": 'versions = \'{"trainer": "one"}\'',
    "a version below zero": "versions = '{\"trainer\": -1}'",
    "of no provenance": "provenance = 'heard'",
    "an id that is a path": "run_id = '../../../' || run_id",
}
OF_EVALUATIONS = {
    "no images": "n = 0",
    "fewer images than bits": "n = 17",
    "more right than there are": "n_clean = n + 1",
    "an attack without outcomes": "n_robust = NULL",
    "the loss is a number": "measurements = '{\"loss_curve\": -1}'",
    "losses of 1e308": "measurements = '{\"loss_curve\": [1e308, 1e308]}'",
    "unmoved in words": 'measurements = \'{"unmoved": "AAAA"}\'',
    "measurements are a list": "measurements = '[1]'",
    "negative passes": "forwards = -1",
    "of no kind": "kind = 'sideways'",
    "seconds in words": "seconds = 'long'",
    "of no split": "split = 'train'",
    "of no provenance": "provenance = ''",
}
OF_ATTACKS = {
    "targets in other words": "targets = 'nearest'",
    "a precision that there is not": "precision = 'float8'",
    "settings are a number": "settings = '5'",
}
OF_BITS = {
    "no bits": "clean_bits = x''",
    "a text for bits": "clean_bits = substr(hex(zeroblob(32)), 1, 63)",
    "other bits after the attack": "robust_bits = x'00'",
    "bits after the last image": "robust_bits = CAST(substr(robust_bits, 1, length(robust_bits) - 1) || x'ff' AS BLOB)",
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published digits, taken in: 33 runs."""
    results = tmp_path_factory.mktemp("reference") / "results"
    assert run(["db", "import", str(ARCHIVE), "--results", str(results)]) == 0
    return results


@pytest.fixture
def database(reference: Path, tmp_path: Path) -> Path:
    """A copy of its database."""
    target = tmp_path / "bench.db"
    with sqlite3.connect(reference / "bench.db") as source, sqlite3.connect(target) as copy:
        source.backup(copy)
    return target


def plant(database: Path, statement: str, *values: object) -> None:
    """Change the database as nobody should."""
    connection = sqlite3.connect(database)
    changed = connection.execute(statement, values).rowcount
    connection.commit()
    connection.close()
    assert changed > 0, statement


def ids(database: Path, query: str) -> list[str]:
    with sqlite3.connect(database) as connection:
        return [row[0] for row in connection.execute(query)]


SOURCES = "measurements = '{\"sources\": 1}'"
ATTACKS = "SELECT evaluation_id FROM evaluation WHERE kind = 'attack' ORDER BY evaluation_id"
RUNS = "SELECT run_id FROM run ORDER BY method, seed"


@pytest.mark.parametrize("fault", OF_RUNS)
def test_a_damaged_run_is_set_aside_with_its_evaluations(
    database: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    victim = ids(database, RUNS)[0]
    plant(database, f"UPDATE run SET {OF_RUNS[fault]} WHERE run_id = ?", victim)
    with Database(database).open() as db:
        runs, rows = queries.runs(db), queries.evaluations(db)
    assert victim not in {row.run_id for row in runs} | {row.run_id for row in rows}
    assert len(runs) == 32
    assert len(rows) > 400
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert "is damaged" in lines[0]
    assert "bench db rebuild" in lines[0]
    assert f"bench db delete {victim[:12]}" in lines[0] or "path" in fault
    assert "\n" not in lines[0]


@pytest.mark.parametrize("fault", OF_EVALUATIONS)
def test_a_damaged_evaluation_is_set_aside(database: Path, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    victim = ids(database, ATTACKS)[0]
    plant(database, f"UPDATE evaluation SET {OF_EVALUATIONS[fault]} WHERE evaluation_id = ?", victim)
    with Database(database).open() as db:
        rows = queries.evaluations(db)
        queries.evaluations(db)  # told once
    assert victim not in {row.evaluation_id for row in rows}
    assert len(rows) == 508
    lines = [record.getMessage() for record in caplog.records]
    assert [f"evaluation {victim[:12]}" in line for line in lines] == [True], lines


@pytest.mark.parametrize("fault", OF_ATTACKS)
def test_evaluations_of_a_damaged_attack_are_set_aside(
    database: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    query = "SELECT evaluation_id FROM evaluation e JOIN attack a ON a.attack_key = e.attack_key WHERE a.plugin = 'bim'"
    victims = ids(database, query)
    plant(database, f"UPDATE attack SET {OF_ATTACKS[fault]} WHERE plugin = 'bim'")
    with Database(database).open() as db:
        rows = {row.evaluation_id for row in queries.evaluations(db)}
    assert rows.isdisjoint(victims)
    assert len(rows) == 509 - len(victims)
    assert caplog.records


@pytest.mark.parametrize("fault", OF_BITS)
def test_outcomes_that_do_not_fit_are_never_given_out(
    database: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    victim, *others = ids(database, ATTACKS)
    plant(database, f"UPDATE outcome SET {OF_BITS[fault]} WHERE evaluation_id = ?", victim)
    with Database(database).open() as db:
        found = queries.outcomes(db, [victim, others[0]])
        rows = {row.evaluation_id for row in queries.evaluations(db)}
    assert set(found) == {others[0]}
    assert victim not in rows
    assert all(f"evaluation {victim[:12]}" in record.getMessage() for record in caplog.records)
    assert caplog.records


@pytest.mark.parametrize("statement", ["DELETE FROM transfer WHERE evaluation_id = ? AND source = 1 AND target = -1",
                                       "UPDATE transfer SET target = 7 WHERE evaluation_id = ? AND target = -1",
                                       "UPDATE clean_row SET bits = x'' WHERE evaluation_id = ? AND target = 0",
                                       "DELETE FROM clean_row WHERE evaluation_id = ?",
                                       f"UPDATE evaluation SET {SOURCES} WHERE evaluation_id = ?"])  # fmt: skip
def test_a_matrix_with_a_hole_is_set_aside(database: Path, statement: str, caplog: pytest.LogCaptureFixture) -> None:
    victim = ids(database, "SELECT evaluation_id FROM evaluation WHERE kind = 'transfer' ORDER BY 1")[0]
    plant(database, statement, victim)
    with Database(database).open() as db:
        assert victim not in {row.evaluation_id for row in queries.evaluations(db)}
    assert len(caplog.records) == 1


def everything_planted(database: Path) -> tuple[list[str], list[str]]:
    """Every fault at once, each on a row of its own; returns the runs and evaluations that are damaged now."""
    runs = ids(database, "SELECT run_id FROM run WHERE method NOT IN ('trs', 'ece') ORDER BY method, seed")
    mine = "run_id IN (SELECT run_id FROM run WHERE method IN ('trs', 'ece'))"
    attacks = ids(database, f"SELECT evaluation_id FROM evaluation WHERE kind = 'attack' AND {mine} ORDER BY 1")
    damaged = []
    for number, change in enumerate(OF_RUNS.values()):
        if "run_id" not in change:  # its evaluations would lose their run
            plant(database, f"UPDATE run SET {change} WHERE run_id = ?", runs[number])
            damaged.append(runs[number])
    rows = iter(attacks)
    broken = []
    for change in OF_EVALUATIONS.values():
        broken.append(next(rows))
        plant(database, f"UPDATE evaluation SET {change} WHERE evaluation_id = ?", broken[-1])
    for change in OF_BITS.values():
        plant(database, f"UPDATE outcome SET {change} WHERE evaluation_id = ?", next(rows))
    matrix = ids(database, f"SELECT evaluation_id FROM evaluation WHERE kind = 'transfer' AND {mine} ORDER BY 1")[0]
    plant(database, "DELETE FROM transfer WHERE evaluation_id = ? AND source = 0", matrix)
    other = ids(database, f"SELECT evaluation_id FROM evaluation WHERE kind = 'transfer' AND {mine} ORDER BY 1")[1]
    plant(database, "UPDATE transfer SET n_missed = 'x' WHERE evaluation_id = ? AND source = 0", other)
    plant(database, "UPDATE clean_row SET n_correct = 'x' WHERE target = 0")
    plant(database, "UPDATE member SET parameters = 'many' WHERE number = 1")
    plant(database, "UPDATE environment SET record = '[1, 2]'")
    plant(database, "DELETE FROM member WHERE run_id = (SELECT min(run_id) FROM run WHERE method = 'trs')")
    plant(database, "UPDATE curve SET terms = '[1]' WHERE run_id = (SELECT min(run_id) FROM run WHERE method = 'trs')"
                    " AND epoch = 1")  # fmt: skip
    plant(database, "UPDATE attack SET settings = '[]' WHERE plugin = 'apgd_dlr'")
    plant(database, "UPDATE attack SET precision = 'float8' WHERE plugin = 'mim' AND budget = 0.15")
    plant(database, "UPDATE standing SET why = '5' WHERE id = (SELECT min(id) FROM standing)")
    plant(database, "UPDATE score SET lacking = 'x', n_robust = 'many' WHERE protocol = 'core-digits'")
    return damaged, broken


@pytest.mark.parametrize(
    "command",
    [
        "list runs", "list runs --json", "audit", "audit --json", "status", "status -m trs -m ece -d digits",
        "table -d digits", "table -d digits --json", "table -d digits --format latex --details", "compare trs ece",
        "heatmap -m trs -m ece -o FOLDER/h.png", "plot curves -m trs -m ece -o FOLDER/c.png",
        "plot budget -m trs -m ece -o FOLDER/b.svg", "plot convergence -d digits -o FOLDER/v.png",
        "plot ablation -m trs -d digits -o FOLDER/a.png", "db gc --dry-run", "db gc --stale --dry-run",
        "report -o FOLDER/site",
    ],
)  # fmt: skip
def test_reading_commands_go_on_without_damaged_rows(
    database: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    everything_planted(database)
    arguments = command.replace("FOLDER", str(tmp_path)).split()
    code = run([*arguments, "--db", str(database), "--results", str(tmp_path)])
    out, err = capsys.readouterr()
    # Nothing to draw is a line of its own, as on any database.
    assert code in (0, 1) or "with these selectors" in err, (out, err)
    assert "Traceback" not in out + err
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == len(set(told))
    assert all("is damaged in database" in line and "\n" not in line for line in told)


def test_cards_of_what_stands_beside_damaged_rows(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, broken = everything_planted(database)
    where = ["--db", str(database), "--results", str(tmp_path)]
    for run_id in ids(database, "SELECT run_id FROM run WHERE method IN ('trs', 'ece')"):
        assert run(["show", run_id, *where]) == 0, run_id
        assert run(["show", run_id, "--json", *where]) == 0
    kinds = "SELECT max(evaluation_id) FROM evaluation WHERE run_id IN (SELECT run_id FROM run WHERE method = 'trs')"
    for evaluation_id in ids(database, f"{kinds} GROUP BY kind"):
        assert run(["show", evaluation_id, *where]) in (0, 2)
    capsys.readouterr()
    for identifier in (*damaged, *broken):
        assert run(["show", identifier, *where]) == 2
        assert "bench db rebuild" in capsys.readouterr().err
        assert run(["db", "delete", identifier, "--dry-run", *where]) == 0
        assert identifier[:12] in capsys.readouterr().out


def test_a_damaged_row_goes_by_delete_or_rebuild(
    database: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reference / "runs", tmp_path / "runs")
    victim = ids(database, RUNS)[0]
    plant(database, "UPDATE run SET notes = 'x' WHERE run_id = ?", victim)
    where = ["--db", str(database), "--results", str(tmp_path)]
    assert run(["db", "rebuild", *where]) == 0
    assert run(["show", victim, *where]) == 0
    plant(database, "UPDATE evaluation SET n = 0 WHERE evaluation_id = ?", row := ids(database, ATTACKS)[0])
    assert run(["db", "delete", row, "--yes", *where]) == 0
    assert row not in ids(database, ATTACKS)
    assert not list((tmp_path / "runs").glob(f"*/evaluations/{row}.json"))


def test_frames_leave_damaged_rows_out(database: Path) -> None:
    damaged, broken = everything_planted(database)
    frames = bench.load(database)
    assert not set(frames.runs["run_id"]) & set(damaged)
    assert not set(frames.evaluations["evaluation_id"]) & set(broken)
    for frame in (frames.matrices, frames.curves, frames.blackbox, frames.published):
        assert not frame.empty
    assert not set(frames.curves["run_id"]) & set(damaged)
