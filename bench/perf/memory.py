"""Peak memory of training steps and attacks, and whether memory grows; each case in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.config import Loaded
from bench.core.errors import BenchError, unknown_name
from bench.experiment.select import method_names

NOISE = 2.0  # MiB by which resident memory may differ without anything being kept
JUMPS = 3.0  # median differences of neighbouring samples that are noise too
KEPT = 0.1  # tensors kept a step that are more than chance
GROWING = 16  # images a step in the growth check: what is kept does not depend on them
PLAIN = "ece"  # how the ensemble is made that is attacked; any method's members need the same


@dataclass(frozen=True)
class Setting:
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


@dataclass(frozen=True)
class Growth:
    """Samples at each tenth of `steps` steps, and what they come to.

    Attributes:
        resident: MiB held after each tenth; `tensors`: how many tensors lived then.
        growth: MiB from the first to the last sample, along the median slope between two samples (Theil–Sen).
        noise: MiB that growth has to exceed to count.
        passed: neither memory nor the number of tensors grows.
    """

    name: str
    steps: int
    resident: tuple[float, ...]
    tensors: tuple[int, ...]
    growth: float
    noise: float
    passed: bool


def names_of(loaded: Loaded, methods: Sequence[str], attacks: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods and attacks to measure; when none is named, every method, and of each attack plug-in the first.

    Raises:
        BenchError: an unknown name.
    """
    for name in attacks:
        if name not in loaded.config.attacks:
            raise unknown_name("attack", name, loaded.config.attacks)
    if methods or attacks:
        return list(method_names(loaded, tuple(methods))) if methods else [], list(attacks)
    first: dict[str, str] = {}
    for name, spec in loaded.config.attacks.items():
        first.setdefault(spec.plugin, name)
    return list(method_names(loaded, ("all",))), list(first.values())


def peaks(
    setting: Setting, methods: Sequence[str], attacks: Sequence[str], *, tell: Callable[[str], None]
) -> list[Peak]:
    """Peak memory of a training step of each method and of each attack.

    Raises:
        BenchError: none of them can be measured; the message is the first one's.
    """
    found = []
    for kind, names in (("training step", methods), ("attack", attacks)):
        for name in names:
            tell(f"{kind} of {name}" if kind != "attack" else name)
            which = {"method": name, "attack": None} if kind != "attack" else {"method": PLAIN, "attack": name}
            answer = _case(setting, which)
            found.append(Peak(kind, name, answer.get("peak"), answer.get("error", "")))
    if found and all(peak.error for peak in found):
        raise BenchError(found[0].error)
    return found


def growth(setting: Setting, name: str, steps: int, *, attack: bool) -> Growth:
    """Whether memory grows over `steps` steps (at least 10) of an attack, or of training by a method.

    Raises:
        BenchError: it cannot be measured.
    """
    which = {"method": PLAIN, "attack": name} if attack else {"method": name, "attack": None}
    answer = _case(setting, {**which, "steps": steps, "batch": min(GROWING, setting.batch)})
    if "error" in answer:
        raise BenchError(answer["error"])
    return judged(name, steps, answer["resident"], answer["tensors"])


def judged(name: str, steps: int, resident: Sequence[float], tensors: Sequence[int]) -> Growth:
    """The verdict on samples taken at equal distances, the last after `steps` steps."""
    from scipy.stats import theilslopes

    grown = float(theilslopes(resident).slope) * (len(resident) - 1)
    jumps = [abs(after - before) for before, after in itertools.pairwise(resident)]
    noise = max(NOISE, JUMPS * statistics.median(jumps))
    between = steps * (len(resident) - 1) / len(resident)
    kept = tensors[-1] - tensors[0] > KEPT * between
    return Growth(name, steps, tuple(resident), tuple(tensors), grown, noise, grown <= noise and not kept)


def _case(setting: Setting, which: dict[str, Any]) -> dict[str, Any]:
    """What the process of one case printed."""
    case = {**vars(setting), **which}
    # A fixed threshold: large tensors then go back to the system at once, and the peak is what was held at a time.
    environment = {**os.environ, "OMP_NUM_THREADS": str(setting.threads), "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.perf.memory_case", json.dumps(case)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"error": said[-1] if said else f"its process ended with {done.returncode} (out of memory?)"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
