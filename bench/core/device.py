"""Choosing the device and the number of threads of this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.core import machine
from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.numbers import shown


def pick(device: str | None, threads: int | None) -> str:
    """The device to work on: the one named, else the first GPU, else the CPU. Sets the number of threads.

    That is one on a CPU unless given: so results hang neither on the number of cores nor on what else runs, and jobs
    beside each other take less time than threads within one. With a GPU torch's own number stays.

    Raises:
        BenchError: a device that torch does not know or does not see.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    else:
        _check(device)
    set_threads(device, threads)
    return device


def set_threads(device: str, threads: int | None) -> None:
    """Work on `device` with so many threads; None: one on a CPU, beside a GPU as many as torch takes."""
    if threads or device == "cpu":
        torch.set_num_threads(threads or 1)


def _check(device: str) -> None:
    try:
        kind = torch.device(device)
        if kind.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(1, device=kind)
    except (RuntimeError, AssertionError, ImportError, ValueError) as error:
        seen = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        there = ", ".join(["cpu", *seen])
        raise BenchError(f"device {shown(device)} cannot be used here; there are: {there}") from error


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """Afterwards this process, which is somebody else's, has as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def others() -> str:
    """A warning when other programs use the cores that the threads of this one are about to; empty otherwise.

    Threads that wait for one another on busy cores slow training down five- to tenfold (measured), far more than
    their share. The number of threads is not lowered silently: it can change the last bits of a result.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return ""
    free, told = free_cores()
    if not told or free >= threads:
        return ""
    return f"Other programs use this machine ({told}): --threads {free} may be much faster."


def free_cores() -> tuple[int, str]:
    """How many cores other programs leave, at least 1, and what they take; all and "" where that is next to nothing."""
    cores, used = machine.cores(), machine.used_by_others()
    if used is None or used < 0.5:
        return cores, ""
    return max(1, round(cores - used)), f"{used:.1f} of {cores} cores at this moment"
