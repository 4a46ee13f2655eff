"""Reading commands beside one who writes, and over a database whose pages were swapped or overwritten."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import TINY, bench
from sqlalchemy import Engine, event

from bench.cli import main, options

BOTH = ["-m", "ece", "-m", "cos_only", *TINY]
PAGE = 4096
Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, trained for a moment, with everything that the core suite measures."""
    folder = tmp_path_factory.mktemp("made") / "results"
    bench("run", *BOTH, "--results", folder, "--threads", "1", "-q")
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "results"))


def reading(folder: Path) -> dict[str, list[str]]:
    """The commands that read several things, by name; they write beside the results only."""
    run_id = sorted(path.name for path in (folder / "runs").iterdir())[0]
    told = {
        "report": ["report", "-o", str(folder.parent / "site")],
        "table": ["table", *BOTH],
        "audit": ["audit"],
        "compare": ["compare", "ece", "cos_only", *TINY],
        "show": ["show", run_id],
        "list": ["list", "runs"],
        "status": ["status", *BOTH],
        "heatmap": ["heatmap", *BOTH, "-o", str(folder.parent / "heatmap.png")],
        "export": ["db", "export", "-o", str(folder.parent / "runs.zip"), "-m", "ece"],
    }
    return {name: [*command, "--results", str(folder)] for name, command in told.items()}


def pages(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder.parent / "site").rglob("*.html")}


@pytest.mark.parametrize("name", ["report", "table", "audit", "compare", "show", "list", "status"])
def test_what_is_written_while_a_command_reads_is_not_seen(
    name: str, results: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its first query all results are deleted: what it shows is what was there when it began."""
    command = reading(results)[name]
    code = main.run(command)
    expected, site = capsys.readouterr(), pages(results)
    shutil.rmtree(tmp_path / "site", ignore_errors=True)
    monkeypatch.setattr(options, "_outside", list)  # what choosing reads, in a connection of its own
    disturbed: list[str] = []

    def disturb(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if not disturbed and ("FROM run" in statement or "FROM evaluation" in statement or "FROM meta" in statement):
            disturbed.append(statement)
            with contextlib.closing(sqlite3.connect(results / "bench.db", timeout=5)) as other, other:
                for table in ("transfer", "outcome", "clean_row", "evaluation", "job", "curve", "member", "run"):
                    other.execute(f"DELETE FROM {table}")

    event.listen(Engine, "after_cursor_execute", disturb)
    try:
        assert main.run(command) == code
    finally:
        event.remove(Engine, "after_cursor_execute", disturb)
    assert disturbed
    assert capsys.readouterr() == expected
    assert pages(results) == site


def damage(path: Path, chance: random.Random) -> str:
    """Swap two pages of a database, or overwrite a piece of one; says what was done."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    first, second = chance.sample(range(len(data) // PAGE), 2)
    kind = chance.choice(("swap", "random", "zero", "text", "short"))
    if kind == "swap":
        a, b = slice(first * PAGE, (first + 1) * PAGE), slice(second * PAGE, (second + 1) * PAGE)
        data[a], data[b] = data[b], data[a]
    elif kind == "short":
        data = data[: first * PAGE + chance.randrange(PAGE)]
    else:
        start, length = first * PAGE + chance.randrange(PAGE), chance.choice((1, 16, 300, PAGE))
        fill = {"random": chance.randbytes(length), "zero": bytes(length), "text": b"\xff{x" * length}[kind][:length]
        data[start : start + length] = fill
    path.write_bytes(data)
    return f"{kind} at page {first} ({second})"


def fuzz(results: Path, capsys: Out, *, rounds: int, seed: int, each: Callable[[random.Random], list[str]]) -> int:
    """Damage, then read: every command ends by itself, with one line at most; how many said that it is damaged."""
    chance = random.Random(seed)
    sound = (results / "bench.db").read_bytes()
    refused = 0
    for number in range(rounds):
        for rest in results.glob("bench.db-*"):
            rest.unlink()
        (results / "bench.db").write_bytes(sound)
        done = damage(results / "bench.db", chance)
        for name in each(chance):
            code = main.run(reading(results)[name])  # an exception would end the test
            told = capsys.readouterr()
            where = f"round {number}, {done}, {name}: {told.err}"
            assert code in (0, 1, 2), where
            errors = [line for line in told.err.splitlines() if line.startswith("Error:")]
            assert len(errors) <= 1, where
            assert "Traceback" not in told.err + told.out, where
            refused += bool(errors) and "bench db rebuild" in errors[0]
    # It is never more than an index: a rebuild makes it as it was, out of any damage.
    bench("db", "rebuild", "--results", results)
    bench(*reading(results)["table"])
    capsys.readouterr()
    return refused


def test_a_damaged_database_is_one_line(results: Path, capsys: Out) -> None:
    names = [name for name in reading(results) if name not in ("heatmap", "export", "report")]
    told = fuzz(results, capsys, rounds=40, seed=15, each=lambda chance: chance.sample(names, 2))
    assert told > 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_damaged_database_is_one_line_420_times(results: Path, capsys: Out) -> None:
    names = list(reading(results))
    told = fuzz(results, capsys, rounds=420, seed=420, each=lambda chance: chance.sample(names, 3))
    print(f"\n{told} of 1,260 commands named the damage")
    assert told > 300


@pytest.mark.parametrize("there", ["header", "nothing like it", "empty"])
def test_a_rebuild_replaces_what_is_no_database_and_keeps_link_and_mode(there: str, results: Path) -> None:
    real = results.parent / "elsewhere.db"
    (results / "bench.db").rename(real)
    real.chmod(0o640)
    (results / "bench.db").symlink_to("../elsewhere.db")
    data = real.read_bytes()
    real.write_bytes({"header": bytes(100) + data[100:], "nothing like it": b"text" * 999, "empty": b""}[there])
    bench("db", "rebuild", "--results", results)
    assert (results / "bench.db").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    bench("list", "runs", "--results", results)


def test_a_rebuild_is_seen_by_who_has_the_database_open(results: Path) -> None:
    inode = (results / "bench.db").stat().st_ino
    reader = sqlite3.connect(results / "bench.db")
    count = "SELECT count(*) FROM evaluation"
    (before,) = reader.execute(count).fetchone()
    next(iter(sorted(results.glob("runs/*/evaluations/*.json")))).unlink()
    bench("db", "rebuild", "--results", results)
    assert reader.execute(count).fetchone() == (before - 1,)
    assert (results / "bench.db").stat().st_ino == inode
    reader.close()
