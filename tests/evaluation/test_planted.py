"""Images planted beside clean ones, which an attack is to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.attacks.conditions import Conditions
from bench.attacks.iterative import PGD
from bench.evaluation import planted


class Recorder:
    """Counts what it is asked to record."""

    def __init__(self) -> None:
        self.asked = 0

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        self.asked += 1
        raise RuntimeError("none is made here")


def test_a_network_for_one_image_is_not_recorded(digits: Any, digits_ensemble: Any) -> None:
    """On a GPU recording takes as long as hundreds of passes on one image; PGD makes 50 on each network."""
    recorder = Recorder()
    conditions = Conditions(budget=0.1, seed_axes=("planted",), recorder=recorder)
    attack = PGD(steps=50, rel_step=0.1)
    found = planted.measure(digits_ensemble, digits.test.take(slice(0, 20)), attack, conditions, count=2)
    assert found["measurements"]["images"] == 2
    assert found["measurements"]["counts"]["set_up"] == 2
    assert recorder.asked == 0
