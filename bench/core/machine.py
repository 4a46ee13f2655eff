"""What this machine, or the container that we run in, has to give: cores, free memory, and what others use of it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

WATCHED = 0.3  # seconds over which the use of the cores is measured
ROOT = Path("/")
UNLIMITED = 2**60  # bytes; a control group of version 1 writes "no limit" as a number beyond


def cores(root: Path = ROOT) -> int:
    """The CPU cores that this process may use: those it is bound to, within the time that its container is given."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [share for folder in _groups(root, "cpu") if (share := _share(folder))]
    return max(1, min(bound, *(math.ceil(share) for share in shares))) if shares else bound


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that programs may still take, of the machine or of the container, whichever has less; None if unknown."""
    left = [_available(root), *(_left(folder) for folder in _groups(root, "memory"))]
    known = [value for value in left if value is not None]
    return max(0, min(known)) if known else None


def used_by_others(seconds: float = WATCHED) -> float | None:
    """How many cores other programs keep busy, measured over so many seconds; None where the system does not say.

    The load average does not tell that: it still holds the minute before, an installation that has just ended say.
    """
    before = work_done()
    time.sleep(seconds if before else 0.0)
    return used_since(before)


def used_since(before: WorkDone | None) -> float | None:
    """The same since `before`, while this process may have worked too."""
    after = work_done()
    if before is None or after is None or after.clock - before.clock < WATCHED / 2:
        return None
    by_all, by_us = after.by_all - before.by_all, after.by_us - before.by_us
    return max(0.0, (by_all - by_us) / (after.clock - before.clock))


def slowdown(workers: int, used: float | None) -> float:
    """How much slower each of so many workers is than one process alone, beside others that keep `used` cores busy.

    Where there are more of them than cores, each gets its share; at most, as nobody tells how many others wait.
    """
    among, others = cores(), used or 0.0
    return min(1.0, among / (1 + others)) / min(1.0, among / (workers + others))


class WorkDone(NamedTuple):
    """A clock, and the seconds that cores were busy until then: of all programs, and of us and our ended children."""

    clock: float
    by_all: float
    by_us: float


def work_done() -> WorkDone | None:
    """Now; None where the system does not say."""
    try:
        times = (ROOT / "proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _, _, irq, soft = map(int, times[:7])
    except (OSError, ValueError):
        return None
    own = os.times()
    spent = own.user + own.system + own.children_user + own.children_system
    return WorkDone(time.monotonic(), (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK"), spent)


def _groups(root: Path, kind: str) -> Iterator[Path]:
    """The folders of the control groups (version 1 or 2) that limit `kind` for this process, from its own upwards."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if kinds and kind not in kinds.split(","):
            continue
        top = root / "sys/fs/cgroup" / (kind if kinds else "")
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_dir():  # within a container it may not be there, and its top is our own group
                yield folder
            if folder == top:
                break


def _left(folder: Path) -> int | None:
    """Bytes that a control group leaves: its limit less what is used, but for files that could be dropped."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, taken = _number(folder / limit), _number(folder / used)
        if most is not None and taken is not None and most < UNLIMITED:
            return most - taken + _field(folder / "memory.stat", cached)
    return None


def _share(folder: Path) -> float | None:
    """How many cores' time a control group is given; None where it has no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        quota, period = (str(_number(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except ValueError:  # "max", or nothing is said
        return None


def _available(root: Path) -> int | None:
    """Bytes that the machine has left."""
    return _field(root / "proc/meminfo", "MemAvailable:") * 1024 or None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max"
        return None


def _field(path: Path, name: str) -> int:
    """The number behind a name in a file of lines; 0 where it is not."""
    try:
        return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[:1] == [name]), 0)
    except (OSError, ValueError, IndexError):
        return 0
