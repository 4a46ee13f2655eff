"""Choosing the device and the number of threads of this process."""

from __future__ import annotations

import os

from bench.core.errors import BenchError
from bench.core.lazy import torch
from bench.core.numbers import shown


def pick(device: str | None, threads: int | None) -> str:
    """The device to work on: the one named, else the first GPU, else the CPU. Sets the number of threads.

    Raises:
        BenchError: a device that torch does not know or does not see.
    """
    if threads:
        torch.set_num_threads(threads)
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device)
        if kind.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(1, device=kind)
    except (RuntimeError, AssertionError, ImportError, ValueError) as error:
        seen = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        there = ", ".join(["cpu", *seen])
        raise BenchError(f"device {shown(device)} cannot be used here; there are: {there}") from error
    return device


def others() -> str:
    """A warning when other programs use the cores that this one is about to; empty otherwise.

    Threads that wait for one another on busy cores slow training down five- to tenfold (measured), far more than
    their share. The number of threads is not lowered silently: it can change the last bits of a result.
    """
    free, told = free_cores()
    if not told or free >= torch.get_num_threads():
        return ""
    return f"Other programs use this machine ({told}): --threads {free} may be much faster."


def free_cores() -> tuple[int, str]:
    """How many cores other programs leave, at least 1, and how busy the machine is; all and "" where it hardly is."""
    cores = os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has no such number
        return cores, ""
    if load < 0.7:
        return cores, ""
    return max(1, round(cores - load)), f"load {load:.1f} on {cores} cores"
