"""One lock a job, so that drivers that share a results folder never do the same job twice.

A lock is a small file that names its owner (host, process, start of the process) and whose modification time a thread
of the owner refreshes. Nobody removes another's lock: who finds the owner of token T dead creates the file `JOB.T`,
its heir, which only one can do, and the owner is the last of the chain. Files appear whole, by hard link, which is
atomic on local and network file systems alike; no `flock`, which many clusters' file systems lack or keep to one host.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from bench.core import strict_json
from bench.core.errors import BenchError
from bench.experiment.records import LockRecord

HEARTBEAT = 20.0  # seconds between two refreshments
LOCK_BYTES = 64 << 10
STALE = 300.0  # seconds without one, after which an owner on another host is taken for dead


@dataclass(frozen=True)
class Owner:
    """Who holds a lock; `token` is of this holding alone."""

    token: str
    host: str
    machine: str
    """The boot of the machine and the name space of its processes: where `pid` means something."""
    pid: int
    started: str
    """When the process began, in the system's own units; another process of the same number began at another time."""
    task: str = ""
    """What a batch system may start again on another machine; its next life may go on with its own locks."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """A lock that is held; made by `Locks.acquire`."""

    def __init__(self, path: Path, chain: tuple[Path, ...], token: str) -> None:
        self.path = path
        self.token = token
        self._chain = chain
        self._root = _token(path)

    def refresh(self) -> None:
        """Show that the owner lives."""
        with contextlib.suppress(OSError):  # a full or vanished disk is reported by those who write results
            os.utime(self._chain[-1])

    def release(self) -> None:
        """Give the lock up; the job may be taken by others from now on."""
        # What claims a dead token is worth nothing without the first file, so that one goes first.
        heirs = list(self.path.parent.glob(f"{self.path.stem}.*.heir"))
        if _token(self.path) == self._root:
            self.path.unlink(missing_ok=True)
        else:  # given up by the worker we handed it to, perhaps taken by others since
            heirs = list(self._chain[1:])
        for heir in heirs:
            heir.unlink(missing_ok=True)


class Locks:
    """The locks of a folder, and the thread that refreshes those held by this process.

    Args:
        stale: seconds without a sign of life after which an owner on another host is taken for dead.
        task: see `Owner.task`.
    """

    def __init__(self, folder: Path, *, stale: float = STALE, heartbeat: float = HEARTBEAT, task: str = "") -> None:
        self._folder = folder
        self._stale = stale
        self._heartbeat = heartbeat
        self._task = task
        self._held: dict[str, Lock] = {}
        self._seen: dict[str, tuple[float, float]] = {}  # token → last sign of life, and when we first saw that one
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Locks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def acquire(self, job_id: str, *, consent: str | None = None) -> Lock | Owner:
        """The lock of a job, or the living owner who has it.

        Args:
            consent: a token whose owner has handed the job to us although it lives (a driver to its worker).

        Raises:
            BenchError: the folder cannot be written.
        """
        path = self._folder / f"{job_id}.lock"
        pid = os.getpid()
        mine = Owner(uuid.uuid4().hex[:16], socket.gethostname(), machine(), pid, birth(pid), self._task)
        while True:
            if self._create(path, mine):
                return self._hold(job_id, Lock(path, (path,), mine.token))
            chain, last = self._chain(path)
            if last is None:
                continue  # released while we looked
            if last.token != consent and self._lives(chain[-1], last):
                return last
            heir = self._heir(path, last.token)
            if not self._create(heir, mine):
                continue
            # The heir of a token counts only while the lock that leads to it stands.
            if self._chain(path)[1] == mine:
                return self._hold(job_id, Lock(path, (*chain, heir), mine.token))
            heir.unlink(missing_ok=True)

    def take(self, job_id: str, doing: str) -> None:
        """Hold the lock of a job; `doing` says what its owner does where somebody else has it.

        Raises:
            BenchError: a living owner has it, or the folder cannot be written.
        """
        if isinstance(owner := self.acquire(job_id), Owner):
            raise BenchError(f"{owner} is {doing}; repeat when that has ended")

    def release(self, job_id: str) -> None:
        """Give up the lock of a job, if this process holds it."""
        with self._guard:
            lock = self._held.pop(job_id, None)
        if lock is not None:
            lock.release()

    def token(self, job_id: str) -> str:
        """The token of a lock held here, which consents to a worker's taking over."""
        return self._held[job_id].token

    def owner(self, job_id: str) -> Owner | None:
        """Who lives and has the lock of a job; None when nobody."""
        chain, last = self._chain(self._folder / f"{job_id}.lock")
        return last if last is not None and self._lives(chain[-1], last) else None

    def sweep(self) -> None:
        """Remove what dead owners left: their locks, drafts, and heirs of locks that are gone."""
        for path in self._folder.glob("*.lock"):
            # Only who holds a lock removes it: so we take it over first.
            if self.owner(path.stem) is None and isinstance(self.acquire(path.stem), Lock):
                self.release(path.stem)
        rest = [path for path in self._folder.glob("*.heir") if not self._root(path).exists()]
        for path in (*rest, *self._folder.glob(".*.tmp")):
            with contextlib.suppress(OSError):
                if self._server_time() - path.stat().st_mtime > self._stale:
                    path.unlink()

    def close(self) -> None:
        """Give up all locks and end the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        for job_id in list(self._held):
            self.release(job_id)

    def _hold(self, job_id: str, lock: Lock) -> Lock:
        with self._guard:
            self._held[job_id] = lock
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="heartbeat of locks", daemon=True)
                self._thread.start()
        return lock

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat):
            with self._guard:
                held = list(self._held.values())
            for lock in held:
                lock.refresh()

    def _root(self, heir: Path) -> Path:
        """The lock of a job, of `JOB.TOKEN.heir`."""
        return heir.with_name(f"{heir.name.partition('.')[0]}.lock")

    def _heir(self, path: Path, token: str) -> Path:
        return path.with_name(f"{path.stem}.{token}.heir")

    def _chain(self, path: Path) -> tuple[list[Path], Owner | None]:
        """The files from the lock to its last heir, and that one's owner; None where there is no lock."""
        files, last = [path], _read(path)
        while last is not None:
            heir = self._heir(path, last.token)
            following = _read(heir)
            if following is None:
                break
            files.append(heir)
            last = following
        return files, last

    def _create(self, path: Path, owner: Owner) -> bool:
        """Make the file `path` whole, unless there is one already."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft = self._folder / f".{owner.token}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                draft.write_text(json.dumps(asdict(owner)), encoding="utf-8")
                return _link(draft, path)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise BenchError(f"cannot lock a job in {self._folder}: {error.strerror}") from error

    def _lives(self, path: Path, owner: Owner) -> bool:
        if owner.task and owner.task == self._task:
            return False  # our own former life
        if owner.machine == machine():
            return birth(owner.pid) == owner.started
        try:
            sign = path.stat().st_mtime
            now = self._server_time()
        except OSError:
            return True
        seen, since = self._seen.get(owner.token, (None, 0.0))
        if seen != sign:
            self._seen[owner.token] = (sign, time.monotonic())
            since = time.monotonic()
        # Either clock will do: the file server's, which is the same for all, or our own patience.
        return now - sign < self._stale and time.monotonic() - since < self._stale

    def _server_time(self) -> float:
        """The clock that modification times come from."""
        probe = self._folder / f".{uuid.uuid4().hex[:12]}.tmp"
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        return draft.stat().st_nlink == 2  # done, and the answer lost on its way from the file server
    except OSError:
        # No hard links here (some mounted Windows shares): exclusive creation, then content, is nearly as good.
        return _copy_exclusively(draft, path)
    return True


def _copy_exclusively(draft: Path, path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(draft.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    return True


def _read(path: Path) -> Owner | None:
    """The owner written in a lock file; None where there is no such file."""
    for _ in range(20):
        try:
            with path.open("rb") as file:
                record = LockRecord.model_validate(strict_json.parse(file.read(LOCK_BYTES)))
            return Owner(**record.model_dump())
        except FileNotFoundError:
            return None
        except ValueError:  # being written, on a file system without hard links
            time.sleep(0.05)
    # Nobody can say whose it is: of no known machine, so that its age decides.
    return Owner(f"damaged-{path.stem}", "an unknown host", "", 0, "")


def _token(path: Path) -> str | None:
    owner = _read(path)
    return None if owner is None else owner.token


@cache
def machine() -> str:
    """The boot of this machine and the name space of its processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def birth(pid: int) -> str:
    """When process `pid` of this machine began; empty when there is none (a zombie is none)."""
    reader: Callable[[int], str] = _birth_linux if Path("/proc/self/stat").exists() else _birth_elsewhere
    return reader(pid)


def _birth_linux(pid: int) -> str:
    try:
        # The name, in parentheses, may hold anything; what follows the last one is numbers.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _birth_elsewhere(pid: int) -> str:
    import subprocess

    told = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = told.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()
