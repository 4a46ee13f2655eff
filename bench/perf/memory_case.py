"""One case of `bench perf memory` in a process of its own: `python -m bench.perf.memory_case CASE`.

Prints a line of JSON: `{"peak": MiB}`, `{"resident": [MiB, …], "tensors": [count, …]}`, or `{"error": …}`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.attacks.judge import attack_images
from bench.core import config, registry, settings
from bench.core.config import Loaded
from bench.core.errors import BenchError, unknown_name
from bench.core.numerics import numerics
from bench.core.progress import Progress
from bench.perf.attacks import limited
from bench.perf.steps import ensemble_of, images_of, run_of, short_training

EPOCHS = 2  # the second step is in the middle of the training: past the beginning of every ramp
FEW = 4  # images of the warm-up, which loads code and kernels
STEPS = 4  # of an attack: its memory does not depend on their number
SAMPLES = 10  # of the resident memory, in a growth check
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20

Case = dict[str, Any]


def measured(case: Case) -> dict[str, Any]:
    """What a case comes to; `case` has the keys that `bench.perf.memory` gives it."""
    torch.set_num_threads(case["threads"])
    loaded = config.load(changes=case["changes"])
    with numerics(deterministic=False):
        if "steps" in case:
            return growth(loaded, case)
        return {"peak": peak(loaded, case) / MIB}


def peak(loaded: Loaded, case: Case) -> float:
    """Bytes that a training step or an attack needs at most, beyond data, weights and code."""
    small = _work(loaded, case, min(FEW, case["batch"]))
    small()
    del small
    work = _work(loaded, case, case["batch"])
    settle()
    if case["device"] != "cpu":
        torch.cuda.reset_peak_memory_stats(case["device"])
        before = torch.cuda.memory_allocated(case["device"])
        work()
        return float(torch.cuda.max_memory_allocated(case["device"]) - before)
    start = _restart_peak()
    work()
    return max(0.0, _peak() - start)


def _work(loaded: Loaded, case: Case, count: int) -> Callable[[], Any]:
    """The training steps or the attack on `count` images; its ensemble and its images are made here."""
    device = case["device"]
    run = run_of(loaded, case["method"], dataset=case["dataset"], model=case["model"], members=case["members"])
    images, ensemble = images_of(run, count, device), ensemble_of(run, device)
    if case["attack"] is None:
        return lambda: short_training(run, ensemble, images, batch=count, epochs=EPOCHS)
    return _attack(loaded, case, ensemble, images, steps=STEPS)


def _attack(loaded: Loaded, case: Case, ensemble: Any, images: Any, *, steps: int | None = None) -> Callable[[], Any]:
    """An attack on every image to its end: the most that it can need."""
    attack = _built(loaded, case["attack"])
    attack = limited(attack, steps) if steps else attack
    spec = loaded.config.attacks[case["attack"]]
    budgets = spec.budgets.get(case["dataset"]) or next(iter(spec.budgets.values()), (0.1,))
    return lambda: attack_images(
        attack, ensemble, images, budget=float(budgets[0]), stop="last", batch_size=case["batch"]
    )  # fmt: skip


def growth(loaded: Loaded, case: Case) -> dict[str, Any]:
    """Resident MiB and living tensors after each tenth of `steps` steps of training or of an attack."""
    samples: list[tuple[float, int]] = []
    run = run_of(loaded, case["method"], dataset=case["dataset"], model=case["model"], members=case["members"])
    ensemble = ensemble_of(run, case["device"])
    each = max(1, case["steps"] // SAMPLES)
    if case["attack"] is None:
        images = images_of(run, case["batch"] * each, case["device"])
        watch = _Watch(samples, case["device"])
        short_training(run, ensemble, images, batch=case["batch"], epochs=SAMPLES, progress=watch)
    else:
        images = images_of(run, case["batch"], case["device"])
        work = _attack(loaded, case, ensemble, images)
        passes = getattr(_built(loaded, case["attack"]), "steps", 1)
        for _ in range(SAMPLES):
            for _ in range(max(1, each // passes)):
                work()
            samples.append(resident(case["device"]))
    return {"resident": [size / MIB for size, _ in samples], "tensors": [count for _, count in samples]}


def _built(loaded: Loaded, name: str) -> Any:
    if name not in loaded.config.attacks:
        raise unknown_name("attack", name, loaded.config.attacks)
    spec = loaded.config.attacks[name]
    return settings.build(registry.load("attacks", spec.plugin), spec.settings, f"attacks.{name}")


class _Watch(Progress):
    """Takes a sample after each epoch."""

    def __init__(self, samples: list[tuple[float, int]], device: str) -> None:
        self._samples, self._device = samples, device

    def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
        self._samples.append(resident(self._device))


# ---------------------------------------------------------------- what the system says


def resident(device: str) -> tuple[float, int]:
    """Bytes of memory held now (on a GPU: allocated there), free memory given back; and how many tensors live."""
    settle()
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    if device != "cpu":
        return float(torch.cuda.memory_allocated(device)), tensors
    return _status("VmRSS") or _largest(), tensors


def settle() -> None:
    """Collect garbage and give free memory back to the system, as far as it can be asked to."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return


def _restart_peak() -> float:
    """Begin to measure the peak anew, where the system can; the resident bytes now."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:  # not Linux: the peak is then that of the whole life, and so is where it starts
        return _largest()
    return _status("VmRSS") or _largest()


def _peak() -> float:
    return _status("VmHWM") or _largest()


def _status(key: str) -> float | None:
    """Bytes of a line of /proc/self/status; None without one."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def _largest() -> float:
    """Peak resident bytes of the process's life."""
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(size if sys.platform == "darwin" else 1024 * size)


if __name__ == "__main__":
    try:
        print(json.dumps(measured(json.loads(sys.argv[1]))))
    except BenchError as error:
        print(json.dumps({"error": str(error)}))
