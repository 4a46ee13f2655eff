"""The record of where a number was made: code, packages, machine, numeric settings."""

from __future__ import annotations

import os
import platform
import subprocess
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
