"""Merging databases: equal to a rebuild of both folders' files, whatever the order."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from exchanged import attack, brought_up, fill, spec, write_evaluation, write_failure, write_run

from bench.core.errors import BenchError
from bench.exchange import merging
from bench.exchange.merging import merge_from
from bench.store import ingest, queries
from bench.store.database import Database
from bench.store.schema import Base

PUBLISHED = Path(__file__).parents[2] / "results" / "published"


def built(results: Path) -> Path:
    ingest.rebuild(results / "bench.db", results / "runs", PUBLISHED)
    return results / "bench.db"


def contents(where: Path | str) -> dict[str, list[str]]:
    """Every row of every table but where it comes from, which is another thing for those who were merged in."""
    with Database(where).open() as db, brought_up(db).read() as connection:
        return {
            table.name: sorted(
                repr({name: value for name, value in row.items() if name != "provenance"})
                for row in connection.execute(table.select()).mappings()
            )
            for table in Base.metadata.sorted_tables
        }


def merged(ours: Path | str, theirs: Path | str) -> merging.Merged:
    with Database(ours).open(create=True) as one, Database(theirs).open() as other:
        return merging.merge(one, other)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two results folders: each has a run of its own, both have one with different evaluations of the same weights."""
    left, right = tmp_path / "left", tmp_path / "right"
    fill(left, spec(seed=0))
    fill(right, spec(seed=1), weights=1)
    for results in (left, right):
        write_run(results, spec(seed=2), weights=2)
        write_evaluation(results, attack(spec(seed=2), 0.1), draw=1)
    write_evaluation(left, attack(spec(seed=2), 0.2), draw=2)
    write_evaluation(right, attack(spec(seed=2), 0.3), draw=3)
    write_failure(left, spec(seed=2), attack(spec(seed=2), 0.3).evaluation_id)  # done on the right
    write_failure(right, spec(seed=5), spec(seed=5).run_id)  # a training that never ended well
    return left, right


def union(left: Path, right: Path) -> Path:
    """A folder with the files of both, the left's where both have one."""
    both = left.parent / "both"
    shutil.copytree(right, both)
    shutil.copytree(left, both, dirs_exist_ok=True)
    return both


def test_a_merge_equals_a_rebuild_of_both_folders(folders: tuple[Path, Path]) -> None:
    left, right = folders
    expected = contents(built(union(left, right)))
    told = merged(built(left), built(right))
    assert (told.runs, told.evaluations, told.left_out) == (1, 4, ())
    assert contents(left / "bench.db") == expected
    again = merged(left / "bench.db", right / "bench.db")
    assert (again.runs, again.evaluations, again.attempts) == (0, 0, 0)
    assert contents(left / "bench.db") == expected


def test_what_was_merged_in_is_not_measured_here(folders: tuple[Path, Path]) -> None:
    left, right = folders
    with Database(built(left)).open() as db:
        mine = {row.evaluation_id for row in queries.evaluations(db)}
    merged(left / "bench.db", built(right))
    with Database(left / "bench.db").open() as db:
        assert {run.seed: run.provenance for run in queries.runs(db)} == {0: "measured", 1: "imported", 2: "measured"}
        for row in queries.evaluations(db):
            assert row.provenance == ("measured" if row.evaluation_id in mine else "imported")


def test_a_merge_into_an_empty_database_is_a_copy(folders: tuple[Path, Path], tmp_path: Path) -> None:
    left, _ = folders
    merged(tmp_path / "new.db", built(left))
    assert contents(tmp_path / "new.db") == contents(left / "bench.db")


def test_a_folder_is_merged_by_its_files(folders: tuple[Path, Path]) -> None:
    left, right = folders
    expected = contents(built(union(left, right)))
    (right / "runs" / spec(seed=1).run_id / "evaluations" / f"{'0' * 24}.json").write_text("{")
    with Database(built(left)).open() as db:
        told, damaged = merge_from(db, str(right))
    assert told.evaluations == 4
    assert [str(right) in line for line in damaged] == [True]
    assert contents(left / "bench.db") == expected


def test_a_result_beats_a_failure_from_either_side(folders: tuple[Path, Path]) -> None:
    left, right = folders
    job = attack(spec(seed=2), 0.3).evaluation_id
    built(left), built(right)
    with Database(left / "bench.db").open() as db:
        assert job in {row.job_id for row in queries.failures(db)}
    shutil.copyfile(right / "bench.db", right / "other.db")
    merged(right / "other.db", left / "bench.db")
    merged(left / "bench.db", right / "bench.db")
    for path in (left / "bench.db", right / "other.db"):
        with Database(path).open() as db:
            assert [row.job_id for row in queries.failures(db)] == [spec(seed=5).run_id]
            assert len(queries.evaluations(db, evaluation_ids=job)) == 1


def test_evaluations_of_other_weights_are_not_mixed(folders: tuple[Path, Path]) -> None:
    left, right = folders
    write_run(right, spec(seed=2), weights=9)
    for budget in (0.1, 0.3):
        write_evaluation(right, attack(spec(seed=2), budget), draw=3)
    before = contents(built(left))
    told = merged(left / "bench.db", built(right))
    assert len(told.left_out) == 1
    assert spec(seed=2).run_id[:12] in told.left_out[0]
    assert (told.runs, told.evaluations) == (1, 3)
    after = contents(left / "bench.db")
    for table in ("run", "evaluation", "outcome"):
        assert set(before[table]) <= set(after[table])
        assert not [row for row in set(after[table]) - set(before[table]) if spec(seed=2).run_id in row]


def test_a_merge_that_fails_changes_nothing(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = folders
    before = contents(built(left))
    monkeypatch.setattr(merging, "_published", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        merged(left / "bench.db", built(right))
    assert contents(left / "bench.db") == before


def test_what_cannot_be_merged_is_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    left, _ = folders
    with Database(built(left)).open() as db:
        for other, words in (
            (str(left / "bench.db"), "is the database itself"),
            (str(tmp_path / "none.db"), "there is no database"),
            ("mysql://somewhere/x", "is not a database"),
            (str(tmp_path / "empty"), "there is no database"),
        ):
            with pytest.raises(BenchError, match=words):
                merge_from(db, other)
        with Database(left / "bench.db").open() as changed, changed.write() as connection:
            connection.exec_driver_sql("UPDATE attack SET setting_id = 'other'")
        fill(tmp_path / "third", spec(seed=7))
        with pytest.raises(BenchError, match="stands for another attack"):
            merge_from(db, str(built(tmp_path / "third")))


def test_sqlite_is_merged_into_postgresql_and_back(folders: tuple[Path, Path], url: str, tmp_path: Path) -> None:
    left, right = folders
    expected = contents(built(union(left, right)))
    merged(url, built(left))
    merged(url, built(right))
    assert contents(url) == expected
    merged(tmp_path / "back.db", url)
    assert contents(tmp_path / "back.db") == expected


def test_more_rows_than_one_query_takes_are_merged(folders: Any, tmp_path: Path, monkeypatch: Any) -> None:
    left, right = folders
    monkeypatch.setattr(merging, "CHUNK", 2)
    expected = contents(built(union(left, right)))
    merged(built(left), built(right))
    assert contents(left / "bench.db") == expected
