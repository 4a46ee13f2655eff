"""`bench db …` as a person types it: one line for every mistake, questions before anything goes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from exchanged import attack, fill, spec, tree, write_evaluation, write_run
from in_process import bench, command

from bench.store import schema, sqlite
from bench.store.database import Database

RUN = spec()
TODAY = schema.REVISIONS[-1]


def refused(words: str, *arguments: object, code: int = 2, typed: str = "") -> str:
    """The command ends with one red line that holds `words`."""
    got, _, err = command(*arguments, typed=typed)
    assert got == code, err
    assert re.search(words, err), err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("Error: ")
    return err


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    fill(folder, RUN)
    fill(folder, spec("trs", seed=1), weights=1)
    bench("db", "rebuild", "--results", folder)
    return folder


def test_every_subcommand_has_help_with_an_example() -> None:
    from bench.cli.db import command as group

    assert set(group.commands) == {"rebuild", "export", "import", "verify", "merge", "upgrade", "gc", "delete"}
    for name in group.commands:
        out = bench("db", name, "--help")
        assert bench("db", name, "-h") == out
        assert f"bench db {name}" in out.partition("Example")[2]


def test_runs_travel_in_an_archive(results: Path, tmp_path: Path) -> None:
    archive, there = tmp_path / "runs.zip", tmp_path / "there"
    code, out, _ = command("db", "export", "-o", archive, "--results", results)
    assert (code, out.split(": ")[1][:17]) == (0, "2 runs, 14 files,")
    code, out, err = command("db", "import", archive, "--results", there)
    assert (code, err) == (0, "")
    assert "2 runs, 6 evaluations, 2 failures, 2 files of weights new; 0 files were here already" in out
    assert tree(there) == tree(results)
    assert "0 runs, 0 evaluations" in command("db", "import", archive, "--results", there)[1]
    runs = [json.loads(bench("list", "runs", "--json", "--results", folder)) for folder in (results, there)]
    assert runs[0] == runs[1]
    # Published values stand beside imported results as beside one's own.
    with Database(there / "bench.db").open() as db, db.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM reference").scalar() == 876


def test_selectors_and_ids_choose_what_is_exported(results: Path, tmp_path: Path) -> None:
    archive = tmp_path / "runs.zip"
    common = ["db", "export", "-o", archive, "--results", results]
    assert "1 run, 7 files" in command(*common, "-m", "trs", "--seeds", "0-3")[1]
    assert "1 run, 6 files" in command(*common, RUN.run_id[:7], "--no-weights")[1]
    refused("no run fits", *common, "-d", "mnist")
    refused("not both", *common, "-m", "trs", RUN.run_id[:7])
    refused("no run begins with", *common, "abcdef")
    refused("there is no database", "db", "export", "-o", archive, "--results", tmp_path / "none")
    refused("No such file|is no folder|cannot", "db", "export", "-o", "/proc/none/x.zip", "--results", results)


def test_a_hostile_archive_is_one_line_and_makes_nothing(results: Path, tmp_path: Path) -> None:
    archive, there = tmp_path / "runs.zip", tmp_path / "there"
    command("db", "export", "-o", archive, "--results", results)
    archive.write_bytes(archive.read_bytes()[:-100])
    refused("or is damaged", "db", "import", archive, "--results", there)
    refused("No such file", "db", "import", tmp_path / "none.zip", "--results", there)
    assert not there.exists()
    command("db", "export", "-o", archive, "--results", results)
    refused("--max-total raises it", "db", "import", archive, "--results", there, "--max-total", 1e-6)
    refused("--max-file raises it", "db", "import", archive, "--results", there, "--max-file", 1e-8)
    assert not there.exists()


def test_members_from_a_strangers_function_are_pointed_out(tmp_path: Path) -> None:
    run = RUN.model_copy(update={"model_plugin": "factory", "model_settings": {"function": "os:getcwd"}})
    run = type(run).model_validate(run.model_dump())
    write_run(tmp_path / "a", run)
    command("db", "rebuild", "--results", tmp_path / "a")
    command("db", "export", "-o", tmp_path / "x.zip", "--results", tmp_path / "a")
    code, _, err = command("db", "import", tmp_path / "x.zip", "--results", tmp_path / "b")
    assert code == 0
    assert "makes its members with os:getcwd" in err


def test_rows_are_merged(results: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.db"
    code, out, _ = command("db", "merge", results / "bench.db", "--db", target)
    assert (code, out) == (0, f"{target}: 2 runs, 6 evaluations, 10 attempts new\n")
    assert "0 runs, 0 evaluations, 0 attempts" in command("db", "merge", results, "--db", target)[1]
    refused("is the database itself", "db", "merge", target, "--db", target)
    command("db", "export", "-o", tmp_path / "x.zip", "--results", results)
    refused("bench db import", "db", "merge", tmp_path / "x.zip", "--db", target)
    (tmp_path / "note.txt").write_text("not a database, but long enough to look like one" * 30)
    refused("not a SQLite database", "db", "merge", tmp_path / "note.txt", "--db", target)


@pytest.fixture
def older(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of the present schema under a bench that knows a next one, 9000."""
    import bench.store.migrations

    folder = tmp_path / "migrations"
    shutil.copytree(Path(bench.store.migrations.__file__).parent, folder)
    (folder / "versions" / "v9000_test.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = '9000'\n"
        f"down_revision = '{TODAY}'\n"
        "def upgrade():\n    op.add_column('run', sa.Column('colour', sa.Text(), server_default='blue'))\n"
    )
    monkeypatch.setattr("bench.store.database.MIGRATIONS", str(folder))
    for module in ("bench.store.database", "bench.store.schema"):
        monkeypatch.setattr(f"{module}.REVISIONS", (*schema.REVISIONS, "9000"))
    return results


def test_an_older_database_asks_for_an_upgrade_which_keeps_a_copy(older: Path) -> None:
    refused("`bench db upgrade` brings it to 9000", "list", "runs", "--results", older)
    refused("db upgrade", "db", "gc", "--results", older)
    out = bench("db", "upgrade", "--results", older)
    (backup,) = older.glob(f"bench-{TODAY}-*.backup.db")
    assert out.splitlines() == [f"backup    {backup}", f"{older / 'bench.db'}: schema 9000 now, it was {TODAY}"]
    for path, revision in ((backup, TODAY), (older / "bench.db", "9000")):
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(revision,)]
            assert connection.execute("SELECT count(*) FROM evaluation").fetchone() == (6,)
            assert connection.execute("SELECT count(*) FROM table1").fetchone() == (4,)
    with sqlite3.connect(older / "bench.db") as connection:
        assert connection.execute("SELECT DISTINCT colour FROM run").fetchall() == [("blue",)]
    bench("list", "runs", "--results", older)
    assert "nothing to do" in command("db", "upgrade", "--results", older)[1]
    assert list(older.glob("*.backup.db")) == [backup]


def forget_views(path: Path) -> None:
    """Leave a database as benches did that kept no digest of its SQL views."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key = 'views'")


def test_an_upgrade_says_that_it_made_views_anew(results: Path) -> None:
    forget_views(results / "bench.db")
    for told in (f"schema {TODAY} already, its SQL views made anew", f"schema {TODAY} already, nothing to do"):
        assert told in command("db", "upgrade", "--results", results)[1]
    assert not list(results.glob("*.backup.db"))


def test_an_upgrade_that_cannot_copy_changes_nothing(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.store.sqlite.atomic", full)
    refused(r"cannot write the backup .*nothing was changed", "db", "upgrade", "--results", older)
    with sqlite3.connect(older / "bench.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(TODAY,)]
    refused("there is no database", "db", "upgrade", "--results", older / "none")


def test_gc_lists_asks_and_removes(results: Path) -> None:
    damaged = results / "runs" / RUN.run_id / "members.damaged"
    damaged.write_text("x" * 2048)
    before = tree(results)
    out = bench("db", "gc", "--dry-run", "--results", results)
    assert "2.0 KiB  damaged file that was moved aside  runs/" in out
    assert out.count("failure that a later attempt made good") == 2
    assert "3 things" in out
    refused("nothing was removed; answer y, or give --yes", "db", "gc", "--results", results, typed="n\n")
    refused("nothing was removed", "db", "gc", "--results", results)  # nobody there to answer
    assert tree(results) == before
    code, out, _ = command("db", "gc", "--results", results, typed="y\n")
    assert (code, "removed 3 things" in out) == (0, True)
    assert not damaged.exists()
    assert command("db", "gc", "--yes", "--results", results)[1] == "nothing to remove\n"
    bench("status", "--results", results)


def test_a_run_is_deleted_after_a_yes(results: Path) -> None:
    before = tree(results)
    out = bench("db", "delete", RUN.run_id[:8], "--dry-run", "--results", results)
    line = f"run {RUN.run_id[:12]} (ece on digits, seed 0): 3 evaluations, 1 failure, "
    assert out.startswith(line)
    assert "weights included\nnothing was deleted" in out
    refused("nothing was deleted", "db", "delete", RUN.run_id[:8], "--results", results, typed="\n")
    refused("no run or evaluation begins", "db", "delete", "abcdef", "--results", results)
    assert tree(results) == before
    evaluation = attack(spec("trs", seed=1), 0.2).evaluation_id
    code, out, _ = command("db", "delete", RUN.run_id[:8], evaluation[:8], "--results", results, typed="y\n")
    assert (code, out.count("\n")) == (0, 3)
    assert [row["evaluations"] for row in json.loads(bench("list", "runs", "--json", "--results", results))] == [2]
    assert not (results / "runs" / RUN.run_id).exists()


def test_an_evaluation_that_is_deleted_is_named_with_its_precision(results: Path) -> None:
    coarse = attack(RUN, 0.1).model_copy(update={"precision": "bfloat16"})
    write_evaluation(results, type(coarse).model_validate(coarse.model_dump()))
    bench("db", "rebuild", "--results", results)
    labels = [
        command("db", "delete", one.evaluation_id[:12], "--dry-run", "--results", results)[1].partition(" on ")[0]
        for one in (attack(RUN, 0.1), type(coarse).model_validate(coarse.model_dump()))
    ]
    assert [label.rpartition("(")[2] for label in labels] == ["pgd eps 0.1", "pgd eps 0.1, bfloat16"]


def test_a_run_that_another_needs_is_kept_unless_forced(results: Path) -> None:
    user = spec("dverge", requires={"ece": RUN})
    write_run(results, user)
    delete = ["db", "delete", RUN.run_id[:8], "--results", results, "--yes"]
    refused(f"was used to make {user.run_id[:12]}; delete those too, or give --force", *delete)
    bench(*delete, "--force", "--dry-run")
    bench(*delete, user.run_id)
    assert len(json.loads(bench("list", "runs", "--json", "--results", results))) == 1


def test_a_database_locked_for_too_long_is_one_line(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "x.zip"
    command("db", "export", "-o", archive, "--results", results)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
    other = sqlite3.connect(results / "bench.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for arguments in (
        ("import", archive), ("merge", tmp_path / "other"), ("gc", "--yes"), ("delete", RUN.run_id, "--yes"),
    ):  # fmt: skip
        fill(tmp_path / "other", spec(seed=4))
        (results / "runs" / RUN.run_id / "members.damaged").touch()
        refused("another process holds the write lock", "db", *arguments, "--results", results)
    assert command("list", "runs", "--results", results)[0] == 0  # readers do not wait
    other.close()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_read_only_folder_is_one_line(results: Path, tmp_path: Path, own_parents: list[Path]) -> None:
    archive = tmp_path / "x.zip"
    command("db", "export", "-o", archive, "--results", results)
    forget_views(results / "bench.db")  # so that there is something to upgrade
    shutil.copytree(results, tmp_path / "other")
    code = f"""
import contextlib, io, os, sys
from bench.cli import main
def everything(results):
    for arguments in (["import", {str(archive)!r}], ["gc", "--yes"], ["merge", {str(tmp_path / "other")!r}],
                      ["upgrade"], ["rebuild"], ["delete", {RUN.run_id!r}, "--yes"]):
        print(main.run(["db", *arguments, "--results", results]), file=sys.stderr)
    print(main.run(["list", "runs", "--json", "--results", results]), file=sys.stderr)
with contextlib.redirect_stderr(io.StringIO()):  # what is imported late is imported before privileges are dropped
    everything({str(tmp_path / "other")!r})
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
everything({str(results)!r})
"""
    paths = [results, *results.rglob("*"), archive, *own_parents, tmp_path]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd="/")
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 13, done.stderr
    for line, exit_code in zip(lines[:12:2], lines[1:12:2], strict=True):
        assert line.startswith("Error: "), line
        assert exit_code == "2", done.stderr
    assert all("read-only" in line or "ermission" in line for line in lines[:12:2]), done.stderr
    assert lines[12] == "0"
