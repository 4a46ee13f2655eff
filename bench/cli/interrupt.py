"""Ctrl-C from the first moment to the last: once ends in order, once more at once, and neither with a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
AGAIN = 0.01  # seconds until an interrupt that was dropped comes again


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """End this process here and now: there is nothing to put in order, or no patience for it."""
    os._exit(INTERRUPTED)


def leave_at_once() -> None:
    """Where nothing needs an end in order (imports, the exit), Ctrl-C just ends, unless the caller has it ignored."""
    if _ours(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, leave)


@contextlib.contextmanager
def once() -> Iterator[list[int]]:
    """Within, the first Ctrl-C raises KeyboardInterrupt and is noted in the list yielded; the next one leaves.

    What libraries make of a KeyboardInterrupt while they are imported (an ImportError, say) can so be told apart. Where
    Python itself drops it (in a callback of a weak reference, as imports have them), it comes again a moment later.
    """
    asked: list[int] = []
    before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        asked.append(number)
        signal.signal(signal.SIGINT, leave)
        raise KeyboardInterrupt

    if before is None or not _ours(before):
        yield asked
        return

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        if not asked or not isinstance(unraisable.exc_value, KeyboardInterrupt):
            report(unraisable)
            return
        signal.signal(signal.SIGINT, interrupt)
        threading.Timer(AGAIN, os.kill, (os.getpid(), signal.SIGINT)).start()

    report = sys.unraisablehook
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = dropped
    try:
        yield asked
    finally:
        sys.unraisablehook = report
        signal.signal(signal.SIGINT, before)


def _ours(handler: object) -> bool:
    """Whether a handler is Python's own or of this module; one that somebody else has set stays."""
    return handler in (signal.default_int_handler, leave)
