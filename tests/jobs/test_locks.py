"""Locks: one owner at a time, takeover from the dead only, handing over to a worker."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.jobs import locks
from bench.jobs.locks import Lock, Locks, Owner

HOLD = """
import sys, time
from pathlib import Path
from bench.jobs.locks import Locks
with Locks(Path(sys.argv[1])) as held:
    print(type(held.acquire("job")).__name__, flush=True)
    time.sleep(60)
"""

RACE = """
import sys, time
from pathlib import Path
from bench.jobs.locks import Lock, Locks
folder, counter, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
with Locks(folder) as held:
    for _ in range(rounds):
        while not isinstance(held.acquire("job"), Lock):
            time.sleep(0.001)
        before = int(counter.read_text())
        time.sleep(0.0005)
        counter.write_text(str(before + 1))
        held.release("job")
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "Lock\n"
    return process


def elsewhere(folder: Path, **changes: object) -> None:
    """Make the lock look as if it were held on another machine."""
    path = folder / "job.lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "another", "host": "far"} | changes))


def test_a_lock_has_one_owner_until_it_is_released(tmp_path: Path) -> None:
    with Locks(tmp_path) as first, Locks(tmp_path) as second:
        assert isinstance(first.acquire("job"), Lock)
        told = second.acquire("job")
        assert isinstance(told, Owner)
        assert told.pid == os.getpid()
        assert str(os.getpid()) in str(told)
        assert isinstance(second.acquire("another job"), Lock)
        first.release("job")
        assert isinstance(second.acquire("job"), Lock)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_owner_is_succeeded_at_once_and_a_living_one_is_not(tmp_path: Path) -> None:
    process = holder(tmp_path)
    with Locks(tmp_path) as ours:
        assert isinstance(ours.acquire("job"), Owner)
        os.kill(process.pid, signal.SIGSTOP)  # asleep, with no heartbeat, yet alive
        assert isinstance(ours.acquire("job"), Owner)
        os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while isinstance(ours.acquire("job"), Owner):  # not yet waited for, it is a zombie: dead all the same
            assert time.monotonic() < deadline
        with Locks(tmp_path) as others:
            assert isinstance(others.acquire("job"), Owner)
        process.wait()
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    with Locks(tmp_path) as first, Locks(tmp_path) as second:
        first.acquire("job")
        path = tmp_path / "job.lock"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "1"}))
        assert isinstance(second.acquire("job"), Lock)


def test_on_another_machine_the_heartbeat_decides(tmp_path: Path) -> None:
    with Locks(tmp_path) as first, Locks(tmp_path, stale=60) as second:
        first.acquire("job")
        elsewhere(tmp_path)
        assert isinstance(second.acquire("job"), Owner)
        old = time.time() - 61
        os.utime(tmp_path / "job.lock", (old, old))
        assert isinstance(second.acquire("job"), Lock)


def test_a_clock_moved_back_does_not_keep_a_dead_owner_alive(tmp_path: Path) -> None:
    with Locks(tmp_path) as first, Locks(tmp_path, stale=0.3) as second:
        first.acquire("job")
        elsewhere(tmp_path)
        future = time.time() + 86400
        os.utime(tmp_path / "job.lock", (future, future))
        assert isinstance(second.acquire("job"), Owner)
        time.sleep(0.35)
        assert isinstance(second.acquire("job"), Lock)


def test_the_heartbeat_keeps_a_lock_fresh(tmp_path: Path) -> None:
    with Locks(tmp_path, heartbeat=0.05) as ours:
        ours.acquire("job")
        os.utime(tmp_path / "job.lock", (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / "job.lock").stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_worker_takes_over_with_the_drivers_consent_and_no_other(tmp_path: Path) -> None:
    with Locks(tmp_path) as driver, Locks(tmp_path) as worker, Locks(tmp_path) as stranger:
        driver.acquire("job")
        assert isinstance(stranger.acquire("job", consent="of nobody"), Owner)
        assert isinstance(worker.acquire("job", consent=driver.token("job")), Lock)
        told = stranger.acquire("job", consent=driver.token("job"))  # a consent is good for one
        assert isinstance(told, Owner)
        assert told.token == worker.token("job")
        worker.release("job")
        assert isinstance(stranger.acquire("job"), Lock)
        driver.release("job")  # no longer the driver's to release
        assert stranger.owner("job") is not None
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_removes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.kill()
    process.wait()
    (tmp_path / "gone.abc.heir").write_text("{}")
    (tmp_path / ".abc.tmp").write_text("{}")
    (tmp_path / ".new.tmp").write_text("{}")
    os.utime(tmp_path / "gone.abc.heir", (1, 1))
    os.utime(tmp_path / ".abc.tmp", (1, 1))
    with Locks(tmp_path) as ours, Locks(tmp_path) as others:
        others.acquire("alive")
        ours.sweep()
        assert {path.name for path in tmp_path.iterdir()} == {"alive.lock", ".new.tmp"}


def test_the_next_life_of_a_task_goes_on_with_its_locks(tmp_path: Path) -> None:
    with Locks(tmp_path, task="chunk") as before, Locks(tmp_path, task="chunk") as after, Locks(tmp_path) as other:
        before.acquire("job")
        assert isinstance(other.acquire("job"), Owner)
        assert isinstance(after.acquire("job"), Lock)
        assert isinstance(other.acquire("job"), Owner)


def test_of_many_that_find_a_dead_owner_one_succeeds_it(tmp_path: Path) -> None:
    for _ in range(20):
        with Locks(tmp_path) as dead:
            dead.acquire("job")
            path = tmp_path / "job.lock"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "1"}))
            contenders = [Locks(tmp_path) for _ in range(8)]
            gate = threading.Barrier(8)
            won: list[bool] = []

            def contend(contender: Locks, gate: threading.Barrier = gate, won: list[bool] = won) -> None:
                gate.wait()
                won.append(isinstance(contender.acquire("job"), Lock))

            threads = [threading.Thread(target=contend, args=(contender,)) for contender in contenders]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(won) == [False] * 7 + [True]
            for contender in contenders:
                contender.close()
        assert list(tmp_path.iterdir()) == []


def test_a_counter_guarded_by_a_lock_loses_nothing(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", RACE, str(tmp_path / "locks"), str(counter), "25"]
    processes = [subprocess.Popen(command) for _ in range(6)]
    assert [process.wait(120) for process in processes] == [0] * 6
    assert counter.read_text() == "150"


def test_without_hard_links_locks_are_still_exclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Locks(tmp_path) as first, Locks(tmp_path) as second:
        assert isinstance(first.acquire("job"), Lock)
        assert isinstance(second.acquire("job"), Owner)


def test_a_damaged_lock_is_somebodys_until_it_is_old(tmp_path: Path) -> None:
    (tmp_path / "job.lock").write_text("{")
    with Locks(tmp_path, stale=60) as ours:
        assert isinstance(ours.acquire("job"), Owner)
        os.utime(tmp_path / "job.lock", (1, 1))
        assert isinstance(ours.acquire("job"), Lock)


def test_the_start_of_a_process_tells_it_from_others() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        assert locks.birth(process.pid)
        assert locks.birth(process.pid) == locks.birth(process.pid)
        if shutil.which("ps"):
            assert locks._birth_elsewhere(process.pid)
    finally:
        process.kill()
        deadline = time.monotonic() + 10
        while locks.birth(process.pid):
            assert time.monotonic() < deadline
        process.wait()
    if shutil.which("ps"):
        assert locks._birth_elsewhere(process.pid) == ""


def test_an_owner_is_written_whole() -> None:
    owner = Owner("t", "h", "m", 1, "s", "k")
    assert Owner(**json.loads(json.dumps(dataclasses.asdict(owner)))) == owner
