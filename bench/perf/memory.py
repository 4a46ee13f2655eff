"""Peak memory of training steps and attacks; each in a process of its own: `python -m bench.perf.memory CASE`.

That process prints a line of JSON: `{"peak": MiB}` or `{"error": …}`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.attacks.conditions import Conditions
from bench.attacks.judge import attack_images
from bench.core import config
from bench.core.config import Loaded
from bench.core.errors import BenchError, unknown_name
from bench.core.numerics import numerics, usual_mode
from bench.experiment.select import method_names
from bench.perf.cases import configured
from bench.perf.steps import ensemble_of, images_of, run_of, short_training

PLAIN = "ece"  # how the ensemble is made that is attacked; any method's members need the same
EPOCHS = 2  # the second step is in the middle of the training: past the beginning of every ramp
FEW = 4  # images of the warm-up, which loads code and kernels
STEPS = 4  # of an attack: its memory does not depend on their number
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


@dataclass(frozen=True)
class CommonSettings:
    """What all cases share."""

    dataset: str
    model: str | None
    members: int
    batch: int
    device: str
    threads: int
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Peak:
    """A method (`kind` "training step") or attack ("attack"): `mib` above the state before; else what went wrong."""

    kind: str
    name: str
    mib: float | None
    error: str = ""


def names_of(loaded: Loaded, methods: Sequence[str], attacks: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods and attacks to measure; when none is named, every method, and of each attack plug-in the first.

    Raises:
        BenchError: an unknown name.
    """
    for name in attacks:
        if name not in loaded.config.attacks:
            raise unknown_name("attack", name, loaded.config.attacks)
    if methods or attacks:
        return method_names(loaded, tuple(methods)), list(attacks)
    first: dict[str, str] = {}
    for name, spec in loaded.config.attacks.items():
        first.setdefault(spec.plugin, name)
    return method_names(loaded, ("all",)), list(first.values())


def peaks(
    setting: CommonSettings, methods: Sequence[str], attacks: Sequence[str], *, tell: Callable[[str], None]
) -> list[Peak]:
    """Peak memory of a training step of each method and of each attack.

    Raises:
        BenchError: none of them can be measured; the message is the first one's.
    """
    found = []
    for name in methods:
        tell(f"training step of {name}")
        found.append(_peak_of("training step", name, setting, method=name, attack=None))
    for name in attacks:
        tell(name)
        found.append(_peak_of("attack", name, setting, method=PLAIN, attack=name))
    if found and all(peak.error for peak in found):
        raise BenchError(found[0].error)
    return found


def _peak_of(kind: str, name: str, setting: CommonSettings, **which: str | None) -> Peak:
    answer = _in_process(setting, **which)
    return Peak(kind, name, answer.get("peak"), answer.get("error", ""))


def _in_process(setting: CommonSettings, **which: str | None) -> dict[str, Any]:
    """What the process of one case printed."""
    # A fixed threshold: large tensors then go back to the system at once, and the peak is what was held at a time.
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads), "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.perf.memory", json.dumps({"setting": asdict(setting), **which})],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"error": said[-1] if said else f"its process ended with {done.returncode} (out of memory?)"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# ---------------------------------------------------------------- in the process of a case


def peak(setting: CommonSettings, *, method: str, attack: str | None) -> float:
    """MiB that a training step of `method`, or `attack` on its members, needs beyond data, weights and code."""
    torch.set_num_threads(setting.threads)
    loaded = config.load(changes=setting.changes)
    with numerics(deterministic=usual_mode(setting.device)):
        small = _work(loaded, setting, method, attack, min(FEW, setting.batch))
        small()
        del small
        return measured(_work(loaded, setting, method, attack, setting.batch), setting.device) / MIB


def measured(work: Callable[[], Any], device: str) -> float:
    """Bytes that `work` holds at most, beyond what is held before: resident ones, on a GPU those allocated there."""
    settle()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before)
    try:
        CLEAR.write_text("5", encoding="ascii")  # the peak begins anew
        start = resident()
    except OSError:  # not Linux: the peak is then that of the whole life, and so is where it starts
        start = _largest()
    work()
    return max(0.0, (_status("VmHWM") or _largest()) - start)


def _work(loaded: Loaded, setting: CommonSettings, method: str, attack: str | None, count: int) -> Callable[[], Any]:
    """The training steps or the attack on `count` images; its ensemble and its images are made here."""
    run = run_of(loaded, method, dataset=setting.dataset, model=setting.model, members=setting.members)
    images, ensemble = images_of(run, count, setting.device), ensemble_of(run, setting.device)
    if attack is None:
        return lambda: short_training(run, ensemble, images, batch=count, epochs=EPOCHS)
    built, budgets = configured(loaded, attack, steps=STEPS), loaded.config.attacks[attack].budgets
    given = budgets.get(setting.dataset) or next(iter(budgets.values()), (0.1,))
    # Every image to its end: the most that it can need.
    conditions = Conditions(budget=float(given[0]), stop="last", batch_size=setting.batch)
    return lambda: attack_images(built, ensemble, images, conditions)


def settle() -> None:
    """Collect garbage and give free memory back to the system, as far as it can be asked to."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return


def resident() -> float:
    """Resident bytes now; where the system does not say, the most of the process's life."""
    return _status("VmRSS") or _largest()


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


def _answer(case: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"peak": peak(CommonSettings(**case.pop("setting")), **case)}
    except BenchError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))
