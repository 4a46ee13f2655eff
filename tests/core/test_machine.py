"""What a machine or container has to give, as the system's files say it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.core import device, machine
from bench.jobs.executors.local import usual_workers

GIB = 2**30


def system(root: Path, files: dict[str, str]) -> Path:
    """A folder that looks like a system's root; 8 GiB are free unless `files` say otherwise."""
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8388608 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_limits_the_memory_is_what_the_machine_has_left(tmp_path: Path) -> None:
    assert machine.free_memory(system(tmp_path, {})) == 8 * GIB


def test_where_nothing_is_said_nothing_is_known(tmp_path: Path) -> None:
    assert machine.free_memory(tmp_path) is None


@pytest.mark.parametrize("files", [
    {  # version 2: the limit of a group above holds too
        "proc/self/cgroup": "0::/pod/own\n",
        "sys/fs/cgroup/pod/own/memory.max": "max", "sys/fs/cgroup/pod/own/memory.current": "1",
        "sys/fs/cgroup/pod/memory.max": str(4 * GIB), "sys/fs/cgroup/pod/memory.current": str(3 * GIB),
        "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GIB}\n",
    },
    {  # version 1, seen from within a container: the path is the host's, the files are ours
        "proc/self/cgroup": "4:memory:/docker/6ac1\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * GIB),
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
    },
])  # fmt: skip
def test_the_memory_is_that_of_the_container(tmp_path: Path, files: dict[str, str]) -> None:
    assert machine.free_memory(system(tmp_path, files)) == 2 * GIB


def test_a_limit_that_is_none_and_one_above_what_there_is_change_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
    }
    assert machine.free_memory(system(tmp_path, files)) == 8 * GIB
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text(str(100 * GIB))
    assert machine.free_memory(tmp_path) == 8 * GIB


@pytest.mark.parametrize("files", [
    {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000"},
    {"proc/self/cgroup": "3:cpu,cpuacct:/x\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000",
     "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
])  # fmt: skip
def test_the_cores_are_those_that_a_container_gets_the_time_of(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    root = system(tmp_path, files)
    folder = tmp_path / "sys/fs/cgroup/cpu"
    expected = 2 if not folder.exists() or "cfs" in str(files) else 4
    assert machine.cores(root) == expected
    for path in root.rglob("cpu*"):
        if path.is_file():
            path.write_text("max 100000" if path.name == "cpu.max" else "-1")
    assert machine.cores(root) == 4


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="not for this model of a system")
def test_what_others_use_is_measured_now_and_without_ourselves() -> None:
    before = machine.used_by_others(0.5)
    assert before is not None
    code = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.5)
        during = machine.used_by_others(1.0)
    finally:
        other.kill()
        other.wait()
    assert during is not None
    assert 0 <= before < machine.os.cpu_count() + 0.5  # the clocks of the two are not read at one moment
    assert during > 0.2  # of a busy machine it gets its share at least


@pytest.mark.parametrize(("jobs", "seconds", "threads", "memory", "workers"), [
    (22, 300.0, None, 32 * GIB, 8),  # the cores
    (3, 300.0, None, 32 * GIB, 3),  # the jobs
    (22, 300.0, None, 5 * GIB, 5),  # the memory
    (22, 300.0, 4, 32 * GIB, 2),
    (22, 25.0, None, 32 * GIB, 3),  # more would take longer to start than they save
    (22, 300.0, None, 0, 1),
    (22, 300.0, None, None, 8),
])  # fmt: skip
def test_the_usual_workers_fit_jobs_cores_and_memory(
    jobs: int, seconds: float, threads: int | None, memory: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.jobs.executors.local.cores", lambda: 8)
    monkeypatch.setattr("bench.jobs.executors.local.free_memory", lambda: memory)
    assert usual_workers(jobs, seconds, threads) == workers


def test_a_cpu_works_with_one_thread_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with device.threads_kept():
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        assert device.pick("cpu", None) == "cpu"
        assert torch.get_num_threads() == 1
        device.pick("cpu", 2)
        assert torch.get_num_threads() == 2
        device.set_threads("cuda", None)  # beside a GPU it stays as it is
        assert torch.get_num_threads() == 2
        torch.set_num_threads(before)


def test_only_threads_that_would_wait_for_others_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine, "used_by_others", lambda: 2.9)
    with device.threads_kept():
        device.pick("cpu", 4)
        assert device.others() == (
            "Other programs use this machine (2.9 of 4 cores at this moment): --threads 1 may be much faster."
        )
        device.pick("cpu", None)
        assert device.others() == ""


@pytest.mark.parametrize(("workers", "used", "slower"), [
    (2, 0.0, 1.0),  # a core each
    (2, None, 1.0),
    (4, 0.0, 2.0),  # two share a core
    (2, 2.0, 4 / 3),  # of two cores one process among three gets 2/3, one among four 1/2
])  # fmt: skip
def test_workers_that_share_cores_are_slower(
    workers: int, used: float | None, slower: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    assert machine.slowdown(workers, used) == pytest.approx(slower)
