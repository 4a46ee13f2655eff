"""Training never waits for the device between its steps: on a GPU, small networks would stand still each time."""

from __future__ import annotations

import pytest

from bench.core import config
from bench.perf import steps
from bench.training import dual, trainer

pytestmark = pytest.mark.usefixtures("_one_thread")
CHANGES = ("training.optimizer=sgd",)  # Adam counts its steps in tensors, on the CPU whatever the device
BATCH = 8


def waiting(waits, method: str, count: int) -> list[str]:
    """The waiting operations of a training of `count` steps."""
    members = 1 if method in ("at_fgsm", "at_pgd_l2", "at_pgd_linf") else 3
    run = steps.run_of(config.load(changes=CHANGES), method, dataset="digits", model=None, members=members)
    ensemble, images = steps.ensemble_of(run, "cpu"), steps.images_of(run, count * BATCH, "cpu")
    return waits(lambda: steps.short_training(run, ensemble, images, batch=BATCH, epochs=1))


@pytest.mark.parametrize("method", [name for name in config.load().config.methods if name != "outside"])
def test_a_step_waits_for_nothing(waits, method):
    assert waiting(waits, method, 2) == waiting(waits, method, 6)


@pytest.mark.parametrize("method", ["trs", "gal"])
def test_nor_does_one_by_pairs(waits, method, monkeypatch):
    """As on a GPU. A network is tried once, before its first step."""
    monkeypatch.setattr(dual, "BY_PAIRS", frozenset({"cpu"}))
    assert waiting(waits, method, 2) == waiting(waits, method, 6)


def test_the_loss_is_looked_at_now_and_then(waits):
    one, many = (len(waiting(waits, "ece", count)) for count in (1, 2 * trainer.CHECK_EVERY + 1))
    assert many == one + 2
