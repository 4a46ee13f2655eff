"""The fault campaign: SIGKILL at random moments, full disks, locked databases, many drivers at once.

Drivers are forked from a process that has imported everything, so that a kill costs a second and not ten. A kill is
aimed at a point (the n-th sync of a file, commit, epoch …) or at a moment; the points are counted in a run that is
left in peace, whose numbers every other must reach bit for bit.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_runs import ROOT, numbers

from bench.cli import main
from bench.cli.options import bring_up
from bench.core import files
from bench.core.config import defaults
from bench.experiment import naming
from bench.jobs import work
from bench.store import ingest, sqlite

RUN = ["run", "-m", "ece", "--set", "training.epochs=6", "--set", "training.limit=256", "--limit", "20"]
RUN += ["--threads", "1"]
Out = pytest.CaptureFixture[str]

FORKER = """
import collections, json, os, pathlib, signal, sys, threading, time
import torch
torch.set_num_threads(1)
import seaborn, sqlalchemy.dialects.sqlite, alembic.command, sklearn.datasets
import bench.cli.run, bench.jobs.work, bench.jobs.driver, bench.report.heatmap, bench.store.ingest
from sqlalchemy import Engine, event
from bench.cli import main
from bench.jobs.executors.task import Stoppable
calls, aim = collections.Counter(), {}
def passed(point):
    calls[point] += 1
    if aim.get("point") == point and calls[point] == aim["number"]:
        os.kill(os.getpid(), signal.SIGKILL)
def watched(owner, name, point, after=False):
    real = getattr(owner, name)
    def wrapper(*given, **named):
        if not after:
            passed(point)
        result = real(*given, **named)
        if after:
            passed(point)
        return result
    setattr(owner, name, wrapper)
watched(os, "fsync", "sync of a file")
watched(pathlib.Path, "replace", "rename of a file", after=True)
watched(os, "link", "lock", after=True)
watched(Stoppable, "epoch", "epoch")
watched(Stoppable, "step", "training step")
watched(Stoppable, "images", "batch of an attack")
event.listen(Engine, "commit", lambda connection: passed("commit"))
event.listen(Engine, "before_cursor_execute", lambda *given: passed("statement"))
for line in sys.stdin:
    order = json.loads(line)
    children = []
    for log in order["logs"]:
        pid = os.fork()
        if pid == 0:
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            aim.update(order["aim"])
            started = time.monotonic()
            if "seconds" in aim:
                threading.Timer(aim["seconds"], os.kill, (os.getpid(), signal.SIGKILL)).start()
            code = main.run(order["arguments"])
            sys.stdout.flush()
            if order["counts"]:
                told = {"calls": calls, "seconds": time.monotonic() - started}
                pathlib.Path(order["counts"]).write_text(json.dumps(told))
            os._exit(code)
        children.append(pid)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]), flush=True)
"""


class Forker:
    """Runs `bench` in forks of a warm process, one or several at once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def run(
        self, folder: Path, *more: str, drivers: int = 1, aim: dict[str, Any] | None = None, counts: Path | None = None
    ) -> tuple[list[int], list[str]]:
        """Exit codes (negative: signals) and outputs of `drivers` simultaneous runs."""
        logs = [folder.parent / f"{folder.name}-{number}.log" for number in range(drivers)]
        for log in logs:
            log.write_text("")
        order = {
            "arguments": [*RUN, "--results", str(folder), *more], "logs": [str(log) for log in logs],
            "aim": aim or {}, "counts": str(counts) if counts else "",
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        codes: list[int] = json.loads(self._process.stdout.readline())
        return codes, [log.read_text() for log in logs]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True)
class Peace:
    """What a run that nobody disturbs comes to."""

    numbers: dict[str, object]
    calls: dict[str, int]
    seconds: float


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    made = Forker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def peace(forker: Forker, tmp_path_factory: pytest.TempPathFactory) -> Peace:
    folder = tmp_path_factory.mktemp("peace")
    codes, outputs = forker.run(folder / "results", counts=folder / "counts")
    assert codes == [0], outputs
    told = json.loads((folder / "counts").read_text())
    return Peace(numbers(folder / "results"), told["calls"], told["seconds"])


def content(database: Path) -> dict[str, list[str]]:
    """Every row of every table."""
    with sqlite3.connect(database) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        names = [name for name in names if not name.startswith("sqlite_")]  # its own statistics
        return {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in names}


def check(folder: Path, expected: dict[str, object]) -> None:
    """Numbers bit-equal to those of an undisturbed run, a database equal to a rebuilt one, nothing left behind."""
    for path in (folder / "runs").rglob(".*.tmp"):  # what a kill within a write may leave; nobody reads it
        path.unlink()
    assert numbers(folder) == expected
    rebuilt = folder.parent / f"{folder.name}-rebuilt.db"
    assert ingest.rebuild(rebuilt, folder / "runs", defaults("published"), naming.configured(), bring_up).damaged == ()
    assert content(folder / "bench.db") == content(rebuilt)
    assert list((folder / "locks").glob("*.lock")) == []
    assert list((folder / "locks").glob("*.heir")) == []


def campaign(forker: Forker, peace: Peace, folder: Path, *, kills: int, seed: int) -> Counter[str]:
    """Kill drivers until `kills` have died, repeating the command each time; how many died where."""
    chance = random.Random(seed)
    died: Counter[str] = Counter()
    number = 0
    while died.total() < kills:
        number += 1
        results = folder / f"{number}"
        for _ in range(200):
            point = chance.choice(["a moment", *peace.calls])
            if point == "a moment":
                aim: dict[str, Any] = {"seconds": chance.uniform(0, peace.seconds)}
            else:
                aim = {"point": point, "number": chance.randint(1, peace.calls[point])}
            codes, outputs = forker.run(results, aim=aim if died.total() < kills else None)
            if codes == [0]:
                break
            assert codes == [-signal.SIGKILL], (aim, outputs)
            died[point] += 1
        assert codes == [0]
        check(results, peace.numbers)
        assert "Nothing to do" in forker.run(results)[1][0]
    print(f"\n{died.total()} kills in {number} folders: {dict(sorted(died.items()))}")
    return died


def test_killed_drivers_end_in_the_same_numbers(forker: Forker, peace: Peace, tmp_path: Path) -> None:
    assert campaign(forker, peace, tmp_path, kills=16, seed=6).total() == 16


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_drivers_end_in_the_same_numbers_200_times(forker: Forker, peace: Peace, tmp_path: Path) -> None:
    died = campaign(forker, peace, tmp_path, kills=200, seed=2024)
    assert died.total() == 200
    assert died.keys() == {"a moment", *peace.calls}


def killed_workers(peace: Peace, folder: Path, *, kills: int, seed: int) -> int:
    """Kill workers, and at times the driver, of `--executor local` at random moments; how many died."""
    chance = random.Random(seed)
    command = [sys.executable, "-m", "bench.cli.main", *RUN, "--results", str(folder), "--workers", "2"]
    died = 0
    while died < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and died < kills:
            time.sleep(chance.uniform(0.5, 4.0))
            try:
                workers = [pid for pid in children.read_text().split() if _is_worker(pid)]
                victim = process.pid if chance.random() < 0.3 else int(chance.choice(workers))
                os.kill(victim, signal.SIGKILL)
                died += 1
            except (OSError, IndexError):  # it has none at the moment, or has ended
                continue
        if process.poll() is None and died >= kills:
            process.wait(300)
        elif process.poll() == 0:
            check(folder, peace.numbers)
            subprocess.run(["rm", "-rf", str(folder)], check=True)
        process.wait(300)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    check(folder, peace.numbers)
    return died


def _is_worker(pid: str) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_killed_workers_end_in_the_same_numbers(peace: Peace, tmp_path: Path) -> None:
    assert killed_workers(peace, tmp_path / "results", kills=3, seed=3) == 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_workers_end_in_the_same_numbers_40_times(peace: Peace, tmp_path: Path) -> None:
    died = killed_workers(peace, tmp_path / "results", kills=40, seed=40)
    print(f"\n{died} kills of workers and drivers")
    assert died == 40


def many_drivers(forker: Forker, folder: Path, *, drivers: int, seeds: int) -> int:
    """Several drivers on one folder; how many jobs they did, each of them exactly once."""
    codes, outputs = forker.run(folder, "--seeds", f"0-{seeds - 1}", drivers=drivers)
    assert codes == [0] * drivers, outputs
    lines = [line for output in outputs for line in output.splitlines() if line.startswith("✓")]
    done = sum("another driver" not in line for line in lines)
    assert done == 11 * seeds
    with sqlite3.connect(folder / "bench.db") as connection:
        ((runs, evaluations, jobs),) = connection.execute(
            "SELECT (SELECT count(*) FROM run), (SELECT count(*) FROM evaluation), (SELECT count(*) FROM job)"
        )
    assert (runs, evaluations, jobs) == (seeds, 10 * seeds, 11 * seeds)
    rebuilt = folder.parent / f"{folder.name}-rebuilt.db"
    ingest.rebuild(rebuilt, folder / "runs", defaults("published"), naming.configured(), bring_up)
    assert content(folder / "bench.db") == content(rebuilt)
    return done


def test_four_drivers_lose_and_double_nothing(forker: Forker, tmp_path: Path) -> None:
    assert many_drivers(forker, tmp_path / "results", drivers=4, seeds=2) == 22


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sixteen_drivers_for_a_minute_lose_and_double_nothing(forker: Forker, tmp_path: Path) -> None:
    started, jobs, rounds = time.monotonic(), 0, 0
    while time.monotonic() - started < 60:
        jobs += many_drivers(forker, tmp_path / f"{rounds}", drivers=16, seeds=4)
        rounds += 1
    print(f"\n{jobs} jobs by 16 drivers in {time.monotonic() - started:.0f} s, {rounds} rounds")


def one_line(out: Out, *parts: str) -> str:
    """The error that a command ended with."""
    told = out.readouterr()
    errors = [line for line in told.err.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1, told.err
    assert "Traceback" not in told.err + told.out
    for part in parts:
        assert part in errors[0], errors[0]
    return errors[0]


def command(folder: Path, *more: str) -> list[str]:
    return [*RUN, "--results", str(folder), *more]


@pytest.mark.parametrize("room", [2, 12, 40], ids=lambda room: f"after {room} files")
def test_a_full_disk_is_one_line_and_nothing_is_lost(
    room: int, peace: Peace, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    folder = tmp_path / "results"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        assert main.run(command(folder)) in (1, 2)
    assert "No space left on device" in (text := capsys.readouterr()).out + text.err
    assert "Traceback" not in text.out + text.err
    assert main.run(command(folder)) == 0
    made = numbers(folder)
    assert made == peace.numbers


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_small_disk_that_fills_up_is_one_line_and_nothing_is_lost(peace: Peace, tmp_path: Path, capsys: Out) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)], check=True)
    try:
        assert main.run(command(disk / "results")) in (1, 2)
        text = capsys.readouterr()
        assert "No space left on device" in text.out + text.err or "disk is full" in text.out + text.err
        assert "Traceback" not in text.out + text.err
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert main.run(command(disk / "results")) == 0
        assert numbers(disk / "results") == peace.numbers
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "file").write_text("")
    assert main.run(command(tmp_path / "file" / "results")) == 2
    one_line(capsys, str(tmp_path / "file"))
    assert main.run(command(Path("/proc/bench-results"))) == 2
    one_line(capsys, "/proc/bench-results")


def test_locks_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_text

    def read_only(path: Path, *given: Any, **named: Any) -> int:
        if "locks" in path.parts:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, *given, **named)

    monkeypatch.setattr(Path, "write_text", read_only)
    assert main.run(command(tmp_path / "results")) == 2
    one_line(capsys, "cannot lock a job", "Read-only file system")


def test_a_locked_database_is_one_line_and_nothing_is_done_twice(
    peace: Peace, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    assert main.run(command(folder, "--attack", "fgsm", "--eps", "0.1")) == 0
    (training,) = folder.glob("runs/*/run.json")
    before = training.read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "BUSY_SECONDS", 0.2)
        real = work.evaluate

        def evaluate_while_locked(*given: Any) -> Any:
            holder.execute("BEGIN IMMEDIATE")
            return real(*given)

        patch.setattr(work, "evaluate", evaluate_while_locked)
        holder = sqlite3.connect(folder / "bench.db", isolation_level=None)
        assert main.run(command(folder)) == 2
        holder.close()
    one_line(capsys, "another process holds the write lock")
    measured = {path: path.read_bytes() for path in folder.glob("runs/*/evaluations/*.json")}
    assert len(measured) == 3  # the one that could not be taken in is there
    assert main.run(command(folder)) == 0
    assert {path: path.read_bytes() for path in measured} == measured
    assert training.read_bytes() == before
    assert numbers(folder) == peace.numbers


def test_truncated_files_are_named_and_made_again(peace: Peace, tmp_path: Path, capsys: Out) -> None:
    folder = tmp_path / "results"
    assert main.run(command(folder)) == 0
    first, second, *_ = sorted(folder.glob("runs/*/evaluations/*.json"))
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:100])
    for path in folder.glob("bench.db*"):
        path.unlink()
    capsys.readouterr()
    assert main.run(command(folder)) == 0
    told = capsys.readouterr()
    assert told.err.count("left out: ") == 2
    assert f"{first} is refused: not JSON" in told.err
    assert "2 of 11 jobs to do" in told.out
    check(folder, peace.numbers)


def test_a_clock_moved_back_hides_no_result(
    peace: Peace, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    with monkeypatch.context() as patch:
        patch.setattr(work, "now", lambda: "2099-01-01T00:00:00Z")
        patch.setattr(work, "evaluate", lambda *given: 1 / 0)
        assert main.run(command(folder)) == 1
    assert main.run(command(folder)) == 0
    capsys.readouterr()
    assert main.run(command(folder)) == 0
    assert "Nothing to do" in capsys.readouterr().out
    check(folder, peace.numbers)


def test_a_heartbeat_thread_outlives_no_driver(tmp_path: Path) -> None:
    assert main.run(command(tmp_path / "results", "--attack", "fgsm", "--eps", "0.1")) == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat of locks"]
