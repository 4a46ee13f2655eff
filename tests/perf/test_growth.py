"""Nothing is kept: a process that trains or attacks holds after 1,000 more steps what it held before them."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

from bench.attacks.conditions import Conditions
from bench.attacks.iterative import PGD
from bench.attacks.judge import attack_images
from bench.core import config
from bench.core.progress import Progress
from bench.perf.memory import MIB, resident, settle
from bench.perf.steps import ensemble_of, images_of, run_of, short_training

BATCH = 16
FIRST, MORE = 100, 1000  # steps: those that fill caches and grow buffers once, and those that may add nothing
MOST = 2.0  # MiB of noise; one batch of digits kept in each step would be twice as much, a single number 1,000 tensors


class Watch(Progress):
    """Looks at what is held after each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def epoch(self, record: dict[str, Any], *, epochs: int) -> None:
        self.seen.append(held())


def held() -> tuple[float, int]:
    """Resident MiB, when garbage is collected and free memory given back, and the number of living tensors."""
    settle()
    return resident() / MIB, sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def by_training(method: str) -> list[tuple[float, int]]:
    """What is held after each epoch of `FIRST` steps."""
    torch.set_num_threads(1)
    run = run_of(config.load(), method, dataset="digits", model=None, members=3)
    watch, images = Watch(), images_of(run, BATCH * FIRST, "cpu")
    short_training(
        run, ensemble_of(run, "cpu"), images, batch=BATCH, epochs=1 + MORE // FIRST, progress=watch
    )  # fmt: skip
    return watch.seen


def by_attacks() -> list[tuple[float, int]]:
    """What is held after each `FIRST` steps of PGD, attack after attack."""
    torch.set_num_threads(1)
    run = run_of(config.load(), "ece", dataset="digits", model=None, members=3)
    ensemble, images = ensemble_of(run, "cpu"), images_of(run, BATCH, "cpu")
    conditions, seen = Conditions(budget=0.1, stop="last", batch_size=BATCH), []
    for _ in range(1 + MORE // FIRST):
        for _ in range(FIRST // PGD().steps):
            attack_images(PGD(), ensemble, images, conditions)
        seen.append(held())
    return seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("work", [partial(by_training, "trs"), by_attacks], ids=["training", "attacks"])
def test_nothing_grows_over_a_thousand_steps(
    work: Callable[[], list[tuple[float, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")  # large tensors go back to the system at once
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        seen = process.submit(work).result()
    assert len(seen) == 11
    (before, tensors), (after, living) = seen[0], seen[-1]
    print(f"{before:.1f} MiB, {tensors} tensors after {FIRST} steps; {after:.1f}, {living} after {FIRST + MORE}")
    assert after <= before + MOST
    assert living == tensors
