"""Ctrl-C at the start, in the middle of imports, twice, and at the exit: 130, and never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.cli import interrupt, main

START = "from bench.cli.start import main; print('here', flush=True); main()"


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heeded,
    )  # fmt: skip


def heeded() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err + out
    assert "Exception ignored" not in err
    return err


STOPS = {
    "as main is imported": "builtins.__import__ = lambda name, *a, real=builtins.__import__, **k: "
    "(hit() if 'click' in name else None, real(name, *a, **k))[1]",
    "within a command": "import bench.cli.audit; bench.cli.audit.reading = lambda *a: hit()",
    "as a library is imported, which makes an error of it": "import bench.cli.audit\n"
    "def wrong(*a):\n try: hit()\n except KeyboardInterrupt: raise ImportError('numpy failed to import')\n"
    "bench.cli.audit.reading = wrong",
    "within a callback, where Python drops it": "import bench.cli.audit, time, weakref\n"
    "class Held: pass\n"
    "def waits(*a):\n held = Held(); dropped = weakref.ref(held, lambda _: hit()); del held; time.sleep(5)\n"
    "bench.cli.audit.reading = waits",
    "at the exit": "import atexit; atexit.register(hit)",
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("when", STOPS)
def test_an_interrupt_has_no_traceback(when: str, times: int, tmp_path: Path) -> None:
    code = f"""
import builtins, os, signal, sys
def hit():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        if {times} > 1:
            os.kill(os.getpid(), signal.SIGINT)
from bench.cli.start import main
from bench.cli import interrupt
{STOPS[when]}
main()
"""
    command = ["list", "methods"] if when == "at the exit" else ["audit", "--results", str(tmp_path)]
    err = ended(start(code, *command))
    if times == 1 and when.startswith("within"):
        assert err.strip() == "Error: interrupted; the same command goes on where this one stopped"


def test_an_interrupt_soon_after_the_start_has_no_traceback(tmp_path: Path) -> None:
    """Python itself takes a moment, in which nothing of ours runs yet: so only from there on."""
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3):
        process = start(START, "audit", "--results", str(tmp_path))
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        time.sleep(0.05 + delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert process.returncode in (130, 2), out + err  # 2: it had ended, there is no database
        assert "Traceback" not in err


def test_who_ignores_or_handles_interrupts_goes_on_doing_so() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.SIG_IGN, lambda *_: None):
            signal.signal(signal.SIGINT, handler)
            interrupt.leave_at_once()
            with interrupt.once():
                assert signal.getsignal(signal.SIGINT) is handler
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert main.run(["list", "methods"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with interrupt.once() as asked, pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert asked == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
