"""What can go, goes, and nothing else: files and rows agree with a rebuild afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from exchanged import attack, brought_up, fill, place, spec, tree, write_evaluation, write_failure, write_run

from bench.core import registry
from bench.core.errors import BenchError
from bench.jobs import journal, removal
from bench.jobs.locks import Locks
from bench.store import ingest, queries
from bench.store.database import Database
from bench.store.schema import Base

RUN = spec()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    fill(folder, RUN)
    fill(folder, spec(seed=1), weights=1)
    return folder


@pytest.fixture
def db(results: Path) -> Any:
    with Database(results / "bench.db").open(create=True) as database:
        ingest.sync(database, results / "runs")
        yield database


def contents(db: Database) -> dict[str, list[str]]:
    with brought_up(db).read() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(table.select())))
            for table in Base.metadata.sorted_tables
            if table.name not in ("reference", "meta")
        }


def rebuilt(results: Path) -> dict[str, list[str]]:
    path = results.parent / "rebuilt.db"
    ingest.rebuild(path, results / "runs", Path(__file__).parents[2] / "results" / "published")
    with Database(path).open() as db:
        return contents(db)


def old(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    before = time.time() - 2 * removal.QUIET
    os.utime(path, (before, before))
    os.utime(path.parent, (before, before))
    return path


def test_nothing_is_garbage_but_failures_made_good(results: Path, db: Database) -> None:
    before = tree(results)
    items = removal.garbage(db, place(results))
    assert [item.attempt_id for item in items] == [
        path.stem for path in sorted(results.glob("runs/*/failures/*.json"), key=lambda path: path.stem)
    ]
    assert tree(results) == before
    removal.remove(db, place(results), items)
    assert removal.garbage(db, place(results)) == []
    assert set(before) - set(tree(results)) == {str(item.paths[0].relative_to(results)) for item in items}
    assert contents(db) == rebuilt(results)
    assert "3.12" not in str(contents(db)["environment"])  # only the failures were made there


def test_a_failure_that_still_stands_stays(results: Path, db: Database) -> None:
    late = write_failure(results, RUN, attack(RUN, 0.2).evaluation_id, started="2026-11-22T00:00:00Z")
    never = write_failure(results, spec(seed=9), spec(seed=9).run_id)
    ingest.sync(db, results / "runs")
    removal.remove(db, place(results), removal.garbage(db, place(results)))
    assert late.exists()
    assert never.exists()
    assert {row.attempt_id for row in queries.failures(db)} == {late.stem, never.stem}


def test_remains_go_and_what_may_be_in_use_stays(results: Path, db: Database) -> None:
    removal.remove(db, place(results), removal.garbage(db, place(results)))
    folder = results / "runs" / RUN.run_id
    before = tree(results)
    going = [
        old(folder / ".run.json.abc.tmp"),
        old(results / ".bench.db.abc.tmp"),
        old(folder / "members.damaged"),
        old(folder / "checkpoint.safetensors"),
        old(folder / "unfinished" / f"{next((folder / 'evaluations').iterdir()).stem}.safetensors"),
        old(results / "runs" / ".import-abc" / RUN.run_id / "run.json").parents[1],
        old(results / "runs" / ("b" * 24) / "x").parent,
    ]
    (going[-1] / "x").unlink()
    for path in (going[-2], going[-1]):
        os.utime(path, (0, 0))
    staying = [
        results / "runs" / ("c" * 24) / "checkpoint.safetensors",  # of a training that is under way
        folder / "unfinished" / "0.safetensors",  # of an evaluation that goes on
        folder / ".train.jsonl.abc.tmp",  # being written
    ]
    for path in staying:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (results / "runs" / ("e" * 24)).mkdir()  # made a moment ago
    items = removal.garbage(db, place(results))
    assert sorted(path for item in items for path in item.paths) == sorted(going)
    removal.remove(db, place(results), items)
    assert not any(path.exists() for path in going)
    assert all(path.exists() for path in staying)
    assert {name: kind for name, kind in tree(results).items() if name in before} == before


def test_stale_evaluations_go_only_when_asked_for(results: Path, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    removal.remove(db, place(results), removal.garbage(db, place(results)))
    monkeypatch.setattr(registry.load("attacks", "pgd"), "version", 2)
    newer = attack(spec(seed=1), 0.1).model_copy(update={"versions": {"attack": 2, "evaluator": 1}})
    write_evaluation(results, newer, draw=8, attack_version=2)
    ingest.sync(db, results / "runs")
    assert removal.garbage(db, place(results)) == []
    items = removal.garbage(brought_up(db), place(results), stale=True)
    older = {attack(run, budget).evaluation_id for run in (RUN, spec(seed=1)) for budget in (0.1, 0.2)}
    assert {item.evaluation_id for item in items} == older
    assert all("attack pgd is version 1, today 2" in item.label for item in items)
    removal.remove(db, place(results), items)
    assert {row.evaluation_id for row in queries.evaluations(db) if row.kind == "attack"} == {newer.evaluation_id}
    assert contents(db) == rebuilt(results)


def test_a_deleted_run_leaves_no_trace(results: Path, db: Database) -> None:
    item = removal.deletion_of(db, place(results), RUN.run_id[:8])
    assert (item.kind, item.id, item.evaluations, item.failures, item.weights) == ("run", RUN.run_id, 3, 1, True)
    assert item.label == "ece on digits, seed 0"
    assert item.size == sum(path.stat().st_size for path in item.paths[0].rglob("*") if path.is_file())
    removal.delete(db, place(results), [item])
    assert [path.name for path in (results / "runs").iterdir()] == [spec(seed=1).run_id]
    assert RUN.run_id not in str(contents(db))
    assert contents(db) == rebuilt(results)


def test_a_deleted_evaluation_goes_with_the_failures_of_its_job(results: Path, db: Database) -> None:
    evaluation = attack(RUN, 0.1).evaluation_id
    item = removal.deletion_of(db, place(results), evaluation[:10])
    assert (item.kind, item.failures, len(item.paths), item.weights) == ("evaluation", 1, 2, False)
    assert item.label == "pgd eps 0.1 on ece on digits, seed 0"
    before = tree(results)
    removal.delete(db, place(results), [item])
    assert set(before) - set(tree(results)) == {str(path.relative_to(results)) for path in item.paths}
    assert contents(db) == rebuilt(results)
    assert ingest.sync(db, results / "runs") == ingest.Counts()


def test_runs_that_others_were_made_with_are_named(results: Path, db: Database) -> None:
    user = spec("dverge", requires={"ece": RUN})
    fill(results, user)
    victim = attack(spec(seed=1), 0.3).model_copy(
        update={
            "kind": "blackbox",
            "attack": "blackbox",
            "plugin": "blackbox",
            "settings": {"attacks": {"pgd": {"plugin": "pgd", "settings": {}}}, "restarts": 1,
                         "surrogates": [RUN.run_id]},
        }
    )  # fmt: skip
    write_evaluation(results, victim)
    assert ingest.sync(db, results / "runs").damaged == ()
    needed = removal.deletion_of(db, place(results), RUN.run_id).needed_by
    assert needed == tuple(sorted([user.run_id, spec(seed=1).run_id]))
    assert removal.deletion_of(db, place(results), user.run_id).needed_by == ()


def test_rows_without_files_are_deleted_too(tmp_path: Path, results: Path, db: Database) -> None:
    elsewhere = place(tmp_path / "elsewhere")
    item = removal.deletion_of(db, elsewhere, RUN.run_id)
    assert (item.paths, item.size) == ((), 0)
    removal.delete(db, elsewhere, [item])
    assert [run.seed for run in queries.runs(db)] == [1]


def test_nothing_is_deleted_while_somebody_works(results: Path, db: Database) -> None:
    item = removal.deletion_of(db, place(results), RUN.run_id)
    with Locks(place(results).locks) as locks:
        locks.acquire("f" * 24)
        with pytest.raises(BenchError, match="is at work in"):
            removal.delete(db, place(results), [item])
    assert queries.totals(db).runs == 2
    removal.delete(db, place(results), [item])
    assert queries.totals(db).runs == 1


def test_a_deletion_cut_short_is_finished_by_the_next_command(
    results: Path, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = removal.deletion_of(db, place(results), RUN.run_id)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", cut)
    with pytest.raises(KeyboardInterrupt):
        removal.delete(db, place(results), [item])
    monkeypatch.undo()
    (remains,) = (results / "runs").glob(".deleted-*")
    assert ingest.sync(db, results / "runs") == ingest.Counts()  # nobody takes the remains for a run
    assert journal.catch_up(db, place(results)) == []
    assert not remains.exists()
    assert journal.pending(place(results)) == []
    assert contents(db) == rebuilt(results)


def test_weights_that_are_missing_are_no_reason_to_drop_a_checkpoint(results: Path, db: Database) -> None:
    folder = write_run(results, spec(seed=3))
    (folder / "members.safetensors").rename(folder / "checkpoint.safetensors")
    assert not [item for item in removal.garbage(db, place(results)) if folder in item.paths[0].parents]
