"""The record of where a number was made: code, packages, machine, numeric settings."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.core import numerics, release
from bench.core.lazy import is_loaded, torch

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "safetensors", "pandas", "sqlalchemy")


def describe(device: str | None = None) -> dict[str, Any]:
    """The environment as JSON-like values; torch's numeric settings only where torch is in use."""
    record: dict[str, Any] = {
        "bench": release.VERSION,
        **release.commit(),
        "python": platform.python_version(),
        "packages": _packages(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }
    if is_loaded("torch"):
        record["device"] = device or "cpu"
        record |= numerics.describe()
        if torch.cuda.is_available():
            record["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
            record["cuda"] = torch.version.cuda
            record["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
            record["driver"] = _driver()
    return record


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What decides the last bits of a result and is another in two records, in words: `threads 1 then, 2 now`.

    What only one of them says is not compared: older records say less.
    """
    old, new = _bits_of(then), _bits_of(now)
    return tuple(
        f"{name} {old[name]} then, {new[name]} now"
        for name in new
        if None not in (old[name], new[name]) and old[name] != new[name]
    )


def other_weights(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """That a training again gave other weights, what explains it as far as the two records tell, and what would not."""
    found = differences(then, now)
    why = ", ".join(found) or "the records name no reason: device, threads, torch and passes are the same"
    threads = _bits_of(then)["threads"]
    advice = f"; --threads {threads} trains as before" if found and threads != _bits_of(now)["threads"] else ""
    return f"training again gave other weights than before ({why}{advice})"


def repeats(record: Mapping[str, Any]) -> bool:
    """Whether the same work gives the same bits each time: on a CPU; on a GPU where it was asked for and could be."""
    if _kind(record) in (None, "cpu"):
        return True
    return record.get("deterministic") is True and not record.get("not_deterministic")


def processor(record: Mapping[str, Any]) -> str | None:
    """What a record's work was done by: `NVIDIA H200`, `AMD EPYC`; None where it does not say."""
    return next((str(name) for name in map(_bits_of(record).get, ("GPU", "CPU", "device")) if name), None)


def _bits_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the last bits of a result hang on, by the name that people know; None where the record does not say."""
    found = {
        "device": _kind(record),
        "CPU": record.get("cpu"),
        "instructions": record.get("cpu_capability"),
        "threads": record.get("threads"),
        "torch": (record.get("packages") or {}).get("torch"),
        "passes": "compiled" if record.get("compiled") else "usual",
    }
    on_gpu = _kind(record) not in (None, "cpu")
    gpu = {"GPU": (record.get("gpus") or [None])[0], "CUDA": record.get("cuda"), "cuDNN": record.get("cudnn")}
    return found | {name: value if on_gpu else None for name, value in gpu.items()}


def _kind(record: Mapping[str, Any]) -> str | None:
    """`cpu`, `cuda`: a device without its number."""
    device = record.get("device")
    return device.partition(":")[0] if isinstance(device, str) else None


@cache
def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def _driver() -> str | None:
    """Version of the GPU's driver, as its own tool tells it; None where that is missing."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0] if lines else None


@cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
