"""Files that are whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shlex
import shutil
import stat
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from bench.core import strict_json
from bench.core.errors import BenchError
from bench.core.numbers import shown

JSON_BYTES = 64 << 20  # of one file: what no file of ours comes near


@contextlib.contextmanager
def atomic(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is synced and renamed to `path`.

    A link stays one: the file it leads to is replaced. A file that is replaced keeps its mode, a new one gets what the
    umask leaves. What is not a file (a device, a FIFO, `/dev/stdout`) is never replaced but written to. A block that
    raises leaves `path` as it was; a process killed in between leaves a `.tmp` file at most.

    Args:
        synced: whether it is to survive a power failure; without, it is whole or absent after a kill only.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode):
        with _through(path) as temporary:
            yield temporary
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft(target)
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode if mode is None else mode
        yield temporary
        if synced:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.chmod(stat.S_IMODE(mode))  # some libraries put a file of their own in its place
        temporary.replace(target)
        if synced:
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def draft(path: Path) -> Path:
    """A name beside `path` for what is being written and nobody reads; `bench db gc` knows it."""
    return path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.tmp")


@contextlib.contextmanager
def _through(path: Path) -> Iterator[Path]:
    """A temporary file elsewhere; its content is written to `path`, which is not a file."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "content"
        temporary.touch()
        yield temporary
        with temporary.open("rb") as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink)


def remove(path: Path) -> None:
    """Remove a file, if it is there, for good: it does not come back after a power failure."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def no_input(path: Path, endings: Collection[str] = ()) -> str:
    """Why something that is there cannot be read as a file, and what to give; empty for a file, or nothing at all.

    Args:
        endings: of the files that are wanted: of a folder those are named that it has.
    """
    if path.is_file() or not path.exists():
        return ""
    if not path.is_dir():
        return f"{shown(str(path))} is a device or pipe, not a file"
    there = sorted(file for file in path.iterdir() if file.suffix in endings and file.is_file())
    if not there:
        wanted = f" ({', '.join(endings)})" if endings else ""
        return f"{shown(str(path))} is a folder; give a file{wanted}"
    more = f" and {len(there) - 3} more" if there[3:] else ""
    return f"{shown(str(path))} is a folder; files to give are in it: {shlex.join(map(str, there[:3]))}{more}"


def state(path: Path) -> tuple[int, int, int]:
    """What changes with a file's content: its time, number and size.

    Raises:
        OSError: there is none.
    """
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, atomically; NaN and infinities are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, *, limit: int = JSON_BYTES) -> Any:
    """The JSON value in the file `path`, within the bounds of `bench.core.strict_json`.

    Raises:
        BenchError: the file is missing, unreadable, of more than `limit` bytes, or damaged (cut short, say).
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise BenchError(f"{path} is too large: over {limit >> 20} MiB")
    try:
        return strict_json.parse(data)
    except ValueError as error:
        raise BenchError(f"{path} is damaged ({error}); delete it and run the same command again") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the file system allows syncing folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
