"""How numbers are computed: float32 without shortcuts, and bit-equal where torch offers it and it is asked for."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from bench.core.lazy import torch
from bench.core.precision import OfPasses

_unsure: ContextVar[set[str] | None] = ContextVar("unsure", default=None)


@contextmanager
def numerics(*, deterministic: bool = False) -> Iterator[set[str]]:
    """Within it convolutions and products are float32 (on a GPU no TF32), the same algorithm for the same shapes.

    With `deterministic` operations are bit-equal from run to run where torch has such an implementation; the names of
    those used that have none gather in the set that is given. What was set before is restored.
    """
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark, cudnn.deterministic)
    mode = torch.get_deterministic_debug_mode()
    unsure: set[str] = set()
    token = _unsure.set(unsure if deterministic else None)
    cudnn.allow_tf32 = cublas.allow_tf32 = cudnn.benchmark = False
    try:
        if not deterministic:
            yield unsure
            return
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; cuBLAS varies without it
        cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)
        with _gathered(unsure):
            yield unsure
    finally:
        cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
        torch.set_deterministic_debug_mode(mode)
        _unsure.reset(token)


def usual_mode(device: Any) -> bool:
    """Whether work on a device (or its name) is `deterministic` where nobody says: on a GPU; a CPU is anyway."""
    return torch.device(device).type != "cpu"


def has_tf32(device: Any) -> bool:
    """Whether a device (or its name) computes in TF32 where it may: NVIDIA's from compute capability 8 on."""
    device = torch.device(device)
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


@contextmanager
def products_in_tf32(precision: OfPasses) -> Iterator[None]:
    """Within it convolutions and products of float32 are in TF32 if that is the `precision` and the device has it."""
    if precision != "tf32":
        yield
        return
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, cublas.allow_tf32)
    cudnn.allow_tf32 = cublas.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.allow_tf32, cublas.allow_tf32 = before


@contextmanager
def as_torch_is() -> Iterator[None]:
    """Within it numbers are computed as torch does where nobody says: convolutions in TF32, free to differ in bits."""
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, cublas.allow_tf32, cudnn.deterministic)
    mode = torch.get_deterministic_debug_mode()
    cudnn.allow_tf32, cublas.allow_tf32, cudnn.deterministic = True, False, False
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        cudnn.allow_tf32, cublas.allow_tf32, cudnn.deterministic = before
        torch.set_deterministic_debug_mode(mode)


def passes_in(precision: OfPasses, kind: str) -> AbstractContextManager[Any]:
    """Within it passes on devices of this `kind` are in bfloat16, by torch's autocast, if that is the `precision`."""
    return torch.autocast(kind, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def describe() -> dict[str, Any]:
    """The settings in force as JSON-like values, for the record of the environment."""
    record: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if torch.cuda.is_available():
        record["tf32"] = bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
        record["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    unsure = _unsure.get()
    if unsure:
        record["not_deterministic"] = sorted(unsure)
    return record


@contextmanager
def _gathered(names: set[str]) -> Iterator[None]:
    """Torch's warnings about single operations become names; others are shown as before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=".*does not have a deterministic implementation")
        shown = warnings.showwarning

        def take(message: Warning | str, *rest: Any, **named: Any) -> None:
            found = re.match(r"(\S+) does not have a deterministic implementation", str(message))
            if found:
                names.add(found[1])
            else:
                shown(message, *rest, **named)

        warnings.showwarning = take
        yield
