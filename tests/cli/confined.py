"""A guard for fuzzed commands: inside it this process writes nowhere but in one folder, and connects to nothing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1, "os.chmod": 1,
    "os.chown": 1, "os.truncate": 1, "os.utime": 1, "shutil.rmtree": 1, "sqlite3.connect": 1,
}  # fmt: skip
"""Audit events of Python that change files → how many of their arguments are paths."""
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")

_allowed: Path | None = None
_hooked = False


class Escaped(BaseException):
    """A command wanted to change something outside its folder; no `except Exception` hides it."""


@contextlib.contextmanager
def confined(folder: Path) -> Iterator[None]:
    """Within this block nothing outside `folder` is written, removed or connected to: `Escaped` is raised instead."""
    global _allowed, _hooked
    if not _hooked:
        sys.addaudithook(_audit)  # can never be removed: it looks away outside these blocks
        _hooked = True
    _allowed = folder.resolve()
    try:
        yield
    finally:
        _allowed = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event in FORBIDDEN:
        raise Escaped(f"{event} {arguments!r:.200}")
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, (str, bytes)) and isinstance(flags, int) and flags & WRITES:
            _check(event, path)
    for path in arguments[: CHANGES.get(event, 0)]:
        if isinstance(path, (str, bytes, Path)):
            _check(event, path)


def _check(event: str, path: str | bytes | Path) -> None:
    text = os.fsdecode(path)
    if text.startswith("file:"):  # as SQLite has it
        text = unquote(text.removeprefix("file:").partition("?")[0])
    if text in (os.devnull, ":memory:", "") or text.startswith("/dev/shm/"):
        return
    assert _allowed is not None
    if not Path(os.path.realpath(text)).is_relative_to(_allowed):
        raise Escaped(f"{event} of {text[:200]!r}")
