"""Freed memory stays with the process where the C library can be told, and nothing happens where it cannot."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from bench.core.memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
from bench.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    parts = [torch.ones(2**21) for _ in range(24)]  # 8 MiB each
work()
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "LD_PRELOAD" in os.environ, reason="only glibc is told to keep memory"
)
def test_large_tensors_that_come_and_go_need_no_new_pages() -> None:
    faults: dict[str, list[int]] = {"keep": [], "leave": []}
    for mode in ("keep", "leave") * 4:  # what the C library does by itself depends on where its heap happens to lie
        faults[mode].append(int(subprocess.check_output([sys.executable, "-c", FAULTS, mode], text=True)))
    pages = 24 * 8 * 2**20 // mmap.PAGESIZE
    assert max(faults["keep"]) < pages / 10
    assert max(faults["leave"]) > max(faults["keep"])


def test_another_c_library_or_system_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Musl:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Musl())
    monkeypatch.setattr(sys, "platform", "linux")
    keep_freed_memory()
    assert asked == ["mallopt"]
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory()
    assert asked == ["mallopt"]
