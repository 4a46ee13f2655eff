"""Intents: done by whoever finds their owner dead, never a living one's; and who must be alone is."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from exchanged import attack, fill, place, spec, write_evaluation

from bench.cli import main
from bench.core.errors import BenchError
from bench.jobs import journal
from bench.jobs.locks import Locks, Owner
from bench.jobs.presence import alone, beside
from bench.store import ingest, queries
from bench.store.database import Database

RUN = spec()
RECORD = f"runs/{RUN.run_id}/evaluations/{attack(RUN, 0.2).evaluation_id}.json"
Out = pytest.CaptureFixture[str]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    fill(folder, RUN)
    assert main.run(["db", "rebuild", "--results", str(folder)]) == 0
    return folder


def replaced(results: Path) -> None:
    """The record of an evaluation is another's, and its intent is written: what a killed `--force` leaves."""
    journal.note(place(results), "f" * 24, journal.Intent(takes_in=(RECORD,)))
    write_evaluation(results, attack(RUN, 0.2), draw=7, attempt_id="7" * 24)


def attempt(results: Path) -> str:
    with Database(results / "bench.db").open() as db:
        (row,) = queries.evaluations(db, evaluation_ids=attack(RUN, 0.2).evaluation_id)
        return row.attempt_id


def holding(results: Path, name: str) -> Any:
    """Another process that holds a lock, alive until its input ends."""
    code = "import sys; from pathlib import Path; from bench.jobs.locks import Locks\n"
    code += f"with Locks(Path({str(results / 'locks')!r})) as locks:\n"
    code += f" locks.acquire({name!r}); print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_dead_owners_intent_is_carried_out_and_a_living_ones_is_left(results: Path, capsys: Out) -> None:
    replaced(results)
    gc = ["db", "gc", "--dry-run", "--results", str(results)]
    other = holding(results, "f" * 24)
    assert main.run(gc) == 0
    assert main.run(["audit", "--results", str(results)]) == 0
    assert "half done" not in capsys.readouterr().err
    assert attempt(results) != "7" * 24
    other.kill()
    other.wait()
    assert main.run(["audit", "--results", str(results)]) == 0  # who only reads says so, and changes nothing
    assert "left a change in" in capsys.readouterr().err
    assert attempt(results) != "7" * 24
    assert main.run(gc) == 0
    assert attempt(results) == "7" * 24
    assert journal.pending(place(results)) == []


@pytest.mark.parametrize("command", ["rebuild", "delete", "gc"])
def test_who_changes_all_is_refused_beside_a_run_and_names_it(command: str, results: Path, capsys: Out) -> None:
    (results / "runs" / RUN.run_id / "members.damaged").touch()
    other = holding(results, "work-1")
    given = {"rebuild": [], "delete": [RUN.run_id, "-y"], "gc": ["-y"]}[command]
    for db in (["--db", "postgresql://nobody@localhost:1/none"], []) if command == "rebuild" else ([],):
        assert main.run(["db", command, *given, "--results", str(results), *db]) == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith(f"Error: process {other.pid} on ")
        assert "is at work in" in told
        assert "nothing was re" in told
        assert "\n" not in told
    other.kill()
    other.wait()
    assert main.run(["db", command, *given, "--results", str(results)]) == 0


def test_a_run_is_refused_beside_a_rebuild(results: Path, capsys: Out) -> None:
    other = holding(results, "database")
    assert main.run(["run", "-m", "ece", "--results", str(results)]) == 2
    assert f"process {other.pid} on " in capsys.readouterr().err
    other.kill()
    other.wait()
    assert list((results / "locks").glob("work-*")) == []


def test_many_are_beside_each_other_and_one_is_alone(results: Path) -> None:
    with contextlib.ExitStack() as others:
        others.enter_context(beside(place(results)))
        others.enter_context(beside(place(results)))
        with pytest.raises(BenchError, match="at work"), alone(place(results), "nothing was done"):
            raise AssertionError
    with alone(place(results), "nothing was done") as locks:
        assert isinstance(Locks(place(results).locks).owner("database"), Owner)
        assert locks.owner("database")
        with pytest.raises(BenchError, match="rebuilds or tidies"), beside(place(results)):
            raise AssertionError
    with beside(place(results)), pytest.raises(BenchError, match="at work"), alone(place(results), "nothing was done"):
        raise AssertionError


@pytest.mark.parametrize("path", ["/etc/passwd", "../other", "runs/../../other"])
def test_an_intent_reaches_nothing_outside_of_the_results(path: str, results: Path) -> None:
    for field in ('"takes_in": ["P"]', '"removed": ["P"]', '"moves": [["P", "a"]]', '"moves": [["a", "P"]]'):
        (results / "journal").mkdir(exist_ok=True)
        file = results / "journal" / "change-1.json"
        file.write_text(f'{{"format": 1, {field.replace("P", path)}}}')
        with Database(results / "bench.db").open() as db:
            (told,) = journal.catch_up(db, place(results))
        assert "is damaged" in told
        assert file.exists()


def test_a_move_that_fails_first_leaves_all_as_it_was(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    intent = journal.Intent(moves=((RECORD, "runs/.deleted-1/0"),), evaluations=(attack(RUN, 0.2).evaluation_id,))
    with Database(results / "bench.db").open() as db, Locks(place(results).locks) as locks:
        with monkeypatch.context() as patch:
            real = Path.replace
            patch.setattr(Path, "replace", lambda p, t: denied(p, t) if p.name == Path(RECORD).name else real(p, t))
            with pytest.raises(BenchError, match="Permission denied; nothing was changed"):
                journal.carry_out(db, place(results), locks, intent)
        assert journal.pending(place(results)) == []
        assert queries.totals(db).evaluations == 3
        assert journal.carry_out(db, place(results), locks, intent) == []
        assert queries.totals(db).evaluations == 2
        assert ingest.sync(db, results / "runs") == ingest.Counts()
